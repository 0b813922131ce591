"""Checks of a data set of several sets: each is checked separately, so that findings name its files and ids."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.data.findings import TITLES, Finding
from boxwright.data.layout import Labels
from boxwright.datatools.report import CheckReport


def check_sets(dataset: Labels, check: Callable[[Labels], CheckReport]) -> CheckReport:
    """The findings of `check` in each set, with the indices of images and labels in `dataset`."""
    assert dataset.members is not None
    findings, checked, unit = [*notes(dataset), *_in_two_sets(dataset)], {}, "boxes"
    for member, indices, own in dataset.members.each():
        if not len(indices):
            continue
        is_complete = np.array_equal(own, np.arange(len(member.dataset)))
        part = (member.dataset if is_complete else member.dataset.subset(own)).with_split(dataset.split)
        part = replace(part, notes=())
        report = check(part)
        unit = report.unit
        for finding in report.findings:
            if finding.index is not None:
                index = int(indices[finding.index])
                row = None if finding.row is None else _row(dataset, index, part, finding.index, finding.row)
                finding = replace(finding, index=index, row=row)
            findings.append(finding)
        checked[f"{dataset.split} of {member.title}"] = report.checked[dataset.split]
    findings.sort(key=lambda finding: list(TITLES).index(finding.kind))
    count = len(dataset.names) if unit == "classes" else sum(count for _, count in checked.values())
    return CheckReport(tuple(findings), {dataset.split: (len(dataset), count), **checked}, unit)


def notes(dataset: Labels) -> list[Finding]:
    """The notes of a data set as findings."""
    return [Finding("class_map", dataset.split, "", note) for note in dataset.notes]


def _row(dataset: Labels, index: int, part: Labels, own_index: int, own_row: int) -> int:
    """The row in `dataset` of row `own_row` of a set; only the start of the image's labels differs."""
    assert isinstance(dataset, Dataset)
    assert isinstance(part, Dataset)
    return own_row + int(dataset.starts[index] - part.starts[own_index])


def _in_two_sets(dataset: Labels) -> Iterator[Finding]:
    """Images that are in several sets."""
    assert dataset.members is not None
    numbers, seen = dataset.members.numbers().tolist(), dict[str, int]()
    for index in range(len(dataset)):
        path = dataset.path(index)
        first = seen.setdefault(os.path.abspath(path), numbers[index])  # noqa: PTH100  (100,000s of them)
        if first != numbers[index]:
            text = f"is also in {dataset.members.sets[first].title}"
            place = dataset.label_file(index) if isinstance(dataset, Dataset) else path
            yield Finding("image_twice", dataset.split, place, text, path, index=index)
