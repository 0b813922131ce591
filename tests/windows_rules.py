"""Windows' rules for files, emulated on Linux for calls from Python, not for libraries that open files."""

import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$')
CREATING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_folder: Path | None = None  # the rules hold below it


@contextmanager
def windows_rules(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Below `folder`: names as on Windows; folders are not opened; open or mapped files are neither moved nor removed;
    nothing replaces a folder; links need a privilege; only a file that is open for writing is flushed."""
    global _folder
    flush = os.fsync

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flush(number)

    patch.setattr(os, "fsync", fsync)
    patch.setattr(tempfile, "TemporaryFile", tempfile.NamedTemporaryFile)
    patch.setattr(shutil, "_use_fd_functions", False)
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "pread"):
        patch.delattr(os, name)
    _folder = folder.resolve()
    try:
        yield
    finally:
        _folder = None


def _below(path: Any) -> Path | None:
    """The absolute path; None outside of the folder and for handles."""
    if _folder is None or not isinstance(path, str | bytes | os.PathLike):
        return None
    found = Path(os.fsdecode(path)).absolute()
    return found if found.is_relative_to(_folder) else None


def _denied(path: Path, why: str, code: int = errno.EACCES) -> OSError:
    return OSError(code, why, str(path))


def _check_name(path: Path) -> None:
    if FORBIDDEN.search(path.name) or RESERVED.match(path.name):
        raise _denied(path, "not a name on Windows", errno.EINVAL)


def _check_not_open(path: Path) -> None:
    mapped = Path("/proc/self/maps").read_text().splitlines()
    opened = [Path(line[line.index("/") :]) for line in mapped if str(_folder) in line]
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            opened.append(link.readlink())
    if used := [file for file in opened if file.is_relative_to(path)]:
        raise _denied(path, f"{used[0]} is open")


def _open(path: Any, mode: Any, flags: int) -> None:
    if found := _below(path):
        if (
            mode is None and found.is_dir()
        ):  # by `os.open`; `open` does that nowhere, and `tempfile` says so of its files
            raise _denied(found, "a folder")
        if flags & CREATING and not found.exists():
            _check_name(found)


def _create(path: Any, *_: Any) -> None:
    if (found := _below(path)) and not found.exists():
        _check_name(found)


def _remove(path: Any, *_: Any) -> None:
    if found := _below(path):
        _check_not_open(found)
        if found.is_file() and not found.stat().st_mode & 0o200:
            raise _denied(found, "read-only")


def _rename(source: Any, target: Any, *_: Any) -> None:
    found, before = _below(target), _below(source)
    if found:
        _check_name(found)
        if found.is_dir():
            raise _denied(found, "a folder is there")
        _check_not_open(found)
    if before:
        _check_not_open(before)


def _symlink(source: Any, target: Any, *_: Any) -> None:
    if found := _below(target):
        raise _denied(found, "a privilege is needed", errno.EPERM)


RULES: dict[str, Callable[..., None]] = {
    "open": _open,
    "os.mkdir": _create,
    "os.remove": _remove,
    "os.rename": _rename,  # of os.replace as well
    "os.symlink": _symlink,
}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _folder is not None and event in RULES:
        RULES[event](*arguments)


sys.addaudithook(_audit)
