"""How often a classifier is right: top-1, top-5, and class by class.

N images, K best classes of each (at most 5), C classes of the model
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import printable
from boxwright.types import Classes

MAX_K = 5  # classes of an image that count for the second number


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class that images show. images: how many show it. predicted: how many have it as their best class.

    top1, top5: the share of its images that have it as their best, or among their best five. precision: the share of
    those predicted that show it, -1 where none is. taken_for: the wrong class most often best on its images, "" where
    none is, and how often.
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
    """What an evaluation found.

    summary: top1 and top5, shares of all images. classes: one entry a class that images show, in label order.
    confusion: (C, C) counts, row = true class, column = best class. info: how it was measured.
    """

    summary: dict[str, float]
    classes: tuple[ClassRow, ...]
    confusion: NDArray[np.int64]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """By what the best network of a training is chosen."""
        return self.summary["top1"]

    @property
    def headline(self) -> str:
        return f"top-1 {self.summary['top1']:.4f}, top-5 {self.summary['top5']:.4f}"

    def __str__(self) -> str:
        return "\n".join([self.headline, "", *self.table()])

    def table(self) -> list[str]:
        """One line a class under a heading, as plain text."""
        width = max(len(row.name) for row in (*self.classes, _HEAD))
        heading = f"{_HEAD.name:<{width}}  {'top-1':>6}  {'top-5':>6}  {'precision':>9}  {'images':>8}  taken for"
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {row.top1:>6.3f}  {row.top5:>6.3f}  "
                f"{'-' if row.precision < 0 else f'{row.precision:.3f}':>9}  {row.images:>8}  "
                + (f"{row.taken_for} ({row.times})" if row.times else "-")
            )
            for row in self.classes
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `metrics.json`."""
        return {**self.info, "summary": self.summary, "classes": [asdict(row) for row in self.classes]}


_HEAD = ClassRow("class", 0, 0, 0, 0, 0, "", 0)


def score(
    truth: NDArray[np.int64],
    found: Sequence[Classes],
    names: Sequence[str],
    info: Mapping[str, Any] | None = None,
) -> TopK:
    """truth (N,): the label of each image among the model's C `names`; found: its best classes, at least 5 or all.

    Of classes with equal scores that comes first which the network put first.
    """
    ranked = np.stack([one.labels.numpy()[:MAX_K] for one in found])  # (N, K)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (truth, ranked[:, 0]), 1)
    within = (ranked == truth[:, None]).any(1)
    hits = np.bincount(truth, weights=within, minlength=len(names))
    summary = {"top1": float(np.trace(confusion) / len(truth)), "top5": float(within.mean())}
    rows = tuple(_row(label, confusion, hits, names) for label in np.unique(truth).tolist())
    return TopK(summary, rows, confusion, dict(info or {}))


def _row(label: int, confusion: NDArray[np.int64], hits: NDArray[Any], names: Sequence[str]) -> ClassRow:
    images, predicted = int(confusion[label].sum()), int(confusion[:, label].sum())
    right = int(confusion[label, label])
    wrong = confusion[label].copy()
    wrong[label] = 0
    other = int(wrong.argmax())
    return ClassRow(
        name=names[label],
        images=images,
        predicted=predicted,
        top1=right / images,
        top5=float(hits[label]) / images,
        precision=right / predicted if predicted else -1.0,
        taken_for=names[other] if wrong[other] else "",
        times=int(wrong[other]),
    )
