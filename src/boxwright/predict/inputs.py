"""Preprocessing: images in any form to the inputs of a network.

B images, C channels (3, RGB, or the bands), H x W canvas px, h x w px of an image
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from boxwright.arrays import Array
from boxwright.batches.warp import empty_hugepages
from boxwright.config import RGB
from boxwright.errors import InputError
from boxwright.images.bands import Bands, weight
from boxwright.images.canvas import frame_for, resize_to_canvas
from boxwright.images.decode import read_image
from boxwright.images.draw import displayed
from boxwright.images.header import read_header
from boxwright.recipe import CanvasConfig
from boxwright.runtimes.base.runtime import Runtime
from boxwright.types import Frame

# A file or its content, a uint8 array (h, w, C) or tensor (C, h, w) of RGB or stretched bands, or a Pillow image
Image = str | Path | bytes | Array | Tensor | PIL.Image.Image


class PreparedImage(NamedTuple):
    """A preprocessed image.

    Attributes:
        pixels: The canvas (H, W, C), uint8 or float in 0..255, or the image itself for a complete file.
        frame: The transform from the image to the canvas.
        image: The original pixels, uint8 RGB (h, w, 3), if requested or if they cannot be read again from a file.
    """

    pixels: Array
    frame: Frame
    image: Array | None


def prepare(
    image: Image, canvas: CanvasConfig, number: int = 0, *, keep_image: bool = False, bands: Bands | None = None
) -> PreparedImage:
    """Resize an image onto its canvas. number: `image_id` of the frame. Raises InputError as `read_pixels`."""
    pixels, path = read_pixels(image, bands), image_path(image)
    frame = frame_for((pixels.shape[0], pixels.shape[1]), canvas, number, path)
    return PreparedImage(resize_to_canvas(pixels, frame, canvas), frame, image_to_keep(pixels, path, bands, keep_image))


def image_to_keep(pixels: Array, path: str, bands: Bands | None, keep_image: bool) -> Array | None:
    """The value of `PreparedImage.image`. Code that draws a result reads files again, but only as RGB."""
    return displayed(pixels) if keep_image or not path or bands is not None else None


def is_image(source: object) -> bool:
    """Whether `source` is a single image."""
    return isinstance(source, str | Path | bytes | np.ndarray | Tensor | PIL.Image.Image)


def pixel_count(image: Image, bands: Bands | None = None) -> int:
    """The number of pixels, in px of RGB; for a file, as its header declares it, or 0 if it cannot be decoded."""
    if isinstance(image, PIL.Image.Image):
        return math.prod(image.size)
    if not isinstance(image, str | Path | bytes):
        shape = image.shape[1:] if isinstance(image, Tensor) else getattr(image, "shape", ())
        return math.prod(shape[:2])  # an invalid image is reported when its pixels are read
    header = read_header(image if isinstance(image, bytes) else str(image), decode=None)
    return 0 if header.fault else math.prod(header.size) * weight(bands)


def canvases_of(images: Sequence[PreparedImage]) -> list[Tensor]:
    """The canvases, (C, H, W) each, uint8 or float in 0..255."""
    return [as_tensor(image.pixels).permute(2, 0, 1) for image in images]


def as_tensor(pixels: Array) -> Tensor:
    """Pixels (h, w, C) as a tensor; copied if reversed, such as BGR as RGB, or read-only, which tensors cannot be."""
    shared = pixels.flags.writeable and min(pixels.strides) >= 0
    return torch.from_numpy(pixels if shared else pixels.copy())


def to_batch(canvases: Sequence[Tensor], device: torch.device, runtime: Runtime | None = None) -> Tensor:
    """Canvases (C, H, W) each, uint8 or float in 0..255 -> (B, C, H, W) float32 in [0, 1] on `device`.

    The memory layout is the one that `runtime` prefers, or that of the canvases. Each canvas is scaled directly into
    the batch: stacking, dividing and converting the layout one after the other takes two to three times as long on a
    CPU.
    """
    channels_last = runtime.channels_last if runtime else canvases[0].stride(0) == 1
    shape = (len(canvases), *canvases[0].shape)
    if channels_last:
        images = empty_hugepages((shape[0], *shape[2:], shape[1]), device).permute(0, 3, 1, 2)
    else:
        images = empty_hugepages(shape, device)
    for canvas, image in zip(canvases, images, strict=True):
        torch.div(canvas.to(device, non_blocking=True), 255, out=image)
    return images


def read_pixels(image: Image, bands: Bands | None = None) -> Array:
    """The pixels, uint8 RGB (h, w, 3), or of the bands (h, w, C).

    Raises InputError if a file is not an image or does not have the bands, or the pixels have another type. Arrays,
    tensors and Pillow images must contain only the bands, already stretched.
    """
    if isinstance(image, str | Path | bytes):
        return read_image(image, bands=bands)
    return _as_pixels(image, RGB if bands is None else len(bands.numbers))


def image_path(image: Image) -> str:
    """The path of a file; "" for other images."""
    return str(image) if isinstance(image, str | Path) else ""


def from_bgr(image: Image) -> Image:
    """Convert a BGR array, as OpenCV reads it, to RGB. Raises InputError for other types, whose order is known."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"bgr: found {type(image).__name__}, needed an array; leave it out")
    return image[..., ::-1]


