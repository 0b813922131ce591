"""One image from its file onto the canvas, the network's input.

    H x W canvas px, h x w image px; pixels are RGB, height first

Rules for files: the EXIF orientation is applied, so sizes and boxes are those of the image as people see it. Gray
becomes RGB, 16 bits lose their lower 8, CMYK is converted, and alpha is dropped (the colors below it stay).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from boxwright.errors import InputError
from boxwright.files import read_bytes
from boxwright.images.budget import MOST_PIXELS, budget, too_large
from boxwright.images.header import read_header
from boxwright.recipe import CanvasConfig
from boxwright.types import Frame

Size = tuple[int, int]  # (height, width) px
Window = tuple[int, int, int, int]  # image px: (top, left, bottom, right)
Pixels = npt.NDArray[Any]  # (h, w, 3): uint8, or float32 in 0..255 for resize kinds `darknet` and `float`

MOST_BYTES = 8 * MOST_PIXELS  # of a file: four channels of 16 bits, uncompressed
WARP_IS_EXACT = int(cv2.__version__.split(".")[0]) >= 5  # OpenCV 4 rounds positions to 1/32 px
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


def read_image(image: str | Path | bytes, at_least: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The image in a file, or in the bytes of one, as (h, w, 3) uint8 RGB.

    at_least: (height, width) px that will be needed. A JPEG at least twice, four or eight times as large on both
    sides is then decoded at 1/2, 1/4 or 1/8 of its size, which is much faster; the result is never smaller than
    `at_least`. None: full size, for when pixels must be those of the file.

    Raises InputError when the file cannot be read as an image, or has more pixels than may be decoded.
    """
    source = _open(image)
    return _decode(source, _reduction(source.size, at_least) if at_least and source.is_jpeg else 1)


