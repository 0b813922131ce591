"""Where weights lie on the disk, and writing a file whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boxwright.errors import InputError


def locate(path: Path) -> Path:
    """`path` itself, or for a folder the checkpoint in it: best/ before last/, the average before the plain model."""
    if not path.is_dir():
        return path
    for folder in (path / "best", path / "last", path):
        for name in ("ema.safetensors", "model.safetensors"):
            if (folder / name).is_file():
                return folder / name
    raise InputError(
        f"{path}: holds no weights; needed model.safetensors in this folder, or in best/ or last/ below it"
    )


def require(path: Path) -> Path:
    """`path` when it is a file that holds something and may be read."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read (permission denied)")
    return path


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
        part.chmod(0o666 & ~_umask())  # mkstemp gives 0600
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