def trim(canvases: Sequence[Tensor], frames: Sequence[Frame], step: int) -> list[Tensor]:
    """Canvases (C, H, W) cropped to the smallest multiples of `step` px that contain all their images."""
    height, width = (-(-max(sides) // step) * step for sides in zip(*map(_extent, frames), strict=True))
    return [canvas[:, :height, :width] for canvas in canvases]


def network_inputs(inputs: Sequence[str], images: Tensor, frames: Sequence[Frame]) -> tuple[Tensor, ...]:
    """The inputs of a network by name, in the order of `Detector.inputs`; images (B, C, H, W) are the first."""
    if "extents" not in inputs:
        return (images,)
    return images, torch.tensor([_extent(frame) for frame in frames], dtype=torch.float32, device=images.device)


def _extent(frame: Frame) -> tuple[int, int]:
    """(height, width) canvas px of an image at the top left, rounded as in preprocessing."""
    _, _, right, bottom = frame.content
    return round(bottom), round(right)


def _as_pixels(image: object, channels: int) -> Array:
    """Arrays, tensors (C, h, w), without a copy, and Pillow images in RGB (EXIF orientation applied), as (h, w, C)."""
    if isinstance(image, PIL.Image.Image):
        image = _pillow_rgb(image)
    what = "RGB" if channels == RGB else "of the stretched bands"
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != channels or not image.numel():
            found = f"{str(image.dtype).removeprefix('torch.')} of shape {tuple(image.shape)}"
            raise InputError(f"image: found a tensor of {found}, needed uint8 {what} ({channels}, height, width)")
        image = image.permute(1, 2, 0).numpy(force=True)
    if not isinstance(image, np.ndarray):
        needed = "a path, bytes of a file, an array, a tensor or a Pillow image"
        raise InputError(f"image: found {type(image).__name__}, needed {needed}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        found = f"{image.dtype} of shape {image.shape}"
        raise InputError(f"image: found {found}, needed uint8 {what} (height, width, {channels})")
    return image


def _pillow_rgb(image: PIL.Image.Image) -> Array:
    """RGB of a Pillow image. Of 16 bits the upper 8 are used, as for files; Pillow would clip them."""
    try:
        image = PIL.ImageOps.exif_transpose(image)
        if not image.mode.startswith(("I", "F")):
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's, of a damaged file or a mode it does not convert
        found = f"found Pillow's mode {image.mode} ({error})"
        raise InputError(f"image: {found}, needed one that it converts to RGB") from error
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise InputError(f"image: found Pillow's mode {image.mode}, needed 8 or unsigned 16 bits; convert it to RGB")
    return np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
