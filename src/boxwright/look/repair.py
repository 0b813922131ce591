"""Change labels in the files of the set, with a backup and a journal; only changed entries are rewritten.

Only `Repair.change` writes files. FILE.backup is a label file before its first change. The journal,
`look-journal.jsonl` in the folder of the set, has a line for each change. No layout reads either as labels.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boxwright import files
from boxwright.data.dataset import Boxes, Dataset
from boxwright.errors import InputError
from boxwright.images.header import read_header
from boxwright.json_text import JsonObject
from boxwright.look import editable, journal
from boxwright.look.catalog import Catalog, OpenSplit
from boxwright.look.changes import checked
from boxwright.look.editing import Change, EditError, Target
from boxwright.look.editors import editor
from boxwright.serve.request_error import RequestError

BACKUP = ".backup"
SMALL = 1 << 22  # bytes; changes of larger label files are detected by their times instead of their content
SAME_PIXEL = 1.01  # px between a box and the box read from the file; a layout may only store integers
NEW = "new"  # revision of a missing label file
CONFLICT, FORBIDDEN = 409, 403


@dataclass(frozen=True, slots=True)
class Labels:
    """Current labels of an image in their file.

    Attributes:
        rows: The objects.
        revision: Identifies the content of the label file, or of the image's objects in a file of all images.
        messages: Messages about entries that cannot be read, for example.
        reason: Why they cannot be changed; "" if they can.
    """

    rows: Boxes
    revision: str
    messages: tuple[str, ...] = ()
    reason: str = ""


class Repair:
    """Reads and changes the labels of images."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._lock = threading.RLock()
        self._fixed = editable.set_reason(catalog)
        self._revisions = {
            split.name: revision(Path(split.dataset.label_file(0)))
            for split in catalog.splits
            if split.dataset is not None and len(split.dataset.images.label_files) == 1
        }

    def reason(self) -> str:
        """Why the set cannot be changed; "" if it can."""
        return self._fixed or editable.folder_reason(self.catalog)

    def read(self, image: int) -> Labels:
        """Read the current labels of an image."""
        split, dataset, index = self.catalog.place(image)
        reason, found = self.reason(), editor(dataset.kind)
        file = Path(dataset.label_file(index))
        if self._fixed or found is None:
            return Labels(self.catalog.rows(image), NEW, _messages(dataset, index), reason)
        if found.read is None:
            return self._read_columns(split, image, reason)
        header = read_header(dataset.path(index))
        size = header.size if not header.fault else _declared(dataset, index)
        reason = reason or editable.image_reason(dataset, index, found, header.fault)
        target, now = Target(dataset, index, size), revision(file)  # before reading, so that later changes are detected
        if dataset.relative and header.fault:
            return Labels(self.catalog.rows(image), now, (), reason)
        try:
            rows, messages = found.read(target, file)
        except EditError as error:
            empty = self.catalog.rows(image).take(np.zeros(0, dtype=np.int64))
            fault = f"{file}: {error}"
            return Labels(empty, now, (fault,), reason or fault)
        return Labels(rows, now, tuple(messages), reason)

    def change(self, image: int, values: JsonObject) -> None:
        """Change objects of an image in its label file.

        Args:
            image: Id of the image.
            values: `revision` and `changes`, as the page sends them.

        Raises:
            InputError: The changes are not valid.
            RequestError: The labels cannot be changed, or have changed since they were read.
        """
        if reason := self.reason():
            raise RequestError(FORBIDDEN, reason)
        with self._lock, journal.locked(journal.folder_of(self.catalog.place(image)[1])) as opened:
            labels = self.read(image)
            _, dataset, index = self.catalog.place(image)
            if labels.reason:
                raise RequestError(CONFLICT, labels.reason)
            file = Path(dataset.label_file(index))
            if values.get("revision") != labels.revision:
                raise _changed_meanwhile(file)
            target = Target(dataset, index, read_header(dataset.path(index)).size)
            wanted = checked(values.get("changes"), labels.rows, target)
            if changes := [each.change for each in wanted if each.change is not None]:
                self._write(image, target, file, changes, labels)
                journal.write(opened, file, self.catalog.name(image), wanted)

    def _write(self, image: int, target: Target, file: Path, changes: Sequence[Change], labels: Labels) -> None:
        """Write a label file, and check it by reading it before it replaces the old one."""
        split, dataset, _ = self.catalog.place(image)
        found = editor(dataset.kind)
        assert found is not None
        real = Path(os.path.realpath(file))
        content = files.read_input(real) if real.exists() else b""
        if revision(file) != (labels.revision if found.read else self._revisions[split.name]):
            raise _changed_meanwhile(file)
        try:
            edited = found.edit(target, content, changes)
        except EditError as error:
            raise RequestError(CONFLICT, f"{file}: {error}") from error
        mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else None
        files.make_folder(real.parent, "labels cannot be written there")
        backup = real.with_name(real.name + BACKUP)
        if mode is not None and not os.path.lexists(backup):
            _write_as(backup, content, mode)
        with files.atomic_write(real) as tmp:
            tmp.write_bytes(edited.content)
            rows = edited.rows if found.read is None else found.read(target, tmp)[0]
            assert rows is not None
            if not _is_as_wanted(rows, labels.rows, changes):
                raise RuntimeError(f"{file}: would not be read as it was changed, so it was not written")
        if mode is not None:
            real.chmod(mode)
        self.catalog.replace_rows(image, rows, edited.deleted)
        if found.read is None:
            self._revisions[split.name] = revision(file)

    def _read_columns(self, split: OpenSplit, image: int, reason: str) -> Labels:
        """The labels of an image of a file that holds all images; the file is read again if it has changed."""
        _, dataset, index = self.catalog.place(image)
        file = Path(dataset.label_file(index))
        now = revision(file)
        if self._revisions.get(split.name) != now:
            with self._lock:  # in case a change is being written
                now = revision(file)
                if self._revisions.get(split.name) != now:
                    self.catalog.read_again(split)
                    self._revisions[split.name] = now
        _, dataset, index = self.catalog.place(image)
        header, rows = read_header(dataset.path(index)), self.catalog.rows(image)
        reason = reason or editable.image_reason(dataset, index, None, header.fault)
        return Labels(rows, _revision_of(rows), _messages(dataset, index), reason)


