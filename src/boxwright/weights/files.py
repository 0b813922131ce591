"""Where weights lie on the disk."""

import time
from collections.abc import Iterable
from pathlib import Path

from boxwright.errors import InputError
from boxwright.files import local_file, open_regular

OLD = ".boxwright-old"  # what follows the name of a checkpoint folder while the new one takes its place
PATIENCE = 0.2  # s; a checkpoint folder that is replaced is away for less than a millisecond


def locate(path: Path) -> Path:
    """`path` itself, or for a folder the checkpoint in it: best/ before last/, the average before the plain model."""
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
    """`path`, or the file in the cache that libraries can open for a remote one."""
    try:
        return local_file(path)
    except FileNotFoundError:  # `require` reports it
        return path
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def require(path: Path) -> Path:
    """`path` when it is a file that holds something and may be read."""
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
    """Raises InputError where a file that is about to be written is one of those that are read, by whatever name."""
    there = [path for path in read if path.exists()]
    for target in written:
        if target.exists() and (same := next((path for path in there if target.samefile(path)), None)):
            raise InputError(f"{target}: would take the place of {same}, which is read; give another one with -o")


def _wait_for(folder: Path) -> None:
    """Until a run that goes on has put the new checkpoint where the old one has just stepped aside."""
    if not folder.exists() and folder.with_name(folder.name + OLD).exists():
        time.sleep(PATIENCE)