@contextmanager
def decoded(image: str | Path | bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """Like `read_image`, for as long as the block lasts; waits until there is room for it (`budget`)."""
    source = _open(image)
    with budget.taken(math.prod(source.size)):
        yield _decode(source, 1)


def frame_for(size: tuple[int, int], canvas: CanvasConfig, image_id: int | str, path: str = "") -> Frame:
    """Where an image of `size` (height, width) px goes on the canvas.

    The scale is the exact ratio on each axis, so boxes meet the pixels after these were rounded. Only zoo_corner has
    one factor for both, as the zoo has: its boxes miss their pixels by that rounding, up to one px at the far edges.
    The offsets of `crop` are negative where the image reaches out of the canvas.
    """
    (h, w), (height, width) = size, canvas.size
    new_h, new_w = extent = _sizes(size, canvas)[-1]
    if canvas.fit == "zoo_corner":
        factor = _zoo_corner(size, canvas.size)[1]
        return Frame(image_id, path, size, canvas.size, (factor, factor), extent=extent)
    if canvas.fit == "crop":
        offset = (_middle(new_h, height), _middle(new_w, width))
        return Frame(image_id, path, size, canvas.size, (new_h / h, new_w / w), offset)
    centered = canvas.fit == "letterbox"
    offset = (float((height - new_h) // 2), float((width - new_w) // 2)) if centered else (0.0, 0.0)
    return Frame(image_id, path, size, canvas.size, (new_h / h, new_w / w), offset)


def place(image: Pixels, frame: Frame, canvas: CanvasConfig) -> Pixels:
    """The image on its canvas: (H, W, 3) uint8, or float32 in 0..255 for resize kinds `darknet` and `float`.

    `image` is uint8 RGB of the frame's size or smaller (decoded at reduced size).
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
    result = np.full((*frame.canvas, 3), fill, dtype=image.dtype)
    result[top:bottom, left:right] = image
    return result


def read_canvas(path: str, canvas: CanvasConfig, image_id: int | str, *, reduce: bool) -> tuple[Pixels, Frame]:
    """The file's image on its canvas, and its frame. `reduce` allows decoding a JPEG at reduced size.

    Raises InputError when the file cannot be read as an image, or has more pixels than may be decoded.
    """
    source = _open(path)
    with budget.taken(math.prod(source.size)):
        if not (reduce and source.is_jpeg):
            image = _decode(source, 1)
            frame = frame_for((image.shape[0], image.shape[1]), canvas, image_id, path)
        else:
            frame = frame_for(source.size, canvas, image_id, path)
            image = _decode(source, _reduction(source.size, _sizes(source.size, canvas)[0]))
        return place(image, frame, canvas), frame


def read_window(
    path: str, choose: Callable[[Size], Window], canvas: CanvasConfig, image_id: int | str
) -> tuple[Pixels, Frame]:
    """The window of the file's image that `choose` picks by its size, stretched over the whole canvas; its frame.

    A JPEG whose window is far larger than the canvas is decoded at reduced size.
    Raises InputError when the file cannot be read as an image, or has more pixels than may be decoded.
    """
    source = _open(path)
    with budget.taken(math.prod(source.size)):
        if source.is_jpeg:
            size = source.size
            top, left, bottom, right = window = choose(size)
            image = _decode(source, _reduction((bottom - top, right - left), canvas.size))
        else:
            image = _decode(source, 1)
            size = (image.shape[0], image.shape[1])
            window = choose(size)
        return stretch(image, size, window, canvas, image_id, path)


def stretch(
    image: Pixels, size: Size, window: Window, canvas: CanvasConfig, image_id: int | str, path: str = ""
) -> tuple[Pixels, Frame]:
    """`window` of `image` over the whole canvas; its frame. `image` is of `size` or smaller (decoded at reduced
    size)."""
    (h, w), (height, width), (top, left, bottom, right) = size, canvas.size, window
    down, across = image.shape[0] / h, image.shape[1] / w
    part = image[round(top * down) : round(bottom * down), round(left * across) : round(right * across)]
    scale = height / (bottom - top), width / (right - left)
    frame = Frame(image_id, path, size, canvas.size, scale, (-top * scale[0], -left * scale[1]))
    return _resize(part, canvas.size, canvas.resize), frame


def _sizes(size: Size, canvas: CanvasConfig) -> list[Size]:
    """To what an image of `size` is resized, one after the other: once, or twice with zoo_corner.

    Letterbox sizes and offsets are whole pixels by integer division, as in Darknet and (but for rare rounding of its
    floats) MindYOLO.
    """
    (h, w), (height, width) = size, canvas.size
    match canvas.fit:
        case "stretch":
            return [canvas.size]
        case "letterbox" if width * h < height * w:  # width is the tighter side
            return [(max(h * width // w, 1), width)]
        case "letterbox":
            return [(height, max(w * height // h, 1))]
        case "corner":
            return [_scaled(size, min(height / h, width / w))]
        case "zoo_corner":
            return _zoo_corner(size, canvas.size)[0]
        case "torchvision_corner":  # the order of these operations is torchvision's, so that their rounding is too
            short, long = canvas.short_side or min(canvas.size), canvas.long_side or max(canvas.size)
            factor = min(short / min(size), long / max(size), height / h, width / w)
            return [(max(int(h * factor), 1), max(int(w * factor), 1))]
        case "crop":  # the longer side is cut to whole px, as Darknet, MindSpore and torchvision do
            short = canvas.short_side or min(canvas.size)
            return [(short, max(w * short // h, 1)) if h < w else (max(h * short // w, 1), short)]


def _middle(side: int, canvas: int) -> float:
    """Where an image begins so that its middle is the canvas's. Half a px is cut from its end (MindSpore, Darknet)."""
    return float(-((side - canvas) // 2) if side > canvas else (canvas - side) // 2)


def _zoo_corner(size: Size, canvas: Size) -> tuple[list[Size], float]:
    """The sizes one after the other, and the product of their factors (zoo: src/dataset.py of faster_rcnn_dcn).

    The zoo's canvas is a landscape, on which only a portrait can be too high after the first fit. Here what is too wide
    for an upright canvas is fitted once more as well.
    """
    factor = min(max(canvas) / max(size), min(canvas) / min(size))
    first = _scaled(size, factor)
    again = min(canvas[0] / first[0], canvas[1] / first[1])
    if again >= 1:
        return [first], factor
    return [first, _scaled(first, again)], factor * again


def _scaled(size: Size, factor: float) -> Size:
    h, w = (max(int(side * factor + 0.5), 1) for side in size)
    return h, w


class _Source(NamedTuple):
    """An image's file that may be decoded. name: for messages. size: (height, width) px as displayed."""

    name: str
    data: bytes
    size: Size

    @property
    def is_jpeg(self) -> bool:
        return self.data.startswith(b"\xff\xd8")


def _open(image: str | Path | bytes) -> _Source:
    """Raises InputError for a file that cannot be read, is no image, or has more pixels than may be decoded."""
    content, name = (image, "image") if isinstance(image, bytes) else (None, str(image))
    header = read_header(name if content is None else content, whole=None)
    if reason := header.fault if header.large else too_large(header.size):  # of a TIFF the header takes any number
        raise InputError(f"{name}: {reason}")
    source = _Source(name, _content(name) if content is None else content, header.size)
    if header.fault:
        raise _unreadable(source)
    return source


def _content(path: str) -> bytes:
    try:
        if (length := Path(path).stat().st_size) > MOST_BYTES:
            raise InputError(
                f"{path}: has {length} bytes, needed {MOST_BYTES} at most; replace the file or leave it out"
            )
        data = read_bytes(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}), needed an image; restore it or leave it out"
        ) from error
    if not data:
        raise InputError(f"{path}: is empty (0 bytes), needed an image; replace the file or leave it out")
    return data


def _reduction(size: tuple[int, int], needed: tuple[int, int]) -> int:
    return next((factor for factor in REDUCED if all(factor * n <= s for n, s in zip(needed, size, strict=True))), 1)


def _decode(source: _Source, reduction: int) -> npt.NDArray[np.uint8]:
    data = source.data
    complete = not data.startswith(b"\x89PNG") or b"IEND" in data  # libpng prints about cut files by itself
    try:
        flag = REDUCED.get(reduction, cv2.IMREAD_COLOR_RGB)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if complete else None
    except cv2.error as error:
        raise _unreadable(source) from error
    if image is None:
        raise _unreadable(source)
    if reduction > 1:  # OpenCV has no flag for reduced and RGB
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image  # type: ignore[return-value]


def _unreadable(source: _Source) -> InputError:
    return InputError(
        f"{source.name}: not a readable image ({len(source.data)} bytes: damaged, cut off, or no image at all), "
        "needed JPEG, PNG, BMP, WebP or TIFF; replace the file or leave it out"
    )


def warp_aligned(image: Pixels, size: Size) -> Pixels:
    """(h, w, 3) uint8 -> (*size, 3) float32, bilinear with aligned corners, by OpenCV."""
    (h, w), (new_h, new_w) = image.shape[:2], size
    matrix = np.array([[(w - 1) / max(new_w - 1, 1), 0, 0], [0, (h - 1) / max(new_h - 1, 1), 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).astype(np.float32)  # OpenCV warps four channels faster than three
    warped = cv2.warpAffine(four, matrix, (new_w, new_h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def interpolate_aligned(image: Pixels, size: Size) -> Pixels:
    """The same by PyTorch, which takes up to three times as long."""
    planes = torch.from_numpy(image.astype(np.float32, order="C"))[None].permute(0, 3, 1, 2)
    return functional.interpolate(planes, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()


def _resize(image: Pixels, size: tuple[int, int], kind: str) -> Pixels:
    """(h, w, 3) uint8 -> (*size, 3) by one of the kinds that CanvasConfig.resize describes."""
    (h, w), (new_h, new_w) = image.shape[:2], size
    if kind == "darknet":
        return warp_aligned(image, size) if WARP_IS_EXACT else interpolate_aligned(image, size)
    if kind == "float":
        image = image.astype(np.float32)
    if (h, w) == size:
        return image
    if kind == "zoo":
        grows, shrinks = new_h > h and new_w > w, new_h < h and new_w < w
        method = Image.Resampling.BICUBIC if grows else Image.Resampling.NEAREST
        if not grows and not shrinks:
            method = Image.Resampling.BILINEAR
        opened = Image.fromarray(image)
        if new_h < h and new_w > w:  # the height first, in which Pillow before 13 differs
            opened = opened.resize((w, new_h), method)
        return np.array(opened.resize((new_w, new_h), method))
    area = kind == "area" and max(new_h / h, new_w / w) < 1
    return cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
