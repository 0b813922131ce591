"""What a picture's file says of itself, without decoding more of it than needed.

The EXIF rule: the orientation a camera wrote into the file is applied, to the pixels and to every size we speak of;
labels refer to the picture as it is displayed.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF")  # MPO: a JPEG with a second picture behind the first
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@dataclass(frozen=True, slots=True)
class Header:
    """size: (height, width) px as displayed; (-1, -1) where `fault` says why the picture cannot be used.

    orientation: the EXIF value, 1 when upright. missing: there is no such file.
    """

    size: tuple[int, int] = (-1, -1)
    orientation: int = 1
    missing: bool = False
    fault: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) px as the pixels lie in the file."""
        return (self.size[1], self.size[0]) if self.orientation in QUARTER_TURNS else self.size


def read_header(path: str, whole: bool | None = False) -> Header:
    """The header of one picture. Never raises for a bad file: `fault` tells.

    whole: True decodes every pixel, False decodes only when the file's end is not that of a complete JPEG or PNG
    (a truncated file), None trusts the header.
    """
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd metadata; neither is a fault here
            if os.fstat(file.fileno()).st_size == 0:
                return Header(fault="the file is empty (0 bytes)")
            with Image.open(file, formats=FORMATS) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                if whole or (whole is False and not _ends_well(path, image.format or "")):
                    image.load()
                height, width = image.height, image.width
    except FileNotFoundError:
        return Header(missing=True, fault="there is no such file")
    except UnidentifiedImageError:
        return Header(fault="not a picture (JPEG, PNG, BMP, WebP and TIFF are read)")
    except Exception as error:  # Pillow's plugins raise whatever a hostile file makes them trip over
        return Header(fault=f"cannot be decoded ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    if orientation not in range(1, 9):
        orientation = 1
    return Header((width, height) if orientation in QUARTER_TURNS else (height, width), orientation)


def read_headers(paths: Sequence[str], whole: bool | None = False) -> Iterator[Header]:
    """Headers in the order of `paths`, read by a few threads."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(paths), 256):  # not all at once: a map over 100,000 paths queues them all
            yield from pool.map(lambda path: read_header(path, whole), paths[start : start + 256])


def _ends_well(path: str, kind: str) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 12))
        tail = file.read(12)
    return (kind in {"JPEG", "MPO"} and tail.endswith(b"\xff\xd9")) or (kind == "PNG" and tail[4:8] == b"IEND")
