"""errors.csv: every detection and every object of an evaluation with its status."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.arrays import Array
from boxwright.data.dataset import ANY_CLASS, Sample
from boxwright.errors import printable, titled
from boxwright.files import atomic_write
from boxwright.metrics.matching import Kind, Matches

COLUMNS = ("id", "image", "box", "class", "x1", "y1", "x2", "y2", "score", "status", "iou", "match")
FORMULA = ("=", "+", "-", "@")  # spreadsheets evaluate fields with this start, unless an apostrophe precedes it


def write(file: Path, samples: Sequence[Sample], matches: Matches, names: Sequence[str]) -> None:
    """Write a row for each object and detection, image by image. match: the id of the row that the status refers to."""
    found, objects = matches.found, matches.objects
    count = len(objects.images)
    order = np.argsort(np.concatenate([objects.images, found.images]), kind="stable")
    ids = np.empty(len(order), np.int64)
    ids[order] = np.arange(1, len(order) + 1)
    paths = [table_text(titled(sample.path)) for sample in samples]
    classes = {label: table_text(name) for label, name in enumerate(names)} | {ANY_CLASS: "ignore region"}
    statuses = [kind.name.lower().replace("_", " ") for kind in Kind]
    ious = np.where(objects.detections < 0, 0.0, found.ious[objects.detections] if len(found.ious) else 0.0)
    rows: list[tuple[object, ...]] = []
    for numbers, part, box, scores, overlaps, others in (
        (ids[:count], objects, "object", [""] * count, ious, _ids(ids[count:], objects.detections)),
        (ids[count:], found, "detection", _rounded(found.scores, 5), found.ious, _ids(ids[:count], found.objects)),
    ):
        rows += zip(
            numbers.tolist(),
            [paths[image] for image in part.images.tolist()],
            [box] * len(numbers),
            [classes[label] for label in part.labels.tolist()],
            *_rounded(part.boxes.T, 2),
            scores,
            [statuses[kind] for kind in part.kinds.tolist()],
            _rounded(overlaps, 3),
            others,
            strict=True,
        )
    with atomic_write(file) as tmp, tmp.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(rows[index] for index in order.tolist())


def _rounded(values: Array, digits: int) -> list[Any]:
    rounded: list[Any] = np.round(values, digits).tolist()
    return rounded


def _ids(ids: Array, rows: Array) -> Iterable[str]:
    """The ids of rows as text; "" for -1."""
    return ["" if row < 0 else str(ids[row]) for row in rows.tolist()]


def table_text(name: str) -> str:
    """A name as a cell that no spreadsheet evaluates as a formula."""
    text = printable(name)
    return "'" + text if text.lstrip().startswith(FORMULA) else text
