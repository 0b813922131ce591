"""Upload a run folder to an object store during training (`runs.py` describes how it is stored there).

The run is trained in a folder of the cache. Saved files are hard-linked and uploaded by a thread, while training
continues. If an upload fails, it is tried again at the next checkpoint and at the end.
"""

import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Literal

from boxwright import progress
from boxwright.cache import NOT_WRITTEN, cache_folder
from boxwright.errors import InputError, set_title
from boxwright.files import link_or_copy, make_folder, write_bytes
from boxwright.locks import lock
from boxwright.remote import overlap
from boxwright.remote.address import WEB, Address, parse
from boxwright.remote.objects import delete, listing, local_object, put, put_bytes
from boxwright.remote.runs import CHECKPOINT, POINTER, STORED, RemoteRun, read_run, written

logger = logging.getLogger(__name__)

FOLDER = "runs"  # in the cache
SENT = "sent.json"  # the last written `run.json`
SMALL = 64 << 20  # bytes; smaller files may grow during the upload, so they are read first


class RunUpload:
    """A run folder in the cache, and the address that it is uploaded to.

    Attributes:
        path: The run folder.
    """

    def __init__(self, folder: Path, address: Address, sent: RemoteRun | None, *, copied: bool) -> None:
        """folder: in the cache, for this run. sent: the run at the address. copied: whether `path` is a copy of it."""
        self.path = folder / address.name
        self._folder, self._address = folder, address
        self._content = sent.content if sent else None  # content of run.json
        self._checkpoints = dict(sent.checkpoints) if sent else {}  # name -> its folder in the store
        self._tried: dict[bytes, dict[str, str]] = {}  # `run.json` that was sent without a response -> its checkpoints
        # state of each checkpoint when it was last linked
        self._states = {name: _state(self.path / name) for name in self._checkpoints} if copied else {}
        self._files: dict[str, tuple[int, int]] = {}  # state of plain files when they were uploaded
        self._linked: dict[str, Path | None] = {}  # checkpoints to upload; None for removed ones
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "run upload")

    def send(self) -> None:
        """Upload changes, in the background. Called when no checkpoint is being written."""
        self._link()
        self._pool.submit(self._try)

    def finish(self) -> None:
        """Upload all remaining changes, and wait. Raises InputError if that fails."""
        self._link()
        self._pool.submit(self._send).result()
        self._clean()

    def _try(self) -> None:
        try:
            if self._linked:  # otherwise uploaded together with an earlier one
                self._send()
        except (InputError, OSError) as error:
            logger.warning("%s; it is sent with the next checkpoint", error)

    def _link(self) -> None:
        """Link the files of new checkpoints, which may be replaced during the upload."""
        if not self.path.exists():  # an error stopped the training before it started
            return
        names = {each.name for each in self.path.iterdir() if re.fullmatch(CHECKPOINT, each.name)}
        with self._lock:
            for name in self._states.keys() - names:
                del self._states[name]
                self._replace(name, None)
            for name in names:
                if (state := _state(self.path / name)) != self._states.get(name):
                    target = self._folder / "linked" / f"{name}-{secrets.token_hex(8)}"
                    target.mkdir(parents=True)
                    for file in (self.path / name).iterdir():
                        link_or_copy(file, target / file.name)
                    self._states[name] = state
                    self._replace(name, target)

    def _replace(self, name: str, target: Path | None) -> None:
        """Set the files to upload for a checkpoint, replacing pending ones."""
        if (old := self._linked.get(name)) is not None:
            shutil.rmtree(old, ignore_errors=True)
        self._linked[name] = target

    def _send(self) -> None:
        with self._lock:
            taken, self._linked = self._linked, {}
        try:
            self._send_files()
            for folder in filter(None, taken.values()):
                for file in sorted(folder.iterdir()):
                    put(file, self._address / folder.name / file.name)
            self._point(taken)
        except BaseException:
            with self._lock:  # newer links replace it
                self._linked = taken | self._linked
            raise
        for folder in filter(None, taken.values()):
            shutil.rmtree(folder, ignore_errors=True)

    def _send_files(self) -> None:
        """Upload changed files outside of checkpoints."""
        for file in _plain_files(self.path):
            name, status = file.relative_to(self.path).as_posix(), file.stat()
            if self._files.get(name) == (status.st_size, status.st_mtime_ns):
                continue
            target = self._address / name
            put_bytes(file.read_bytes(), target) if status.st_size < SMALL else put(file, target)
            self._files[name] = (status.st_size, status.st_mtime_ns)

    def _point(self, taken: dict[str, Path | None]) -> None:
        """Replace `run.json`, unless another process has written it."""
        current = {name: folder for name, folder in self._checkpoints.items() if name not in taken}
        current |= {name: folder.name for name, folder in taken.items() if folder is not None}
        if current == self._checkpoints:
            return
        there = read_run(self._address)
        if there is not None and there.content in self._tried:
            self._content, self._checkpoints = there.content, self._tried[there.content]
        if (there.content if there else None) != self._content:
            raise InputError(f"{self._address}: another process trains there, too; choose another --out")
        content = written(current)
        self._tried[content] = current
        put_bytes(content, self._address / POINTER)
        write_bytes(self._folder / SENT, content)
        self._tried.clear()
        # readers of the previous run.json may still need its checkpoints
        named, self._content, self._checkpoints = {*self._checkpoints.values()}, content, current
        self._clean(named)

    def _clean(self, keep: Collection[str] = ()) -> None:
        """Delete the folders of checkpoints that `run.json` does not name, including those of an interrupted run.

        keep: Additional folders that stay. If an object cannot be deleted, only a warning is logged.
        """
        start = len(self._address.uri) + 1
        named = {*self._checkpoints.values(), *keep}
        try:
            found = [(each, STORED.match(each.uri[start:])) for each in listing(self._address)]
            delete([parse(each.uri) for each, match in found if match is not None and match[0] not in named])
        except InputError as error:
            logger.warning("%s; an earlier checkpoint stays", error)


