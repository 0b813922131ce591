"""What a caller gives to be looked at -> canvases.

B images, H x W canvas px, h x w px of a picture
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from boxwright.data.budget import within_budget
from boxwright.data.canvas import decoded, frame_for, place, read_image
from boxwright.data.header import read_header
from boxwright.data.warp import unfilled
from boxwright.errors import InputError
from boxwright.recipe import CanvasConfig
from boxwright.runtimes.base.runtime import Runtime
from boxwright.types import Frame

Array = np.ndarray[Any, np.dtype[Any]]
# A file or its content, uint8 RGB (h, w, 3), uint8 RGB (3, h, w), or Pillow's
Picture = str | Path | bytes | Array | Tensor | Image.Image


class Placed(NamedTuple):
    """pixels: a canvas (H, W, 3), uint8 or float in 0..255, or the picture itself where a file places it by its own
    rules. frame: how it lies there. image: its pixels where it was no file with a path, which can be read again."""

    pixels: Array
    frame: Frame
    image: Array | None


def placed(picture: Picture, canvas: CanvasConfig, number: int = 0) -> Placed:
    """The picture on its canvas. number: its frame's. Raises InputError as `pixels_of`."""
    if not isinstance(picture, str | Path | bytes):
        image = _as_rgb(picture)
        frame = frame_for(image.shape[:2], canvas, number)
        return Placed(place(image, frame, canvas), frame, image)
    with decoded(picture) as image:
        frame = frame_for(image.shape[:2], canvas, number, path_of(picture))
        return Placed(place(image, frame, canvas), frame, None if frame.path else image)


def is_picture(source: object) -> bool:
    """Whether it is one picture, and not several."""
    return isinstance(source, str | Path | bytes | np.ndarray | Tensor | Image.Image)


def batches(source: Iterable[Picture], most: int, *, whole: bool) -> Iterator[list[tuple[int, Picture]]]:
    """The pictures with their numbers, `most` at a time, none taken before its turn. whole: they stay in memory as they
    are, and so have no more px together than may be decoded."""
    pictures = enumerate(source)
    while group := list(islice(pictures, most)):
        if whole:
            yield from (part for part, _ in within_budget(group, lambda one: pixels_in(one[1])))
        else:
            yield group


def pixels_in(picture: Picture) -> int:
    """As its header says; 0 of a file that will not be decoded."""
    if not isinstance(picture, str | Path | bytes):
        return math.prod(_as_rgb(picture).shape[:2])
    header = read_header(picture if isinstance(picture, bytes) else str(picture), whole=None)
    return 0 if header.fault else math.prod(header.size)


def canvases_of(pictures: Sequence[Placed]) -> list[Tensor]:
    """(3, H, W) each, uint8 or float in 0..255."""
    return [torch.from_numpy(picture.pixels).permute(2, 0, 1) for picture in pictures]


def scaled(canvases: Sequence[Tensor], device: torch.device, backend: Runtime | None = None) -> Tensor:
    """Canvases (3, H, W) each, uint8 or float in 0..255 -> (B, 3, H, W) float32 in [0, 1] on `device`.

    They are laid out as `backend` likes it; without one they keep their layout. Each goes to its place at once:
    stacked, divided and then laid out as a whole, they cost a CPU two to three times as much.
    """
    channels_last = backend.channels_last if backend else canvases[0].stride(0) == 1
    shape = (len(canvases), 3, *canvases[0].shape[1:])
    if channels_last:
        images = unfilled((shape[0], *shape[2:], 3), device).permute(0, 3, 1, 2)
    else:
        images = unfilled(shape, device)
    for canvas, image in zip(canvases, images, strict=True):
        torch.div(canvas.to(device, non_blocking=True), 255, out=image)
    return images


def on_canvases(pictures: Sequence[Picture], canvas: CanvasConfig, first: int = 0) -> tuple[Tensor, list[Frame]]:
    """Canvases (B, 3, H, W), uint8 or float in 0..255, and their frames, numbered from `first`.

    Raises InputError for a file that is no picture and an array of another kind.
    """
    found = [placed(picture, canvas, first + i) for i, picture in enumerate(pictures)]
    return torch.stack(canvases_of(found)), [one.frame for one in found]


def pixels_of(picture: Picture) -> Array:
    """uint8 RGB (h, w, 3). Raises InputError for a file that is no picture and for pixels of another kind."""
    return read_image(picture) if isinstance(picture, str | Path | bytes) else _as_rgb(picture)


def path_of(picture: Picture) -> str:
    """Of a file; "" for what has none."""
    return str(picture) if isinstance(picture, str | Path) else ""


def from_bgr(picture: Picture) -> Picture:
    """An array as OpenCV has them, as RGB. Raises InputError for anything else, whose order of colors is known."""
    if not isinstance(picture, np.ndarray):
        raise InputError(f"bgr: found {type(picture).__name__}, goes with arrays; leave it out")
    return picture[..., ::-1]


def trimmed(canvases: Sequence[Tensor], frames: Sequence[Frame], step: int) -> list[Tensor]:
    """Canvases (3, H, W) cut to the smallest multiples of `step` px that hold all their pictures."""
    height, width = (-(-max(sides) // step) * step for sides in zip(*map(_extent, frames), strict=True))
    return [canvas[:, :height, :width] for canvas in canvases]


def arguments(inputs: Sequence[str], images: Tensor, frames: Sequence[Frame]) -> tuple[Tensor, ...]:
    """images (B, 3, H, W) and what else a network's `inputs` name (see `types.Detector`), in their order."""
    if "extents" not in inputs:
        return (images,)
    return images, torch.tensor([_extent(frame) for frame in frames], dtype=torch.float32, device=images.device)


def _extent(frame: Frame) -> tuple[int, int]:
    """(height, width) canvas px of a picture at the top left; whole ones, as `place` puts it there."""
    _, _, right, bottom = frame.content
    return round(bottom), round(right)


def _as_rgb(picture: Any) -> Array:
    """Pillow's images as they are displayed, in RGB; of tensors (3, h, w) the same memory where it is the CPU's."""
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    image = picture
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3 or not picture.numel():
            found = f"{str(picture.dtype).removeprefix('torch.')} of shape {tuple(picture.shape)}"
            raise InputError(f"picture: found a tensor of {found}, needed uint8 RGB (3, height, width)")
        image = picture.permute(1, 2, 0).numpy(force=True)
    if not isinstance(image, np.ndarray):
        known = "a path, bytes of a file, an array, a tensor or one of Pillow's"
        raise InputError(f"picture: found {type(image).__name__}, needed {known}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"picture: found {image.dtype} of shape {image.shape}, needed uint8 RGB (height, width, 3)")
    return image
