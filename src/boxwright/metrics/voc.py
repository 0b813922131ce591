"""PASCAL VOC's average precision, as DOTA's task 2 asks for it: one overlap, by class, `difficult` objects left out.

I images (or whole scenes), N detections and M true boxes of one class, K classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.data.dataset import Sample
from boxwright.errors import printable
from boxwright.metrics.coco import cell
from boxwright.ops.iou import pairwise_iou
from boxwright.types import Detections

Array = np.ndarray[Any, np.dtype[Any]]
TOGETHER = 512  # detections, from left to right, that are compared with the objects in their reach


@dataclass(frozen=True, slots=True)
class ClassAP:
    """One class. ap07, ap12 and recall in [0, 1], -1 where there is no object to find.

    ap07: mean of the best precision from each of the recalls 0, 0.1, ... 1 on (VOC 2007). ap12: area under the
    precision that never rises with recall (VOC 2010 and later). recall: share of the objects found at any score.
    objects: true boxes that count. ignored: those that do not (difficult, crowd). detections: all that were given.
    """

    name: str
    ap07: float
    ap12: float
    recall: float
    objects: int
    ignored: int
    detections: int


@dataclass(frozen=True, slots=True)
class VocMetrics:
    """classes: one entry a class, in label order. info: how it was measured."""

    classes: tuple[ClassAP, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def ap07(self) -> float:
        """Mean over the classes with objects, -1 where there is none."""
        return self._mean("ap07")

    @property
    def ap12(self) -> float:
        """Mean over the classes with objects, -1 where there is none."""
        return self._mean("ap12")

    def __str__(self) -> str:
        return "\n".join(self.table())

    def table(self) -> list[str]:
        """One line a class and one for their mean under a heading, as plain text."""
        counts = [sum(getattr(row, name) for row in self.classes) for name in ("objects", "ignored", "detections")]
        mean = ClassAP("mean", self.ap07, self.ap12, self._mean("recall"), *counts)
        width = max(len("class"), *(len(row.name) for row in (*self.classes, mean)))
        heading = f"{'class':<{width}}  {'VOC07':>6}  {'VOC12':>6}  {'recall':>6}  {'objects':>7}  ignored  detections"
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {cell(row.ap07)}  {cell(row.ap12)}  {cell(row.recall)}  "
                f"{row.objects:>7}  {row.ignored:>7}  {row.detections:>10}"
            )
            for row in (*self.classes, mean)
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [{name: getattr(row, name) for name in ClassAP.__slots__} for row in self.classes]
        return {**self.info, "summary": {"VOC07": self.ap07, "VOC12": self.ap12}, "classes": rows}

    def _mean(self, name: str) -> float:
        known = [getattr(row, name) for row in self.classes if row.objects]
        return sum(known) / len(known) if known else -1.0


def score(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    names: Sequence[str],
    iou: float = 0.5,
    plus_one: bool = False,
    info: Mapping[str, Any] | None = None,
) -> VocMetrics:
    """VOC's numbers for `detections`, one entry a sample, both in the same px with labels 0 to K - 1.

    A detection belongs to the true box of its class that it overlaps most, if by `iou` or more. Of those that belong
    to one object the best scored finds it, and the others are wrong, as are those that belong to none. What belongs
    to a difficult object or a crowd region counts nowhere, and neither do these.

    plus_one: a box's right and lower px belong to it, as in the development kits of VOC and DOTA, whose coordinates
    name whole pixels. Small boxes overlap more by this.
    """
    classes = tuple(_class(samples, detections, label, name, iou, plus_one) for label, name in enumerate(names))
    return VocMetrics(classes, dict(info or {}))


def average_precision(right: Array, objects: int) -> tuple[float, float]:
    """VOC 2007's and VOC 2012's number.

    right (N,) bool: whether each detection, best score first, finds an object; of `objects` >= 1 in all.
    """
    found = np.cumsum(right)
    precision = found / np.arange(1, len(found) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # from each rank on
    # The rank where a tenth of the recall is reached, in whole numbers: 3 of 10 are 0.3, which floats deny.
    ranks = np.searchsorted(10 * found, np.arange(11) * objects)
    ap07 = np.append(best, 0.0)[ranks].sum() / 11
    return float(ap07), float(best[right].sum() / objects)


def _class(
    samples: Sequence[Sample], detections: Sequence[Detections], label: int, name: str, iou: float, plus_one: bool
) -> ClassAP:
    """Everything about one class. A true box's number counts through all images."""
    scores, owners = [np.zeros(0)], [np.zeros(0, np.int64)]
    ignored = [np.zeros(0, np.bool_)]
    before = 0
    for sample, given in zip(samples, detections, strict=True):
        true, mine = sample.labels == label, given.labels == label
        scores.append(given.scores[mine].numpy(force=True))
        owner = _owners(given.boxes[mine], torch.from_numpy(sample.boxes[true]), iou, plus_one).numpy()
        owners.append(np.where(owner < 0, -1, owner + before))
        ignored.append((sample.difficult | sample.crowd)[true])
        before += int(true.sum())
    score, owner, ignore = np.concatenate(scores), np.concatenate(owners), np.concatenate(ignored)
    owner = owner[np.argsort(-score, kind="stable")]
    owner = owner[~np.append(ignore, False)[owner]]  # -1, no true box, is the last: it stays
    right = np.zeros(len(owner), np.bool_)
    objects, first = np.unique(owner, return_index=True)
    right[first[objects >= 0]] = True
    total = int((~ignore).sum())
    if not total:
        return ClassAP(name, -1.0, -1.0, -1.0, 0, len(ignore), len(score))
    ap07, ap12 = average_precision(right, total)
    return ClassAP(name, ap07, ap12, int(right.sum()) / total, total, int(ignore.sum()), len(score))


def _owners(boxes: Tensor, true: Tensor, iou: float, plus_one: bool) -> Tensor:
    """(N, 4), (M, 4) -> (N,) int64: the true box that each overlaps most, -1 where by less than `iou`, above 0."""
    boxes, true = boxes.double().cpu(), true.double()
    owners = torch.full((len(boxes),), -1)
    order = boxes[:, 0].argsort()
    for start in range(0, len(order), TOGETHER):
        part = order[start : start + TOGETHER]
        some = boxes[part]
        reach = (true[:, 2] + 1 >= some[:, 0].amin()) & (true[:, 0] <= some[:, 2].amax() + 1)  # with both end pixels
        near = reach.nonzero()[:, 0]
        if len(near):
            most, best = pairwise_iou(some, true[near], plus_one).max(dim=1)
            owners[part] = torch.where(most >= iou, near[best], -1)
    return owners
