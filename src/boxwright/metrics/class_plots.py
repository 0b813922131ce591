"""Images of a classifier's evaluation: the confusion matrix, and a sheet of what it got wrong.

C classes, N images, S classes shown
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.images.draw import PAPER
from boxwright.metrics.plots import confusion_matrix, write_jpeg
from boxwright.metrics.topk import TopK

Array = np.ndarray[Any, np.dtype[Any]]

MAX_CLASSES = 60  # of the confusion matrix; of more, those that take part in most mistakes
MAX_MISTAKES, COLUMNS = 24, 6  # images
PANEL = (220, 220)  # px: (longest width, height) of an image on the sheet
GAP = 12  # px between images


def confusion(metrics: TopK, names: Sequence[str], file: Path) -> None:
    """The matrix of the classes that images show or that were predicted; of very many, the most mistaken ones.

    The last column counts all predictions that are not shown, so that rows stay whole.
    """
    counts = metrics.confusion
    seen = np.flatnonzero(counts.sum(0) + counts.sum(1))
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = np.sort(seen[np.argsort(-wrong[seen], kind="stable")][:MAX_CLASSES])
    table = counts[np.ix_(shown, shown)]
    ticks = [names[label] for label in shown]
    title = f"{metrics.headline}; {len(shown)} of {len(names)} classes"
    if len(shown) < len(seen):
        table = np.column_stack([table, counts[shown].sum(1) - table.sum(1)])
        title += ", those most mistaken"
    confusion_matrix(table, ticks, [*ticks, "others"][: table.shape[1]], title, file)


def mistakes(panels: Sequence[Array], file: Path) -> None:
    """A sheet of images whose best class is wrong, each with its true class and the one it was taken for; no file where
    all are right."""
    if panels:
        write_jpeg(_grid(panels), file)
    else:
        file.unlink(missing_ok=True)  # of an earlier evaluation


def _grid(panels: Sequence[Array]) -> Array:
    """Panels of one size in rows, on paper."""
    height, width = (side + GAP for side in panels[0].shape[:2])
    columns = min(COLUMNS, len(panels))
    sheet = np.full((-(-len(panels) // columns) * height + GAP, columns * width + GAP, 3), PAPER, np.uint8)
    for place, panel in enumerate(panels):
        top, left = place // columns * height + GAP, place % columns * width + GAP
        sheet[top : top + height - GAP, left : left + width - GAP] = panel
    return sheet
