"""What an image's file says of itself, without decoding more of it than needed.

The EXIF rule: the orientation a camera wrote into the file is applied, to the pixels and to every size we speak of;
labels refer to the image as it is displayed.
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
from boxwright.images.budget import too_large

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Of the many formats Pillow knows; the others are not for strangers' files. JPEG takes MPO with it: JPEGs in a row.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how its files start; the last two are BigTIFF
LATE_EXIF = 1 << 17  # bytes; EXIF takes 64 KiB at most, so an eXIf chunk behind a PNG's pixels starts in here
PART = 256  # images whose headers are read together
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width

Image.init()  # Pillow knows a format by name only once its plugin is loaded, which two threads must not do at a time
_alone = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone._at_fork_reinit)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Header:
    """size: (height, width) px as displayed; (-1, -1) where `fault` says why the image cannot be used.

    orientation: the EXIF value, 1 when upright. missing: there is no such file. large: it has too many pixels.
    """

    size: tuple[int, int] = (-1, -1)
    orientation: int = 1
    missing: bool = False
    large: bool = False
    fault: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) px as the pixels lie in the file."""
        return (self.size[1], self.size[0]) if self.orientation in QUARTER_TURNS else self.size


def read_header(source: str | bytes, whole: bool | None = False) -> Header:
    """The header of one image, a path or the content of a file. Never raises for a bad one: `fault` tells.

    whole: True decodes every pixel, None trusts the header. False finds files that were cut off: JPEG and PNG are
    decoded only where their end is not that of a complete file, and TIFF never is, for it says where its pixels end.
    Until it is decoded, a TIFF may hold any kind of pixels, also those that only rasterio reads.
    """
    with _silence():
        return _read(source, whole)


def read_headers(paths: Sequence[str], whole: bool | None = False) -> Iterator[Header]:
    """Headers in the order of `paths`, read by a few threads."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(paths), PART):
            with _silence():  # out here, for the filters of warnings belong to all threads
                part = list(pool.map(lambda path: _read(path, whole), paths[start : start + PART]))
            yield from part


@contextmanager
def _silence() -> Iterator[None]:
    """Pillow warns of odd metadata, which is no fault here, and of images larger than its limit; ours is another.

    Both are settings of the whole process.
    """
    with _alone, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _read(source: str | bytes, whole: bool | None) -> Header:
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            if not length:
                return Header(fault="the file is empty (0 bytes)")
            if not whole and file.read(4) in TIFF:
                tags = tiff_directory(file)
                end = _end_of_pixels(tags)
                if whole is False and end > length:
                    return Header(fault=f"cannot be decoded (cut off: {length} bytes, its pixels end at {end})")
                return _tiff_header(tags)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                if reason := too_large((image.height, image.width)):
                    return Header(large=True, fault=reason)
                orientation = _orientation(image, file)
                if whole or (whole is False and not _ends_well(image, file)):
                    image.load()
                height, width = image.height, image.width
    except FileNotFoundError:
        return Header(missing=True, fault="there is no such file")
    except UnidentifiedImageError:
        return Header(fault="not an image (JPEG, PNG, BMP, WebP and TIFF are read)")
    except OSError as error:
        return Header(fault=f"cannot be {'read' if error.strerror else 'decoded'} ({error.strerror or error})")
    except Exception as error:  # Pillow's plugins raise whatever a hostile file makes them trip over
        return Header(fault=f"cannot be decoded ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    return Header((width, height) if orientation in QUARTER_TURNS else (height, width), orientation)


def tiff_directory(file: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first image in a TIFF. Raises whatever a damaged file makes Pillow trip over."""
    file.seek(0)
    head = file.read(8)
    if b"+" in head[2:4]:  # of BigTIFF Pillow knows only the one order of bytes by its start
        tags = TiffImagePlugin.ImageFileDirectory_v2(b"II+\0" + head[4:] + file.read(8), prefix=head[:2])
    else:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    tags._tag_data_limit = file.seek(0, os.SEEK_END)  # else each of many tags could claim the whole file
    file.seek(tags.next)
    tags.load(file)
    return tags


def tiff_orientation(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """As in EXIF; 1 when upright, and where the tag is damaged."""
    try:
        value = tags.get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in `_orientation`
        return 1
    return value if value in range(1, 9) else 1


def _tiff_header(tags: TiffImagePlugin.ImageFileDirectory_v2) -> Header:
    """Its size is as displayed, and its orientation 1, as in `_orientation`."""
    height, width = (tags.get(tag) for tag in (ExifTags.Base.ImageLength, ExifTags.Base.ImageWidth))
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        return Header(fault="cannot be decoded (a TIFF that does not say its width and height)")
    return Header((width, height) if tiff_orientation(tags) in QUARTER_TURNS else (height, width))


def _end_of_pixels(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """The byte of a TIFF behind its last strip or tile; 0 where it does not say."""
    base = ExifTags.Base
    tiled = base.TileOffsets in tags
    offsets = tags.get(base.TileOffsets if tiled else base.StripOffsets, ())
    counts = tags.get(base.TileByteCounts if tiled else base.StripByteCounts, ())
    return max(map(sum, zip(offsets, counts, strict=False)), default=0)


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    if image.format == "TIFF":  # Pillow gives its size as displayed already
        return 1
    if image.format == "PNG" and "exif" not in image.info and b"eXIf" not in _tail(file, LATE_EXIF):
        return 1  # Pillow would decode all pixels to see whether an eXIf chunk follows them
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF; like every viewer we then show the image as it is stored
        return 1
    return value if value in range(1, 9) else 1


def _ends_well(image: Image.Image, file: BinaryIO) -> bool:
    tail = _tail(file, 12)
    if image.format == "PNG":
        return tail[4:8] == b"IEND"
    return image.format in {"JPEG", "MPO"} and tail.endswith(b"\xff\xd9")  # MPO: a JPEG with others behind it


def _tail(file: BinaryIO, length: int) -> bytes:
    """The last bytes; Pillow, which reads on from where it stopped, finds the file as it left it."""
    at = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - length))
    found = file.read(length)
    file.seek(at)
    return found