@contextmanager
def remote_run(address: Address, resume: bool | Literal["auto"]) -> Iterator[RunUpload]:
    """Run folder in the cache for a run at an address; with `resume`, it has the run's files.

    The copy that an interrupted run has left in the cache is used unless the store has a newer one. The folder is
    removed when the block succeeds, after `RunUpload.finish`.

    Raises:
        InputError: There is a run already, or none to resume; another process trains in it; it cannot be read; it lies
            in a folder that is read.
    """
    if address.scheme in WEB or not address.key:
        raise InputError(f"{address}: a run cannot be stored there, needed s3://, gs://, az:// or obs:// and a name")
    folder = make_folder(cache_folder() / FOLDER / sha256(address.uri.encode()).hexdigest()[:32], NOT_WRITTEN)
    with _locked(folder, address):
        there = read_run(address)
        path, sent = folder / address.name, folder / SENT
        content = sent.read_bytes() if sent.is_file() else None
        is_left = (path / "last").exists() and content == (there.content if there else None)  # from an interrupted run
        if resume == "auto":
            resume = there is not None or is_left
        if there is not None and not resume:
            raise InputError(f"{address}: holds a run already; continue it with --resume, or choose another --out")
        if is_left and not resume:
            raise InputError(f"{address}: an earlier run was not sent; continue it with --resume, or remove {folder}")
        shutil.rmtree(folder / "linked", ignore_errors=True)
        copied = not (resume and is_left)
        if copied:
            shutil.rmtree(path, ignore_errors=True)
            sent.unlink(missing_ok=True)
            if there is not None:
                _download(there, path)
                write_bytes(sent, there.content)
        if resume and not path.exists():
            raise InputError(f"{address}: there is no run to resume (no {POINTER}); train without --resume first")
        set_title(str(path), str(address))
        overlap.note_written(address)
        try:
            yield RunUpload(folder, address, there, copied=copied)
        finally:
            overlap.forget_written(address)
        for done in (path, folder / "linked"):
            shutil.rmtree(done, ignore_errors=True)
        sent.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path, address: Address) -> Iterator[None]:
    with (folder / "lock").open("w") as stream:
        if lock(stream) is False:
            raise InputError(
                f"{address}: is being trained by another process; wait until it ends, or choose another --out"
            )
        yield


def _download(run: RemoteRun, path: Path) -> None:
    members = run.members()
    for name, each in progress.track(members.items(), len(members), f"fetch {run.address}", "files"):
        target = path / name
        if not target.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{run.address}: holds '{name[-40:]}', which lies outside; copy the run again")
        make_folder(target.parent)
        shutil.copyfile(local_object(each), target)


def _plain_files(run: Path) -> list[Path]:
    """Files of a run, except those of checkpoints, temporary files and the lock."""
    found = []
    for folder, folders, names in os.walk(run):
        if Path(folder) == run:
            folders[:] = [name for name in folders if not re.match(CHECKPOINT, name)]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _state(checkpoint: Path) -> tuple[int, int]:
    """A value that changes when a checkpoint is replaced."""
    status = checkpoint.stat()
    return status.st_ino, status.st_mtime_ns
