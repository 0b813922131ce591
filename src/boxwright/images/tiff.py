"""Opening TIFF files with rasterio (the extra `geo`), reading as little of them as needed."""

import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from boxwright import mirrors
from boxwright.errors import InputError
from boxwright.files import local_file, open_regular
from boxwright.images.budget import MAX_PIXELS
from boxwright.images.header import quiet, tiff_directory, tiff_orientation
from boxwright.mirrors import STORED, Member, Source
from boxwright.remote.members import is_ranged

if TYPE_CHECKING:  # imported when needed, since it is in an extra
    from rasterio.io import DatasetReader, MemoryFile

CACHE_BYTES = 128 << 20  # of decoded blocks in GDAL, which neighboring windows share
MAX_PAGES = 256  # each is an open file


@contextmanager
def open_tiff(path: str | Path, content: bytes | None = None) -> Iterator["DatasetReader"]:
    """The first page as a rasterio data set.

    Args:
        path: The file; only named in messages if its content is given.
        content: The content of the file.

    Raises:
        InputError: It is not a readable TIFF, or rasterio is missing.
    """
    with _environment(path), ExitStack() as stack:
        # An absolute path cannot be a URL, and this driver does not follow references to other files.
        if content is None and is_ranged(path):
            yield stack.enter_context(_open(Path(path).absolute(), path, _opener(path)))
            return
        name = stack.enter_context(_memory_file(content)).name if content is not None else _local(path)
        yield stack.enter_context(_open(name, path))


@contextmanager
def open_pages(path: str | Path, content: bytes | None = None) -> Iterator[list["DatasetReader"]]:
    """All pages of the first page's size, each a rasterio data set. Thumbnails and overviews are left out.

    Arguments and errors are those of `open_tiff`.
    """
    with open_tiff(path, content) as first, ExitStack() as stack:
        if len(first.subdatasets) > MAX_PAGES:
            raise InputError(f"{path}: {len(first.subdatasets)} pages, needed {MAX_PAGES} at most; rewrite it as bands")
        pages = [first, *(stack.enter_context(_open(name, path)) for name in first.subdatasets[1:])]
        yield [page for page in pages if (page.height, page.width) == (first.height, first.width)]


def reject_rotated(path: str | Path, content: bytes | None = None) -> None:
    """Raise InputError for a TIFF with an orientation, its tag 274, which GDAL does not read."""
    with io.BytesIO(content) if content is not None else open_regular(path) as file:
        try:
            orientation = tiff_orientation(tiff_directory(file))
        except Exception:  # Pillow raises many types of errors for damaged tags; GDAL has opened the file: upright
            return
    if orientation != 1:
        raise InputError(f"{path}: stored rotated (orientation {orientation}), needed upright pixels; rewrite the file")


def damage(path: str | Path, content: bytes | None = None) -> str:
    """The fault of a TIFF whose pixels cannot all be decoded; empty without a fault or without rasterio. Arguments as
    in `open_tiff`."""
    if importlib.util.find_spec("rasterio") is None:
        return ""
    from rasterio.errors import RasterioError

    try:
        with open_pages(path, content) as pages:
            for page in pages:
                if math.prod(page.block_shapes[0]) * page.count > 3 * MAX_PIXELS:
                    return f"stored in blocks of {page.block_shapes[0]} px, more than are decoded at once"
                for _, window in page.block_windows(1):
                    page.read(window=window)
    except RasterioError as error:
        return f"cannot be decoded ({first_line(error)})"
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error message."""
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def _environment(path: str | Path) -> Iterator[None]:
    try:
        import rasterio
    except ImportError as error:
        raise InputError(f"{path}: TIFF is read by rasterio; pip install 'boxwright[geo]'") from error
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        yield


def _local(path: str | Path) -> str | Path:
    """The path or name that GDAL opens for a path; for an uncompressed member of an archive, its range of bytes."""
    try:
        found = mirrors.find(path)
        if found is not None and (name := _gdal_name(*found)) is not None:
            open_regular(path).close()  # an archive that has changed is an error
            return name
        return local_file(path).absolute()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), needed a TIFF") from error


def _gdal_name(source: Source, member: Member) -> str | None:
    stored = source.kind == "file" and member.method == STORED
    return f"/vsisubfile/{member.start}_{member.length},{source.address}" if stored else None


def _memory_file(content: bytes) -> "MemoryFile":
    from rasterio.io import MemoryFile

    return MemoryFile(content)


def _opener(path: str | Path) -> Callable[..., BinaryIO]:
    """A function that opens a remote file for GDAL: only the ranges that it reads are fetched, no files beside it."""

    def opened(name: str, mode: str = "rb", **_: object) -> BinaryIO:
        if Path(name) != Path(path).absolute():
            raise FileNotFoundError(name)
        return open_regular(path)

    return opened


def _open(name: str | Path, path: str | Path, opener: Callable[..., BinaryIO] | None = None) -> "DatasetReader":
    import rasterio

    try:
        with quiet():  # else it warns of files without a georeference
            source = rasterio.open(name, driver="GTiff", **({"opener": opener} if opener else {}))
            _ = source.colorinterp  # at the first access GDAL reads the georeference, whose faults are errors
    except Exception as error:  # also UnicodeDecodeError, and errors of GDAL without a public type
        raise InputError(
            f"{path}: not a readable TIFF ({first_line(error)}); replace the file or leave it out"
        ) from error
    return source
