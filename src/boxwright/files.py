"""Files that can be read to an end, folders to write into, and files written whole or not at all."""

import errno
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from boxwright.errors import InputError, printable

# Of what is being written: the machine, the process and a random word. Not the target's name, which may be as long as
# names can be.
TEMPORARY = re.compile(r"\.boxwright-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.part")
WEEK = 7 * 24 * 3600  # s after which nobody is still writing
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space on the disk, in the quota, or in one file
PROBE = bytes(1 << 16)


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


def user_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/boxwright, or ~/.cache/boxwright.

    Raises RuntimeError for a user without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "boxwright"


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
    part = _temporary(target.parent)
    try:
        with told(target, part):
            # Made with the permissions that the process gives to new files, whatever else the block replaces it by.
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield part
            part.chmod(mode)
            sync(part)
            part.replace(target)
            sync(target.parent)
    finally:
        with suppress(OSError):
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
    part = _temporary(parent)
    try:
        with told(target, part):
            part.mkdir()
            yield part
            part.replace(target)
            sync(parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def together(path: str | Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder; what lies there when the block ends well takes its place beside
    `path`. For a file with others that belong to it, as OpenVINO's .xml and .bin.

    Where there are others, `path` itself goes first and comes last, so that whoever finds it finds its own companions.
    Raises InputError where they cannot be written, and where one of the others is there without `path`: it belongs to
    something else.
    """
    target = Path(path)
    place = _temporary(target.parent)
    try:
        with told(target, place, target.parent):
            place.mkdir()
            yield place / target.name
            parts = sorted(place.iterdir(), key=lambda part: part.name == target.name)
            for part in parts:
                part.chmod(place.stat().st_mode & 0o666)  # of a new file, as the folder is new
                sync(part)
                if (target.parent / part.name).is_dir():
                    raise InputError(
                        f"{target.parent / part.name}: cannot be written, it is a folder; name another file"
                    )
            taken = [target.parent / part.name for part in parts if os.path.lexists(target.parent / part.name)]
            if taken and target not in taken:
                raise InputError(
                    f"{taken[0]}: is there without {target.name}, and would be written over; name another file"
                )
            if len(parts) > 1:
                target.unlink(missing_ok=True)
            for part in parts:
                part.replace(target.parent / part.name)
            sync(target.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def told(target: Path, part: Path, becomes: Path | None = None, what: str = "cannot be written") -> Iterator[None]:
    """Errors of writing `target` as an InputError that names it, and not `part`, where it is written before.

    becomes: what stands for `part` in messages, None for `target`. Libraries tell of a full disk by exceptions of all
    kinds, so that the disk itself is asked.
    """
    try:
        yield
    except InputError as error:
        place, here = printable(str(part)), printable(str(becomes or target))
        if place not in str(error):
            raise
        raise InputError(str(error).replace(place, here)) from error
    except OSError as error:
        raise InputError(f"{target}: {what} ({error.strerror or error})") from error
    except Exception as error:
        if (reason := _full(part)) is None:
            raise
        raise InputError(f"{target}: {what} ({reason})") from error


def _full(part: Path) -> str | None:
    """Why a file that is half-written, or the newest in a folder, cannot grow; None where it can."""
    try:
        files = [each for each in part.rglob("*") if each.is_file()] if part.is_dir() else [part]
        if files:
            with max(files, key=lambda file: file.stat().st_mtime_ns).open("ab") as stream:
                stream.write(PROBE)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        return error.strerror if error.errno in FULL else None
    return None


def _temporary(parent: Path) -> Path:
    """The path of something new beside what it will become."""
    remove_leftovers(parent.absolute())
    return parent / f".boxwright-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part"


@cache
def remove_leftovers(parent: Path) -> None:
    """Remove what processes that were killed had begun to write in `parent`; looks there once."""
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.name.endswith(".part")]
    except OSError:
        return
    for name in names:
        if (match := TEMPORARY.fullmatch(name)) and _abandoned(parent / name, match["machine"], int(match["process"])):
            if (parent / name).is_dir() and not (parent / name).is_symlink():
                shutil.rmtree(parent / name, ignore_errors=True)
            else:
                (parent / name).unlink(missing_ok=True)


def _abandoned(path: Path, machine: str, process: int) -> bool:
    """Whether nobody writes `path` any more. Processes of other machines cannot be asked."""
    try:
        if machine != _machine() or os.name == "nt":  # where signal 0 is Ctrl-C
            return time.time() - path.lstat().st_mtime > WEEK
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or gone, or no number of a process
        return False
    return False


@cache
def _machine() -> str:
    """8 letters that are the same for processes that can see each other: of one host, and there of one container."""
    space = Path("/proc/self/ns/pid")
    known = f"{socket.gethostname()} {space.readlink() if space.is_symlink() else ''}"
    return f"{zlib.crc32(known.encode()):08x}"


def sync(path: Path) -> None:
    """Make what was written to a file, or the renames in a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def keep_clear(place: Path, names: Iterable[str], inputs: Iterable[str | Path]) -> None:
    """InputError where one of the files that are to be written, `names` in `place`, is one of those that are read."""
    wanted = set(names)
    here = os.path.realpath(place)
    for path in map(str, inputs):
        if os.path.basename(path) in wanted and os.path.realpath(os.path.dirname(path)) == here:  # noqa: PTH119, PTH120
            raise InputError(f"{path}: is read, and would be written over; name another folder for the results")


def keep_outside(place: str | Path, folders: Iterable[str | Path]) -> None:
    """InputError where `place`, into which files are to be written, is or lies below one of `folders` that are read."""
    here = Path(place).resolve()
    for path in folders:
        if here.is_relative_to(os.path.realpath(path)):
            raise InputError(f"{place}: lies in {path}, which holds pictures of the data set; choose another folder")
