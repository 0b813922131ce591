"""Checks of classification data for image errors; errors in the folder structure are raised when it is opened.

Errors stop training unless `skip_bad` leaves them out; notes do not. Nothing is repaired.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from boxwright.data.class_dataset import ClassSet
from boxwright.data.findings import Finding
from boxwright.datatools import set_check
from boxwright.datatools.headers import checked_headers
from boxwright.datatools.report import CheckReport


def check(dataset: ClassSet, *, decode: bool | None = False) -> CheckReport:
    """Check one split. Reads the header of every image, and decodes images that look truncated.

    decode: Decode every image; None: decode no image.
    """
    if dataset.members is not None:
        return set_check.check_sets(dataset, partial(check, decode=decode))
    findings = [*_images(dataset, decode=decode)]
    for label in np.flatnonzero(dataset.counts() == 0).tolist():
        text = f"class {dataset.names[label]} has no image"
        findings.append(Finding("class_without_image", dataset.split, str(dataset.root), text))
    for file in dataset.unused:
        text = f"not an image by its suffix '{Path(file).suffix}'; it is not used"
        findings.append(Finding("not_a_image", dataset.split, file, text))
    findings += set_check.notes(dataset)
    return CheckReport(tuple(findings), {dataset.split: (len(dataset), len(dataset.names))}, "classes")


def _images(dataset: ClassSet, *, decode: bool | None) -> Iterator[Finding]:
    if dataset.pixels is not None:
        return
    paths = [dataset.path(index) for index in range(len(dataset))]
    for index, header in enumerate(checked_headers(paths, dataset.split, decode)):
        if fault := header.fault or header.not_rgb:
            kind = "missing_image" if header.missing else "unreadable_image"
            yield Finding(kind, dataset.split, paths[index], fault, index=index)


def check_splits(first: ClassSet, second: ClassSet) -> CheckReport:
    """Check that two splits of a data set have the same classes and share no image."""
    findings = []
    if first.names != second.names:
        text = f"{len(second.names)} classes unlike the {len(first.names)} of {first.split}; make them the same"
        findings.append(Finding("classes_differ", second.split, str(second.root), text))
    seen = {file.resolve() for file in map(Path, map(first.path, range(len(first))))}
    for index in range(len(second)):
        if Path(second.path(index)).resolve() in seen:
            text = f"is also in {first.split}, which makes results look better than they are"
            findings.append(Finding("shared_image", second.split, second.path(index), text, index=index))
    return CheckReport(tuple(findings), unit="classes")
