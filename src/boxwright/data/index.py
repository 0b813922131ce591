"""A cache of parsed COCO JSONs, so that a large one is parsed only once.

    P images, T boxes in total

The index of a JSON is an .npz file of arrays in the cache folder, named by a hash of the JSON's path. It is used only
if the JSON has not changed since, the same version of the code wrote it, and its content is consistent; else the JSON
is parsed again. The folder may be deleted at any time.
"""

import hashlib
import json
import logging
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright import config, files, json_text
from boxwright.arrays import Array
from boxwright.data import dataset, findings
from boxwright.data.dataset import ANY_CLASS, Boxes
from boxwright.data.findings import TITLES, Finding
from boxwright.errors import InputError
from boxwright.files import cache_folder

logger = logging.getLogger(__name__)

MIN_SIZE = 1 << 20  # bytes; a smaller JSON is parsed in less than 30 ms
# A second change within one tick of the file system's clock does not alter the timestamps, so a JSON is indexed only if
# it is older than that. FAT has the longest tick.
CLOCK_TICK = 2 * 10**9  # ns
ROW_COLUMNS = {
    "xyxy": "f4", "labels": "i8", "categories": "i8", "crowd": "b1", "areas": "f8", "ids": "i8", "entries": "i8",
    "difficult": "b1",
}  # fmt: skip
LABELED = "labeled"  # of Contents; missing in an index where all classes were looked for
COLUMNS = ("image_ids", "files", "sizes", "image_entries", "starts")  # of Contents
METADATA = ("names", "category_ids", "group")  # of Contents
FIELDS = ("kind", "file", "text", "image_id", "annotation_id", "index")  # of a finding


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a COCO JSON and of its index, without the folders of the images, which are searched each time."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: Array  # (P,) int64 or unicode
    files: Array  # (P,) bytes: `file_name`, as in the file system
    sizes: NDArray[np.int64]  # (P, 2) (height, width) px, -1 if not declared
    image_entries: NDArray[np.int64]  # (P,) number of the image in the file
    rows: Boxes
    starts: NDArray[np.int64]  # (P + 1,) as in Dataset
    findings: tuple[Finding, ...] = ()  # without a split and paths; `file` is the position in the JSON
    group: int | None = None  # label of the class that all others name as their supercategory
    labeled: NDArray[np.bool_] | None = None  # (P, K) as in Images


def read_indexed(
    file: Path, parse: Callable[[], Contents], parser: Sequence[ModuleType], cache: str | Path | None = None
) -> Contents:
    """Read a COCO JSON from its index, or else with `parse`, and write the index.

    parser: the modules that `parse` depends on. cache: folder of the indexes; None or "": the user's cache folder. A
    warning is logged if it is not writable.
    """
    now = time.time_ns()
    modules = (*parser, config, dataset, findings, sys.modules[__name__])
    try:
        stamp = _stamp(file, modules)
        folder = Path(cache) if cache else cache_folder()
    except (OSError, RuntimeError):  # no such JSON, which `parse` reports; or a user without a home folder
        return parse()
    if stamp["size"] < MIN_SIZE:
        return parse()
    index = folder / f"coco-{hashlib.sha256(os.fsencode(stamp['path'])).hexdigest()[:32]}.npz"
    contents = _read(index, stamp)
    if contents is None:
        contents = parse()
        if now - stamp["ctime_ns"] > CLOCK_TICK and _unchanged(file, modules, stamp):
            _write(index, contents, stamp)
    return contents


def _stamp(file: Path, modules: Sequence[ModuleType]) -> dict[str, Any]:
    """What must be unchanged for an index to be valid: the JSON, and the code that parses it and writes the index."""
    stat = file.stat()
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return {
        "path": str(file.resolve()),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,  # detects changes after which mtime was set back
        "code": hashlib.sha256(code).hexdigest(),
        "path_encoding": sys.getfilesystemencoding(),
    }


def _unchanged(file: Path, modules: Sequence[ModuleType], stamp: dict[str, Any]) -> bool:
    try:
        return _stamp(file, modules) == stamp
    except OSError:
        return False


