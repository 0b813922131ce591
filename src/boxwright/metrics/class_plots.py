"""Plots of a classifier's evaluation: the confusion matrix, and a sheet of misclassified images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.arrays import Array
from boxwright.images.draw import BACKGROUND
from boxwright.metrics.plots import confusion_matrix, write_jpeg
from boxwright.metrics.topk import TopK

MAX_CLASSES = 60  # in the confusion matrix; if there are more, those with the most errors
MAX_MISTAKES, COLUMNS = 24, 6  # images
PANEL = (220, 220)  # px: maximum width, height of an image on the sheet
GAP = 12  # px between images


def confusion(metrics: TopK, names: Sequence[str], file: Path) -> None:
    """Plot the confusion matrix of the classes that occur or were predicted, at most MAX_CLASSES.

    If some are left out, the last column counts predictions of all others.
    """
    counts = metrics.confusion
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = np.sort(used[np.argsort(-errors[used], kind="stable")][:MAX_CLASSES])
    table = counts[np.ix_(shown, shown)]
    ticks = [names[label] for label in shown]
    title = f"{metrics.headline}; {len(shown)} of {len(names)} classes"
    if len(shown) < len(used):
        table = np.column_stack([table, counts[shown].sum(1) - table.sum(1)])
        title += ", those with the most errors"
    confusion_matrix(table, ticks, [*ticks, "others"][: table.shape[1]], title, file)


def mistakes(panels: Sequence[Array], file: Path) -> None:
    """Write a sheet of misclassified images; no file if there are none."""
    if panels:
        write_jpeg(_grid(panels), file)
    else:
        file.unlink(missing_ok=True)  # from an earlier evaluation


def _grid(panels: Sequence[Array]) -> Array:
    """Panels of the same size in rows."""
    height, width = (side + GAP for side in panels[0].shape[:2])
    columns = min(COLUMNS, len(panels))
    sheet = np.full((-(-len(panels) // columns) * height + GAP, columns * width + GAP, 3), BACKGROUND, np.uint8)
    for index, panel in enumerate(panels):
        top, left = index // columns * height + GAP, index % columns * width + GAP
        sheet[top : top + height - GAP, left : left + width - GAP] = panel
    return sheet
