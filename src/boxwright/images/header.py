"""Size, orientation and faults of image files, with as little decoding as possible.

Sizes are those of the image as displayed, with the EXIF orientation applied; labels refer to the same.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from boxwright.files import open_regular
from boxwright.images.budget import size_fault

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# An allowlist, since files are untrusted. JPEG includes MPO, a sequence of JPEGs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # magic numbers; the last two are BigTIFF
PNG_END = b"IEND\xaeB`\x82"  # the last chunk: name and checksum
LATE_EXIF = 1 << 17  # bytes; EXIF has at most 64 KiB, so an eXIf chunk after the pixels of a PNG starts in these
CHUNK = 256  # images whose headers are read together
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width

Image.init()  # loads all plugins, which is not thread-safe
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one image."""

    size: tuple[int, int] = (-1, -1)  # (height, width) px as displayed; (-1, -1) if there is a fault
    orientation: int = 1  # the EXIF value; 1 is upright
    missing: bool = False  # there is no such file
    too_large: bool = False  # it has more pixels than may be decoded
    fault: str = ""  # why the image cannot be used; empty if it can

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) px before the orientation is applied."""
        return (self.size[1], self.size[0]) if self.orientation in QUARTER_TURNS else self.size


def read_header(source: str | bytes, decode: bool | None = False) -> Header:
    """The header of one image, a path or the content of a file. Never raises for an invalid image; see `Header.fault`.

    decode: True decodes all pixels; None trusts the header; False detects truncated files: JPEG and PNG are decoded
    only if they do not end like a complete file, TIFF never, since it states where its pixels end. A TIFF that is not
    decoded may have any kind of pixels, also those that only rasterio reads.
    """
    with _quiet_pillow():
        return _read(source, decode)


def read_headers(paths: Sequence[str], decode: bool | None = False) -> Iterator[Header]:
    """Headers in the order of `paths`, read in a thread pool. decode: as in `read_header`."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(paths), CHUNK):
            with _quiet_pillow():  # not in the threads, since warning filters are global
                headers = list(pool.map(lambda path: _read(path, decode), paths[start : start + CHUNK]))
            yield from headers


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Disable Pillow's warnings of odd metadata, and its size limit in favor of `size_fault`. Both are global."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _read(source: str | bytes, decode: bool | None) -> Header:
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            if not length:
                return Header(fault="the file is empty (0 bytes)")
            if not decode and file.read(4) in TIFF:
                tags = tiff_directory(file)
                end = _end_of_pixels(tags)
                if decode is False and end > length:
                    return Header(fault=f"cannot be decoded (cut off: {length} bytes, its pixels end at {end})")
                return _tiff_header(tags)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                if reason := size_fault((image.height, image.width)):
                    return Header(too_large=True, fault=reason)
                orientation = _orientation(image, file)
                if decode or (decode is False and not _is_complete(image, file)):
                    image.load()
                    if image.format == "PNG" and PNG_END not in _tail(file, LATE_EXIF):  # OpenCV needs it, Pillow not
                        return Header(fault="cannot be decoded (cut off: the end of the PNG is missing)")
                height, width = image.height, image.width
    except FileNotFoundError:
        return Header(missing=True, fault="there is no such file")
    except UnidentifiedImageError:
        return Header(fault="not an image (JPEG, PNG, BMP, WebP and TIFF are read)")
    except OSError as error:
        return Header(fault=f"cannot be {'read' if error.strerror else 'decoded'} ({error.strerror or error})")
    except Exception as error:  # Pillow's plugins raise many types of errors for invalid files
        return Header(fault=f"cannot be decoded ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    return Header((width, height) if orientation in QUARTER_TURNS else (height, width), orientation)


def tiff_directory(file: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first image in a TIFF. Pillow may raise any exception for a damaged file."""
    file.seek(0)
    head = file.read(8)
    if b"+" in head[2:4]:  # Pillow detects BigTIFF in one byte order only
        tags = TiffImagePlugin.ImageFileDirectory_v2(b"II+\0" + head[4:] + file.read(8), prefix=head[:2])
    else:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    tags._tag_data_limit = file.seek(0, os.SEEK_END)  # else each of many tags could be as large as the file
    file.seek(tags.next)
    tags.load(file)
    return tags


def tiff_orientation(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """The EXIF orientation; 1 (upright) if the tag is damaged."""
    try:
        value = tags.get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in `_orientation`
        return 1
    return value if value in range(1, 9) else 1


def _tiff_header(tags: TiffImagePlugin.ImageFileDirectory_v2) -> Header:
    """A header with the displayed size and orientation 1, as in `_orientation`."""
    height, width = (tags.get(tag) for tag in (ExifTags.Base.ImageLength, ExifTags.Base.ImageWidth))
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        return Header(fault="cannot be decoded (a TIFF that does not say its width and height)")
    return Header((width, height) if tiff_orientation(tags) in QUARTER_TURNS else (height, width))


def _end_of_pixels(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """The offset after the last strip or tile of a TIFF; 0 if it is not stated."""
    base = ExifTags.Base
    tiled = base.TileOffsets in tags
    offsets = tags.get(base.TileOffsets if tiled else base.StripOffsets, ())
    counts = tags.get(base.TileByteCounts if tiled else base.StripByteCounts, ())
    return max(map(sum, zip(offsets, counts, strict=False)), default=0)


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    if image.format == "TIFF":  # Pillow already returns the displayed size
        return 1
    if image.format == "PNG" and "exif" not in image.info and b"eXIf" not in _tail(file, LATE_EXIF):
        return 1  # else Pillow would decode all pixels to look for an eXIf chunk after them
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF: upright, as in image viewers
        return 1
    return value if value in range(1, 9) else 1


def _is_complete(image: Image.Image, file: BinaryIO) -> bool:
    tail = _tail(file, 12)
    if image.format == "PNG":
        return tail.endswith(PNG_END)
    return image.format in {"JPEG", "MPO"} and tail.endswith(b"\xff\xd9")  # MPO: a JPEG followed by others


def _tail(file: BinaryIO, length: int) -> bytes:
    """The last bytes. Restores the position, where Pillow continues to read."""
    position = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - length))
    tail = file.read(length)
    file.seek(position)
    return tail
