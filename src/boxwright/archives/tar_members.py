"""The members of a tar file, and where they are in it."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from boxwright.archives.faults import clean_name
from boxwright.errors import InputError
from boxwright.files import length, open_regular
from boxwright.mirrors import Member

BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
KINDS = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a link", tarfile.GNUTYPE_SPARSE: "a sparse file"}
REMEDY = "repack it (tar --dereference --hard-dereference)"
KEPT = 1000  # headers that tarfile keeps in memory


def members(path: Path, title: str, source: int) -> Iterator[Member]:
    """The files of a tar archive, and its folders with a `/` at the end of their names. Arguments as in `zip_members`.

    Raises:
        InputError: It is damaged, compressed, or holds links, sparse files or devices.
    """
    try:
        with open_regular(path) as file:
            size = length(file)
            start = file.read(6)
            if kind := next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), ""):
                raise InputError(
                    f"{title}: compressed by {kind} as a whole, so its files cannot be read one by one; "
                    "unpack it, or pack it as a plain tar"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                yield from _members(archive, title, source, size)
                _check_end(file, archive.offset, size, title)
    except OSError as error:
        raise InputError(f"{title}: cannot be read ({error.strerror or error})") from error
    except InputError:
        raise
    except tarfile.TarError as error:
        raise InputError(f"{title}: not a complete tar file ({str(error)[:60]}); get it again") from error
    except Exception as error:  # tarfile raises many types of errors for damaged headers
        raise InputError(f"{title}: a damaged tar file ({str(error)[:60]}); get it again") from error


def _members(archive: tarfile.TarFile, title: str, source: int, size: int) -> Iterator[Member]:
    while (info := archive.next()) is not None:
        if len(archive.members) > KEPT:  # type: ignore[attr-defined]
            archive.members = []  # type: ignore[attr-defined]
        name = clean_name(info.name)
        if info.isdir():
            if name:
                yield Member(f"{name.rstrip('/')}/", 0, source)
            continue
        if info.type not in tarfile.REGULAR_TYPES or info.issparse():
            kind = KINDS.get(info.type, "a sparse file" if info.issparse() else "a device, or another special file")
            raise InputError(f"{title}/{name}: is {kind}, needed files only; {REMEDY}")
        if info.offset_data + info.size > size:
            raise InputError(f"{title}/{name}: is cut off; get the archive again")
        yield Member(name, info.size, source, info.offset_data, info.size)


def _check_end(file: BinaryIO, offset: int, size: int, title: str) -> None:
    """Raise InputError if the archive does not end with a block of zeros: tarfile takes any damage for its end."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK or any(block):
        what = "is cut off" if offset + BLOCK > size else f"is damaged at byte {offset}"
        raise InputError(f"{title}: {what}; get the archive again")
