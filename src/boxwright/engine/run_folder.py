"""The run folder: created for a new run or reopened to resume one, and locked while it is trained in."""

import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from accelerate import Accelerator

from boxwright import locks
from boxwright import recipe as recipes
from boxwright.engine.checkpointing import recover
from boxwright.engine.processes import on_main
from boxwright.errors import InputError, set_title
from boxwright.evaluation.runs import LOCK
from boxwright.files import atomic_write, output_folder, remove_leftovers
from boxwright.recipe import Recipe, flatten
from boxwright.remote.address import is_remote, local_name, parse
from boxwright.remote.run_upload import RunUpload, remote_run
from boxwright.weights.files import OLD

logger = logging.getLogger(__name__)

NOT_CREATED = "the run folder cannot be created"
MAGIC = b"process "  # at the start of a lock file

# The folders in which this process trains: POSIX locks do not exclude threads of one process, and closing any handle
# of the file releases them.
_locked_folders: set[Path] = set()
_guard = threading.Lock()

# Recipe keys that may differ on resume: paths, loading speed, logging.
MAY_CHANGE = (
    "summary", "data.root", "data.background", "data.cache", "data.workers", "train.log_every", "train.save_every",
    "train.keep_checkpoints", "train.evaluate_every", "train.evaluate_from", "train.patience", "train.profile",
    "train.track",    "evaluate.batch", "predict", "expect",
)  # fmt: skip


@contextmanager
def local_run(
    out: str | Path, resume: bool | Literal["auto"], accelerator: Accelerator
) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The run folder as a local path, and a function that uploads what was saved since its last call; for a local
    folder it does nothing.

    A remote run folder is complete when the block ends, also if the run was stopped by an error or a signal, but not
    after Ctrl-C: the missing files then stay in the cache for `resume`.

    Raises InputError in every process where there is another run or none to resume, and where it cannot be sent.
    """
    if not is_remote(out):
        yield local_name(out), lambda: None
        return
    address = parse(out)
    with ExitStack() as stack:
        uploads: list[RunUpload] = []  # of the main process

        def enter() -> str:
            uploads.append(stack.enter_context(remote_run(address, resume)))
            return str(uploads[0].path)

        def finish() -> None:
            for upload in uploads:
                upload.finish()

        path = on_main(enter, accelerator)
        set_title(path, str(address))
        try:
            yield Path(path), uploads[0].send if uploads else lambda: None
        except KeyboardInterrupt:
            raise
        except BaseException:
            try:
                finish()
            except InputError as error:
                logger.warning("%s", error)
            raise
        on_main(finish, accelerator)


@contextmanager
def lock(run: Path, resume: bool | Literal["auto"], accelerator: Accelerator) -> Iterator[bool]:
    """Create the folder if it is missing, and lock it for this run. It is removed again if it stays empty.

    Yields whether a run is resumed: with `auto`, if there is one.

    Raises InputError in every process where another run trains in it, where there is no run to resume or one that would
    be overwritten, and where it cannot be created.
    """
    with ExitStack() as stack:

        def acquire() -> bool:
            if resume is True:
                _check_run(run, resume)  # before a folder is created
            stack.enter_context(_locked(run))
            if resume == "auto":
                return _exists(run)
            _check_run(run, resume)
            return resume

        yield on_main(acquire, accelerator)


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    with output_folder(run, NOT_CREATED), _one_thread(run), _open_lock(run) as handle:
        _acquire(run, handle)
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in run.iterdir()] == [LOCK]:  # stopped before anything was written
                    (run / LOCK).unlink()


@contextmanager
def _one_thread(run: Path) -> Iterator[None]:
    """Raise InputError where another thread of this process trains in the folder."""
    folder = run.resolve()
    with _guard:
        if folder in _locked_folders:
            raise InputError(
                f"{run}: is being trained by this process already; wait until it ends, or choose another --out"
            )
        _locked_folders.add(folder)
    try:
        yield
    finally:
        with _guard:
            _locked_folders.remove(folder)


@contextmanager
def _open_lock(run: Path) -> Iterator[int]:
    """Open or create the lock file. Raises InputError for a link, a FIFO or other content, which is left unchanged."""
    file, flags = run / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    foreign = InputError(f"{file}: not a lock file; move it away, or choose another --out")
    try:
        handle = os.open(file, flags, 0o666)
    except OSError as error:
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise foreign from error
        raise InputError(f"{run}: {NOT_CREATED} ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode) or os.read(handle, len(MAGIC)) not in (b"", MAGIC):
            raise foreign
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def _acquire(run: Path, handle: int) -> None:
    """Lock an open file; loader workers do not inherit the lock. Logs a warning where there are no locks."""
    locked = locks.lock(handle, inherited=False)
    if locked is None:
        logger.warning("%s: no locks on this system or file system; a second run in it will not be detected", run)
        return
    if not locked:
        owner = os.read(handle, 200).decode("utf-8", "replace") or "another process"
        raise InputError(f"{run}: is being trained by {owner}; wait until it ends, stop it, or choose another --out")
    with suppress(OSError):  # a full disk: the next write reports it
        os.ftruncate(handle, 0)
        os.write(handle, MAGIC + f"{os.getpid()} on {socket.gethostname()}".encode())


def _check_run(run: Path, resume: bool) -> None:
    """Raise InputError for a resume without a run, or a new run where there is one."""
    exists = _exists(run)
    if resume and not exists:
        raise InputError(f"{run}: there is no run to resume (no checkpoint `last`); train without --resume first")
    if exists and not resume:
        raise InputError(f"{run}: holds a run already; continue it with --resume, or choose another --out")


def _exists(run: Path) -> bool:
    return (run / "last").exists() or (run / f"last{OLD}").exists()


def prepare(run: Path, recipe: Recipe, resume: bool, left_out: Sequence[str], accelerator: Accelerator) -> None:
    """Write the files of a new run, or check and repair the run to resume. `left_out` is logged line by line.

    Raises InputError in every process for a run with a different recipe, or a full disk.
    """

    def write() -> None:
        for line in left_out:
            logger.warning("%s", line)
        if resume:
            _check_recipe(run / "recipe.yaml", recipe)
            remove_leftovers(run.absolute())
            recover(run)
            return
        if left_out:
            with atomic_write(run / "left_out.txt") as tmp:
                tmp.write_text("\n".join(left_out) + "\n", encoding="utf-8")
        with atomic_write(run / "recipe.yaml") as tmp:
            tmp.write_text(recipe.to_yaml(), encoding="utf-8")

    on_main(write, accelerator)


def _check_recipe(file: Path, recipe: Recipe) -> None:
    """Raise InputError where the run's recipe differs in a key that must not change."""
    then, now = flatten(recipes.load(file).tree()), flatten(recipe.tree())
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key) and not f"{key}.".startswith(tuple(f"{free}." for free in MAY_CHANGE)):
            raise InputError(
                f"{file}: {key} is {then.get(key)!r} there and {now.get(key)!r} now; "
                "resume with the run's own settings, or train into another folder"
            )
