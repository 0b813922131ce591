"""Reading chosen bands of an image, and stretching their samples to 8 bits.

    h, w px; n bands

A sample s of a band with the range (low, high) becomes 255 * (s - low) / (high - low), clipped to 0..255 and rounded.
Without ranges, 8 bits stay as they are, and of 16 bits the upper 8 are used, as in images that are read as RGB. NaN,
infinite values, and the value that the file declares as no data become 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.config import RGB
from boxwright.errors import InputError
from boxwright.images.budget import MAX_PIXELS
from boxwright.images.header import TIFF, first_frame, is_cut_png, needs_pillow
from boxwright.images.tiff import first_line, open_pages, reject_rotated
from boxwright.recipe import DataConfig

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Range = tuple[float, float]
Samples = Array  # of any type
Span = tuple[tuple[int, int], tuple[int, int]]  # rows and columns, first and one after the last
Stretched = NDArray[np.uint8]

BandNumbers = tuple[int, ...] | Literal["all"]

UNSIGNED = ("uint8", "uint16")  # types with a range
TYPES = (*UNSIGNED, "int8", "int16", "int32", "uint32", "float32", "float64")
MAX_BYTES = 6 * MAX_PIXELS  # of samples that are decoded at once: as many as an RGB image takes


@dataclass(frozen=True, slots=True)
class Bands:
    """The bands of an image to read, and the ranges for stretching them.

    Attributes:
        numbers: Numbers of the bands, from 1, in the order of the channels.
        ranges: (low, high) of each band; () for the range of the type.
    """

    numbers: tuple[int, ...]
    ranges: tuple[Range, ...] = ()

    @classmethod
    def of(cls, data: DataConfig) -> "Bands | None":
        """The bands of a recipe; None for RGB. Raises InputError for `all`, which only training can resolve."""
        if data.bands is None:
            return None
        if data.bands == "all":
            raise InputError("data.bands: found all, which only training can resolve; list them, such as [1, 2, 3, 4]")
        ranges = data.range or ()
        return cls(data.bands, ranges * len(data.bands) if len(ranges) == 1 else ranges)

    def stretch(self, samples: Sequence[Samples], nodata: Sequence[float | None], path: str) -> Stretched:
        """Samples (h, w) of each band, and its value for no data -> (h, w, n).

        Raises InputError for samples of a type without a range if `ranges` is empty.
        """
        result = np.empty((*samples[0].shape, len(samples)), np.uint8)
        for index, (plane, missing) in enumerate(zip(samples, nodata, strict=True)):
            if self.ranges:
                result[..., index] = stretch(plane, *self.ranges[index], missing)
                continue
            if plane.dtype.name not in UNSIGNED:
                raise InputError(
                    f"{path}: samples of band {self.numbers[index]} are {plane.dtype.name}, needed data.range or "
                    "data.percentiles: [1, 99] for other than unsigned 8 or 16 bits"
                )
            result[..., index] = plane >> 8 if plane.dtype == np.uint16 else plane
            if missing is not None:
                result[..., index][plane == missing] = 0
        return result


def stretch(samples: Samples, low: float, high: float, nodata: float | None = None) -> Stretched:
    """Samples of any shape and type -> 0..255, as in the module's docstring."""
    scaled: Samples = samples.astype(np.float32 if samples.itemsize <= 2 else np.float64)
    invalid = ~np.isfinite(scaled) if samples.dtype.kind == "f" else np.zeros((), bool)
    if nodata is not None:
        invalid = invalid | (samples == nodata)
    np.subtract(scaled, low, out=scaled)
    np.multiply(scaled, 255 / (high - low), out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    scaled[np.broadcast_to(invalid, scaled.shape)] = 0
    rounded: Stretched = np.rint(scaled, out=scaled).astype(np.uint8)
    return rounded


def valid(samples: Samples, nodata: float | None) -> Samples:
    """The finite samples other than the value for no data, flattened."""
    finite = np.isfinite(samples)
    return samples[finite if nodata is None else finite & (samples != nodata)]


def parse_numbers(text: str | None) -> BandNumbers | None:
    """The option `--bands`: `all`, or numbers from 1 with commas between. Raises InputError for another text."""
    if text is None:
        return None
    if text == "all":
        return "all"
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) < 5 and int(word) for word in words):
        raise InputError(f"--bands: found {text[:50]!r}, needed all, or band numbers from 1 such as 4,3,2")
    return tuple(map(int, words))


def decode_bands(name: str, content: bytes, orientation: int, bands: Bands) -> Stretched:
    """The bands of an image -> (h, w, n).

    Args:
        name: Name in messages.
        content: Content of the file.
        orientation: EXIF orientation, which is applied.
        bands: The bands to read.

    Raises:
        InputError: The image cannot be decoded or has fewer bands; also as `Bands.stretch`.
    """
    samples, nodata = read_samples(name, content, orientation, bands.numbers)
    return bands.stretch(samples, nodata, name)


