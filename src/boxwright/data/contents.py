"""Contents of a folder, to recognize labels of boxes and for messages."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from boxwright.data.text import NAME_FILES
from boxwright.files import open_regular
from boxwright.images.header import SUFFIXES

DEPTH = 4  # levels of folders that are searched
HEAD = 1 << 16  # bytes of a file that are enough to detect its kind
MAX_HEADS = 50  # files per suffix whose first bytes are read
LABEL_FOLDERS = {"labels", "annotations", "labeltxt", "annfiles", "label_2", "xmls", "bboxes"}
JSON_KEYS = (b'"annotations"', b'"bbox"', b'"shapes"', b'"regions"', b'"rectanglelabels"', b'"coordinates"')
# a key with its colon, another string, or a bracket; a string truncated after the first bytes takes the rest
JSON_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:|"(?:[^"\\]|\\.)*(?:"|\Z)|[{}\[\]]')
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


def json_keys(file: Path) -> tuple[str, dict[int, set[str]]]:
    """The first character of a JSON file, and the keys in its first bytes by their depth, from 1."""
    start = head(file).removeprefix(b"\xef\xbb\xbf").lstrip()
    keys: dict[int, set[str]] = {}
    depth = 0
    for match in JSON_TOKEN.finditer(start.decode("utf-8", "ignore")):
        if match[1] is not None:
            keys.setdefault(depth, set()).add(match[1])
        elif match[0] in ("{", "["):
            depth += 1
        elif match[0] in ("}", "]"):
            depth -= 1
    return start[:1].decode("ascii", "ignore"), keys


def box_labels(root: Path) -> str | None:
    """A description of the first file or folder that indicates labeled boxes; None if there is none."""
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


def holds_kitti(labels: Path) -> bool:
    """Whether a folder contains KITTI's labels: lines of a class and 14 or 15 numbers."""
    with os.scandir(labels) as entries:
        texts = (entry.path for entry in entries if entry.name.endswith(".txt") and entry.name not in NAME_FILES)
        lines = (line.split() for file in islice(texts, MAX_HEADS) for line in head(Path(file)).splitlines()[:1])
        words = next((words for words in lines if words), [])
    return len(words) in (15, 16) and not is_number(words[0]) and all(map(is_number, words[1:]))


def is_number(word: str | bytes) -> bool:
    """Whether a word in a text file is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def summary(root: Path) -> str:
    """A summary of what a folder contains. Example: `2 .jpg, 1 .csv, folders a, b`."""
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
    """Whether a file contains boxes. images: names without suffix of the images in its folder."""
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
    return len(words) >= 5 and all(map(is_number, words[1:5]))


def _shown(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)
