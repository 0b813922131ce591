"""Sections of a recipe: the data set and the canvas."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from boxwright.config import ClassName, Config

Side = Annotated[int, Field(ge=1, le=16_384)]  # px; a typo is rejected before memory is taken
Size = tuple[Side, Side]  # (height, width)
BandNumbers = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=512)]
Ranges = Annotated[tuple[tuple[float, float], ...], Field(min_length=1, max_length=512)]  # (low, high) of samples
Percent = Annotated[float, Field(ge=0, le=100)]


class CanvasConfig(Config):
    """How an image is put on the network's input."""

    size: Size = (416, 416)  # (height, width) px
    # letterbox keeps the aspect and centers. corner keeps it too, but starts at the top left. zoo_corner is that of the
    # MindSpore zoo's Faster R-CNN: an image first fitted by its short side may be too high and is then resized again.
    # The next three turn with the image: its sides become at most `short_side` and `long_side`. mmdet_corner rounds
    # them; torchvision_corner cuts them to whole px; detectron2_corner rounds them after one factor for each limit.
    # crop, for classifiers: the shorter side becomes `short_side`, then the middle of `size` is cut out.
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
    short_side: Annotated[int, Field(ge=0, le=16_384)] = 0  # px, of the last four; 0: the shorter side of `size`
    long_side: Annotated[int, Field(ge=0, le=16_384)] = 0  # px, of those that turn; 0: the longer side of `size`
    # gray of what the image does not cover; Darknet's is 127.5, which a canvas of whole numbers rounds to 128
    fill: Annotated[float, Field(ge=0, le=255)] = 114
    # cut the canvases of a batch to the smallest size that holds its images and suits the model, as torchvision pads;
    # of detectors, in prediction and evaluation: training has full canvases
    trim: bool = False
    # linear: OpenCV bilinear. area: OpenCV area average when shrinking, bilinear when enlarging (MindYOLO).
    # zoo: Pillow bicubic when both sides grow, nearest when both shrink, else bilinear (MindSpore zoo).
    # darknet: bilinear on aligned corners, not rounded to whole gray values (Darknet).
    # float: linear, not rounded to whole gray values (torchvision).
    # pillow: Pillow's bilinear, which averages when shrinking (Detectron2).
    resize: Literal["linear", "area", "zoo", "darknet", "float", "pillow"] = "linear"


class DataConfig(Config):
    root: str | tuple[str, ...] = ""  # folder or YAML of the data set, or several; `--data` fills it
    # folders of images without objects that a detector trains on as well; `--background` fills it
    background: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    kind: str = "auto"  # a layout: the name of a module in `formats`; auto finds it out
    names: tuple[ClassName, ...] = ()  # class names in label order; `coco` in a recipe file means COCO's 80
    canvas: CanvasConfig = CanvasConfig()
    # the bands of the images that are the channels of the input, in this order, numbered from 1, or all; null: RGB
    bands: BandNumbers | Literal["all"] | None = None
    # [low, high] of the samples of each band, or of all, which become 0 and 1; null: 8 bits as they are, the upper 8 of
    # 16. A training without it, but with percentiles, measures it on the training images
    range: Ranges | None = None
    percentiles: tuple[Percent, Percent] | None = None  # such as [1, 99]
    cache: str = ""  # folder for the indexes of large data sets; empty: the user's cache folder
    # what of each image must be the same when a run is resumed: name, size and 4 KiB at both ends, or all of it
    fingerprint: Literal["sample", "content"] = "sample"
    max_boxes: Annotated[int, Field(ge=1)] | None = None  # an image's further boxes are left out, and reported
    # this share of `train` is the split `val`, for a data set that has none; 0: it must have one
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
            raise ValueError("range and percentiles are those of bands; set bands, such as [1, 2, 3] or all")
        for name, pairs in (("range", self.range or ()), ("percentiles", (self.percentiles or (0, 1),))):
            if wrong := [pair for pair in pairs if pair[0] >= pair[1]]:
                raise ValueError(f"{name} holds {list(wrong[0])}, needed a lower and a higher number")
        if self.range and isinstance(self.bands, tuple) and len(self.range) not in (1, len(self.bands)):
            raise ValueError(
                f"range holds {len(self.range)} pairs, needed one or {len(self.bands)}, as there are bands"
            )
        return self
