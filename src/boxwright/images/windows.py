"""Scenes too large for one look: the windows that cover one, and their pixels, read as they are asked for.

    h, w px of a scene or a window, height first; x, y px from the scene's left and top

A TIFF, georeferenced or not, may be of any size: only the blocks below a window are read, by rasterio (the extra
`geo`). Any other image is decoded once and kept while it is open. The pixels are those that `canvas.read_image`
gives: gray and palettes become RGB, 16 bits lose their lower 8, alpha is dropped.
"""

import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.files import open_regular
from boxwright.images.budget import MOST_PIXELS
from boxwright.images.canvas import read_image
from boxwright.images.header import TIFF, read_header, tiff_directory, tiff_orientation

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB

MOST_WINDOWS = 1_000_000  # of one scene: squares of 600 px over a side of 480,000 px
CACHE = 128 << 20  # bytes of decoded blocks that GDAL keeps: rows of windows share them, memory stays small
COLORS = ("red", "green", "blue")
_opening = threading.Lock()  # filters of warnings belong to all threads


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a scene: the px of its left and top edge, and its extent in px."""

    x: int
    y: int
    width: int
    height: int

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Its edges in px of the scene."""
        return self.x, self.y, self.x + self.width, self.y + self.height


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a scene lies on the Earth.

    crs: the coordinate system, as `EPSG:32650` or as WKT. transform: (a, b, c, d, e, f), with which the corner of
    pixel (x, y) lies at (a x + b y + c, d x + e y + f) of that system.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """An open image. size: (height, width) px as displayed. georeference: None where the file has none."""

    path: str
    size: tuple[int, int]
    georeference: Georeference | None
    _pixels: Callable[[Window], Pixels]

    def read(self, window: Window) -> Pixels:
        """The pixels of a window inside the scene, (height, width, 3) uint8 RGB.

        Raises InputError when the file is damaged there, ValueError for a window that leaves the scene.
        """
        x1, y1, x2, y2 = window.xyxy
        if not (0 <= x1 < x2 <= self.size[1] and 0 <= y1 < y2 <= self.size[0]):
            raise ValueError(f"{window} is not inside a scene of {self.size} px")
        return self._pixels(window)


def grid(size: tuple[int, int], window: int, overlap: float) -> list[Window]:
    """Windows that cover a scene of `size` (height, width) px, row by row.

    window: the side in px. overlap: the share of a window that the next one repeats, in [0, 1). The last column and
    row are moved inward, so that every window is whole and inside; a scene smaller than the window on a side is
    covered by windows of the scene's own extent there. Raises InputError for other numbers.
    """
    if window < 1:
        raise InputError(f"window: found {window}, needed a side of 1 px or more")
    if not 0 <= overlap < 1:
        raise InputError(
            f"overlap: found {overlap}, needed a share of the window of at least 0 and less than 1, such as 0.2"
        )
    stride = max(1, round(window * (1 - overlap)))
    counts = [max(0, math.ceil((side - window) / stride)) + 1 for side in size]
    if math.prod(counts) > MOST_WINDOWS:
        raise InputError(
            f"windows of {window} px with overlap {overlap}: {math.prod(counts)} of them would cover a scene of "
            f"{size[1]} x {size[0]} px, needed {MOST_WINDOWS} at most; use a larger window or a smaller overlap"
        )
    height, width = (min(window, side) for side in size)
    rows, columns = (
        [min(i * stride, side - extent) for i in range(count)]
        for count, side, extent in zip(counts, size, (height, width), strict=True)
    )
    return [Window(x, y, width, height) for y in rows for x in columns]


@contextmanager
def open_scene(path: str | Path) -> Iterator[Scene]:
    """An image of any size as a scene, for as long as the block lasts.

    Args:
        path: An image; of a TIFF only the windows that are asked for are read.

    Raises:
        InputError: For a file that cannot be read, has bands of which nobody can say which is red, or holds other
            numbers than 8 or 16 bits without sign; for a TIFF where rasterio is not installed; for another image with
            more px than may be decoded at once.

    Example:
        >>> with bw.open_scene("scene.tif") as scene:
        ...     found = bw.predict_scene(predictor, scene, bw.Tiling(600, 0.2))
    """
    if _starts(path).startswith(TIFF):
        with _open_tiff(path) as source:
            yield _tiff(source, str(path))
    else:
        yield _decoded(path)


