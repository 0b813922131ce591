"""Preprocessing: images in any form -> the inputs of a network.

B images, H x W canvas px, h x w px of an image
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from boxwright.batches.warp import empty_hugepages
from boxwright.errors import InputError
from boxwright.images.canvas import frame_for, read_image, resize_to_canvas
from boxwright.images.header import read_header
from boxwright.recipe import CanvasConfig
from boxwright.runtimes.base.runtime import Runtime
from boxwright.types import Frame

Array = np.ndarray[Any, np.dtype[Any]]
# A file or its content, uint8 RGB (h, w, 3), uint8 RGB (3, h, w), or Pillow's
Image = str | Path | bytes | Array | Tensor | PIL.Image.Image


class PreparedImage(NamedTuple):
    """An image as it enters `forward`.

    Attributes:
        pixels: A canvas (H, W, 3), uint8 or float in 0..255, or the image itself for a file that preprocesses.
        frame: How the image lies there.
        image: Its own pixels, uint8 RGB (h, w, 3), where they were to be kept or can't be read again.
    """

    pixels: Array
    frame: Frame
    image: Array | None


def prepare(image: Image, canvas: CanvasConfig, number: int = 0, *, keep_image: bool = False) -> PreparedImage:
    """The image on its canvas. number: its frame's. Raises InputError as `pixels_of`."""
    pixels, path = pixels_of(image), path_of(image)
    frame = frame_for(pixels.shape[:2], canvas, number, path)
    return PreparedImage(resize_to_canvas(pixels, frame, canvas), frame, pixels if keep_image or not path else None)


def is_image(source: object) -> bool:
    """Whether it is one image, and not several."""
    return isinstance(source, str | Path | bytes | np.ndarray | Tensor | PIL.Image.Image)


def pixels_in(image: Image) -> int:
    """As its header says; 0 of a file that will not be decoded."""
    if isinstance(image, PIL.Image.Image):
        return math.prod(image.size)
    if not isinstance(image, str | Path | bytes):
        return math.prod(_as_rgb(image).shape[:2])
    header = read_header(image if isinstance(image, bytes) else str(image), decode=None)
    return 0 if header.fault else math.prod(header.size)


def canvases_of(images: Sequence[PreparedImage]) -> list[Tensor]:
    """(3, H, W) each, uint8 or float in 0..255."""
    return [torch.from_numpy(image.pixels).permute(2, 0, 1) for image in images]


def scaled(canvases: Sequence[Tensor], device: torch.device, backend: Runtime | None = None) -> Tensor:
    """Canvases (3, H, W) each, uint8 or float in 0..255 -> (B, 3, H, W) float32 in [0, 1] on `device`.

    They are laid out as `backend` likes it; without one they keep their layout. Each goes to its place at once:
    stacked, divided and then laid out as a whole, they cost a CPU two to three times as much.
    """
    channels_last = backend.channels_last if backend else canvases[0].stride(0) == 1
    shape = (len(canvases), 3, *canvases[0].shape[1:])
    if channels_last:
        images = empty_hugepages((shape[0], *shape[2:], 3), device).permute(0, 3, 1, 2)
    else:
        images = empty_hugepages(shape, device)
    for canvas, image in zip(canvases, images, strict=True):
        torch.div(canvas.to(device, non_blocking=True), 255, out=image)
    return images


def pixels_of(image: Image) -> Array:
    """uint8 RGB (h, w, 3). Raises InputError for a file that is no image and for pixels of another kind."""
    return read_image(image) if isinstance(image, str | Path | bytes) else _as_rgb(image)


def path_of(image: Image) -> str:
    """Of a file; "" for what has none."""
    return str(image) if isinstance(image, str | Path) else ""


def from_bgr(image: Image) -> Image:
    """An array as OpenCV has them, as RGB. Raises InputError for anything else, whose order of colors is known."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"bgr: found {type(image).__name__}, goes with arrays; leave it out")
    return image[..., ::-1]


def trimmed(canvases: Sequence[Tensor], frames: Sequence[Frame], step: int) -> list[Tensor]:
    """Canvases (3, H, W) cut to the smallest multiples of `step` px that hold all their images."""
    height, width = (-(-max(sides) // step) * step for sides in zip(*map(_extent, frames), strict=True))
    return [canvas[:, :height, :width] for canvas in canvases]


def arguments(inputs: Sequence[str], images: Tensor, frames: Sequence[Frame]) -> tuple[Tensor, ...]:
    """images (B, 3, H, W) and what else a network's `inputs` name (see `types.Detector`), in their order."""
    if "extents" not in inputs:
        return (images,)
    return images, torch.tensor([_extent(frame) for frame in frames], dtype=torch.float32, device=images.device)


def _extent(frame: Frame) -> tuple[int, int]:
    """(height, width) canvas px of an image at the top left; whole ones, as `place` puts it there."""
    _, _, right, bottom = frame.content
    return round(bottom), round(right)


def _as_rgb(image: Any) -> Array:
    """Pillow's images as they are displayed, in RGB; of tensors (3, h, w) the same memory where it is the CPU's."""
    if isinstance(image, PIL.Image.Image):
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    image = image
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or not image.numel():
            found = f"{str(image.dtype).removeprefix('torch.')} of shape {tuple(image.shape)}"
            raise InputError(f"image: found a tensor of {found}, needed uint8 RGB (3, height, width)")
        image = image.permute(1, 2, 0).numpy(force=True)
    if not isinstance(image, np.ndarray):
        known = "a path, bytes of a file, an array, a tensor or one of Pillow's"
        raise InputError(f"image: found {type(image).__name__}, needed {known}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"image: found {image.dtype} of shape {image.shape}, needed uint8 RGB (height, width, 3)")
    return image
