"""YOLO text labels: words of a line are replaced, lines are removed or appended."""

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Boxes
from boxwright.data.findings import FindingList
from boxwright.formats.yolo_txt import is_outline, keypoints_of, numbers_of, read_labels
from boxwright.look.editing import Box, Change, Edited, EditError, Editor, Span, Target, mapped, number, spliced

DIGITS = 8  # decimals of a fraction: 0.001 px of an image of 100,000 px
WORD = re.compile(rb"\S+")
END = re.compile(rb"\r\n|\n|\r")


def read(target: Target, file: Path) -> tuple[Boxes, list[str]]:
    """Objects of a label file, none if there is no file, and messages about lines that cannot be read."""
    dataset, found = target.dataset, FindingList(target.dataset.split)
    files = [(str(file), file.exists())]
    rows, counts = read_labels([dataset.path(target.index)], files, _keypoints(target), found)
    boxes = rows.boxes(np.array([target.size] * counts[0], dtype=np.int64).reshape(-1, 2), dataset.category_ids)
    return boxes, [f"{finding.file}: {finding.text}" for finding in found.all() if finding.level == "error"]


def edit(target: Target, content: bytes, changes: Sequence[Change]) -> Edited:
    """Apply changes. Returns the changed file."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise EditError("in UTF-16, which is not changed here; save it as UTF-8")
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    lines = content.removeprefix(mark).splitlines(keepends=True)
    found = END.search(content)
    end = found[0] if found else b"\n"
    for change in changes:
        if change.entry is not None:
            line = lines[change.entry - 1]
            lines[change.entry - 1] = b"" if change.deletes else _changed(target, line, change)
    added = [_line(target, change) + end for change in changes if change.entry is None]
    if added and lines and lines[-1] and not lines[-1].endswith((b"\n", b"\r")):
        lines[-1] += end
    return Edited(mark + b"".join([*lines, *added]))


def _keypoints(target: Target) -> int:
    return keypoints_of(target.dataset.origin) if target.dataset.origin else 0


def _changed(target: Target, line: bytes, change: Change) -> bytes:
    keypoints = _keypoints(target)
    values = numbers_of(line, keypoints)
    new: dict[int, bytes] = {}
    if change.label is not None:
        new[0] = _class(target, change.label)
    if change.box is not None and is_outline(values, keypoints):
        points = np.array(values[1:]).reshape(-1, 2)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        moved = mapped(values[1:], (x1, y1, x2, y2), _fractions(target, change.box))
        new |= {place: _word(value) for place, value in enumerate(moved, 1)}
    elif change.box is not None:
        new |= dict(enumerate(_center_form(target, change.box), 1))
    words = list(WORD.finditer(line))
    return spliced(line, [Span(words[place].start(), words[place].end(), word) for place, word in new.items()])


def _line(target: Target, change: Change) -> bytes:
    assert change.box is not None
    assert change.label is not None
    return b" ".join([_class(target, change.label), *_center_form(target, change.box)])


def _class(target: Target, label: int) -> bytes:
    return str(target.dataset.category_ids[label]).encode()


def _fractions(target: Target, box: Box) -> Box:
    height, width = target.size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _center_form(target: Target, box: Box) -> list[bytes]:
    x1, y1, x2, y2 = _fractions(target, box)
    return [_word(value) for value in ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)]


def _word(value: float) -> bytes:
    return number(value, DIGITS).encode()


EDITOR = Editor(edit=edit, read=read, creates=True)
