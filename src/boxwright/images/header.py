"""Size, orientation and faults of image files, with as little decoding as possible.

Sizes are those of the image as displayed, with the EXIF orientation applied; labels refer to the same.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from boxwright.files import open_regular, read_in_threads
from boxwright.images.budget import size_fault
from boxwright.remote.members import prefetch

WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # of drawn images as well
SUFFIXES = (*WRITTEN, ".gif", ".avif", ".heic", ".heif")  # HEIC is recognized for the error message, not read
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # magic numbers; the last two are BigTIFF
PNG_END = b"IEND\xaeB`\x82"  # the last chunk: name and checksum
LATE_EXIF = 1 << 17  # bytes; EXIF has at most 64 KiB, so an eXIf chunk after the pixels of a PNG starts in these
SAMPLE_FORMAT, KINDS = 339, {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}  # a TIFF tag; 4: undefined
GRAY, PHOTOMETRIC_RGB = (0, 1), 2  # values of the TIFF tag PhotometricInterpretation; of gray, 0 is white or black
EXTRA_SAMPLES, UNASSOCIATED, ALPHA = 338, 2, (1, 2)  # a TIFF tag, and its values for alpha (1: colors contain it)
GDAL_METADATA, COLORS_OF_GDAL = 42112, "COLORINTERP"  # a TIFF tag of GDAL, and what it has for colors of bands
CHUNK = 256  # images whose headers are read together
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width

Image.init()  # loads all plugins, which is not thread-safe
# An allowlist, since files are untrusted. JPEG includes MPO, a sequence of JPEGs. Old Pillows have no AVIF.
FORMATS = tuple(name for name in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF") if name in Image.OPEN)
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one image."""

    size: tuple[int, int] = (-1, -1)  # (height, width) px as displayed; (-1, -1) if there is a fault
    orientation: int = 1  # the EXIF value; 1 is upright
    missing: bool = False  # there is no such file
    too_large: bool = False  # it has more pixels than may be decoded
    fault: str = ""  # why the image cannot be used; empty if it can
    not_rgb: str = ""  # why a TIFF is read only with chosen bands; empty for others, and where it is decoded here

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
    with quiet():
        return _read(source, decode)


def read_headers(paths: Sequence[str], decode: bool | None = False) -> Iterator[Header]:
    """Headers in the order of `paths`, read in a thread pool. decode: as in `read_header`.

    Raises InputError if a remote image cannot be fetched."""
    threads = min(16, 4 * (os.cpu_count() or 1))
    for start in range(0, len(paths), CHUNK):
        prefetch(paths[start : start + CHUNK], skip_ranged=True)
        with quiet():
            headers = list(read_in_threads(partial(_read, decode=decode), paths[start : start + CHUNK], threads))
        yield from headers


@dataclass(slots=True)
class _Quiet:
    """State of `quiet`. depth: number of open blocks. saved: the settings that the first block changed."""

    depth: int = 0
    saved: tuple[AbstractContextManager[object], int | None] | None = None


_state = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """Disable warnings of odd metadata, and Pillow's size limit in favor of `size_fault`.

    Both are global: the first of several threads changes them, and the last one restores them.
    """
    with _lock:
        if not _state.depth:
            filters = warnings.catch_warnings()
            filters.__enter__()
            warnings.simplefilter("ignore")
            _state.saved, Image.MAX_IMAGE_PIXELS = (filters, Image.MAX_IMAGE_PIXELS), None
        _state.depth += 1
    try:
        yield
    finally:
        with _lock:
            _state.depth -= 1
            if not _state.depth:
                _restore()


def _restore() -> None:
    if _state.saved is not None:
        filters, Image.MAX_IMAGE_PIXELS = _state.saved
        filters.__exit__(None, None, None)
    _state.depth, _state.saved = 0, None


