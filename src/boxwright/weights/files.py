"""Where weights lie on the disk."""

import os
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
