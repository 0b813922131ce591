"""Plots of a run: loss and metrics, precision-recall curves, the confusion matrix.

N detections and M ground-truth boxes of one image, K classes, R = 101 recall thresholds
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.arrays import Array
from boxwright.data.dataset import Sample
from boxwright.files import atomic_write
from boxwright.images.draw import color
from boxwright.metrics import run_log
from boxwright.metrics.coco import RECALLS, Metrics
from boxwright.metrics.matching import MIN_IOU, areas, intersections, pairwise_iou
from boxwright.types import Detections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text


MAX_CURVES = 12  # classes with their own curve; other classes only count in the mean
MAX_CLASSES = 100  # classes in the confusion matrix; other classes share a row and a column
MAX_LABELED = 25  # classes up to which the confusion matrix shows its counts


def curves(log: Path, file: Path, scores: Sequence[str] = (), title: str = "") -> None:
    """Plot loss terms, learning rate and `scores` (keys of evaluations; () for none) of a run's log, if it exists."""
    if not log.is_file():
        return
    lines = [line for _, line in run_log.read(log)]
    steps = [line for line in lines if "terms" in line]
    evaluations = [line for line in lines if all(name in line for name in scores)]
    figure = new_figure(13 if scores else 9, 4)
    loss, rate, *others = figure.subplots(1, 3 if scores else 2)
    x = [line["step"] for line in steps]
    for name in steps[0]["terms"] if steps else ():
        loss.plot(x, [line["terms"].get(name, np.nan) for line in steps], lw=1, alpha=0.8, label=name)
    loss.plot(x, [line["total"] for line in steps], lw=1.6, color="black", label="sum")
    is_positive = any(line["total"] > 0 for line in steps)  # the loss of a classifier with one class is 0
    loss.set(title="training loss", xlabel="step", yscale="log" if is_positive else "linear")
    rate.plot(x, [line["lr"] for line in steps], lw=1.6, color="tab:gray")
    rate.set(title="learning rate", xlabel="step", ylim=(0, None))
    loss.legend(frameon=False, fontsize=8)
    for quality in others:
        for name, tint in zip(scores, ("tab:blue", "tab:orange"), strict=True):
            epochs, values = [line["epoch"] + 1 for line in evaluations], [line[name] for line in evaluations]
            quality.plot(epochs, values, "o-", ms=3, lw=1.6, color=tint, label=name)
        quality.set(title=title, xlabel="epoch", ylim=(0, 1))
        quality.locator_params(axis="x", integer=True)
        quality.legend(frameon=False, fontsize=8)
    for axes in (loss, rate, *others):
        tidy(axes)
    save(figure, file)


