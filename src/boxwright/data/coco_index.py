"""A cache of parsed COCO JSONs, so that a large one is parsed only once.

    P images, T boxes in total

The index of a JSON (`data/index.py`) is used only if the JSON has not changed since and the index was written by the
same version of the code; otherwise the JSON is parsed again.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from boxwright import config, mirrors
from boxwright.arrays import Array
from boxwright.data import dataset, findings, index
from boxwright.data.dataset import Boxes, Images
from boxwright.data.findings import Finding
from boxwright.errors import InputError
from boxwright.json_text import JsonObject

logger = logging.getLogger(__name__)

MIN_SIZE = 1 << 20  # bytes; a smaller JSON is parsed in less than 30 ms
LABELED = "labeled"  # of Contents; missing in an index where all classes were looked for
COLUMNS = ("image_ids", "files", "sizes", "image_entries", "starts")  # of Contents
METADATA = ("names", "category_ids", "group", "tiled")  # of Contents


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a COCO JSON and of its index, without the folders of images, which are searched for each time."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: Array  # (P,) int64 or unicode
    files: Array  # (P,) bytes: `file_name`, as in the file system
    sizes: NDArray[np.int64]  # (P, 2) (height, width) px, -1 if not declared
    image_entries: NDArray[np.int64]  # (P,) number of the image in the file
    rows: Boxes
    starts: NDArray[np.int64]  # (P + 1,) as in `Dataset`
    findings: tuple[Finding, ...] = ()  # without a split and paths; `file` is the position in the JSON
    group: int | None = None  # label of the class that is the supercategory of all others
    labeled: NDArray[np.bool_] | None = None  # (P, K) as in Images
    tiled: bool = False  # whether images are tiles of `data tile`, whose truncated objects are crowd regions


def read_indexed(
    file: Path, parse: Callable[[], Contents], parser: Sequence[ModuleType], cache: str | Path | None = None
) -> Contents:
    """Read a COCO JSON from its index, or else with `parse`, and write the index.

    parser: the modules that `parse` depends on. cache: folder of the indexes; None or "": the user's cache folder. A
    warning is logged if it is not writable.
    """
    now = time.time_ns()
    modules = (*parser, config, dataset, findings, index, sys.modules[__name__])
    try:
        stamp = _stamp(file, modules)
        place = index.place("coco", stamp["path"], cache)
    except (OSError, RuntimeError):  # no such JSON, which `parse` reports; or a user without a home folder
        return parse()
    if stamp["size"] < MIN_SIZE:
        return parse()
    contents = index.load(place, stamp, _from_columns)
    if contents is None:
        contents = parse()
        is_old = now - stamp["ctime_ns"] > index.CLOCK_TICK or mirrors.split(file) is not None
        if is_old and _unchanged(file, modules, stamp):
            _write(place, contents, stamp)
    return contents


def _stamp(file: Path, modules: Sequence[ModuleType]) -> JsonObject:
    """The state on which an index depends: the JSON, and the code that parses it and writes the index."""
    stat = file.stat()
    return {
        "path": str(file.resolve()),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,  # detects changes after which mtime was set back
        "code": index.code_hash(Path(str(module.__file__)) for module in modules),
        "path_encoding": sys.getfilesystemencoding(),
    }


def _unchanged(file: Path, modules: Sequence[ModuleType], stamp: JsonObject) -> bool:
    try:
        return _stamp(file, modules) == stamp
    except OSError:
        return False


def _write(place: Path, contents: Contents, stamp: JsonObject) -> None:
    """Write the index, or log a warning."""
    columns = index.row_columns(contents.rows) | {name: getattr(contents, name) for name in COLUMNS}
    columns |= {} if contents.labeled is None else {LABELED: contents.labeled}
    metadata = {name: getattr(contents, name) for name in METADATA} | {"findings": index.packed(contents.findings)}
    try:
        index.save(place, stamp, columns, metadata)
    except InputError as error:
        logger.warning("%s: its index cannot be written, so it is parsed at every start: %s", stamp["path"], error)


def _from_columns(columns: Mapping[str, Array], metadata: JsonObject) -> Contents:
    """Contents from an index. Raises ValueError if types, lengths or values are not valid."""
    contents = Contents(
        rows=index.rows_of(columns),
        **{name: columns[name] for name in COLUMNS},
        names=tuple(metadata["names"]),
        category_ids=tuple(metadata["category_ids"]),
        group=metadata["group"],
        findings=index.unpacked(metadata["findings"], ""),
        labeled=columns.get(LABELED),
        tiled=bool(metadata["tiled"]),
    )
    images = Images(contents.image_ids, contents.files, contents.sizes, contents.files, contents.labeled)
    index.check(images, contents.rows, contents.starts, contents.names, contents.findings)
    index.check_fits(contents.image_entries, "i8", len(images))
    index.check_classes(contents.names, contents.category_ids, contents.group)
    return contents
