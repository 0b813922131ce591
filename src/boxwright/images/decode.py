"""Decoding image files, without PyTorch.

    h x w image px, C channels; sizes (height, width)

The EXIF orientation is applied, so sizes and boxes refer to the image as displayed. Unless bands are chosen
(`images/bands.py`), pixels are RGB: gray becomes RGB, 16 bits are reduced to the upper 8, CMYK is converted, and alpha
is dropped without blending.
"""

import importlib.util
import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.errors import InputError
from boxwright.files import read_bytes
from boxwright.images.bands import Bands, count_bands, decode_bands
from boxwright.images.budget import MAX_PIXELS, size_fault
from boxwright.images.header import (
    TIFF,
    first_frame,
    is_cut_png,
    needs_pillow,
    opencv_misreads,
    read_header,
    rgb_fault,
    tiff_directory,
    tiff_orientation,
)
from boxwright.images.tiff_rgb import decode_tiff

Size = tuple[int, int]  # (height, width) px

MAX_BYTES = 8 * MAX_PIXELS  # of a file: four uncompressed channels of 16 bits
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


def read_image(
    image: str | Path | bytes, min_size: Size | None = None, bands: Bands | None = None
) -> npt.NDArray[np.uint8]:
    """Decode an image.

    Args:
        image: A path, or the content of a file.
        min_size: (height, width) px. A JPEG at least 2, 4 or 8 times as large on both sides is decoded at 1/2, 1/4 or
            1/8 of its size, which is much faster. None: full size. Without `bands` only.
        bands: The bands to read; None for RGB.

    Returns:
        (h, w, 3) uint8 RGB, or (h, w, C) uint8 of `bands`.

    Raises:
        InputError: The file is not a readable image, has more pixels than may be decoded, or does not have the bands.
    """
    source = open_image(image)
    if bands is not None:
        return decode_bands(source.name, source.data, source.orientation, bands)
    return decode(source, reduction(source.size, min_size) if min_size and source.is_jpeg else 1)


def all_bands(path: str) -> tuple[int, ...]:
    """The numbers of all bands of an image. Raises InputError as `read_image`."""
    return tuple(range(1, count_bands(path, open_image(path).data) + 1))


class Source(NamedTuple):
    """The content of an image file. name: for messages. size: (height, width) px as displayed. orientation: of EXIF."""

    name: str
    data: bytes
    size: Size
    orientation: int

    @property
    def is_jpeg(self) -> bool:
        return self.data.startswith(b"\xff\xd8")


def open_image(image: str | Path | bytes) -> Source:
    """Open an image file without decoding it. Raises InputError if it cannot be read, is not an image, or has more
    pixels than may be decoded."""
    content, name = (image, "image") if isinstance(image, bytes) else (None, str(image))
    header = read_header(name if content is None else content, decode=None)
    if reason := header.fault if header.too_large else size_fault(header.size):  # TIFF headers are not limited
        raise InputError(f"{name}: {reason}")
    source = Source(name, _read(name) if content is None else content, header.size, header.orientation)
    if header.fault:
        raise _unreadable(source)
    return source


def _read(path: str) -> bytes:
    try:
        if (length := Path(path).stat().st_size) > MAX_BYTES:
            raise InputError(
                f"{path}: has {length} bytes, needed {MAX_BYTES} at most; replace the file or leave it out"
            )
        data = read_bytes(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}), needed an image; restore it or leave it out") from error
    if not data:
        raise InputError(f"{path}: is empty (0 bytes), needed an image; replace the file or leave it out")
    return data


def reduction(size: Size, min_size: Size) -> int:
    """The factor by which a JPEG of `size` may be reduced while it is decoded, so that it is at least `min_size`."""
    return next((factor for factor in REDUCED if all(factor * n <= s for n, s in zip(min_size, size, strict=True))), 1)


def decode(source: Source, reduction: int) -> npt.NDArray[np.uint8]:
    """The pixels, RGB, reduced by a factor of `REDUCED`, 1 for none. Raises InputError as `read_image`."""
    data = source.data
    if needs_pillow(data):
        try:
            return first_frame(data)
        except Exception as error:  # Pillow raises many types of errors for damaged files
            raise _unreadable(source) from error
    if data[:4] in TIFF:
        return _decode_tiff(source)
    image = None if is_cut_png(data) else _by_opencv(data, REDUCED.get(reduction, cv2.IMREAD_COLOR_RGB))
    if image is None:
        raise _unreadable(source)
    if reduction > 1:  # OpenCV has no flag for reduced and RGB
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image


def _by_opencv(data: bytes, flag: int) -> npt.NDArray[np.uint8] | None:
    """The pixels; None if OpenCV cannot decode them."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)  # type: ignore[return-value]
    except cv2.error:
        return None


def _decode_tiff(source: Source) -> npt.NDArray[np.uint8]:
    """RGB, by OpenCV, or by rasterio where OpenCV would misread the bands or cannot decode them."""
    orientation, misread = 1, False
    try:
        tags = tiff_directory(io.BytesIO(source.data))
        reason, orientation, misread = rgb_fault(tags), tiff_orientation(tags), opencv_misreads(tags)
    except Exception:  # damaged tags: OpenCV decides
        reason = ""
    if reason:
        raise InputError(f"{source.name}: {reason}")
    image = None if misread else _by_opencv(source.data, cv2.IMREAD_COLOR_RGB)
    if image is not None:
        return image
    if not misread and importlib.util.find_spec("rasterio") is None:
        raise _unreadable(source)
    return decode_tiff(source.name, source.data, orientation)


def _unreadable(source: Source) -> InputError:
    reason = "or a TIFF that needs pip install 'boxwright[geo]'" if source.data[:4] in TIFF else "or no image at all"
    return InputError(
        f"{source.name}: not a readable image ({len(source.data)} bytes: damaged, cut off, {reason}), "
        "needed JPEG, PNG, BMP, GIF, WebP or TIFF; replace the file or leave it out"
    )
