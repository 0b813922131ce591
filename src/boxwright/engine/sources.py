"""The pictures and labels of a training: opened in every process, checked in one."""

import hashlib
from typing import Any

import numpy as np

from boxwright.data import Dataset, open_dataset
from boxwright.data.check import check, check_splits, skip_bad
from boxwright.data.report import Report
from boxwright.engine.processes import on_main
from boxwright.errors import InputError
from boxwright.recipe import Recipe

SHOWN = 3  # faults named in a message


def open_checked(recipe: Recipe, skip: bool, accelerator: Any) -> tuple[Dataset, Dataset, list[str]]:
    """Training and validation pictures, and a line for each label and picture left out.

    Raises InputError, the same in every process, for faults; with `skip` only for those that skipping cannot mend.
    """
    data = recipe.data

    def opened() -> list[Dataset]:
        return [open_dataset(data.root, split, data.kind, data.cache) for split in ("train", "val")]

    if accelerator.num_processes > 1:
        on_main(lambda: len(opened()), accelerator)  # a large JSON is parsed in one process, the others find its index
    training, validation = opened()

    def look() -> Report:
        return check(training) + check(validation) + check_splits(training, validation)

    report = on_main(look, accelerator)
    if report.errors and not skip:
        first = "; ".join(str(fault) for fault in report.errors[:SHOWN])
        raise InputError(
            f"{data.root}: {len(report.errors)} faults in the labels and pictures ({first}); see them all with "
            f"`boxwright data check {data.root}`, then repair them, or leave them out with --skip-bad"
        )
    learned, lines = capped(skip_bad(training, report), data.max_boxes)
    return learned, skip_bad(validation, report), report.left_out() + lines


def capped(dataset: Dataset, most: int | None) -> tuple[Dataset, list[str]]:
    """The data set with the first `most` labels of each picture in the file's order (None: with all of them).

    Also a line for each picture that has more.
    """
    if most is None:
        return dataset, []
    counts = np.diff(dataset.starts)
    places = np.arange(len(dataset.rows)) - dataset.starts[dataset.owners()]  # from 0 in each picture
    lines = [
        f"{dataset.label_file(index)}: picture {dataset.path(index)} has {counts[index]} boxes, "
        f"data.max_boxes is {most}: {counts[index] - most} left out"
        for index in np.flatnonzero(counts > most).tolist()
    ]
    return dataset.without_rows(places >= most), lines


def fingerprint(dataset: Dataset) -> str:
    """Changes when pictures or labels do, so that a run is not resumed on other data."""
    rows = dataset.rows
    digest = hashlib.sha256()
    for column in (dataset.images.ids, dataset.starts, rows.xyxy, rows.labels, rows.crowd):
        digest.update(column.tobytes())
    return digest.hexdigest()
