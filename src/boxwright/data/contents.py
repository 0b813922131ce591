"""What a folder contains, to recognize labels of boxes and to describe it in messages."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from boxwright.data.text import NAME_FILES
from boxwright.files import open_regular
from boxwright.images.header import SUFFIXES

DEPTH = 4  # levels of folders that are searched
HEAD = 1 << 16  # bytes of a file that are enough to detect its kind
MAX_HEADS = 50  # files of a suffix that are looked into
LABEL_FOLDERS = {"labels", "annotations", "labeltxt", "annfiles", "label_2", "xmls", "bboxes"}
JSON_KEYS = (b'"annotations"', b'"bbox"', b'"shapes"', b'"regions"', b'"rectanglelabels"', b'"coordinates"')
BOX_COLUMNS = ({"xmin", "xmax"}, {"x1", "x2"}, {"x_min", "x_max"}, {"bbox_x"}, {"bbox"}, {"region_shape_attributes"})


def head(file: Path) -> bytes:
    """The first bytes of a file; b"" if it cannot be read."""
    try:
        with open_regular(file) as opened:
            return opened.read(HEAD)
    except OSError:
        return b""


def csv_columns(file: Path) -> list[str]:
    """The first row of a CSV file; [] if it is not text."""
    try:
        line = head(file).decode("utf-8-sig", "strict" if file.stat().st_size <= HEAD else "ignore").splitlines()[:1]
        return [word.strip() for word in next(csv.reader(line), [])]
    except (UnicodeDecodeError, csv.Error, OSError):
        return []


def box_labels(root: Path) -> str | None:
    """A description of the first thing in a folder that speaks of labeled boxes; None if nothing does."""
    looked = Counter[str]()
    for folder, names, files in _walk(root):
        images = {os.path.splitext(name)[0] for name in files if name.lower().endswith(SUFFIXES)}  # noqa: PTH122
        if name := next((name for name in names if name.lower() in LABEL_FOLDERS), None):
            return f"a folder {_shown(folder / name, root)}"
        for name in files:
            path, suffix = folder / name, os.path.splitext(name)[1].lower()  # noqa: PTH122
            if suffix not in {".xml", ".json", ".csv", ".txt"} or looked[suffix] >= MAX_HEADS:
                continue
            looked[suffix] += 1
            if _has_boxes(path, suffix, images):
                return f"labels in {_shown(path, root)}"
    return None


def summary(root: Path) -> str:
    """What a folder contains. Example: `2 .jpg, 1 .csv, folders a, b`."""
    counts, folders = Counter[str](), list[str]()
    for folder, names, files in _walk(root):
        counts.update(os.path.splitext(name)[1].lower() or "files without suffix" for name in files)  # noqa: PTH122
        folders += names if folder == root else []
    parts = [f"{count} {suffix}" for suffix, count in counts.most_common(4)]
    if folders:
        parts.append(f"folders {', '.join(folders[:4])}" + (", ..." if len(folders) > 4 else ""))
    return ", ".join(parts) or "nothing"


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of folders in it, names of files in it), sorted, without hidden ones, to `DEPTH`."""
    base = len(root.parts)
    for parent, names, files in os.walk(root):
        folder = Path(parent)
        visible = sorted(name for name in names if not name.startswith("."))
        names[:] = visible if len(folder.parts) - base < DEPTH - 1 else []
        yield folder, visible, sorted(name for name in files if not name.startswith("."))


def _has_boxes(path: Path, suffix: str, images: set[str]) -> bool:
    """images: names without suffix of the images in the folder of the file."""
    if suffix == ".csv":
        columns = {column.lower() for column in csv_columns(path)}
        return any(needed <= columns for needed in BOX_COLUMNS)
    if suffix == ".txt":
        return path.stem in images and path.name not in NAME_FILES and _is_row_of_numbers(head(path))
    start = head(path)
    if suffix == ".xml":
        return b"<annotation" in start or b"<object" in start
    return any(key in start for key in JSON_KEYS)


def _is_row_of_numbers(start: bytes) -> bool:
    words = (start.splitlines() or [b""])[0].split()
    try:
        return len(words) >= 5 and len([float(word) for word in words[1:5]]) == 4
    except ValueError:
        return False


def _shown(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)
