"""How much AP50 each kind of error costs, as defined by TIDE (arXiv 2008.08115).

N detections, K classes, R recall thresholds
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.json_text import JsonObject
from boxwright.metrics.coco import RECALLS
from boxwright.metrics.matching import ERRORS, Kind, Matches

MENDABLE = (Kind.CLASSIFICATION, Kind.LOCALIZATION)


@dataclass(frozen=True, slots=True)
class ErrorSplit:
    """The errors of a detector.

    Attributes:
        ap50: AP50 in [0, 1]; -1 without objects.
        counts: Number of errors by kind; MISSED counts objects, without those on which another error lies.
        gains: By kind, AP50 with these errors fixed minus `ap50`. A detection with the wrong class or location is
            corrected if its object has no better detection, else dropped; detections of other kinds and missed objects
            are dropped.
        shown: Number of errors by kind with at least the score `threshold`; MISSED counts all objects that are not
            detected with such a score.
        threshold: The minimum score of `shown`.
    """

    ap50: float
    counts: dict[Kind, int]
    gains: dict[Kind, float]
    shown: dict[Kind, int]
    threshold: float

    def to_json(self) -> JsonObject:
        rows = {
            kind.name.lower(): {
                "count": self.counts[kind],
                "ap50_gain": self.gains[kind],
                "count_from_threshold": self.shown[kind],
            }
            for kind in ERRORS
        }
        return {"ap50": self.ap50, "threshold": self.threshold, "kinds": rows}


def split_errors(matches: Matches, threshold: float) -> ErrorSplit:
    """Count the errors, and compute AP50 without those of each kind. threshold: of `ErrorSplit.shown`."""
    found, objects = matches.found, matches.objects
    counted, correct = found.counted, found.kinds == Kind.CORRECT
    labels = objects.labels[objects.kinds != Kind.IGNORED]
    totals = np.bincount(labels, minlength=1)
    order = np.argsort(-found.scores, kind="stable")
    order = order[counted[order]]
    base = mean_ap(order, correct, found.labels, totals)
    gains = {}
    for kind in ERRORS:
        kept, right, classes, positives = order, correct, found.labels, totals
        if kind is Kind.MISSED:
            positives = totals - np.bincount(objects.labels[objects.kinds == Kind.MISSED], minlength=len(totals))
        else:
            mended = np.zeros(len(correct), dtype=bool)
            if kind in MENDABLE:
                mended[objects.detections[objects.kinds == kind]] = True
                right = correct | mended
                classes = classes.copy()
                classes[mended] = objects.labels[found.objects[mended]]
            kept = order[((found.kinds != kind) | mended)[order]]
        gains[kind] = max(0.0, mean_ap(kept, right, classes, positives, totals > 0) - base) if base >= 0 else 0.0
    counts = {kind: int((found.kinds == kind).sum()) for kind in ERRORS}
    shown = {kind: int(((found.kinds == kind) & (found.scores >= threshold)).sum()) for kind in ERRORS}
    counts[Kind.MISSED] = int((objects.kinds == Kind.MISSED).sum())
    shown[Kind.MISSED] = len(labels) - int((correct & (found.scores >= threshold)).sum())
    return ErrorSplit(base, counts, gains, shown, threshold)


def mean_ap(
    order: NDArray[np.int64], correct: Array, labels: Array, totals: Array, classes: Array | None = None
) -> float:
    """The mean AP at one IoU of classes with objects; -1 if there are none.

    Args:
        order: The detections that count, by descending score.
        correct: (N,) whether each detection is correct.
        labels: (N,) class of each detection.
        totals: (K,) number of objects of each class.
        classes: (K,) mask of the classes; None for those with objects. A class without objects has AP 0 if it has
            detections, else it is left out.
    """
    order = order[labels[order] < len(totals)]
    by_class = np.argsort(labels[order], kind="stable")
    rows = order[by_class]
    ends = np.cumsum(np.bincount(labels[rows], minlength=len(totals)))
    values = []
    for label in np.flatnonzero(totals > 0 if classes is None else classes).tolist():
        right = correct[rows[ends[label - 1] if label else 0 : ends[label]]]
        if totals[label]:
            values.append(_average_precision(right, int(totals[label])))
        elif len(right):
            values.append(0.0)
    return float(np.mean(values)) if values else -1.0


def _average_precision(correct: NDArray[np.bool_], total: int) -> float:
    """COCO's AP of one class: the mean of the interpolated precision at `RECALLS`."""
    hits = np.cumsum(correct)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    index = np.searchsorted(hits / total, RECALLS, side="left")
    return float(np.append(precision, 0.0)[index].mean())
