"""Resizing images to the canvas, the input of the network.

    H x W canvas px, h x w image px, C channels; sizes (height, width)

Images are decoded as `images/decode.py` says.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from boxwright.arrays import Array
from boxwright.config import RGB
from boxwright.images.bands import BandNumbers, Bands, decode_bands, read_samples, valid, weight
from boxwright.images.budget import budget
from boxwright.images.decode import Size, all_bands, decode, open_image, reduction
from boxwright.images.draw import displayed
from boxwright.recipe import CanvasConfig
from boxwright.types import Frame

Crop = tuple[int, int, int, int]  # image px: (top, left, bottom, right)
Pixels = Array  # (h, w, C): uint8, or float32 in 0..255 for resize kinds `darknet` and `float`

WARP_IS_EXACT = int(cv2.__version__.split(".")[0]) >= 5  # OpenCV 4 rounds positions to 1/32 px


def read_for_display(path: str, numbers: BandNumbers) -> npt.NDArray[np.uint8]:
    """The bands of an image as RGB, each stretched from the 1st to the 99th percentile of its samples.

    Raises InputError as `read_image`.
    """
    source = open_image(path)
    chosen = all_bands(path) if numbers == "all" else numbers
    samples, nodata = read_samples(path, source.data, source.orientation, chosen)
    ranges = []
    for plane, missing in zip(samples, nodata, strict=True):
        low, high = np.percentile(valid(plane, missing), (1, 99)) if valid(plane, missing).size else (0, 0)
        ranges.append((float(low), float(max(high, low + 1e-6))))
    return displayed(Bands(chosen, tuple(ranges)).stretch(samples, nodata, path))


def frame_for(size: tuple[int, int], canvas: CanvasConfig, image_id: int | str, path: str = "") -> Frame:
    """The transform between an image of `size` (height, width) px and the canvas.

    The scale is the exact ratio per axis after rounding the resized size, so boxes match the pixels. Only `zoo_corner`
    has one factor for both axes, like the MindSpore zoo, so its boxes are off by that rounding, up to 1 px at the far
    edges. The offsets of `crop` are negative where the image extends beyond the canvas.
    """
    (h, w), (height, width) = size, canvas.size
    new_h, new_w = extent = _sizes(size, canvas)[-1]
    if canvas.fit == "zoo_corner":
        factor = _zoo_corner(size, canvas.size)[1]
        return Frame(image_id, path, size, canvas.size, (factor, factor), extent=extent)
    if canvas.fit == "crop":
        offset = (_center_offset(new_h, height), _center_offset(new_w, width))
        return Frame(image_id, path, size, canvas.size, (new_h / h, new_w / w), offset)
    centered = canvas.fit == "letterbox"
    offset = (float((height - new_h) // 2), float((width - new_w) // 2)) if centered else (0.0, 0.0)
    return Frame(image_id, path, size, canvas.size, (new_h / h, new_w / w), offset)


def resize_to_canvas(image: Pixels, frame: Frame, canvas: CanvasConfig) -> Pixels:
    """Resize, and pad or crop an image to the canvas: (H, W, C), for the resize kinds `darknet` and `float` float32.

    image: (h, w, C) uint8 of `frame.size`, or smaller if decoded at reduced size. frame: from `frame_for`.
    """
    left, top, right, bottom = (round(edge) for edge in frame.content)
    for size in _sizes(frame.size, canvas):
        image = _resize(image, size, canvas.resize)
    if image.shape[:2] == frame.canvas:
        return image
    if canvas.fit == "crop":
        image = image[max(-top, 0) : frame.canvas[0] - top, max(-left, 0) : frame.canvas[1] - left]
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, frame.canvas[1]), min(bottom, frame.canvas[0])
        if image.shape[:2] == frame.canvas:
            return image
    fill = canvas.fill if image.dtype == np.float32 else round(canvas.fill)
    result = np.full((*frame.canvas, image.shape[2]), fill, dtype=image.dtype)
    result[top:bottom, left:right] = image
    return result


def read_canvas(
    path: str, canvas: CanvasConfig, image_id: int | str, bands: Bands | None = None
) -> tuple[Pixels, Frame]:
    """Decode an image, a large JPEG at reduced size, and resize it to the canvas. Raises InputError as `read_image`."""
    source = open_image(path)
    with budget.reserve(math.prod(source.size) * weight(bands)):
        if bands is not None:
            image = decode_bands(path, source.data, source.orientation, bands)
            frame = frame_for((image.shape[0], image.shape[1]), canvas, image_id, path)
            return resize_to_canvas(image, frame, canvas), frame
        if not source.is_jpeg:
            image = decode(source, 1)
            frame = frame_for((image.shape[0], image.shape[1]), canvas, image_id, path)
        else:
            frame = frame_for(source.size, canvas, image_id, path)
            image = decode(source, reduction(source.size, _sizes(source.size, canvas)[0]))
        return resize_to_canvas(image, frame, canvas), frame


def read_crop(
    path: str, choose: Callable[[Size], Crop], canvas: CanvasConfig, image_id: int | str
) -> tuple[Pixels, Frame]:
    """Decode an image, a JPEG with a large crop at reduced size, and resize the crop to the canvas.

    choose: Returns the crop for an image of a size. Raises InputError as `read_image`.
    """
    source = open_image(path)
    with budget.reserve(math.prod(source.size)):
        if source.is_jpeg:
            size = source.size
            top, left, bottom, right = crop = choose(size)
            image = decode(source, reduction((bottom - top, right - left), canvas.size))
        else:
            image = decode(source, 1)
            size = (image.shape[0], image.shape[1])
            crop = choose(size)
        return resized_crop(image, size, crop, canvas, image_id, path)


def resized_crop(
    image: Pixels, size: Size, crop: Crop, canvas: CanvasConfig, image_id: int | str, path: str = ""
) -> tuple[Pixels, Frame]:
    """Resize a crop of an image of `size` to the canvas; `image` is smaller if decoded at reduced size."""
    (h, w), (height, width), (top, left, bottom, right) = size, canvas.size, crop
    sy, sx = image.shape[0] / h, image.shape[1] / w
    region = image[round(top * sy) : round(bottom * sy), round(left * sx) : round(right * sx)]
    scale = height / (bottom - top), width / (right - left)
    frame = Frame(image_id, path, size, canvas.size, scale, (-top * scale[0], -left * scale[1]))
    return _resize(region, canvas.size, canvas.resize), frame


def _sizes(size: Size, canvas: CanvasConfig) -> list[Size]:
    """The sizes that an image is resized to in turn: one, or two with `zoo_corner`. Rounded down, as in Darknet."""
    (h, w), (height, width) = size, canvas.size
    match canvas.fit:
        case "stretch":
            return [canvas.size]
        case "letterbox" if width * h < height * w:  # the width is the limiting side
            return [(max(h * width // w, 1), width)]
        case "letterbox":
            return [(height, max(w * height // h, 1))]
        case "corner":
            return [_scaled(size, min(height / h, width / w))]
        case "zoo_corner":
            return _zoo_corner(size, canvas.size)[0]
        case "mmdet_corner" | "torchvision_corner" | "detectron2_corner":
            return [_turning(size, canvas)]
        case "crop":  # rounded down, as in Darknet, MindSpore and torchvision
            short = canvas.short_side or min(canvas.size)
            return [(short, max(w * short // h, 1)) if h < w else (max(h * short // w, 1), short)]


def _turning(size: Size, canvas: CanvasConfig) -> Size:
    """The size with sides of at most `short_side` and `long_side`. Each `fit` computes in the order of the original
    implementation, so that rounding is the same."""
    short, long = canvas.short_side or min(canvas.size), canvas.long_side or max(canvas.size)
    fitting = canvas.size[0] / size[0], canvas.size[1] / size[1]
    factor = min(short / min(size), long / max(size), *fitting)
    if canvas.fit == "mmdet_corner":
        return _scaled(size, factor)
    if canvas.fit == "torchvision_corner":
        return max(int(size[0] * factor), 1), max(int(size[1] * factor), 1)
    first = short / min(size)
    h, w = (short if side == min(size) else side * first for side in size)
    if (second := min(long / max(h, w), canvas.size[0] / h, canvas.size[1] / w)) < 1:
        h, w = h * second, w * second
    return max(int(h + 0.5), 1), max(int(w + 0.5), 1)


def _center_offset(side: int, canvas: int) -> float:
    """The offset of a centered image; an odd px is cropped at its end (MindSpore, Darknet)."""
    return float(-((side - canvas) // 2) if side > canvas else (canvas - side) // 2)


def _zoo_corner(size: Size, canvas: Size) -> tuple[list[Size], float]:
    """The sizes in turn, and the product of their scale factors (zoo: `src/dataset.py` of faster_rcnn_dcn)."""
    factor = min(max(canvas) / max(size), min(canvas) / min(size))
    first = _scaled(size, factor)
    second = min(canvas[0] / first[0], canvas[1] / first[1])
    if second >= 1:
        return [first], factor
    return [first, _scaled(first, second)], factor * second


def _scaled(size: Size, factor: float) -> Size:
    h, w = (max(int(side * factor + 0.5), 1) for side in size)
    return h, w


def warp_aligned(image: Pixels, size: Size) -> Pixels:
    """(h, w, 3) uint8 -> (*size, 3) float32, bilinear with aligned corners, by OpenCV."""
    (h, w), (new_h, new_w) = image.shape[:2], size
    matrix = np.array([[(w - 1) / max(new_w - 1, 1), 0, 0], [0, (h - 1) / max(new_h - 1, 1), 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).astype(np.float32)  # OpenCV warps four channels faster than three
    warped = cv2.warpAffine(rgba, matrix, (new_w, new_h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def interpolate_aligned(image: Pixels, size: Size) -> Pixels:
    """`warp_aligned` by PyTorch, for any number of channels; takes up to three times as long."""
    planes = torch.from_numpy(image.astype(np.float32, order="C"))[None].permute(0, 3, 1, 2)
    return functional.interpolate(planes, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()


def _resize(image: Pixels, size: tuple[int, int], kind: str) -> Pixels:
    """(h, w, C) uint8 -> (*size, C). kind: as in `CanvasConfig.resize`."""
    if image.ndim == 3 and image.shape[2] != RGB:  # band by band: libraries differ in how many they take at once
        return np.stack([_resize(image[..., band], size, kind) for band in range(image.shape[2])], axis=2)
    (h, w), (new_h, new_w) = image.shape[:2], size
    if kind == "darknet":
        if image.ndim == 2:
            return interpolate_aligned(image[..., None], size)[..., 0]
        return warp_aligned(image, size) if WARP_IS_EXACT else interpolate_aligned(image, size)
    if kind == "float":
        image = image.astype(np.float32)
    if (h, w) == size:
        return image
    if kind in ("zoo", "pillow"):
        grows, shrinks = new_h > h and new_w > w, new_h < h and new_w < w
        method = Image.Resampling.BICUBIC if grows else Image.Resampling.NEAREST
        if kind == "pillow" or (not grows and not shrinks):
            method = Image.Resampling.BILINEAR
        resized = Image.fromarray(image)
        if new_h < h and new_w > w:  # the height first, since Pillow before 13 differs in the order
            resized = resized.resize((w, new_h), method)
        return np.array(resized.resize((new_w, new_h), method))
    area = kind == "area" and max(new_h / h, new_w / w) < 1
    return cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