def read_samples(
    name: str, content: bytes, orientation: int, numbers: Sequence[int]
) -> tuple[list[Samples], list[float | None]]:
    """The samples (h, w) of each band as stored, and its value for no data. Arguments and errors as `decode_bands`."""
    if content[:4] in TIFF:
        reject_rotated(name, content)
        with open_pages(name, content) as pages:
            return read_window(pages, numbers, None, name)
    channels = _decode(name, content, orientation)
    check_numbers(name, numbers, channels.shape[2])
    return [channels[..., number - 1] for number in numbers], [None] * len(numbers)


def count_bands(name: str, content: bytes) -> int:
    """The number of bands of an image. Raises InputError as `decode_bands`."""
    if content[:4] in TIFF:
        with open_pages(name, content) as pages:
            return sum(page.count for page in pages)
    return int(_decode(name, content, 1).shape[2])


def read_window(
    pages: Sequence["DatasetReader"], numbers: Sequence[int], window: Span | None, path: str
) -> tuple[list[Samples], list[float | None]]:
    """`read_samples` of a window of a TIFF, from `open_pages`. window: ((top, bottom), (left, right)); None for all."""
    from rasterio.errors import RasterioError

    places = [(page, index) for page in pages for index in page.indexes]  # bands are numbered across all pages
    check_numbers(path, numbers, len(places))
    chosen = [places[number - 1] for number in numbers]
    if wrong := {page.dtypes[index - 1] for page, index in chosen} - set(TYPES):
        raise InputError(f"{path}: samples are {', '.join(sorted(wrong))}, needed integers of up to 32 bits or floats")
    height, width = pages[0].shape if window is None else (end - start for start, end in window)
    _check_memory(path, chosen, height * width)
    try:
        read = {
            page.name: dict(zip(indices, page.read(indices, window=window), strict=True))
            for page in pages
            if (indices := sorted({index for owner, index in chosen if owner is page}))
        }
    except RasterioError as error:
        place = "" if window is None else f" at rows {window[0]}, columns {window[1]}"
        raise InputError(
            f"{path}: cannot be decoded{place} ({first_line(error)}); replace the file or leave it out"
        ) from error
    return [read[page.name][index] for page, index in chosen], [page.nodatavals[index - 1] for page, index in chosen]


def check_numbers(path: str, numbers: Sequence[int], count: int) -> None:
    """Raise InputError if an image of `count` bands does not have those of `numbers`."""
    if max(numbers) > count:
        raise InputError(f"{path}: has bands 1 to {count}, needed {max(numbers)} too; choose others")


def weight(bands: Bands | None) -> int:
    """The number of RGB px that a px of the bands counts as, in the budget of pixels that are decoded."""
    return 1 if bands is None else -(-len(bands.numbers) // RGB)


def _check_memory(path: str, chosen: Sequence[tuple["DatasetReader", int]], pixels: int) -> None:
    """Raise InputError if `pixels` px, or one block, of the bands (page, index) take more than `MAX_BYTES`."""
    sizes = [np.dtype(page.dtypes[index - 1]).itemsize for page, index in chosen]
    if pixels * sum(sizes) > MAX_BYTES:
        raise InputError(
            f"{path}: {pixels} px of {len(chosen)} bands take {pixels * sum(sizes):,} bytes, more than the "
            f"{MAX_BYTES:,} that are decoded at once; cut it by `data tile --bands`, or choose fewer bands"
        )
    for page in {id(page): page for page, _ in chosen}.values():
        if (size := math.prod(page.block_shapes[0]) * page.count * max(sizes)) > MAX_BYTES:
            raise InputError(
                f"{path}: stored in blocks of {size:,} bytes, more than the {MAX_BYTES:,} that are decoded at once; "
                "rewrite it in tiles (gdal_translate -co TILED=YES)"
            )


def _decode(name: str, content: bytes, orientation: int) -> Samples:
    """An image other than a TIFF -> (h, w, 1, 3 or 4): gray, RGB, or RGB with alpha, 8 or 16 bits."""
    image: Samples | None = None
    try:
        if needs_pillow(content):
            return first_frame(content)
        if not is_cut_png(content):
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except Exception:  # OpenCV's error, and Pillow's many types
        image = None
    if image is None:
        raise InputError(f"{name}: not a readable image ({len(content)} bytes: damaged or cut off); replace the file")
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] > 1:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]  # OpenCV has blue first
    return upright(image, orientation)


def upright(image: Samples, orientation: int) -> Samples:
    """Apply an EXIF orientation (1 to 8) to stored pixels (h, w, n)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)  # transposed: 5; 6 to 8 flip the result
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
