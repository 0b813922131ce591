"""A cache of data sets with a label file per image, so that 100,000s of small files are read only once.

    P images, T boxes in total

The index of a split (`data/index.py`) stores the result of its reader. It is used only if no file below the folders of
the data set has been added, removed or changed since, and the same version of the package wrote it; otherwise the split
is read again. Checking names and timestamps takes a small fraction of the time of reading.
"""

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from boxwright import files, mirrors
from boxwright.arrays import Array
from boxwright.data import index
from boxwright.data.dataset import Dataset, Images
from boxwright.data.layout import Labels
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.json_text import JsonObject

logger = logging.getLogger(__name__)

MIN_FILES = 2000  # label files of a split; fewer are read in less than half a second
MAX_RATIO = 10  # files below the folders per label file; with more, checking them takes as long as reading the labels
IMAGE_COLUMNS = ("ids", "paths", "sizes", "label_files")  # of Images; `image_ids` and so on in the index
LABELED = "labeled"  # of Images; missing in an index where all classes were looked for
METADATA = ("names", "category_ids", "undefined", "entry", "group", "relative", "notes")  # of `Dataset`
# Files that `index.save` writes, perhaps into a folder of the data set
OWN = re.compile(rf"[a-z_]+-[0-9a-f]{{32}}\.npz|{files.TEMPORARY.pattern}")


def read_indexed(source: Source, read: Callable[[Source], Labels]) -> Labels:
    """Read a split from its index, or else with `read`, and write the index if it has many label files.

    Labels or images outside the folders of the data set are not indexed, since their changes would not be noticed. A
    warning is logged if the cache folder is not writable.
    """
    now, folders = time.time_ns(), _folders(source)
    try:
        place = index.place(source.kind, _key(source), source.cache)
    except RuntimeError:  # a user without a home folder
        return read(source)
    if place.is_file() and (stamp := _stamp(source, folders)):
        stored = index.load(place, stamp, partial(_from_columns, source))
        if stored is not None:
            return stored  # type: ignore[return-value]  # only data sets of boxes have an index
    labels = read(source)
    if isinstance(labels, Dataset) and (count := len(labels.images.label_files)) > MIN_FILES:
        before = now - index.CLOCK_TICK  # a file that has changed since may have changed again while it was read
        stamp = _stamp(source, folders, before, count * MAX_RATIO) if _is_inside(labels, folders) else {}
        if stamp:
            _write(place, labels, stamp)
    return labels


def _key(source: Source) -> str:
    """A key of everything that determines the result of a reader besides the content of files."""
    values = [getattr(source, field.name) for field in fields(source) if field.name != "cache"]
    return ascii([source.root.absolute(), *values])


def _folders(source: Source) -> list[Path]:
    """The folders that a reader searches for labels and images."""
    paths = [source.root, source.path, *source.more, *source.others, *([source.images] if source.images else [])]
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    return [inner for inner in folders if not any(inner != outer and inner.is_relative_to(outer) for outer in folders)]


def _is_inside(dataset: Dataset, folders: Sequence[Path]) -> bool:
    """Whether all labels and images are below the folders, judged by their paths."""
    here = os.fsencode(Path.cwd())
    above = [os.path.join(os.fsencode(folder.absolute()), b"") for folder in folders]  # noqa: PTH118

    def is_inside(path: bytes) -> bool:
        full = os.path.join(here, path)  # noqa: PTH118
        return any(full.startswith(folder) and b"/../" not in full[len(folder) - 1 :] for folder in above)

    paths = (*dataset.images.paths.tolist(), *dataset.images.label_files.tolist())
    return all(map(is_inside, paths))


def _stamp(
    source: Source, folders: Sequence[Path], before: int | None = None, limit: int | None = None
) -> dict[str, object]:
    """The state on which an index depends; {} if it cannot be determined.

    Arguments as in `_files_hash`.
    """
    try:
        return {
            "source": _key(source),
            "files": _files_hash(folders, before, limit),
            **index.versions(),
        }
    except (OSError, ValueError):
        return {}