def _write(index: Path, contents: Contents, stamp: dict[str, Any]) -> None:
    """Write the index, or log a warning."""
    metadata = {"stamp": stamp} | {name: getattr(contents, name) for name in METADATA}
    metadata["findings"] = [[getattr(finding, name) for name in FIELDS] for finding in contents.findings]
    columns = {name: getattr(contents.rows, name) for name in ROW_COLUMNS}
    columns |= {name: getattr(contents, name) for name in COLUMNS}
    columns |= {} if contents.labeled is None else {LABELED: contents.labeled}
    columns["metadata"] = np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)
    try:
        with files.atomic_write(files.make_folder(index.parent) / index.name) as tmp, tmp.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)
    except InputError as error:
        logger.warning("%s: its index cannot be written, so it is parsed at every start: %s", stamp["path"], error)


def _read(index: Path, stamp: dict[str, Any]) -> Contents | None:
    """The content of an index; None if there is none, or if it is outdated or damaged."""
    try:
        with files.open_regular(index) as file, np.load(file, allow_pickle=False) as opened:
            # Uncompressed, so that arrays are no larger than the file. Reading one checks its CRC.
            if any(member.compress_type != zipfile.ZIP_STORED for member in opened.zip.infolist()):
                return None
            metadata = json_text.parse(opened["metadata"].tobytes(), str(index))
            if metadata["stamp"] != stamp:
                return None
            rows = Boxes(**{name: opened[name] for name in ROW_COLUMNS})
            contents = Contents(
                rows=rows,
                **{name: opened[name] for name in COLUMNS},
                names=tuple(metadata["names"]),
                category_ids=tuple(metadata["category_ids"]),
                group=metadata["group"],
                findings=tuple(
                    Finding(split="", **dict(zip(FIELDS, values, strict=True))) for values in metadata["findings"]
                ),
                labeled=opened.get(LABELED),
            )
        return contents if _is_consistent(contents) else None
    except Exception:  # zip, NumPy and JSON raise many types of errors for damaged files
        return None


def _is_consistent(contents: Contents) -> bool:
    """Whether types and lengths of all columns are valid."""
    images, boxes, classes = len(contents.image_ids), len(contents.rows), len(contents.names)

    def fits(column: Array, kind: str, *shape: int) -> bool:
        return column.shape == shape and (
            column.dtype == kind if kind in ROW_COLUMNS.values() else column.dtype.kind == kind
        )

    return (
        all(
            fits(getattr(contents.rows, name), kind, boxes, *[4] * (name == "xyxy"))
            for name, kind in ROW_COLUMNS.items()
        )
        and (fits(contents.image_ids, "i8", images) or fits(contents.image_ids, "U", images))
        and fits(contents.files, "S", images)
        and fits(contents.sizes, "i8", images, 2)
        and fits(contents.image_entries, "i8", images)
        and fits(contents.starts, "i8", images + 1)
        and contents.starts[0] == 0
        and contents.starts[-1] == boxes
        and bool((np.diff(contents.starts) >= 0).all())
        and bool((contents.rows.labels < classes).all() and (contents.rows.labels >= ANY_CLASS).all())
        and bool(contents.rows.crowd[contents.rows.labels == ANY_CLASS].all())
        and (contents.labeled is None or fits(contents.labeled, "b1", images, classes))
        and len(contents.category_ids) == classes
        and (contents.group is None or (type(contents.group) is int and 0 <= contents.group < classes))
        and all(_is_finding(finding, images) for finding in contents.findings)
    )


def _is_finding(finding: Finding, images: int) -> bool:
    """Whether the fields of a finding have valid types and values."""
    return (
        finding.kind in TITLES
        and type(finding.file) is str
        and type(finding.text) is str
        and (finding.image_id is None or type(finding.image_id) in (int, str))
        and (finding.annotation_id is None or type(finding.annotation_id) is int)
        and (finding.index is None or (type(finding.index) is int and 0 <= finding.index < images))
    )
