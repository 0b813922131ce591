"""Plots of a classifier's evaluation: the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.metrics.plots import confusion_matrix
from boxwright.metrics.topk import TopK

MAX_CLASSES = 60  # in the confusion matrix; if there are more, those with the most errors


def confusion(metrics: TopK, names: Sequence[str], file: Path) -> None:
    """Plot the confusion matrix of the classes that occur or were predicted, at most MAX_CLASSES.

    If there are more, the last column counts predictions of all other classes.
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
