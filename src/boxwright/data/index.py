"""The file format of indexes: labels as arrays, which load much faster than label files are parsed.

    P images, T boxes in total

An index is an .npz file in the cache folder. It is used only if its stamp, which identifies its source, is the expected
one, and its content is consistent; otherwise the labels are read again. The folder may be deleted at any time.
`data/coco_index.py` and `data/folder_index.py` decide what has an index, and when it is valid.
"""

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from boxwright import files, json_text
from boxwright.arrays import Array
from boxwright.cache import cache_folder
from boxwright.data.dataset import ANY_CLASS, Boxes, Images
from boxwright.data.findings import TITLES, Finding
from boxwright.images import budget
from boxwright.json_text import JsonObject

T = TypeVar("T")

PACKAGE = Path(__file__).parent.parent  # whose code determines what is read
# A second change within one tick of the file system's clock does not alter the timestamps, so a file is indexed only if
# it is older than that. FAT has the longest tick.
CLOCK_TICK = 2 * 10**9  # ns
ROW_COLUMNS = {
    "xyxy": "f4", "labels": "i8", "categories": "i8", "crowd": "b1", "areas": "f8", "ids": "i8", "entries": "i8",
    "difficult": "b1",
}  # fmt: skip
FIELDS = ("kind", "file", "text", "image_id", "annotation_id", "index", "image", "row")  # of a finding


def place(kind: str, key: str, cache: str | Path | None = None) -> Path:
    """The path of the index of a data set.

    Args:
        kind: First word of the file name.
        key: Identifies the data set and split.
        cache: Folder of the indexes; None or "": the user's cache folder.

    Raises:
        RuntimeError: The user has no home folder.
    """
    folder = Path(cache) if cache else cache_folder()
    return folder / f"{kind}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz"


def code_hash(modules: Iterable[Path]) -> str:
    """A hash of Python files. Raises OSError if one cannot be read."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in modules)).hexdigest()


def versions() -> dict[str, object]:
    """The versions that determine the result of reading a data set. Raises OSError if the code cannot be read."""
    return {
        "code": _code(),
        "path_encoding": sys.getfilesystemencoding(),
        "pillow": PIL.__version__,  # which reads the sizes of images
        "max_pixels": budget.MAX_PIXELS,
    }


@cache
def _code() -> str:
    return code_hash(sorted(PACKAGE.rglob("*.py")))


def save(
    index: Path, stamp: Mapping[str, object], columns: Mapping[str, Array], metadata: Mapping[str, object]
) -> None:
    """Write an index. metadata: JSON values. Raises InputError if the folder cannot be written."""
    text = json.dumps({**metadata, "stamp": stamp}).encode()
    with files.atomic_write(files.make_folder(index.parent) / index.name) as tmp, tmp.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns, metadata=np.frombuffer(text, dtype=np.uint8))


def load(index: Path, stamp: Mapping[str, object], build: Callable[[Mapping[str, Array], JsonObject], T]) -> T | None:
    """The result of `build` for columns and metadata; None if there is no index, or if it is outdated or damaged.

    build: may raise any exception for columns that are not valid.
    """
    try:
        with files.open_regular(index) as file, np.load(file, allow_pickle=False) as opened:
            # Uncompressed, so that arrays are no larger than the file. Reading one checks its CRC.
            if any(member.compress_type != zipfile.ZIP_STORED for member in opened.zip.infolist()):
                return None
            metadata = json_text.parse(opened["metadata"].tobytes(), str(index))
            return build(opened, metadata) if metadata["stamp"] == stamp else None
    except Exception:  # zip, NumPy and JSON raise many types of errors for damaged files
        return None


def row_columns(rows: Boxes) -> dict[str, Array]:
    """The columns of an index for boxes."""
    return {name: getattr(rows, name) for name in ROW_COLUMNS}


def rows_of(columns: Mapping[str, Array]) -> Boxes:
    """The inverse of `row_columns`."""
    return Boxes(**{name: columns[name] for name in ROW_COLUMNS})


def packed(findings: Sequence[Finding]) -> list[list[object]]:
    """Findings as JSON values, without the split."""
    return [[getattr(finding, name) for name in FIELDS] for finding in findings]


def unpacked(values: Sequence[Sequence[Any]], split: str) -> tuple[Finding, ...]:
    """The inverse of `packed`."""
    return tuple(Finding(split=split, **dict(zip(FIELDS, fields, strict=True))) for fields in values)


def check(
    images: Images, rows: Boxes, starts: NDArray[np.int64], names: Sequence[str], findings: Sequence[Finding]
) -> None:
    """Raise ValueError if types, lengths or values of the columns, or fields of the findings, are not valid."""
    count, boxes, classes = len(images), len(rows), len(names)
    for name, kind in ROW_COLUMNS.items():
        check_fits(getattr(rows, name), kind, boxes, *[4] * (name == "xyxy"))
    check_fits(images.ids, "i8" if images.ids.dtype.kind == "i" else "U", count)
    check_fits(images.paths, "S", count)
    check_fits(images.label_files, "S", count if len(images.label_files) != 1 else 1)
    check_fits(images.sizes, "i8", count, 2)
    check_fits(starts, "i8", count + 1)
    if images.labeled is not None:
        check_fits(images.labeled, "b1", count, classes)
    valid = (
        starts[0] == 0
        and starts[-1] == boxes
        and bool((np.diff(starts) >= 0).all())
        and bool((rows.labels < classes).all() and (rows.labels >= ANY_CLASS).all())
        and bool(rows.crowd[rows.labels == ANY_CLASS].all())
        and all(_is_finding(finding, count, boxes) for finding in findings)
    )
    if not valid:
        raise ValueError("columns that are not consistent")


def check_classes(names: Sequence[str], category_ids: Sequence[int], group: int | None) -> None:
    """Raise ValueError if there are not as many ids as names, or if the group is not a class."""
    valid = len(category_ids) == len(names) and all(type(number) is int for number in category_ids)
    if not (valid and (group is None or (type(group) is int and 0 <= group < len(names)))):
        raise ValueError("classes that are not consistent")


def check_fits(column: Array, kind: str, *shape: int) -> None:
    """Raise ValueError if a column does not have the type `kind` and the shape. kind: S or U for any length of text."""
    has_type = column.dtype == kind if kind not in ("S", "U") else column.dtype.kind == kind
    if column.shape != shape or not has_type:
        raise ValueError(f"{column.dtype} of shape {column.shape}, needed {kind} of shape {shape}")


def _is_finding(finding: Finding, images: int, rows: int) -> bool:
    """Whether the fields of a finding have valid types and values."""
    return (
        finding.kind in TITLES
        and type(finding.file) is str
        and type(finding.text) is str
        and type(finding.image) is str
        and (finding.image_id is None or type(finding.image_id) in (int, str))
        and (finding.annotation_id is None or type(finding.annotation_id) is int)
        and (finding.index is None or (type(finding.index) is int and 0 <= finding.index < images))
        and (finding.row is None or (type(finding.row) is int and 0 <= finding.row < rows))
    )
