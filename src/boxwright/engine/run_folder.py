"""The folder of a run: free for a new one, or left by the same training that now goes on; used by one at a time."""

import errno
import logging
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from boxwright import recipe as recipes
from boxwright.engine.checkpointing import recover
from boxwright.engine.processes import on_main
from boxwright.errors import InputError
from boxwright.files import remove_leftovers, whole
from boxwright.recipe import Recipe
from boxwright.weights.files import OLD

logger = logging.getLogger(__name__)

LOCK = ".lock"
OURS = b"process "  # how the content of a lock file begins

# The folders in which this process trains: to one process, a POSIX lock is always free, and it ends when any handle of
# the file is closed.
_trained: set[Path] = set()
_guard = threading.Lock()

# What may differ when a run goes on: where things lie, how fast they are read, what is told.
FREE = ("summary", "data.root", "data.cache", "data.workers", "train.log_every", "train.save_every",
        "train.keep_checkpoints", "train.evaluate_every", "train.evaluate_from", "train.profile", "evaluate.batch",
        "predict", "expect")  # fmt: skip


@contextmanager
def held(run: Path, resume: bool, accelerator: Any) -> Iterator[None]:
    """The folder, made where it is not there and locked for this training. What holds nothing at the end is removed.

    Raises InputError, the same in every process, where another training is at work in it, where it does not suit, and
    where it cannot be made.
    """
    with ExitStack() as stack:

        def take() -> None:
            if resume:
                _refuse(run, resume)  # before a folder is made
            stack.enter_context(_locked(run))
            _refuse(run, resume)

        on_main(take, accelerator)
        yield


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: the run folder cannot be made ({error.strerror})") from error
    with _once(run), _opened(run) as handle:
        _lock(run, handle)
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in run.iterdir()] == [LOCK]:  # stopped before anything was written
                    (run / LOCK).unlink()
                    for folder in made:
                        folder.rmdir()


@contextmanager
def _once(run: Path) -> Iterator[None]:
    """InputError where this process trains in the folder already, in another thread."""
    folder = run.resolve()
    with _guard:
        if folder in _trained:
            raise InputError(
                f"{run}: is being trained by this process already; wait until it ends, or choose another --out"
            )
        _trained.add(folder)
    try:
        yield
    finally:
        with _guard:
            _trained.remove(folder)


@contextmanager
def _opened(run: Path) -> Iterator[int]:
    """The lock file, made where it is not there.

    Raises InputError for what no training has made, which is left as it is: links, FIFOs, other content.
    """
    file, flags = run / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    foreign = InputError(f"{file}: not the lock file of a training; move it away, or choose another --out")
    try:
        handle = os.open(file, flags, 0o666)
    except OSError as error:
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise foreign from error
        raise InputError(f"{run}: the run folder cannot be made ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode) or os.read(handle, len(OURS)) not in (b"", OURS):
            raise foreign
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def _lock(run: Path, handle: int) -> None:
    """Lock an open file for as long as this process has it open, however it ends.

    A POSIX lock: workers of a loader, which may outlive a killed training by seconds, do not inherit it, and network
    file systems know it. Where there are none, there is no lock.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logger.warning("%s: its file system has no locks; a second training in it will not be noticed", run)
            return
        whose = os.read(handle, 200).decode("utf-8", "replace") or "another process"
        raise InputError(
            f"{run}: is being trained by {whose}; wait until it ends, stop it, or choose another --out"
        ) from error
    with suppress(OSError):  # a full disk, which what is written next tells of
        os.ftruncate(handle, 0)
        os.write(handle, OURS + f"{os.getpid()} on {socket.gethostname()}".encode())


def _refuse(run: Path, resume: bool) -> None:
    """InputError when the folder does not suit: a run is there, or none is."""
    begun = (run / "last").exists() or (run / f"last{OLD}").exists()
    if resume and not begun:
        raise InputError(f"{run}: there is no run to resume (no checkpoint `last`); train without --resume first")
    if begun and not resume:
        raise InputError(f"{run}: holds a run already; go on with it by --resume, or choose another --out")


def enter(run: Path, recipe: Recipe, resume: bool, left_out: Sequence[str], accelerator: Any) -> None:
    """Begin a run in the folder, or make ready the one that is there, and say what is left out of the data.

    Raises InputError, the same in every process, for a run that was begun with another recipe, or a full disk.
    """
    on_main(lambda: _make_ready(run, recipe, left_out) if resume else _begin(run, recipe, left_out), accelerator)


def _begin(run: Path, recipe: Recipe, left_out: Sequence[str]) -> None:
    _tell(left_out)
    if left_out:
        with whole(run / "left_out.txt") as file:
            file.write_text("\n".join(left_out) + "\n", encoding="utf-8")
    with whole(run / "recipe.yaml") as file:
        file.write_text(recipe.to_yaml(), encoding="utf-8")


def _make_ready(run: Path, recipe: Recipe, left_out: Sequence[str]) -> None:
    _tell(left_out)
    _compare(run / "recipe.yaml", recipe)
    remove_leftovers(run.absolute())
    recover(run)


def _tell(left_out: Sequence[str]) -> None:
    for line in left_out:
        logger.warning("%s", line)


def _compare(file: Path, recipe: Recipe) -> None:
    """InputError when the run was begun with another recipe."""
    then, now = _flat(recipes.load(file).tree()), _flat(recipe.tree())
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key) and not f"{key}.".startswith(tuple(f"{free}." for free in FREE)):
            raise InputError(
                f"{file}: {key} is {then.get(key)!r} there and {now.get(key)!r} now; "
                "resume with the run's own settings, or train into another folder"
            )


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat
