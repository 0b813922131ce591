"""Top-1 and top-5 accuracy of a classifier, overall and by class.

N images, C classes of the model, K = min(5, C)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.errors import printable
from boxwright.metrics.sets import set_lines, set_summaries
from boxwright.types import Classes

MAX_K = 5  # of top-5


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The metrics of a class with images.

    Attributes:
        name: Of the class.
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
        classes: Those with images, in label order.
        confusion: (C, C) counts, row = true class, column = predicted class.
        info: Recipe, versions and number of images.
        sets: Of several sets evaluated together: the title and the metrics of each.
    """

    summary: dict[str, float]
    classes: tuple[ClassRow, ...]
    confusion: NDArray[np.int64]
    info: dict[str, object] = field(default_factory=dict)
    sets: tuple[tuple[str, "TopK"], ...] = ()

    @property
    def quality(self) -> float:
        """The metric that selects the best checkpoint."""
        return self.summary["top1"]

    @property
    def headline(self) -> str:
        return f"top-1 {self.summary['top1']:.4f}, top-5 {self.summary['top5']:.4f}"

    def __str__(self) -> str:
        return "\n".join([self.headline, *set_lines(self.sets), "", *self.table()])

    def table(self) -> list[str]:
        """A heading and a line per class."""
        width = max(map(len, ["class", *(row.name for row in self.classes)]))
        heading = f"{'class':<{width}}  {'top-1':>6}  {'top-5':>6}  {'precision':>9}  {'images':>8}  taken for"
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {row.top1:>6.3f}  {row.top5:>6.3f}  "
                f"{'-' if row.precision < 0 else f'{row.precision:.3f}':>9}  {row.images:>8}  "
                + (f"{row.taken_for} ({row.times})" if row.times else "-")
            )
            for row in self.classes
        ]

    def to_json(self) -> dict[str, object]:
        """Plain values for `metrics.json`."""
        classes = [asdict(row) for row in self.classes]
        return {**self.info, "summary": self.summary, "classes": classes, **set_summaries(self.sets)}


def score(
    truth: NDArray[np.int64], results: Sequence[Classes], names: Sequence[str], info: Mapping[str, object] | None = None
) -> TopK:
    """Compute top-1, top-5 and the confusion matrix. Classes with equal scores keep the order of the network.

    Args:
        truth: (N,) the label of each image.
        results: The top-k classes of each image, at least 5 or all.
        names: The C classes of the model.
        info: For `TopK.info`.
    """
    ranked = np.stack([result.labels.numpy()[:MAX_K] for result in results])  # (N, K)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (truth, ranked[:, 0]), 1)
    in_top5 = (ranked == truth[:, None]).any(1)
    hits = np.bincount(truth, weights=in_top5, minlength=len(names))
    summary = {"top1": float(np.trace(confusion) / len(truth)), "top5": float(in_top5.mean())}
    rows = tuple(_row(label, confusion, hits, names) for label in np.unique(truth).tolist())
    return TopK(summary, rows, confusion, dict(info or {}))


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
