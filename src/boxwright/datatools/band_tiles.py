"""Tiles of chosen bands: TIFF files with the samples of the scene, of any type, for `data.bands: all`.

h, w px of a window, n bands
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from boxwright.errors import InputError
from boxwright.files import open_regular
from boxwright.images.bands import BandNumbers, Samples, check_numbers, count_bands, read_samples, read_window
from boxwright.images.decode import open_image
from boxwright.images.header import TIFF, quiet
from boxwright.images.tiff import open_pages
from boxwright.images.windows import Window

Read = Callable[[Window], tuple[Samples, float | None]]  # (n, h, w) of one type, and the value for no data
RESIZED = ("uint8", "uint16", "int16", "float32", "float64")  # by OpenCV


@contextmanager
def open_samples(path: str, numbers: BandNumbers) -> Iterator[Read]:
    """Open a scene of any size to read windows of its samples. Raises InputError if it lacks a band."""
    with open_regular(path) as file:
        is_tiff = file.read(4) in TIFF
    if not is_tiff:
        source = open_image(path)
        chosen = _numbers(path, numbers, count_bands(path, source.data))
        planes, _ = read_samples(path, source.data, source.orientation, chosen)
        stack = np.stack(planes)
        yield lambda window: (stack[:, window.y : window.xyxy[3], window.x : window.xyxy[2]], None)
        return
    with open_pages(path) as pages:
        chosen = _numbers(path, numbers, sum(page.count for page in pages))

        def read(window: Window) -> tuple[Samples, float | None]:
            x1, y1, x2, y2 = window.xyxy
            samples, nodata = read_window(pages, chosen, ((y1, y2), (x1, x2)), path)
            if len({str(value) for value in nodata}) > 1:  # NaN is not equal to itself
                raise InputError(f"{path}: its bands mark no data by {nodata}, needed one value; cut them apart")
            return np.stack(samples), nodata[0]

        yield read


def encode(samples: Samples, nodata: float | None, scale: float, path: str) -> bytes:
    """The content of a TIFF of samples (n, h, w), resized by exactly `scale`. path: the scene, for messages.

    Raises InputError where px without data would be blended with others.
    """
    from rasterio.io import MemoryFile

    if scale != 1:
        if nodata is not None:
            raise InputError(f"{path}: marks px without data, which resizing would blend; leave --scale out")
        samples = _resized(samples, scale)
    count, height, width = samples.shape
    profile = {
        "driver": "GTiff", "count": count, "height": height, "width": width, "dtype": samples.dtype.name,
        "nodata": nodata, "compress": "deflate", "photometric": "MINISBLACK",
    }  # fmt: skip
    with quiet(), MemoryFile() as memory:  # else it warns of a file without a georeference
        with memory.open(**profile) as target:
            target.write(samples)
        return bytes(memory.read())


def name(numbers: BandNumbers) -> str:
    """The part of a tile's name that states its bands."""
    return f"_bands{'all' if numbers == 'all' else '-'.join(map(str, numbers))}"


def _numbers(path: str, numbers: BandNumbers, count: int) -> tuple[int, ...]:
    chosen = tuple(range(1, count + 1)) if numbers == "all" else numbers
    check_numbers(path, chosen, count)
    return chosen


def _resized(samples: Samples, scale: float) -> Samples:
    """Resize like RGB tiles, band by band."""
    _, h, w = samples.shape
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    factors = {"fx": max(scale, 1 / w), "fy": max(scale, 1 / h)}
    if samples.dtype.name not in RESIZED:
        samples = samples.astype(np.float64)
    return np.stack([cv2.resize(np.ascontiguousarray(plane), None, interpolation=kind, **factors) for plane in samples])
