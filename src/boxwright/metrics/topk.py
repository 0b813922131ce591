"""Top-1 and top-5 accuracy of a classifier, overall and by class.

N images, C classes of the model, K = min(5, C)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.errors import printable
from boxwright.metrics.resampling import (
    Intervals,
    Resampled,
    after,
    class_cell,
    class_json,
    draw_weights,
    heading_cell,
    intervals,
    note_lines,
    resamples_for,
    summary_json,
)
from boxwright.metrics.sets import set_lines, set_summaries
from boxwright.types import Classes

MAX_K = 5  # of top-5


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The metrics of a class with images.

    Attributes:
        name: Name of the class.
        images: Number of its images.
        predicted: Number of images for which it is predicted.
        top1: Fraction of its images for which it is predicted.
        top5: Fraction of its images for which it is among the top five.
        precision: Fraction of correct predictions; -1 if it is never predicted.
        taken_for: The class most often predicted instead; "" if there is none.
        times: How often `taken_for` is predicted.
    """

    name: str
    images: int
    predicted: int
    top1: float
    top5: float
    precision: float
    taken_for: str
    times: int


@dataclass(frozen=True, slots=True)
class TopK:
    """The metrics of a classifier.

    Attributes:
        summary: top1 and top5 accuracy, in [0, 1].
        classes: The metrics of classes with images, in label order.
        confusion: (C, C) counts, row = true class, column = predicted class.
        info: Recipe, versions and number of images.
        sets: The title and the metrics of each of several sets that were evaluated together.
        intervals: Intervals of the summary and of each class; None if they were not requested.
    """

    summary: dict[str, float]
    classes: tuple[ClassRow, ...]
    confusion: NDArray[np.int64]
    info: dict[str, object] = field(default_factory=dict)
    sets: tuple[tuple[str, "TopK"], ...] = ()
    intervals: Intervals | None = None

    @property
    def quality(self) -> float:
        """The metric that selects the best checkpoint."""
        return self.summary["top1"]

    @property
    def headline(self) -> str:
        ends = [after(key, self.intervals) for key in ("top1", "top5")]
        return f"top-1 {self.summary['top1']:.4f}{ends[0]}, top-5 {self.summary['top5']:.4f}{ends[1]}"

    def __str__(self) -> str:
        return "\n".join([self.headline, *note_lines(self.intervals), *set_lines(self.sets), "", *self.table()])

    def table(self) -> list[str]:
        """A heading and a line per class."""
        width = max(map(len, ["class", *(row.name for row in self.classes)]))
        ends = self.intervals
        heading = (
            f"{'class':<{width}}  {'top-1':>6}{heading_cell(ends)}  {'top-5':>6}{heading_cell(ends)}  "
            f"{'precision':>9}  {'images':>8}  taken for"
        )
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {row.top1:>6.3f}{class_cell('top1', row.name, ends)}  "
                f"{row.top5:>6.3f}{class_cell('top5', row.name, ends)}  "
                f"{'-' if row.precision < 0 else f'{row.precision:.3f}':>9}  {row.images:>8}  "
                + (f"{row.taken_for} ({row.times})" if row.times else "-")
            )
            for row in self.classes
        ]

    def to_json(self) -> dict[str, object]:
        """Plain values for `metrics.json`."""
        classes = [asdict(row) | class_json(row.name, self.intervals) for row in self.classes]
        ends = summary_json(self.intervals)
        return {**self.info, "summary": self.summary, **ends, "classes": classes, **set_summaries(self.sets)}


def score(
    truth: NDArray[np.int64],
    results: Sequence[Classes],
    names: Sequence[str],
    info: Mapping[str, object] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> TopK:
    """Compute top-1, top-5 and the confusion matrix. Classes with equal scores keep the order of the network.

    Args:
        truth: (N,) the label of each image.
        results: The top-k classes of each image, at least 5 or all.
        names: The C classes of the model.
        info: The content of `TopK.info`.
        groups: (N,) the group of each image, as in `resampling.draw_weights`, for intervals; None for no intervals.
    """
    ranked = _ranked(results)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (truth, ranked[:, 0]), 1)
    in_top5 = (ranked == truth[:, None]).any(1)
    hits = np.bincount(truth, weights=in_top5, minlength=len(names))
    summary = {"top1": float(np.trace(confusion) / len(truth)), "top5": float(in_top5.mean())}
    rows = tuple(_row(label, confusion, hits, names) for label in np.unique(truth).tolist())
    ends = None
    if groups is not None:
        resampled = resample(truth, results, names, draw_weights(groups, resamples_for(len(truth))))
        values = {"top1": {row.name: row.top1 for row in rows}, "top5": {row.name: row.top5 for row in rows}}
        ends = intervals(resampled, summary, values, names, groups)
    return TopK(summary, rows, confusion, dict(info or {}), intervals=ends)


def resample(
    truth: NDArray[np.int64], results: Sequence[Classes], names: Sequence[str], weights: NDArray[np.float32]
) -> Resampled:
    """Top-1 and top-5 of resampled images, overall and by class. weights: as `resampling.draw_weights`."""
    ranked = _ranked(results)
    correct = {"top1": ranked[:, 0] == truth, "top5": (ranked == truth[:, None]).any(1)}
    total, counts = weights.sum(axis=0), _of_classes(weights, truth, len(names))
    summary, classes = {}, {}
    for key, right in correct.items():
        summary[key] = right.astype(np.float64) @ weights / total
        hits = _of_classes(weights * right[:, None], truth, len(names))
        classes[key] = np.divide(hits, counts, out=np.full(counts.shape, np.nan), where=counts > 0).T
    return Resampled(summary, classes)


def _ranked(results: Sequence[Classes]) -> Array:
    """(N, K) labels, best first."""
    return np.stack([result.labels.numpy()[:MAX_K] for result in results])


def _of_classes(weights: Array, truth: NDArray[np.int64], classes: int) -> Array:
    """(N, B) -> (C, B) sums over the images of each class."""
    sums = np.zeros((classes, weights.shape[1]))
    np.add.at(sums, truth, weights)
    return sums


def _row(label: int, confusion: NDArray[np.int64], hits: Array, names: Sequence[str]) -> ClassRow:
    images, predicted = int(confusion[label].sum()), int(confusion[:, label].sum())
    correct = int(confusion[label, label])
    wrong = confusion[label].copy()
    wrong[label] = 0
    other = int(wrong.argmax())
    return ClassRow(
        name=names[label],
        images=images,
        predicted=predicted,
        top1=correct / images,
        top5=float(hits[label]) / images,
        precision=correct / predicted if predicted else -1.0,
        taken_for=names[other] if wrong[other] else "",
        times=int(wrong[other]),
    )
