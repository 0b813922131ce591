"""Regular files, output folders, and atomic writes: a file is replaced completely or not at all."""

import errno
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from boxwright import mirrors
from boxwright.errors import InputError, printable

T = TypeVar("T")

# A temporary name contains the machine, the process and a random word, but not the target's name, which may already
# have the maximum length.
TEMPORARY = re.compile(r"\.boxwright-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.part")
WEEK = 7 * 24 * 3600  # s after which a temporary file counts as abandoned
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk full, quota exceeded, file size limit
PROBE = bytes(1 << 16)
LOCAL = "local"  # folder in a mirror: copies of members
SLICE = 16  # files per task of a thread: submitting a task takes as long as reading a small file


def open_regular(path: str | Path) -> BinaryIO:
    """Open `path` for reading. A member of an archive or a remote object is opened where it is (`mirrors.py`).

    Raises:
        OSError: It cannot be opened, or is not a regular file (FIFOs, devices and sockets could block forever).
    """
    if (found := mirrors.find(path)) is not None:
        return mirrors.open_member(*found)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL, or characters outside the file system's encoding
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    status = os.fstat(handle)
    mode = status.st_mode
    if stat.S_ISREG(mode) and not (status.st_size and getattr(status, "st_blocks", 1) == 0):
        return os.fdopen(handle, "rb")
    if stat.S_ISREG(mode):  # without content: a link may lead into a mirror
        real = os.path.realpath(path)
        found = mirrors.find(real)
        if found is None and not mirrors.is_foreign(real):
            return os.fdopen(handle, "rb")
        os.close(handle)
        if found is None:
            raise OSError(errno.ENXIO, "a file of another cache than this process uses; set BOXWRIGHT_CACHE", str(path))
        return mirrors.open_member(*found)
    os.close(handle)
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, os.strerror(code) if code == errno.EISDIR else "not a regular file", str(path))


def length(file: BinaryIO) -> int:
    """The size in bytes of an opened file, which may be a member of an archive; its position is 0 afterwards."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_input(path: str | Path, needed: str = "", limit: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        needed: The end of the error messages.
        limit: Maximum size of the file in bytes; a larger one is not read completely.

    Raises:
        InputError: It cannot be read, or is larger.
    """
    try:
        with open_regular(path) as file:
            content = file.read() if limit is None else file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}){needed}") from error
    if limit is not None and len(content) > limit:
        raise InputError(f"{path}: larger than {limit:,} bytes{needed}")
    return content


