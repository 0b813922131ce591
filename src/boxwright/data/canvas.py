"""One picture from its file onto the canvas, the network's input.

    H x W canvas px, h x w picture px; pixels are RGB, height first

Rules for files: the EXIF orientation is applied, so sizes and boxes are those of the picture as people see it. Grey
becomes RGB, 16 bits lose their lower 8, CMYK is converted, and alpha is dropped (the colours below it stay).
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from boxwright.data.header import read_header
from boxwright.errors import InputError
from boxwright.recipe import CanvasConfig
from boxwright.types import Frame

Picture = npt.NDArray[Any]  # (h, w, 3): uint8, or float32 in 0..255 for resize kind `darknet`

REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # what OpenCV would print about a broken file is said by our own error


def read_image(path: str | Path, at_least: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The picture as (h, w, 3) uint8 RGB.

    at_least: (height, width) px that will be needed. A JPEG at least twice, four or eight times as large on both
    sides is then decoded at 1/2, 1/4 or 1/8 of its size, which is much faster; the result is never smaller than
    `at_least`. None: full size, for when pixels must be those of the file.

    Raises InputError when the file cannot be read as a picture.
    """
    data = _read_bytes(path)
    size = _jpeg_size(data, path) if at_least else None
    return _decode(data, path, _reduction(size, at_least) if at_least and size else 1)


def frame_for(size: tuple[int, int], canvas: CanvasConfig, image_id: int | str, path: str = "") -> Frame:
    """Where a picture of `size` (height, width) px goes on the canvas.

    Letterbox sizes and offsets are whole pixels by integer division, as in Darknet and (but for rare rounding of its
    floats) MindYOLO. The scale is the exact ratio on each axis, so boxes meet the pixels after that rounding.
    """
    (h, w), (height, width) = size, canvas.size
    if canvas.fit == "stretch":
        new_h, new_w = height, width
    elif width * h < height * w:  # width is the tighter side
        new_h, new_w = max(h * width // w, 1), width
    else:
        new_h, new_w = height, max(w * height // h, 1)
    offset = float((height - new_h) // 2), float((width - new_w) // 2)
    return Frame(image_id, path, size, canvas.size, (new_h / h, new_w / w), offset)


def place(image: Picture, frame: Frame, canvas: CanvasConfig) -> Picture:
    """The picture on its canvas: (H, W, 3) uint8, or float32 in 0..255 for resize kind `darknet`.

    `image` is uint8 RGB of the frame's size or smaller (decoded at reduced size).
    """
    left, top, right, bottom = (round(edge) for edge in frame.content)
    content = _resize(image, (bottom - top, right - left), canvas.resize)
    if content.shape[:2] == frame.canvas:
        return content
    fill = canvas.fill if content.dtype == np.float32 else round(canvas.fill)
    result = np.full((*frame.canvas, 3), fill, dtype=content.dtype)
    result[top:bottom, left:right] = content
    return result


def read_canvas(path: str, canvas: CanvasConfig, image_id: int | str, *, reduce: bool) -> tuple[Picture, Frame]:
    """The file's picture on its canvas, and its frame. `reduce` allows decoding a JPEG at reduced size.

    Raises InputError when the file cannot be read as a picture.
    """
    data = _read_bytes(path)
    size = _jpeg_size(data, path) if reduce else None
    if size is None:
        image = _decode(data, path, 1)
        frame = frame_for((image.shape[0], image.shape[1]), canvas, image_id, path)
    else:
        frame = frame_for(size, canvas, image_id, path)
        left, top, right, bottom = (round(edge) for edge in frame.content)
        image = _decode(data, path, _reduction(size, (bottom - top, right - left)))
    return place(image, frame, canvas), frame


def _read_bytes(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}), needed a picture; restore it or leave it out"
        ) from error
    if not data:
        raise InputError(f"{path}: is empty (0 bytes), needed a picture; replace the file or leave it out")
    return data


def _jpeg_size(data: bytes, path: str | Path) -> tuple[int, int] | None:
    """(height, width) px as displayed, of a JPEG whose header can be read."""
    if not data.startswith(b"\xff\xd8"):
        return None
    header = read_header(str(path), whole=None)
    return None if header.fault else header.size


def _reduction(size: tuple[int, int], needed: tuple[int, int]) -> int:
    return next((factor for factor in REDUCED if all(factor * n <= s for n, s in zip(needed, size, strict=True))), 1)


def _decode(data: bytes, path: str | Path, reduction: int) -> npt.NDArray[np.uint8]:
    complete = not data.startswith(b"\x89PNG") or b"IEND" in data  # libpng prints about cut files by itself
    try:
        flag = REDUCED.get(reduction, cv2.IMREAD_COLOR)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if complete else None
    except cv2.error as error:  # for example a declared size above OpenCV's limit of 2^30 px
        raise _unreadable(data, path) from error
    if image is None:
        raise _unreadable(data, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # type: ignore[return-value]


def _unreadable(data: bytes, path: str | Path) -> InputError:
    return InputError(
        f"{path}: not a readable picture ({len(data)} bytes: damaged, cut off, or no picture at all), "
        "needed JPEG, PNG or another format OpenCV reads; replace the file or leave it out"
    )


def _resize(image: Picture, size: tuple[int, int], kind: str) -> Picture:
    """(h, w, 3) uint8 -> (*size, 3) by one of the kinds that CanvasConfig.resize describes."""
    (h, w), (new_h, new_w) = image.shape[:2], size
    if kind == "darknet":
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        planes = F.interpolate(planes, size=size, mode="bilinear", align_corners=True)
        return planes[0].permute(1, 2, 0).contiguous().numpy()
    if (h, w) == size:
        return image
    if kind == "zoo":
        grows, shrinks = new_h > h and new_w > w, new_h < h and new_w < w
        method = Image.Resampling.BICUBIC if grows else Image.Resampling.NEAREST
        if not grows and not shrinks:
            method = Image.Resampling.BILINEAR
        return np.array(Image.fromarray(image).resize((new_w, new_h), method))
    area = kind == "area" and max(new_h / h, new_w / w) < 1
    return cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
