"""An index on disk of what a COCO JSON says, so that a large one is parsed once and not at every start.

    P images, T boxes in all

The index is an .npz file of plain arrays in the cache folder, named after the JSON's path. It is never trusted: it
counts only when the JSON is untouched since, when this very code wrote it, and when all in it fits together. Anything
else, damage included, means that the JSON is read again. The folder may be emptied at any time.
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
from boxwright.data import dataset
from boxwright.data.dataset import Array, Boxes
from boxwright.errors import InputError
from boxwright.files import cache_folder

logger = logging.getLogger(__name__)

SMALL = 1 << 20  # bytes; a JSON of less is parsed in under 30 ms
# A second change within one tick of the file system's clock leaves the times as they are, so a JSON is indexed only
# when it is older than that. FAT's tick is the longest, 2 s.
TICK = 2 * 10**9  # ns
ROWS = {
    "xyxy": "f4", "labels": "i8", "categories": "i8", "crowd": "b1", "areas": "f8", "ids": "i8", "places": "i8",
    "difficult": "b1",
}  # fmt: skip
COLUMNS, ABOUT = ("image_ids", "files", "sizes", "starts"), ("names", "category_ids", "orphans")  # of Contents


@dataclass(frozen=True, slots=True)
class Contents:
    """What a COCO JSON says, which is all that its index holds: where the images are is looked up each time."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: Array  # (P,) int64 or unicode
    files: Array  # (P,) bytes: `file_name` as the file system has it
    sizes: NDArray[np.int64]  # (P, 2) (height, width) px, -1 where not declared
    rows: Boxes
    starts: NDArray[np.int64]  # (P + 1,) as in Dataset
    orphans: tuple[tuple[int, int | str, int], ...]  # place in the file, image id, annotation id


def read_indexed(
    file: Path, parse: Callable[[], Contents], parser: Sequence[ModuleType], cache: str | Path | None = None
) -> Contents:
    """What the COCO JSON says, from its index where there is one, else from `parse`; the index is then written.

    parser: the modules that decide what `parse` returns. cache: the folder of the indexes; None or "": the user's own.
    Where it cannot be written, a line on stderr says so.
    """
    now = time.time_ns()
    modules = (*parser, config, dataset, sys.modules[__name__])
    try:
        stamp = _stamp(file, modules)
        folder = Path(cache) if cache else cache_folder()
    except (OSError, RuntimeError):  # no such JSON, as `parse` will say; or a user without a home
        return parse()
    if stamp["size"] < SMALL:
        return parse()
    place = folder / f"coco-{hashlib.sha256(os.fsencode(stamp['path'])).hexdigest()[:32]}.npz"
    contents = _read(place, stamp)
    if contents is None:
        contents = parse()
        if now - stamp["ctime_ns"] > TICK and _unchanged(file, modules, stamp):
            _keep(place, contents, stamp)
    return contents


def _stamp(file: Path, modules: Sequence[ModuleType]) -> dict[str, Any]:
    """What must be the same for an index to count: the JSON, and the code that reads it and writes the index."""
    stat = file.stat()
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return {
        "path": str(file.resolve()),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,  # a change whose mtime was set back still shows here
        "code": hashlib.sha256(code).hexdigest(),
        "paths_are": sys.getfilesystemencoding(),
    }


def _unchanged(file: Path, modules: Sequence[ModuleType], stamp: dict[str, Any]) -> bool:
    try:
        return _stamp(file, modules) == stamp
    except OSError:
        return False


def _keep(place: Path, contents: Contents, stamp: dict[str, Any]) -> None:
    """Write the index; where that cannot be, say so and go on without."""
    about = {"stamp": stamp} | {name: getattr(contents, name) for name in ABOUT}
    columns = {name: getattr(contents.rows, name) for name in ROWS}
    columns |= {name: getattr(contents, name) for name in COLUMNS}
    columns["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    try:
        with files.atomic_write(files.make_folder(place.parent) / place.name) as tmp, tmp.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **columns)
    except InputError as error:
        logger.warning("%s: no index is kept, so it is read again at every start: %s", stamp["path"], error)


def _read(place: Path, stamp: dict[str, Any]) -> Contents | None:
    """The index at `place`; None when there is none, when it is of other contents or code, and when it is damaged."""
    try:
        with files.open_regular(place) as file, np.load(file, allow_pickle=False) as opened:
            # Uncompressed, so that no array takes more memory than the file has bytes. Reading one checks its CRC.
            if any(member.compress_type != zipfile.ZIP_STORED for member in opened.zip.infolist()):
                return None
            about = json_text.parse(opened["about"].tobytes(), str(place))
            if about["stamp"] != stamp:
                return None
            rows = Boxes(**{name: opened[name] for name in ROWS})
            contents = Contents(
                rows=rows,
                **{name: opened[name] for name in COLUMNS},
                names=tuple(about["names"]),
                category_ids=tuple(about["category_ids"]),
                orphans=tuple((row, image, label) for row, image, label in about["orphans"]),
            )
        return contents if _sound(contents) else None
    except Exception:  # zip, NumPy and JSON have a dozen errors for damage, and the remedy is the same for all
        return None


def _sound(contents: Contents) -> bool:
    """Whether the columns are of the types and lengths that go together."""
    images, boxes, classes = len(contents.image_ids), len(contents.rows), len(contents.names)

    def fits(column: Array, kind: str, *shape: int) -> bool:
        return column.shape == shape and (column.dtype == kind if kind in ROWS.values() else column.dtype.kind == kind)

    return (
        all(fits(getattr(contents.rows, name), kind, boxes, *[4] * (name == "xyxy")) for name, kind in ROWS.items())
        and (fits(contents.image_ids, "i8", images) or fits(contents.image_ids, "U", images))
        and fits(contents.files, "S", images)
        and fits(contents.sizes, "i8", images, 2)
        and fits(contents.starts, "i8", images + 1)
        and contents.starts[0] == 0
        and contents.starts[-1] == boxes
        and bool((np.diff(contents.starts) >= 0).all())
        and bool((contents.rows.labels < classes).all() and (contents.rows.labels >= -1).all())
        and len(contents.category_ids) == classes
    )
