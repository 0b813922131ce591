"""Reading windows of large images (scenes), and grids of windows.

    h, w px of a scene or a window, height first; x, y px from the scene's left and top

A TIFF, georeferenced or not, may have any size: only the blocks of a window are read, by rasterio (the extra `geo`).
Any other image is decoded once and kept while it is open. Pixels are converted as in `decode.read_image`: gray and
palettes become RGB, 16 bits are reduced to the upper 8, alpha is dropped, unless bands are chosen (`images/bands.py`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.files import open_regular
from boxwright.images.bands import Bands, Span, check_numbers, read_window
from boxwright.images.decode import read_image
from boxwright.images.header import TIFF, read_header
from boxwright.images.tiff import open_pages, open_tiff, reject_rotated
from boxwright.images.tiff_rgb import check_blocks, rgb_bands, rgb_reader

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB, or (h, w, C) of bands
Size = tuple[int, int]  # (height, width) px

MAX_WINDOWS = 1_000_000  # of one scene: with windows of 600 px, a side of 480,000 px or more


@dataclass(frozen=True, slots=True)
class Window:
    """A region of a scene: its left and top edge, and its size, in px."""

    x: int
    y: int
    width: int
    height: int

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in px of the scene."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    @property
    def rows_and_columns(self) -> Span:
        """((top, bottom), (left, right)) in px of the scene, as rasterio takes windows."""
        return (self.y, self.y + self.height), (self.x, self.x + self.width)


@dataclass(frozen=True, slots=True)
class Georeference:
    """The location of a scene on Earth.

    Attributes:
        crs: Coordinate reference system, as `EPSG:32650` or WKT.
        transform: (a, b, c, d, e, f): the corner of pixel (x, y) has the coordinates (ax + by + c, dx + ey + f).
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """An open scene. size: (height, width) px as displayed. georeference: None if the file has none."""

    path: str
    size: tuple[int, int]
    georeference: Georeference | None
    _pixels: Callable[[Window, Size | None], Pixels]

    def read(self, window: Window, size: Size | None = None) -> Pixels:
        """Read a window: (height, width, 3) uint8 RGB, or (height, width, C) of the bands.

        Args:
            window: The region.
            size: (height, width) px to reduce it to; None for its own. Overviews of a TIFF are used if it has any.

        Raises:
            InputError: The file is damaged there.
            ValueError: The window is not inside the scene.
        """
        x1, y1, x2, y2 = window.xyxy
        if not (0 <= x1 < x2 <= self.size[1] and 0 <= y1 < y2 <= self.size[0]):
            raise ValueError(f"{window} is not inside a scene of {self.size} px")
        return self._pixels(window, size)


def resized(image: Pixels, size: Size) -> Pixels:
    """The image, (h, w, C), reduced to (height, width) px."""
    if image.shape[:2] == size:
        return image
    reduced = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return reduced.reshape(*size, image.shape[2])  # type: ignore[return-value]


def grid(size: tuple[int, int], window: int, overlap: float) -> list[Window]:
    """Square windows that cover a scene, in row-major order.

    The last column and row are shifted inward, so all windows have the full size and are inside the scene. A side of
    the scene that is shorter than the window limits the windows to its length.

    Args:
        size: (height, width) px of the scene.
        window: The side in px, 1 or more.
        overlap: Fraction of a window that the next one overlaps, in [0, 1).

    Raises:
        InputError: A value is out of range, or there would be too many windows.
    """
    if window < 1:
        raise InputError(f"window: found {window}, needed a side of 1 px or more")
    if not 0 <= overlap < 1:
        raise InputError(
            f"overlap: found {overlap}, needed a share of the window of at least 0 and less than 1, such as 0.2"
        )
    stride = max(1, round(window * (1 - overlap)))
    counts = [max(0, math.ceil((side - window) / stride)) + 1 for side in size]
    if math.prod(counts) > MAX_WINDOWS:
        raise InputError(
            f"windows of {window} px with overlap {overlap}: {math.prod(counts)} of them would cover a scene of "
            f"{size[1]} x {size[0]} px, needed {MAX_WINDOWS} at most; use a larger window or a smaller overlap"
        )
    height, width = (min(window, side) for side in size)
    rows, columns = (
        [min(i * stride, side - length) for i in range(count)]
        for count, side, length in zip(counts, size, (height, width), strict=True)
    )
    return [Window(x, y, width, height) for y in rows for x in columns]