def read_in_threads(read: Callable[[str], T], paths: Sequence[str], threads: int) -> Iterator[T]:
    """`read(path)` of each of the paths, in their order. Threads hide the latency of network file systems."""
    count = max(1, min(SLICE, len(paths) // threads))
    slices = [paths[start : start + count] for start in range(0, len(paths), count)]
    with ThreadPoolExecutor(threads) as pool:
        for results in pool.map(lambda part: [read(path) for path in part], slices):
            yield from results


def local_file(path: str | Path) -> Path:
    """A file with the content of `path` for libraries that open files themselves.

    It is `path` itself, except for members of archives and remote objects, which are copied into the cache.

    Raises:
        OSError: As `open_regular`.
        InputError: The cache cannot be written.
    """
    place = mirrors.split(path)
    if place is None:
        return Path(path)
    if (member := mirrors.find(path)) is not None and (local := mirrors.local_member(*member)) is not None:
        return local
    target = Path(place[0], LOCAL, place[1])
    with open_regular(path) as file:  # also if the copy exists, since an archive that has changed is an error
        if not target.exists():
            make_folder(target.parent)
            with atomic_write(target) as tmp, tmp.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
    return target


def make_folder(path: str | Path, what: str = "results cannot be written there") -> Path:
    """Create the folder `path` and its parents if missing, and return it. Raises InputError if it cannot be created;
    `what` says what failed."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {what} ({error.strerror})") from error
    return folder


@contextmanager
def output_folder(path: str | Path, what: str = "results cannot be written there") -> Iterator[Path]:
    """Yield a folder, created with its parents if missing. Created folders that stay empty are removed again.

    Raises:
        InputError: It cannot be created; `what` says what failed.
    """
    created = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    try:
        yield make_folder(path, what)
    finally:
        with suppress(OSError):  # not empty
            for folder in created:
                folder.rmdir()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to `path` when the block succeeds.

    Readers of `path` see the old file or the new one, also after a power failure, never an incomplete one.

    Raises:
        InputError: `path` cannot be written (no such folder, no permission, disk full).
    """
    target = Path(path)
    tmp = _temporary(target.parent)
    try:
        with write_errors(target, tmp):
            # Created here for the umask's permissions: the block may replace the file by one with others.
            handle = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield tmp
            sync(tmp)
            tmp.chmod(mode)
            tmp.replace(target)
            sync(target.parent)
    finally:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file atomically. Raises InputError as `atomic_write`."""
    with atomic_write(path) as tmp:
        tmp.write_bytes(content)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `path` when the block succeeds. It is removed otherwise.

    Raises:
        InputError: `path` is a file or a folder that is not empty, or cannot be written.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: is there already, needed a new or empty folder; remove it or name another")
    parent = make_folder(target.parent)
    tmp = _temporary(parent)
    try:
        with write_errors(target, tmp):
            tmp.mkdir()
            yield tmp
            if target.is_dir():
                target.rmdir()  # on Windows a rename does not replace a folder
            tmp.replace(target)
            sync(parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


@contextmanager
def temporary_folder(parent: Path, what: str = "cannot be written") -> Iterator[Path]:
    """Yield a new folder in `parent`, and remove it at the end. If this process is killed, a later one removes it.

    Raises:
        InputError: It cannot be created; `what` says what failed.
    """
    folder = make_folder(_temporary(parent), what)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(file: str | Path, target: Path) -> None:
    """Hard-link a file; copy it to another file system or one without hard links. Raises OSError."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def remove_folder(path: str | Path) -> None:
    """Remove a folder atomically: other processes see all of it or nothing. Raises OSError."""
    tmp = _temporary(Path(path).parent)
    Path(path).replace(tmp)
    shutil.rmtree(tmp, ignore_errors=True)


@contextmanager
def atomic_write_group(path: str | Path) -> Iterator[Path]:
    """Write a file with companions (OpenVINO's .xml and .bin) atomically, as `atomic_write`.

    Yields a path of the same name in a temporary folder. All files in that folder are renamed into the folder of
    `path` when the block succeeds. With companions, `path` is removed first and renamed last, so that it never stands
    beside companions of another version.

    Raises:
        InputError: they cannot be written, or a companion exists without `path` and so belongs to something else.
    """
    target = Path(path)
    folder = _temporary(target.parent)
    try:
        with write_errors(target, folder, target.parent):
            folder.mkdir()
            yield folder / target.name
            files = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
            places = [target.parent / file.name for file in files]
            for file, place in zip(files, places, strict=True):
                file.chmod(folder.stat().st_mode & 0o666)  # the umask's, as for the folder
                sync(file)
                if place.is_dir():
                    raise InputError(f"{place}: cannot be written, it is a folder; name another file")
            taken = [place for place in places if os.path.lexists(place)]
            if taken and target not in taken:
                raise InputError(
                    f"{taken[0]}: exists without {target.name}, and would be overwritten; name another file"
                )
            if len(files) > 1:
                target.unlink(missing_ok=True)
            for file, place in zip(files, places, strict=True):
                file.replace(place)
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def write_errors(target: Path, tmp: Path, shown: Path | None = None, what: str = "cannot be written") -> Iterator[None]:
    """Turn errors of writing `target` into InputErrors that name it.

    Libraries report a full disk by exceptions of all kinds, so any exception leads to a test of the disk itself.

    Args:
        target: the file or folder to be written.
        tmp: the temporary path that is written first; messages do not show it.
        shown: what messages show in its place, `target` by default.
        what: what failed.
    """
    try:
        yield
    except InputError as error:
        hidden = printable(str(tmp))
        if hidden not in str(error):
            raise
        raise InputError(str(error).replace(hidden, printable(str(shown or target)))) from error
    except OSError as error:
        raise InputError(f"{target}: {what} ({error.strerror or error})") from error
    except Exception as error:
        if (reason := _disk_full(tmp)) is None:
            raise
        raise InputError(f"{target}: {what} ({reason})") from error


def _disk_full(tmp: Path) -> str | None:
    """The reason why the file `tmp`, or the newest file in the folder `tmp`, cannot grow; None if it can."""
    try:
        files = [file for file in tmp.rglob("*") if file.is_file()] if tmp.is_dir() else [tmp]
        if files:
            with max(files, key=lambda file: file.stat().st_mtime_ns).open("ab") as stream:
                stream.write(PROBE)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        return error.strerror if error.errno in FULL else None
    return None


def _temporary(parent: Path) -> Path:
    """A new temporary path in `parent`."""
    remove_leftovers(parent.absolute())
    return parent / f".boxwright-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part"


@cache
def remove_leftovers(parent: Path) -> None:
    """Remove the temporary files of killed processes from `parent`; once per process and folder."""
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
    """Whether the process that wrote `path` has ended; for another machine, whether the file is old."""
    try:
        if machine != _machine() or os.name == "nt":  # where signal 0 is Ctrl-C
            return time.time() - path.lstat().st_mtime > WEEK
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's process, a file that is gone, or no process id
        return False
    return False


@cache
def _machine() -> str:
    """8 hex digits of the host and the container: equal for processes that see each other's process ids."""
    space = Path("/proc/self/ns/pid")
    identity = f"{socket.gethostname()} {space.readlink() if space.is_symlink() else ''}"
    return f"{zlib.crc32(identity.encode()):08x}"


def sync(path: Path) -> None:
    """Flush a file, or the renames in a folder, to the disk."""
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # Windows flushes only files opened for writing
    except PermissionError:
        if is_folder:  # Windows cannot open a folder
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_outputs(folder: Path, names: Iterable[str], inputs: Iterable[str | Path]) -> None:
    """Raise InputError where an output, one of `names` in `folder`, is one of the input files."""
    outputs = set(names)
    real = os.path.realpath(folder)
    for path in map(str, inputs):
        if os.path.basename(path) in outputs and os.path.realpath(os.path.dirname(path)) == real:  # noqa: PTH119, PTH120
            raise InputError(f"{path}: is an input, and would be overwritten; name another folder for the results")


def check_outside(folder: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raise InputError where the output `folder` is, or lies below, one of the input folders."""
    real = Path(folder).resolve()
    for path in inputs:
        if real.is_relative_to(os.path.realpath(path)):
            holder = path or "."
            raise InputError(f"{folder}: lies in {holder}, which holds images of the data set; choose another folder")