def _files_hash(folders: Sequence[Path], before: int | None, limit: int | None) -> str:
    """A hash of names, sizes, timestamps and inodes of all files below the folders, except indexes.

    Links are followed, each folder is visited once.

    Args:
        folders: The folders.
        before: Latest time of change (ns) that is allowed; None for any.
        limit: Maximum number of files; None for any.

    Raises:
        OSError: A folder cannot be listed.
        ValueError: Something was changed later than `before`, or there are more files than `limit`.
    """
    digest, count, visited = hashlib.sha256(), 0, set[tuple[int, int]]()
    queue = [str(folder) for folder in folders]
    for folder in queue:
        if mirrors.split(folder) is not None:  # never changes; its name identifies the version of the archive
            digest.update(os.fsencode(folder + "\0"))
            continue
        own = Path(folder).stat()
        if _identity(own) in visited:
            continue
        visited.add(_identity(own))
        lines, inner, newest = _entries(folder)
        count += len(lines)
        if (limit is not None and count > limit) or (before is not None and max(newest, own.st_ctime_ns) > before):
            raise ValueError
        digest.update(os.fsencode("\0".join([folder, *sorted(lines), ""])))
        queue += sorted(inner)
    return digest.hexdigest()


def _entries(folder: str) -> tuple[list[str], list[str], int]:
    """A line for each entry of a folder, the folders among them, and the latest time of change of a file, ns."""
    lines, inner, newest = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if OWN.fullmatch(entry.name):
                continue
            try:
                found = entry.stat()
            except OSError:  # a broken link
                lines.append(entry.name)
                continue
            if stat.S_ISDIR(found.st_mode):  # their timestamps change with the indexes below them
                lines.append(f"{entry.name}/{found.st_ino}")
                inner.append(entry.path)
                continue
            changed = found.st_ctime_ns  # detects changes after which mtime was set back
            newest = max(newest, changed)
            lines.append(f"{entry.name}/{found.st_ino} {found.st_size} {found.st_mtime_ns} {changed}")
    return lines, inner, newest


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _write(place: Path, dataset: Dataset, stamp: Mapping[str, object]) -> None:
    """Write the index, or log a warning."""
    columns = index.row_columns(dataset.rows) | {"starts": dataset.starts}
    columns |= {f"image_{name}": getattr(dataset.images, name) for name in IMAGE_COLUMNS}
    columns |= {} if dataset.images.labeled is None else {LABELED: dataset.images.labeled}
    metadata = {name: getattr(dataset, name) for name in METADATA} | {"findings": index.packed(dataset.findings)}
    try:
        index.save(place, stamp, columns, metadata)
    except InputError as error:
        logger.warning("%s: its index cannot be written, so it is read at every start: %s", dataset.root, error)


def _from_columns(source: Source, columns: Mapping[str, Array], metadata: JsonObject) -> Dataset:
    """A data set from an index. Raises ValueError if types, lengths or values are not valid."""
    images = Images(**{name: columns[f"image_{name}"] for name in IMAGE_COLUMNS}, labeled=columns.get(LABELED))
    values = {name: metadata[name] for name in METADATA}
    values = {name: tuple(value) if type(value) is list else value for name, value in values.items()}
    findings = index.unpacked(metadata["findings"], source.split)
    dataset = Dataset(
        **values, split=source.split, root=source.root, kind=source.kind, images=images,
        rows=index.rows_of(columns), starts=columns["starts"], findings=findings,
    )  # fmt: skip
    index.check(dataset.images, dataset.rows, dataset.starts, dataset.names, dataset.findings)
    index.check_classes(dataset.names, dataset.category_ids, dataset.group)
    texts = (*dataset.names, *dataset.undefined, *dataset.notes, dataset.entry)
    if not all(type(text) is str for text in texts) or type(dataset.relative) is not bool:
        raise ValueError("metadata that is not valid")
    return dataset