def _after_fork() -> None:
    """The other threads do not exist in a forked process."""
    global _lock
    _lock = threading.Lock()
    _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
                    # OpenCV needs the end of a PNG, Pillow does not
                    if image.format == "PNG" and PNG_END not in _tail(file, LATE_EXIF):
                        return Header(fault="cannot be decoded (cut off: the end of the PNG is missing)")
                height, width = image.height, image.width
    except FileNotFoundError:
        return Header(missing=True, fault="there is no such file")
    except UnidentifiedImageError:
        if decode and (header := _decode_other_tiff(source)) is not None:
            return header
        return Header(fault=f"{_kind(source)} (JPEG, PNG, BMP, GIF, WebP and TIFF are read)")
    except OSError as error:
        return Header(fault=f"cannot be {'read' if error.strerror else 'decoded'} ({error.strerror or error})")
    except Exception as error:  # Pillow's plugins raise many types of errors for invalid files
        return Header(fault=f"cannot be decoded ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    return Header((width, height) if orientation in QUARTER_TURNS else (height, width), orientation)


def is_cut_png(content: bytes) -> bool:
    """Whether a PNG has no end, for which libpng would print a message."""
    return content.startswith(b"\x89PNG") and b"IEND" not in content


def needs_pillow(content: bytes) -> bool:
    """Whether an image is decoded by Pillow: GIF and AVIF, which not every OpenCV reads."""
    return content.startswith(b"GIF8") or _is_avif(content)


def first_frame(content: bytes) -> NDArray[np.uint8]:
    """(h, w, 3) RGB of an image whose header was read, and so its size. Raises what Pillow raises."""
    with quiet():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    with image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _is_avif(content: bytes) -> bool:
    return content[4:8] == b"ftyp" and content[8:12] in AVIF_BRANDS


def _kind(source: str | bytes) -> str:
    """The kind of a file that Pillow cannot identify, for a message."""
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        start = file.read(12)
    if _is_avif(start):
        return "AVIF, which this version of Pillow does not read; convert it to PNG"
    if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
        return "HEIC, which is not read; convert it to JPEG or PNG"
    return "not an image"


def rgb_fault(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    """The reason why a TIFF is not read as RGB; empty if it is. OpenCV silently misreads others."""
    base = ExifTags.Base
    count, bits, kinds = (tags.get(tag) for tag in (base.SamplesPerPixel, base.BitsPerSample, SAMPLE_FORMAT))
    count = 1 if count is None else count  # the tag's default
    widest = max(bits) if isinstance(bits, tuple) and bits else 1
    kind = KINDS.get(kinds[0] if isinstance(kinds, tuple) and kinds else 1, "other")
    found, remedy = f"of {widest} bits ({kind})", "choose them by data.bands or --bands, such as 3,2,1"
    if (isinstance(count, int) and count > 4) or widest > 16 or kind != "unsigned":
        bands = f"{count} band{'s' * (count != 1)}"
        return f"a TIFF of {bands} {found}, needed up to 4 of 8 or 16 (unsigned); {remedy}"
    if tags.get(base.PhotometricInterpretation) in GRAY and COLORS_OF_GDAL not in str(tags.get(GDAL_METADATA)):
        alphas = sum(extra in ALPHA for extra in _extra_samples(tags))
        if isinstance(count, int) and count - alphas not in (1, 3):
            return f"a TIFF of {count} untagged bands {found}, needed 1, 3, or tagged red, green and blue; {remedy}"
    return ""


def opencv_misreads(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether OpenCV takes the first band of a TIFF alone, or multiplies colors by alpha, where RGB can be read."""
    photometric, extra = tags.get(ExifTags.Base.PhotometricInterpretation), _extra_samples(tags)
    if photometric in GRAY:
        gray_and_alpha = len(extra) == 1 and extra[0] in ALPHA
        return tags.get(ExifTags.Base.SamplesPerPixel, 1) > 1 and not gray_and_alpha
    return photometric == PHOTOMETRIC_RGB and UNASSOCIATED in extra


def _extra_samples(tags: TiffImagePlugin.ImageFileDirectory_v2) -> tuple[int, ...]:
    value = tags.get(EXTRA_SAMPLES, ())
    return value if isinstance(value, tuple) else (value,)


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
        return Header(fault="cannot be decoded (a TIFF that does not state its width and height)")
    size = (width, height) if tiff_orientation(tags) in QUARTER_TURNS else (height, width)
    return Header(size, not_rgb=rgb_fault(tags))


def _decode_other_tiff(source: str | bytes) -> Header | None:
    """The header of a TIFF that Pillow cannot decode, since it reads few kinds of samples; None for other files."""
    from boxwright.images.tiff import damage  # which imports this module

    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        if file.read(4) not in TIFF:
            return None
        try:
            header = _tiff_header(tiff_directory(file))
        except Exception:  # damaged tags
            return None
    content = source if isinstance(source, bytes) else None
    fault = header.fault or damage("image" if content else str(source), content)
    return Header(fault=fault) if fault else header


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
