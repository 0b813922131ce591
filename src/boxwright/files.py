"""Files that can be read to an end, folders to write into, and files written whole or not at all."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from boxwright.errors import InputError

# The mask can only be read by setting it, for all threads at once: so once, while there is one thread.
_MASK = os.umask(0)
os.umask(_MASK)
MODE = 0o666 & ~_MASK  # of a new file


def open_regular(path: str | Path) -> BinaryIO:
    """`path`, opened for reading.

    Raises OSError for what cannot be opened, and at once for what may never end: FIFOs, devices and sockets.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL, or letters that the file system's encoding lacks
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, os.strerror(code) if code == errno.EISDIR else "not a regular file", str(path))


def read_bytes(path: str | Path) -> bytes:
    """All of a file. What is raised: as in `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def folder(path: str | Path) -> Path:
    """`path` as a folder that is there. Raises InputError where it can neither be found nor made."""
    made = Path(path)
    try:
        made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{made}: results cannot be written there ({error.strerror})") from error
    return made


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes the place of `path` when the block ends well.

    Whoever reads `path`, also after a power cut, finds the old file or the new one, never a part.
    Raises InputError where it cannot be written (no such folder, no permission, disk full).
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(MODE)  # mkstemp gives 0600
        sync(part)
        part.replace(target)
        sync(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` when the block ends well and is removed otherwise.

    For many files of which a part is worth nothing. Raises InputError where `path` is a file or holds anything
    already, and where it cannot be written.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: is there already, needed a new or empty folder; remove it or name another")
    parent = folder(target.parent)
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield part
        part.chmod(0o777 & ~_MASK)  # mkdtemp gives 0700
        part.replace(target)
        sync(parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def together(path: str | Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder; what lies there when the block ends well takes its place beside
    `path`. For a file with others that belong to it, as OpenVINO's .xml and .bin.

    Where there are others, `path` itself goes first and comes last, so that whoever finds it finds its own companions.
    Raises InputError where they cannot be written.
    """
    target = Path(path)
    try:
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield place / target.name
        parts = sorted(place.iterdir(), key=lambda part: part.name == target.name)
        for part in parts:
            part.chmod(MODE)
            sync(part)
            if (target.parent / part.name).is_dir():
                raise InputError(f"{target.parent / part.name}: cannot be written, it is a folder; name another file")
        if len(parts) > 1:
            target.unlink(missing_ok=True)
        for part in parts:
            part.replace(target.parent / part.name)
        sync(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def sync(path: Path) -> None:
    """Make what was written to a file, or the renames in a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