def scene_fault(path: str) -> str:
    """Why `open_scene` refuses a TIFF; empty where it does not, and for other images, which it would decode."""
    try:
        if _starts(path).startswith(TIFF):
            with _open_tiff(path) as source:
                _bands(source, path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _starts(path: str | Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), needed an image") from error


def _decoded(path: str | Path) -> Scene:
    with _opening:
        header = read_header(str(path), whole=None)
    if header.fault:
        raise InputError(f"{path}: {header.fault}; replace the file or leave it out")
    image = read_image(path)

    def pixels(window: Window) -> Pixels:
        x1, y1, x2, y2 = window.xyxy
        return image[y1:y2, x1:x2].copy()

    return Scene(str(path), (image.shape[0], image.shape[1]), None, pixels)


@contextmanager
def _open_tiff(path: str | Path) -> Iterator[Any]:
    """The file as a rasterio data set."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError as error:
        raise InputError(f"{path}: TIFF is read by rasterio; pip install 'boxwright[geo]'") from error
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        try:
            with _opening, warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                # An absolute path, so that no name can be a URL; one driver, so that no file can point to others.
                source = rasterio.open(Path(path).absolute(), driver="GTiff")
        except RasterioError as error:
            raise InputError(
                f"{path}: not a readable TIFF ({_line(error)}); replace the file or leave it out"
            ) from error
        with source:
            yield source


def _tiff(source: Any, path: str) -> Scene:
    from rasterio.errors import RasterioError

    bands = _bands(source, path)
    to_rgb = _colors(source, bands, path)

    def pixels(window: Window) -> Pixels:
        x1, y1, x2, y2 = window.xyxy
        try:
            samples = source.read(bands, window=((y1, y2), (x1, x2)))
        except RasterioError as error:
            raise InputError(f"{path}: cannot be decoded at {window} ({_line(error)}); replace the file") from error
        return to_rgb(samples)

    place = None
    if source.crs is not None and not source.transform.is_identity:
        place = Georeference(source.crs.to_string(), tuple(source.transform)[:6])
    return Scene(path, (source.height, source.width), place, pixels)


def _orientation(path: str) -> int:
    """The TIFF's tag 274, which GDAL does not read; 1 when upright, and where the tag is damaged."""
    with open_regular(path) as file:
        try:
            return tiff_orientation(tiff_directory(file))
        except Exception:  # Pillow raises whatever a hostile file makes it trip over; GDAL has opened it
            return 1


def _bands(source: Any, path: str) -> list[int]:
    """The numbers of the red, green and blue band, or of the one gray or palette band.

    Three bands without a word about their colors are taken as red, green, blue. Raises InputError for a file that
    cannot be a scene.
    """
    if (turned := _orientation(path)) != 1:
        raise InputError(f"{path}: is stored turned (orientation {turned}), needed upright pixels; rewrite the file")
    if math.prod(source.block_shapes[0]) > MOST_PIXELS:
        raise InputError(
            f"{path}: stored in blocks of {source.block_shapes[0]} px, needed {MOST_PIXELS} px a block at most; "
            "rewrite it in tiles (gdal_translate -co TILED=YES)"
        )
    kinds = [kind.name for kind in source.colorinterp]
    shown = [band for band, kind in enumerate(kinds, 1) if kind != "alpha"]
    bands = [kinds.index(color) + 1 for color in COLORS] if set(COLORS) <= set(kinds) else shown
    if len(bands) not in (1, 3):
        raise InputError(
            f"{path}: {len(kinds)} bands ({', '.join(kinds)}), needed red, green, blue, or one of gray or a palette; "
            "choose three, for example gdal_translate -b 3 -b 2 -b 1 -colorinterp red,green,blue"
        )
    types = sorted({source.dtypes[band - 1] for band in bands})
    if types not in (["uint8"], ["uint16"]):
        raise InputError(
            f"{path}: samples are {', '.join(types)}, needed 8 or 16 bits without sign; gdal_translate -ot Byte -scale"
        )
    return bands


def _colors(source: Any, bands: list[int], path: str) -> Callable[[NDArray[Any]], Pixels]:
    """What makes RGB of the samples (1 or 3, h, w) of those bands. Bands and bits lost get a line on stderr."""
    if sum(kind.name != "alpha" for kind in source.colorinterp) > len(bands):
        logger.warning("%s: of %d bands only red, green and blue are used", path, source.count)
    if source.colorinterp[bands[0] - 1].name == "palette":
        table = np.zeros((1 << np.iinfo(source.dtypes[bands[0] - 1]).bits, 3), np.uint8)
        for index, color in source.colormap(bands[0]).items():
            table[index] = color[:3]
        return lambda samples: table[samples[0]]

    tags = source.tags(bands[0], ns="IMAGE_STRUCTURE") | source.tags(ns="IMAGE_STRUCTURE")
    bits = int(tags.get("NBITS", np.iinfo(source.dtypes[bands[0] - 1]).bits))
    factor = 255 // ((1 << min(bits, 8)) - 1)  # 1 bit: 0 and 255
    white = 255 if "MINISWHITE" in tags else 0
    if bits > 8:
        mend = "if that is too dark, gdal_translate -ot Byte -scale first"
        logger.warning("%s: of %d bits the upper 8 are used; %s", path, bits, mend)

    def to_rgb(samples: NDArray[Any]) -> Pixels:
        eight = (samples >> max(bits - 8, 0)).astype(np.uint8) * np.uint8(factor) ^ np.uint8(white)
        return np.ascontiguousarray(np.broadcast_to(eight, (3, *eight.shape[1:])).transpose(1, 2, 0))

    return to_rgb


def _line(error: Exception) -> str:
    """The first line of what a library says."""
    return str(error).partition("\n")[0] or type(error).__name__
