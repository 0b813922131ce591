"""Locations of weights on the disk."""

import time
from collections.abc import Iterable
from pathlib import Path

from boxwright.errors import InputError
from boxwright.files import local_file, open_regular

OLD = ".boxwright-old"  # suffix of an old checkpoint folder while the new one replaces it
PATIENCE = 0.2  # s; a checkpoint folder is absent for less than a millisecond when it is replaced


def locate(path: Path) -> Path:
    """`path` itself, or the checkpoint in a folder: best/ before last/, EMA weights before the plain model."""
    _wait_for(path)
    if not path.is_dir():
        return _local(path)
    for folder in (path / "best", path / "last", path):
        _wait_for(folder)
        for name in ("ema.safetensors", "model.safetensors"):
            if (folder / name).is_file():
                return _local(folder / name)
    raise InputError(
        f"{path}: holds no weights; needed model.safetensors in this folder, or in best/ or last/ below it"
    )


def _local(path: Path) -> Path:
    """`path`, or the local cached copy of a remote file, which libraries can open."""
    try:
        return local_file(path)
    except FileNotFoundError:  # `require` reports it
        return path
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def require(path: Path) -> Path:
    """Return `path` if it is a readable file that is not empty; otherwise raise InputError."""
    _wait_for(path.parent)
    try:
        with open_regular(path) as stream:
            empty = not stream.read(1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read (permission denied)") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise InputError(f"{path}: the file is empty")
    return path


def check_not_overwritten(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise InputError if a file to be written is one of the files that are read, also under another name."""
    there = [path for path in read if path.exists()]
    for target in written:
        if target.exists() and (same := next((path for path in there if target.samefile(path)), None)):
            raise InputError(f"{target}: would take the place of {same}, which is read; give another one with -o")


def _wait_for(folder: Path) -> None:
    """Wait while a running training replaces the checkpoint."""
    if not folder.exists() and folder.with_name(folder.name + OLD).exists():
        time.sleep(PATIENCE)
