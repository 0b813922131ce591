"""`look-journal.jsonl` in the folder of a set, with a line for each change of a label."""

import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from boxwright.data.dataset import Dataset
from boxwright.errors import InputError
from boxwright.locks import lock
from boxwright.look.changes import Wanted

NAME = "look-journal.jsonl"


def folder_of(dataset: Dataset) -> Path:
    """Folder of the journal of a set."""
    return dataset.root if dataset.root.is_dir() else dataset.root.parent


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """The journal, opened for appending and locked. Raises InputError if it is a link or not a regular file."""
    file = folder / NAME
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(file, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise InputError(f"{file}: a link or not a regular file; move it away") from error
        raise InputError(f"{file}: cannot be written ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InputError(f"{file}: a link or not a regular file; move it away")
        lock(handle, wait=True)
        yield handle
    finally:
        os.close(handle)


def write(journal: int, file: Path, image: str, wanted: Sequence[Wanted]) -> None:
    """Add the changes of a label file to the journal that `locked` has opened. image: its name."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = [
        json.dumps({"time": time, "file": str(file), "image": image, **each.journal}) + "\n"
        for each in wanted
        if each.change is not None
    ]
    try:
        os.write(journal, "".join(lines).encode())
        os.fsync(journal)
    except OSError as error:
        raise InputError(f"{file}: is changed, but {NAME} cannot be written ({error.strerror})") from error