def precision_recall(metrics: Metrics, file: Path) -> None:
    """Plot precision-recall curves at IoU 0.50 for the most frequent classes, and the mean of all classes."""
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    precision = metrics.precision[0]  # (R, K) at IoU 0.50
    valid = [label for label in range(precision.shape[1]) if precision[0, label] > -1]
    shown = sorted(sorted(valid, key=lambda label: -metrics.classes[label].objects)[:MAX_CURVES])
    for label in shown:
        row = metrics.classes[label]
        tint = tuple(channel / 255 for channel in color(label))
        axes.plot(RECALLS, precision[:, label], lw=1.4, color=tint, label=f"{row.name}  {row.ap50:.3f}")
    if valid:
        mean = precision[:, valid].mean(axis=1)
        axes.plot(RECALLS, mean, lw=2.6, color="black", label=f"mean of {len(valid)}  {metrics.ap50:.3f}")
        axes.legend(title="class  AP50", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    axes.set(title="precision over recall at IoU 0.50", xlabel="recall", ylabel="precision")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    tidy(axes)
    save(figure, file)


def shown_classes(metrics: Metrics) -> list[int]:
    """The labels of the confusion matrix: all, or the `MAX_CLASSES` with the most objects, then detections."""
    order = sorted(
        range(len(metrics.classes)),
        key=lambda label: (-metrics.classes[label].objects, -metrics.classes[label].detections),
    )
    return sorted(order[:MAX_CLASSES])


def confusion(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    classes: int,
    threshold: float,
    shown: Sequence[int] = (),
) -> Array:
    """The confusion matrix, (K + 1, K + 1) counts: row = true class, column = predicted class, last = background.

    With `shown`, it has rows and columns for these labels, for all other classes together, if any, and for background.

    A detection is assigned to the ground-truth box of any class with the highest IoU, if that is at least `MIN_IOU`. Of
    the detections assigned to one box, the best-scoring one matches (PASCAL VOC's rule), others are false positives.
    Detections of which at least the fraction `MIN_IOU` is inside a crowd region are ignored, as are unmatched ones of a
    class that was not looked for in the image.

    Args:
        samples: The ground truth.
        detections: The detections of each sample.
        classes: Number of classes K.
        threshold: Minimum score.
        shown: Labels to show, in this order; () for all.
    """
    shown = shown or range(classes)
    number = np.full(classes, len(shown))  # of the row and column of each label
    number[shown] = np.arange(len(shown))
    last = len(shown) + (len(shown) < classes)
    counts = np.zeros((last + 1, last + 1), np.int64)
    for sample, result in zip(samples, detections, strict=True):
        scores = result.scores.numpy(force=True)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        boxes, labels = result.boxes.numpy(force=True)[order], result.labels.numpy(force=True)[order]
        inter, area = intersections(boxes, sample.boxes), areas(boxes)
        overlap = np.where(sample.crowd[None], 0, pairwise_iou(boxes, sample.boxes))
        in_crowd = ((inter * sample.crowd[None]).max(axis=1, initial=0) >= MIN_IOU * area) & sample.crowd.any()
        best = overlap.argmax(axis=1) if overlap.shape[1] else np.zeros(len(boxes), np.int64)
        assigned = np.flatnonzero(overlap.max(axis=1, initial=0) >= MIN_IOU)
        truth, first = np.unique(best[assigned], return_index=True)  # rows are best first, so the first is the match
        matched = assigned[first]
        np.add.at(counts, (number[sample.labels[truth]], number[labels[matched]]), 1)
        missed = np.setdiff1d(np.flatnonzero(~sample.crowd), truth)
        np.add.at(counts, (number[sample.labels[missed]], np.full(len(missed), last)), 1)
        ignored = in_crowd if sample.labeled is None else in_crowd | ~sample.labeled[labels]
        false = np.setdiff1d(np.flatnonzero(~ignored), matched)
        np.add.at(counts, (np.full(len(false), last), number[labels[false]]), 1)
    return counts


def confusion_matrix(counts: Array, rows: Sequence[str], columns: Sequence[str], title: str, file: Path) -> None:
    """Plot `counts` (true, predicted), normalized by row."""
    side = min(16.0, 3.2 + 0.42 * len(columns))
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the row", shrink=0.8)
    small = max(4.0, min(9.0, 400 / len(columns)))
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor", fontsize=small)
    axes.set_yticks(range(len(rows)), rows, fontsize=small)
    disable_math([*axes.get_xticklabels(), *axes.get_yticklabels()])
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    if len(columns) <= MAX_LABELED:
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=small, color=ink if count else "0.75")
    save(figure, file)


def disable_math(texts: Sequence["Text"]) -> None:
    """Show a `$` in names as it is; Matplotlib would parse it as a formula."""
    for text in texts:
        text.set_parse_math(False)


def new_figure(width: float, height: float) -> "Figure":
    """A figure of `width` x `height` inches."""
    from matplotlib.figure import Figure  # slow to import, and not needed for predictions

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: "Axes") -> None:
    """Add a grid, and show names in title and legend as they are."""
    legend = axes.get_legend()
    disable_math([axes.title, *(legend.get_texts() if legend else ())])
    axes.grid(True, lw=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", file: Path) -> None:
    """Save as PNG. A Figure without pyplot uses Agg and need not be closed."""
    with atomic_write(file) as tmp, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # glyphs that the font lacks are drawn as boxes
        figure.savefig(tmp, format="png", dpi=130)
