"""Handling of faulty labels and images: the options `--skip-bad` and `--clip-boxes`."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.data.findings import TITLES, Finding
from boxwright.data.layout import Labels
from boxwright.datatools.check import skip_bad
from boxwright.datatools.report import CheckReport, pluralize
from boxwright.images.header import read_header

# Errors that evaluation and other layouts do not support; the remaining kinds only harm training.
UNUSABLE = {
    "not_finite", "unknown_category", "unreadable_label", "unknown_image", "duplicate_image_id", "ambiguous_image",
    "only_crowd", "missing_image", "unreadable_image", "size_differs", "labeled_unrotated",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Settings for the handling of errors.

    Attributes:
        skip_bad: Drop faulty labels and images; the area of a dropped label is ignored in the loss and in metrics.
        clip_boxes: Clip boxes that are partly outside their image.
        kinds: The kinds of errors that are handled.
    """

    skip_bad: bool = False
    clip_boxes: bool = False
    kinds: Collection[str] = tuple(TITLES)

    def apply(self, dataset: Labels, report: CheckReport, root: str | Path | None = None) -> tuple[Labels, list[str]]:
        """The data set without the errors of `report`, and a line for each item that is left out or clipped.

        Raises InputError for the first error that remains. root: name of the data set in the message.
        """
        lines: list[str] = []
        if self.clip_boxes and isinstance(dataset, Dataset):
            dataset, report, lines = clip_boxes(dataset, report)
        report = CheckReport(tuple(error for error in report.errors if error.kind in self.kinds))
        if not self.skip_bad:
            report.raise_on_errors(root or dataset.root, skippable=True)
            return dataset, lines
        own = CheckReport(tuple(error for error in report.errors if error.split == dataset.split))
        return skip_bad(dataset, own), lines + own.left_out()


DEFAULT = Cleaning()


def clip_boxes(dataset: Dataset, report: CheckReport) -> tuple[Dataset, CheckReport, list[str]]:
    """Clip the boxes that `report` finds partly outside their image.

    Returns:
        The data set, the report without these errors, and a line with their number.
    """
    clipped = {error.row: error for error in report.errors if _partly_inside(dataset, error)}
    if not clipped:
        return dataset, report, []
    boxes, areas = dataset.rows.xyxy.copy(), dataset.rows.areas.copy()
    for row, error in clipped.items():
        height, width = image_size(dataset, error.index or 0)
        before = np.prod(boxes[row, 2:] - boxes[row, :2])
        boxes[row] = boxes[row].clip(0, [width, height, width, height])
        areas[row] *= np.prod(boxes[row, 2:] - boxes[row, :2]) / before
    rest = replace(report, findings=tuple(finding for finding in report.findings if finding not in clipped.values()))
    line = f"{dataset.split}: {pluralize(len(clipped), 'box[es]')} clipped to the image"
    return replace(dataset, rows=replace(dataset.rows, xyxy=boxes, areas=areas)), rest, [line]


def image_size(dataset: Dataset, index: int) -> tuple[int, int]:
    """(height, width) px of an image, from its header if the data set does not declare it."""
    height, width = dataset.images.sizes[index].tolist()
    return (height, width) if height > 0 else read_header(dataset.path(index), decode=None).size


def _partly_inside(dataset: Dataset, error: Finding) -> bool:
    """Whether an error is about a box of `dataset` that is partly outside its image."""
    if error.kind != "outside" or error.split != dataset.split or error.row is None or error.index is None:
        return False
    (x1, y1, x2, y2), (height, width) = dataset.rows.xyxy[error.row].tolist(), image_size(dataset, error.index)
    return bool(x1 < width and y1 < height and x2 > 0 and y2 > 0)
