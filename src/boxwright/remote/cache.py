"""Cache of remote objects: one file for each version of an object; the least recently used files are removed first.

Processes share the folder. An object is written as `NAME.part`, locked, and renamed when it is complete, so a second
process that needs it waits. The access time of a file is its last use; its modification time stays, since archive
indices refer to size and time (`mirrors.version_of`).
"""

import functools
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from boxwright.cache import NOT_WRITTEN, cache_folder
from boxwright.errors import InputError
from boxwright.files import make_folder, write_errors
from boxwright.locks import lock

if sys.platform != "win32":
    import resource

SIZE = "BOXWRIGHT_CACHE_SIZE"
DEFAULT_SIZE = 50 * 10**9  # bytes
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
PART = ".part"
ABANDONED = 24 * 3600  # s after its last change, an incomplete file is removed
EVICTED_TO = 0.9  # of the limit, so that not every object triggers an eviction
OPEN_FILES = 1 << 17  # soft limit of open files, above `archives.folder.MAX_SHARDS`
NAME_BYTES = 100  # of the object's name in the file's name

_unchecked: float = float("inf")  # bytes added by this process since the cache was last measured
_kept: dict[Path, int] = {}  # path -> handle of files that this process uses


def size_limit() -> int:
    """Size limit of the cache in bytes: $BOXWRIGHT_CACHE_SIZE, or 50 GB. Raises InputError for an invalid value."""
    return parse_size(os.environ.get(SIZE) or str(DEFAULT_SIZE), SIZE)


def parse_size(text: str, title: str) -> int:
    """Parse a size such as 50GB into bytes. title: of the value, for messages. Raises InputError if it is invalid."""
    match = re.fullmatch(r"([0-9]{1,15})\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{title}: found '{text[:40]}', needed a size such as 500MB or 50GB")
    return int(match[1]) * UNITS[match[2].upper()]


def place(identity: str, name: str) -> Path:
    """Path of an object's file in the cache.

    Args:
        identity: Its address and version.
        name: Its name, whose end is kept for readers that need the suffix.
    """
    safe = "".join(char if char.isprintable() and char not in '/\\:*?"<>|' else "_" for char in name)
    end = safe.encode()[-NAME_BYTES:].decode(errors="ignore")
    return cache_folder() / "objects" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}-{end}"


def has(file: Path) -> bool:
    """Whether the file exists; this counts as a use, if the cache can be written."""
    try:
        status = file.stat()
    except OSError:
        return False
    with suppress(OSError):
        os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
    return True


def keep(file: Path) -> bool:
    """Keep the file in the cache until this process ends, for readers that take a path. False if it does not exist.
    Raises InputError if it cannot be opened, for example if too many files are open."""
    if file in _kept:
        return True
    _allow_open_files()
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{file}: cannot be opened ({error.strerror}); for more open files, use ulimit -n") from error
    lock(handle, shared=True, wait=True)
    _kept[file] = handle
    return has(file)


@functools.cache
def _allow_open_files() -> None:
    """Raise the soft limit of open files, usually 1024, within the hard limit, since each kept file stays open."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(OSError, ValueError):  # macOS does not accept its own limit
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_threads = [threading.RLock() for _ in range(64)]  # by file, for threads of a process on Windows


@contextmanager
def added(file: Path) -> Iterator[BinaryIO | None]:
    """Add a file to the cache, while other processes that need it wait.

    Yields:
        The stream to write the content to; None if another process has added the file meanwhile.

    Raises:
        InputError: The cache cannot be written.
    """
    make_folder(file.parent, NOT_WRITTEN)
    part = file.with_name(file.name + _suffix())
    with write_errors(file, part, what=NOT_WRITTEN), _locked(part) as stream:
        if has(file):
            _release(stream)
            part.unlink(missing_ok=True)
            yield None
            return
        try:
            stream.truncate(0)
            yield stream
            stream.flush()
        except BaseException:
            _release(stream)
            part.unlink(missing_ok=True)
            raise
        size = stream.tell()
        _release(stream)
        part.replace(file)
    _evict(size)


def _suffix() -> str:
    """Suffix of an incomplete file. On Windows, without locks, each process has its own."""
    return PART if sys.platform != "win32" else f".{os.getpid()}{PART}"


def _release(stream: BinaryIO) -> None:
    """Close a file before it is moved or removed, which Windows requires. Elsewhere it stays open, since closing ends
    its lock."""
    if sys.platform == "win32":
        stream.close()


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The incomplete file, opened and locked."""
    if sys.platform == "win32":
        with _threads[hash(part) % len(_threads)], part.open("ab") as stream:
            yield stream
        return
    while True:
        with part.open("ab") as stream:
            lock(stream, wait=True)  # without locks two processes may write the same at a time
            with suppress(FileNotFoundError):  # renamed by the process that held the lock
                if os.path.samestat(os.fstat(stream.fileno()), part.stat()):
                    yield stream
                    return
            if has(part.with_name(part.name.removesuffix(PART))):
                yield stream
                return


def _evict(size: int) -> None:
    """Note that `size` bytes were added, and remove the least recently used files if there are too many."""
    global _unchecked
    limit = size_limit()
    _unchecked += size
    if _unchecked <= limit / 50:
        return
    _unchecked = 0
    files = []
    with os.scandir(cache_folder() / "objects") as entries:
        for entry in entries:
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                files.append((max(status.st_atime, status.st_mtime), status.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    if total <= limit:
        return
    for used, size, path in sorted(files):
        if path.endswith(PART) and time.time() - used < ABANDONED:
            continue
        if _removed(path):
            total -= size
        if total <= EVICTED_TO * limit:
            return


def _removed(path: str) -> bool:
    """Remove a file that no process keeps. Returns whether it was removed."""
    try:
        if sys.platform == "win32":  # which cannot remove open files
            Path(path).unlink()
            return True
        with open(path, "rb") as stream:
            if not lock(stream):
                return False
            Path(path).unlink()
    except OSError:
        return False
    return True