@contextmanager
def open_scene(path: str | Path, bands: Bands | None = None) -> Iterator[Scene]:
    """Open an image of any size as a context manager.

    Args:
        path: An image. Only the requested windows of a TIFF are read.
        bands: The bands to read, for a predictor of bands `predictor.bands`; None for RGB.

    Raises:
        InputError: The file cannot be read, it does not have the bands, or without bands its own cannot be mapped to
            RGB or its samples are not unsigned 8 or 16 bits; a TIFF without rasterio installed; another image with more
            px than may be decoded.

    Example:
        >>> with bw.open_scene("scene.tif") as scene:
        ...     detections = bw.predict_scene(predictor, scene, bw.Tiling(600, 0.2))
    """
    if not is_tiff(path):
        yield _decoded(path, bands)
    elif bands is None:
        with open_tiff(path) as source:
            reject_rotated(path)
            read = rgb_reader(source, str(path))
            yield _scene(source, str(path), lambda window, size: read(window.rows_and_columns, size))
    else:
        with open_pages(path) as pages:
            reject_rotated(path)
            yield _scene(pages[0], str(path), _bands_reader(pages, str(path), bands))


def georeference_of(path: str | Path) -> tuple[Georeference | None, tuple[int, int]]:
    """The location of a scene, None if the file has none, and its (height, width) px; (0, 0) for other images.

    Only the header of a TIFF is read. Raises InputError if it cannot be read.
    """
    if not is_tiff(path):
        return None, (0, 0)
    with open_tiff(path) as source:
        return _georeference(source), (source.height, source.width)


def scene_fault(path: str, *, rgb: bool = True) -> str:
    """The reason why `open_scene` rejects a TIFF; empty if it does not, and for other images, which it would decode.

    rgb: Whether it is read as RGB.
    """
    try:
        if is_tiff(path):
            with open_tiff(path) as source:
                reject_rotated(path)
                check_blocks(source, path)
                if rgb:
                    rgb_bands(source, path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def is_tiff(path: str | Path) -> bool:
    """Whether a file is a TIFF. Raises InputError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(4) in TIFF
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), needed an image") from error


def _decoded(path: str | Path, bands: Bands | None) -> Scene:
    header = read_header(str(path), decode=None)
    if header.fault:
        raise InputError(f"{path}: {header.fault}; replace the file or leave it out")
    image = read_image(path, bands=bands)

    def pixels(window: Window, size: Size | None) -> Pixels:
        x1, y1, x2, y2 = window.xyxy
        return image[y1:y2, x1:x2].copy() if size is None else resized(image[y1:y2, x1:x2], size)

    return Scene(str(path), (image.shape[0], image.shape[1]), None, pixels)


def _scene(source: "DatasetReader", path: str, pixels: Callable[[Window, Size | None], Pixels]) -> Scene:
    """The scene of a TIFF opened by rasterio."""
    return Scene(path, (source.height, source.width), _georeference(source), pixels)


def _georeference(source: "DatasetReader") -> Georeference | None:
    if source.crs is None or source.transform.is_identity:
        return None
    return Georeference(source.crs.to_string(), tuple(source.transform)[:6])


def _bands_reader(pages: list["DatasetReader"], path: str, bands: Bands) -> Callable[[Window, Size | None], Pixels]:
    check_blocks(pages[0], path)
    check_numbers(path, bands.numbers, sum(page.count for page in pages))

    def pixels(window: Window, size: Size | None) -> Pixels:
        image = bands.stretch(*read_window(pages, bands.numbers, window.rows_and_columns, path), path)
        return image if size is None else resized(image, size)

    return pixels
