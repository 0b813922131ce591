"""The members of a ZIP file, stored or deflated, and where they are in it."""

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from boxwright.archives.faults import check_total, clean_name
from boxwright.errors import InputError
from boxwright.files import open_regular
from boxwright.mirrors import DEFLATED, STORED, Member

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field after it
SIGNATURE = b"PK\3\4"
UTF8, ENCRYPTED = 0x800, 0x1  # flags of a member
METHODS = {6: "imploded", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
WINDOWS = 0  # the system that has written a member; its names may have backslashes
MAX_EXPANSION = 1032  # the maximum of Deflate


def members(path: Path, title: str, source: int) -> Iterator[Member]:
    """The files of a ZIP archive, and its folders with a `/` at the end of their names.

    Args:
        path: The archive.
        title: Its name in messages.
        source: Index of the archive among the sources of the mirror.

    Raises:
        InputError: It is damaged or a ZIP bomb, or contains encrypted files, links or other compression.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            check_total(title, archive.start_dir, sum(i.compress_size for i in infos), sum(i.file_size for i in infos))
            end = 0
            for info in infos:
                name = clean_name(_name(info))
                _check(info, f"{title}/{name}")
                file.seek(info.header_offset)
                header = file.read(LOCAL_HEADER.size)
                if info.header_offset < end or len(header) < LOCAL_HEADER.size or not header.startswith(SIGNATURE):
                    raise InputError(f"{title}/{name}: overlaps another file, or is damaged; get the archive again")
                start = info.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header)[1:])
                end = start + info.compress_size
                if end > archive.start_dir:
                    raise InputError(f"{title}/{name}: is cut off; get the archive again")
                if name:
                    method = STORED if info.compress_type == zipfile.ZIP_STORED else DEFLATED
                    yield Member(name, info.file_size, source, start, info.compress_size, method, info.CRC)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{title}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{title}: not a complete ZIP file ({str(error)[:60]}); it is cut off or of another kind, get it again"
        ) from error
    except Exception as error:  # zipfile raises many types of errors for damaged files
        raise InputError(f"{title}: a damaged ZIP file ({str(error)[:60]}); get it again") from error


def _name(info: zipfile.ZipInfo) -> str:
    """The name as written. Without the UTF-8 flag, the encoding is unknown: mostly UTF-8, else code page 437."""
    name = info.orig_filename
    if not info.flag_bits & UTF8 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if info.create_system == WINDOWS else name


def _check(info: zipfile.ZipInfo, place: str) -> None:
    """Raise InputError for an unsupported member. place: archive and name."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) and info.create_system != WINDOWS:
        what = "a link" if kind == stat.S_IFLNK else "a device, or another special file"
        raise InputError(f"{place}: is {what}, needed files only; repack it")
    if info.flag_bits & ENCRYPTED:
        raise InputError(f"{place}: is encrypted; repack it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise InputError(f"{place}: compressed by {method}, needed stored or deflated; repack it (zip -0)")
    expected = info.compress_size if info.compress_type == zipfile.ZIP_STORED else None
    if info.file_size > MAX_EXPANSION * info.compress_size + 64 or (expected not in (None, info.file_size)):
        raise InputError(
            f"{place}: {info.compress_size:,} bytes cannot hold the declared {info.file_size:,}; repack it"
        )
