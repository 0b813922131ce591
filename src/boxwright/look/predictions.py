"""Detections of a run and their errors, from the table that `evaluate` writes (errors.csv).

N rows: detections, and the objects that they were compared with
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import files
from boxwright.arrays import Array
from boxwright.data.split_names import canonical_name
from boxwright.errors import InputError
from boxwright.look.catalog import Catalog, Filters, in_size
from boxwright.metrics.error_table import COLUMNS, table_text
from boxwright.metrics.matching import Kind

CHUNK = 50_000  # rows converted at once
MAX_BYTES = 4 << 30  # limit of the table's size
STATUSES = tuple(kind.name.lower().replace("_", " ") for kind in Kind)  # of detections and objects, in the table
COUNTED = tuple(name for kind, name in zip(Kind, STATUSES, strict=True) if kind < Kind.IGNORED)
NO_TABLE = "not a table of errors, needed that of `boxwright evaluate`; evaluate again"
IS_OBJECT = {"object": True, "detection": False}


@dataclass(frozen=True, slots=True)
class Predictions:
    """Columns with one entry per row, in the order of the images.

    Attributes:
        images: (N,) ids in the catalog.
        objects: (N,) bool, whether the row is an object rather than a detection.
        labels: (N,) index in `Catalog.classes`; -1 for other classes.
        names: (N,) class names, also of other classes.
        boxes: (N, 4) xyxy px.
        scores: (N,) NaN for objects.
        statuses: (N,) index in `STATUSES`.
        matches: (N,) index of the row that the status refers to; -1 for none.
        split: Canonical name of the split that was evaluated; "" if unknown.
        message: Warning about rows that are not of this set, for example; "" for none.
    """

    images: NDArray[np.int64]
    objects: NDArray[np.bool_]
    labels: NDArray[np.int64]
    names: Array
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    statuses: NDArray[np.int8]
    matches: NDArray[np.int64]
    split: str
    message: str = ""

    @classmethod
    def read(cls, file: Path, root: str, split: str, catalog: Catalog) -> "Predictions":
        """Read a table.

        Args:
            file: The table.
            root: The folder of the set when the table was written, which may have another name now.
            split: The split that was evaluated; other splits may have images of the same name.
            catalog: The images of the set.

        Raises:
            InputError: `file` is not such a table, or has no row of this set.
        """
        wanted, image_ids = canonical_name(split), dict[str, int]()
        for (of, name), image in catalog.by_split_and_name().items():
            if of == wanted or table_text(name) not in image_ids:
                image_ids[table_text(name)] = image
        classes = {table_text(name): (number, name) for number, name in enumerate(catalog.classes)}
        columns: list[tuple[Array, ...]] = []
        for rows in _chunks(file):
            try:
                columns.append(_columns(rows, image_ids, classes, root))
            except (ValueError, KeyError, OverflowError) as error:
                raise InputError(f"{file}: {NO_TABLE}") from error
        if not columns:
            raise InputError(f"{file}: has no rows; evaluate again")
        ids, images, *others = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        if not np.array_equal(np.sort(ids), np.arange(1, len(ids) + 1)):
            raise InputError(f"{file}: {NO_TABLE}")
        order = np.argsort(images, kind="stable")[int((images < 0).sum()) :]
        if not len(order):
            raise InputError(f"{file}: none of its images is in {catalog.data}; evaluate on this set")
        missing, message = len(np.unique(ids[images < 0])), ""
        if missing:
            message = f"{missing} rows of {file.name} are of images that are not in this set"
        places = np.full(len(ids) + 1, -1, dtype=np.int64)
        places[ids[order]] = np.arange(len(order))
        objects, labels, names, boxes, scores, statuses, matched = (column[order] for column in others)
        valid = (matched > 0) & (matched < len(places))
        matches = np.where(valid, places[np.where(valid, matched, 0)], -1)
        return cls(images[order], objects, labels, names, boxes, scores, statuses, matches, wanted, message)

    def of_image(self, image: int) -> slice:
        """The rows of an image."""
        start, end = np.searchsorted(self.images, [image, image + 1]).tolist()
        return slice(start, end)

    def is_evaluated(self, image: int, split: str) -> bool:
        """Whether an image of a split was evaluated: the split was, or the image has rows, as after `train
        --val-fraction`."""
        own = self.of_image(image)
        return own.start < own.stop or self.split in ("", canonical_name(split))

    def select(self, filters: Filters, status: str, min_score: float, catalog: Catalog) -> NDArray[np.bool_]:
        """(P,) images with a row of a status, class and size; detections need a score of at least `min_score`."""
        mask = self.objects | (self.scores >= min_score)
        if status:
            mask &= self.statuses == status_number(status)
        if filters.name:
            mask &= self.labels == catalog.class_number(filters.name)
        if filters.size:
            sides = np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 0)
            mask &= in_size(sides.prod(axis=1), filters.size)
        found = np.zeros(catalog.count, dtype=bool)
        found[self.images[mask]] = True
        return found

    def counts(self, images: list[int], min_score: float) -> list[int]:
        """The number of detections of each image."""
        found = []
        for image in images:
            own = self.of_image(image)
            found.append(int((~self.objects[own] & (self.scores[own] >= min_score)).sum()))
        return found


def status_number(status: str) -> int:
    """Index in `STATUSES`. Raises InputError for an unknown status."""
    if status not in STATUSES:
        raise InputError(f"status: found '{status[:20]}', needed {', '.join(STATUSES)}")
    return STATUSES.index(status)


def _chunks(file: Path) -> Iterator[list[list[str]]]:
    try:
        with files.open_regular(file) as opened:
            if files.length(opened) > MAX_BYTES:
                raise InputError(f"{file}: larger than {MAX_BYTES:,} bytes; evaluate with a higher threshold")
            reader = csv.reader(io.TextIOWrapper(opened, encoding="utf-8", newline=""))
            if next(reader, []) != list(COLUMNS):
                raise InputError(f"{file}: {NO_TABLE}")
            while rows := list(islice(reader, CHUNK)):
                yield rows
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{file}: damaged, not a CSV file; evaluate again") from error


def _columns(
    rows: list[list[str]], image_ids: dict[str, int], classes: dict[str, tuple[int, str]], root: str
) -> tuple[Array, ...]:
    """Columns of some rows: ids, images, and as in `Predictions`, with ids instead of `matches`."""
    ids, paths, kinds, names, x1, y1, x2, y2, scores, statuses, _, matches = zip(*rows, strict=True)
    images = {path: image_ids.get(path.removeprefix(f"{root}/"), -1) for path in set(paths)}
    order = {name: number for number, name in enumerate(STATUSES)}
    return (
        np.array(ids, dtype=np.int64),
        np.array([images[path] for path in paths], dtype=np.int64),
        np.array([IS_OBJECT[kind] for kind in kinds], dtype=bool),
        np.array([classes.get(name, (-1, name))[0] for name in names], dtype=np.int64),
        np.array([classes.get(name, (-1, name))[1] for name in names], dtype=object),
        np.array([x1, y1, x2, y2], dtype=np.float64).T,
        np.array([score or "nan" for score in scores], dtype=np.float64),
        np.array([order[status] for status in statuses], dtype=np.int8),
        np.array([match or "0" for match in matches], dtype=np.int64),
    )
