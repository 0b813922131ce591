"""Reading a TIFF as RGB with rasterio (the extra `geo`): red, green and blue bands, or a gray or palette band.

h x w px of a window; samples of 16 bits are reduced to the upper 8, alpha is dropped
"""

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.images.bands import Span, upright
from boxwright.images.budget import MAX_PIXELS
from boxwright.images.tiff import first_line, open_tiff

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
Size = tuple[int, int]  # (height, width) px

COLORS = ("red", "green", "blue")


def decode_tiff(name: str, content: bytes, orientation: int) -> Pixels:
    """All pixels of a TIFF, upright, without the warnings of `rgb_reader`: (h, w, 3).

    name: For messages. orientation: Of EXIF, which is applied. Raises InputError as `rgb_reader`.
    """
    with open_tiff(name, content) as source:
        pixels = rgb_reader(source, name, warn=False)(((0, source.height), (0, source.width)), None)
        return np.ascontiguousarray(upright(pixels, orientation))


def rgb_reader(source: "DatasetReader", path: str, *, warn: bool = True) -> Callable[[Span, Size | None], Pixels]:
    """A function from a window, ((top, bottom), (left, right)) px, and its reduced size, None for none, to its pixels.

    warn: Log a warning if bands or bits are ignored. Raises InputError as `check_blocks` and `rgb_bands`; the function
    does for a damaged window.
    """
    from rasterio.errors import RasterioError

    check_blocks(source, path)
    bands = rgb_bands(source, path)
    to_rgb = _colors(source, bands)
    if warn:
        _warn_of_losses(source, bands, path)

    def pixels(window: Span, size: Size | None) -> Pixels:
        shape = None if size is None else (len(bands), *size)
        try:
            samples = source.read(bands, window=window, out_shape=shape)
        except RasterioError as error:
            rows, columns = window
            raise InputError(
                f"{path}: cannot be decoded at rows {rows}, columns {columns} ({first_line(error)}); replace the file"
            ) from error
        return to_rgb(samples)

    return pixels


def check_blocks(source: "DatasetReader", path: str) -> None:
    """Raise InputError for a TIFF whose windows cannot be read separately."""
    if math.prod(source.block_shapes[0]) > MAX_PIXELS:
        raise InputError(
            f"{path}: stored in blocks of {source.block_shapes[0]} px, needed {MAX_PIXELS} px per block at most; "
            "rewrite it in tiles (gdal_translate -co TILED=YES)"
        )


def rgb_bands(source: "DatasetReader", path: str) -> list[int]:
    """The band numbers of red, green and blue, or of the only gray or palette band. Raises InputError for others."""
    kinds = [kind.name for kind in source.colorinterp]
    visible = [band for band, kind in enumerate(kinds, 1) if kind != "alpha"]
    bands = [kinds.index(color) + 1 for color in COLORS] if set(COLORS) <= set(kinds) else visible
    if len(bands) not in (1, 3):
        raise InputError(
            f"{path}: {len(kinds)} bands ({', '.join(kinds[:4])}{', ...' * (len(kinds) > 4)}), needed red, green, blue "
            "or one band; choose by data.bands or --bands, or gdal_translate -b 3 -b 2 -b 1 -colorinterp red,green,blue"
        )
    types = sorted({source.dtypes[band - 1] for band in bands})
    if types not in (["uint8"], ["uint16"]):
        raise InputError(
            f"{path}: samples are {', '.join(types)}, needed unsigned 8 or 16 bits; gdal_translate -ot Byte -scale"
        )
    return bands


def _colors(source: "DatasetReader", bands: list[int]) -> Callable[[Array], Pixels]:
    """The conversion of samples (1 or 3, h, w) of the bands to RGB."""
    if source.colorinterp[bands[0] - 1].name == "palette":
        table = np.zeros((1 << np.iinfo(source.dtypes[bands[0] - 1]).bits, 3), np.uint8)
        for index, color in source.colormap(bands[0]).items():
            table[index] = color[:3]
        return lambda samples: table[samples[0]]

    bits = _bits(source, bands[0])
    factor = 255 // ((1 << min(bits, 8)) - 1)  # 1 bit: 0 and 255
    white = 255 if "MINISWHITE" in _structure(source, bands[0]) else 0

    def to_rgb(samples: Array) -> Pixels:
        upper = (samples >> max(bits - 8, 0)).astype(np.uint8) * np.uint8(factor) ^ np.uint8(white)
        return np.ascontiguousarray(np.broadcast_to(upper, (3, *upper.shape[1:])).transpose(1, 2, 0))

    return to_rgb


def _structure(source: "DatasetReader", band: int) -> dict[str, str]:
    """How GDAL says that a band is stored."""
    tags: dict[str, str] = source.tags(band, ns="IMAGE_STRUCTURE") | source.tags(ns="IMAGE_STRUCTURE")
    return tags


def _bits(source: "DatasetReader", band: int) -> int:
    return int(_structure(source, band).get("NBITS", np.iinfo(source.dtypes[band - 1]).bits))


def _warn_of_losses(source: "DatasetReader", bands: list[int], path: str) -> None:
    """Log a warning if bands or bits are ignored."""
    if sum(kind.name != "alpha" for kind in source.colorinterp) > len(bands):
        logger.warning("%s: of %d bands only red, green and blue are used", path, source.count)
    if source.colorinterp[bands[0] - 1].name != "palette" and (bits := _bits(source, bands[0])) > 8:
        remedy = "if that is too dark, gdal_translate -ot Byte -scale first"
        logger.warning("%s: of %d bits the upper 8 are used; %s", path, bits, remedy)