def _changed_meanwhile(file: Path) -> RequestError:
    return RequestError(CONFLICT, f"{file}: has changed since it was shown; load the image again")


def revision(file: Path) -> str:
    """Identifies the content of a label file."""
    try:
        with files.open_regular(file) as opened:
            found = os.stat(file)  # noqa: PTH116
            parts = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
            content = opened.read() if found.st_size <= SMALL else b""
    except FileNotFoundError:
        return NEW
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    return hashlib.sha256(content or repr(parts).encode()).hexdigest()[:32]


def _revision_of(rows: Boxes) -> str:
    """Identifies the objects of an image, regardless of their position in a file of all images."""
    columns = (rows.xyxy, rows.labels, rows.categories, rows.crowd, rows.difficult)
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:32]


def _write_as(file: Path, content: bytes, mode: int) -> None:
    files.write_bytes(file, content)
    file.chmod(mode)


def _is_as_wanted(rows: Boxes, before: Boxes, changes: Sequence[Change]) -> bool:
    """Whether the objects of a changed file are the previous ones with the changes, new ones last."""
    wanted = {change.entry: change for change in changes if change.entry is not None}
    expected: list[tuple[int, Sequence[float], float]] = []  # label, box, tolerance in px
    for entry, label, box in zip(before.entries.tolist(), before.labels.tolist(), before.xyxy.tolist(), strict=True):
        change = wanted.get(entry)
        if change is None:
            expected.append((label, box, 0.0))
        elif not change.deletes:
            new = label if change.label is None else change.label
            expected.append((new, box, 0.0) if change.box is None else (new, change.box, SAME_PIXEL))
    for change in changes:
        if change.entry is None:
            assert change.box is not None
            assert change.label is not None
            expected.append((change.label, change.box, SAME_PIXEL))
    return len(rows) == len(expected) and all(
        label == new and np.allclose(box, expected_box, rtol=0, atol=tolerance, equal_nan=True)
        for label, box, (new, expected_box, tolerance) in zip(
            rows.labels.tolist(), rows.xyxy.tolist(), expected, strict=True
        )
    )


def _messages(dataset: Dataset, index: int) -> tuple[str, ...]:
    """Labels of an image that could not be read."""
    return tuple(
        f"{finding.file}: {finding.text}"
        for finding in dataset.findings
        if finding.index == index and finding.level == "error"
    )


def _declared(dataset: Dataset, index: int) -> tuple[int, int]:
    height, width = dataset.images.sizes[index].tolist()
    return height, width
