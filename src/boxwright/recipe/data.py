"""Sections of a recipe: the data set and the canvas."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from boxwright.config import ClassName, Config

Side = Annotated[int, Field(ge=1, le=16_384)]  # px; a typo is rejected before memory is allocated
Size = tuple[Side, Side]  # (height, width)
BandNumbers = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=512)]
Ranges = Annotated[tuple[tuple[float, float], ...], Field(min_length=1, max_length=512)]  # (low, high) of samples
Percent = Annotated[float, Field(ge=0, le=100)]


class CanvasConfig(Config):
    """How an image is placed on the canvas, the network's input."""

    size: Size = (416, 416)  # (height, width) px
    # letterbox keeps the aspect ratio and centers the image; corner keeps it and places the image at the top left.
    # zoo_corner is the MindSpore zoo's corner for Faster R-CNN: an image is fitted by its shorter side, and resized
    # again if it is then too high. The next three limit the sides of an image to `short_side` and `long_side`, in
    # either orientation: mmdet_corner rounds them; torchvision_corner truncates them to whole px; detectron2_corner
    # rounds them after one factor for each limit. crop, for classifiers: the shorter side becomes `short_side`, then
    # the center is cropped to `size`.
    fit: Literal[
        "stretch",
        "letterbox",
        "corner",
        "zoo_corner",
        "mmdet_corner",
        "torchvision_corner",
        "detectron2_corner",
        "crop",
    ] = "stretch"
    # px, for mmdet_corner, torchvision_corner, detectron2_corner and crop; 0: the shorter side of `size`
    short_side: Annotated[int, Field(ge=0, le=16_384)] = 0
    # px, for mmdet_corner, torchvision_corner and detectron2_corner; 0: the longer side of `size`
    long_side: Annotated[int, Field(ge=0, le=16_384)] = 0
    # gray value outside the image; Darknet's is 127.5, which is 128 on a uint8 canvas
    fill: Annotated[float, Field(ge=0, le=255)] = 114
    # trim the canvases of a batch to the smallest size that holds its images and suits the model, like torchvision's
    # padding; for detectors, in prediction and evaluation only: training uses full canvases
    trim: bool = False
    # linear: OpenCV bilinear. area: OpenCV area average when shrinking, bilinear when enlarging (MindYOLO).
    # zoo: Pillow bicubic when both sides grow, nearest when both shrink, else bilinear (MindSpore zoo).
    # darknet: bilinear on aligned corners, not rounded to whole gray values (Darknet).
    # float: linear, not rounded to whole gray values (torchvision).
    # pillow: Pillow's bilinear, which averages when shrinking (Detectron2).
    resize: Literal["linear", "area", "zoo", "darknet", "float", "pillow"] = "linear"


class DataConfig(Config):
    root: str | tuple[str, ...] = ""  # folder or YAML of the data set, or several; `--data` sets it
    # folders of images without objects that a detector trains on as well; `--background` sets it
    background: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    kind: str = "auto"  # a layout: the name of a module in `formats`; auto: detect it
    names: tuple[ClassName, ...] = ()  # class names in label order; `coco` in a recipe file means COCO's 80
    canvas: CanvasConfig = CanvasConfig()
    # bands of the images to use as input channels, in this order, numbered from 1, or all; null: RGB
    bands: BandNumbers | Literal["all"] | None = None
    # [low, high] of the samples of each band, or one pair for all, mapped to 0 and 1; null: 8 bits as they are, the
    # upper 8 of 16. With percentiles in place of it, a training measures it on the training images
    range: Ranges | None = None
    percentiles: tuple[Percent, Percent] | None = None  # percentiles of the samples for `range`, e.g. [1, 99]
    cache: str = ""  # folder for the indexes of large data sets; empty: the user's cache folder
    # what must not change in each image before a run is resumed: name, size and 4 KiB at both ends, or all of it
    fingerprint: Literal["sample", "content"] = "sample"
    max_boxes: Annotated[int, Field(ge=1)] | None = None  # boxes of an image beyond it are dropped, and reported
    # this fraction of `train` becomes the split `val` of a data set that has none; 0: it must have one
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    workers: Annotated[int, Field(ge=0, le=256)] = 2  # loader processes for each training process

    @pydantic.field_validator("range", mode="before")
    @classmethod
    def _one_range_for_all(cls, value: object) -> object:
        """[low, high] is [[low, high]]."""
        if isinstance(value, list | tuple) and len(value) == 2 and not any(isinstance(v, list | tuple) for v in value):
            return (value,)
        return value

    @pydantic.model_validator(mode="after")
    def _bands_agree(self) -> Self:
        if self.bands is None and (self.range or self.percentiles):
            raise ValueError("range and percentiles need bands; set bands, such as [1, 2, 3] or all")
        for name, pairs in (("range", self.range or ()), ("percentiles", (self.percentiles or (0, 1),))):
            if wrong := [pair for pair in pairs if pair[0] >= pair[1]]:
                raise ValueError(f"{name} holds {list(wrong[0])}, needed a lower and a higher number")
        if self.range and isinstance(self.bands, tuple) and len(self.range) not in (1, len(self.bands)):
            raise ValueError(f"range holds {len(self.range)} pairs, needed one or {len(self.bands)} (one per band)")
        return self
