"""PASCAL VOC's average precision, as in DOTA's task 2: at one IoU, per class, `difficult` objects ignored.

N detections and M ground-truth boxes of one class, K classes
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.arrays import Array
from boxwright.data.dataset import Sample
from boxwright.errors import printable
from boxwright.json_text import JsonObject
from boxwright.metrics.coco import cell
from boxwright.metrics.regions import class_regions
from boxwright.metrics.resampling import (
    Intervals,
    Resampled,
    class_cell,
    class_json,
    draw_weights,
    heading_cell,
    intervals,
    mean_of_valid,
    note_lines,
    resamples_for,
    summary_json,
)
from boxwright.ops.iou import pairwise_iou
from boxwright.types import Detections

CHUNK = 512  # detections, sorted by x, that are compared with the boxes in their range at a time


@dataclass(frozen=True, slots=True)
class ClassAP:
    """The metrics of a class, in [0, 1]; -1 if it has no objects.

    Attributes:
        name: Name of the class.
        ap07: 11-point interpolated AP (VOC 2007).
        ap12: Area under the interpolated precision-recall curve (VOC 2010 and later).
        recall: Fraction of the objects that are detected at any score.
        objects: Number of ground-truth boxes.
        ignored: Number of ignored boxes (difficult, crowd).
        detections: Number of detections.
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
    """The VOC metrics of a detector. classes: in label order. info, intervals: as in `coco.Metrics`."""

    classes: tuple[ClassAP, ...]
    info: JsonObject = field(default_factory=dict)
    intervals: Intervals | None = None

    @property
    def ap07(self) -> float:
        """Mean VOC 2007 AP over the classes with objects; -1 if there are none."""
        return self._mean("ap07")

    @property
    def ap12(self) -> float:
        """Mean VOC 2012 AP over the classes with objects; -1 if there are none."""
        return self._mean("ap12")

    def __str__(self) -> str:
        return "\n".join([*self.table(), *note_lines(self.intervals)])

    def table(self) -> list[str]:
        """A heading, a line per class, and their mean."""
        counts = [sum(getattr(row, name) for row in self.classes) for name in ("objects", "ignored", "detections")]
        mean = ClassAP("mean", self.ap07, self.ap12, self._mean("recall"), *counts)
        width = max(len("class"), *(len(row.name) for row in (*self.classes, mean)))
        ends = self.intervals
        heading = (
            f"{'class':<{width}}  {'VOC07':>6}{heading_cell(ends)}  {'VOC12':>6}{heading_cell(ends)}  {'recall':>6}  "
            f"{'objects':>7}  ignored  detections"
        )
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {cell(row.ap07)}{class_cell('ap07', row.name, ends)}  "
                f"{cell(row.ap12)}{class_cell('ap12', row.name, ends)}  {cell(row.recall)}  "
                f"{row.objects:>7}  {row.ignored:>7}  {row.detections:>10}"
            )
            for row, ends in [*((row, self.intervals) for row in self.classes), (mean, self._ends_of_mean())]
        ]

    def _ends_of_mean(self) -> Intervals | None:
        """The intervals of the mean, as those of a class `mean`, the last line of the table."""
        ends = self.intervals
        pairs = (("ap07", "VOC07"), ("ap12", "VOC12"))
        rows = {key: {"mean": ends.summary[name]} for key, name in pairs if name in ends.summary} if ends else {}
        return ends and replace(ends, classes=rows)

    def to_json(self) -> JsonObject:
        """The content of a JSON file."""
        rows = [
            {name: getattr(row, name) for name in ClassAP.__slots__} | class_json(row.name, self.intervals)
            for row in self.classes
        ]
        return {**self.info, "summary": self.summary, **summary_json(self.intervals), "classes": rows}

    @property
    def summary(self) -> dict[str, float]:
        return {"VOC07": self.ap07, "VOC12": self.ap12}

    def _mean(self, name: str) -> float:
        values = [getattr(row, name) for row in self.classes if row.objects]
        return sum(values) / len(values) if values else -1.0


def score(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    names: Sequence[str],
    iou: float = 0.5,
    plus_one: bool = False,
    info: Mapping[str, object] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> VocMetrics:
    """Compute the VOC metrics.

    A detection is assigned to the ground-truth box of its class with the highest IoU, if that is at least `iou`. Of the
    detections assigned to an object, the best-scoring one is a true positive and the rest are false positives, as are
    unassigned ones. Difficult objects and the detections assigned to them are ignored, as are crowd regions and
    unassigned detections that lie in one with at least the fraction `iou`; and so are those of `class_regions`.

    Args:
        samples: The ground truth, with labels 0 to K - 1.
        detections: The detections of each sample, in the same px.
        names: The class names.
        iou: Minimum IoU.
        plus_one: Boxes include their right and bottom px, as in the development kits of VOC and DOTA, whose coordinates
            are pixel indices. Increases the IoU of small boxes.
        info: The content of `VocMetrics.info`.
        groups: The group of each sample, as in `resampling.draw_weights`, for intervals; None for no intervals.
    """
    regions = [class_regions(sample, result) for sample, result in zip(samples, detections, strict=True)]
    found = [_class(samples, regions, detections, label, name, iou, plus_one) for label, name in enumerate(names)]
    metrics = VocMetrics(tuple(row for row, _ in found), dict(info or {}))
    if groups is None:
        return metrics
    weights = draw_weights(groups, resamples_for(sum(map(len, detections))))
    resampled = _resample([ranked for _, ranked in found], weights)
    values = {key: {row.name: getattr(row, key) for row in metrics.classes} for key in resampled.classes}
    return replace(metrics, intervals=intervals(resampled, metrics.summary, values, names, groups))


class _Ranked(NamedTuple):
    """The ranking of one class: (N,) the sample of each detection that counts, best score first, and whether it is a
    true positive; (M,) the sample of each object that counts."""

    samples: NDArray[np.int64]
    correct: NDArray[np.bool_]
    objects: NDArray[np.int64]


def _resample(ranked: Sequence[_Ranked], weights: NDArray[np.float32]) -> Resampled:
    """AP of resamples: each detection is repeated as often as its sample is drawn. weights: (samples, B)."""
    values = np.full((2, weights.shape[1], len(ranked)), math.nan)
    drawn = weights.astype(np.int64)
    for label, of_class in enumerate(ranked):
        totals = drawn[of_class.objects].sum(axis=0)
        for column in np.flatnonzero(totals).tolist():
            correct = np.repeat(of_class.correct, drawn[of_class.samples, column])
            values[:, column, label] = average_precision(correct, int(totals[column]))
    summary = {"VOC07": mean_of_valid(values[0]), "VOC12": mean_of_valid(values[1])}
    return Resampled(summary, {"ap07": values[0], "ap12": values[1]})


def average_precision(correct: Array, objects: int) -> tuple[float, float]:
    """AP of VOC 2007 and of VOC 2012.

    Args:
        correct: (N,) bool, whether each detection, best score first, is a true positive.
        objects: Number of objects, at least 1.
    """
    true_positives = np.cumsum(correct)
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    # The ranks where each tenth of recall is reached, in integers: with floats, 3 of 10 would be below 0.3.
    ranks = np.searchsorted(10 * true_positives, np.arange(11) * objects)
    ap07 = np.append(interpolated, 0.0)[ranks].sum() / 11
    return float(ap07), float(interpolated[correct].sum() / objects)


def _class(
    samples: Sequence[Sample],
    regions: Sequence[tuple[Array, Array]],
    detections: Sequence[Detections],
    label: int,
    name: str,
    iou: float,
    plus_one: bool,
) -> tuple[ClassAP, _Ranked]:
    """The metrics of one class. Objects are numbered across all samples."""
    scores, matches = [np.zeros(0)], [np.zeros(0, np.int64)]
    ignored = [np.zeros(0, np.bool_)]
    offset = crowds = 0
    origins, owners = [], []  # the sample of each detection and of each object
    for index, (sample, (areas, labels), result) in enumerate(zip(samples, regions, detections, strict=True)):
        truth, of_class = (sample.labels == label) & ~sample.crowd, result.labels == label
        scores.append(result.scores[of_class].numpy(force=True))
        match = _match(result.boxes[of_class], sample.boxes[truth], iou, plus_one)
        in_crowd = (sample.labels == label) & sample.crowd
        areas = np.concatenate([sample.boxes[in_crowd], areas[labels == label]])
        inside = _match(result.boxes[of_class], areas, iou, plus_one, crowd=True) >= 0
        matches.append(np.where(match >= 0, match + offset, np.where(inside, -2, -1)))
        ignored.append(sample.difficult[truth])
        origins.append(np.full(len(match), index))
        owners.append(np.full(int(truth.sum()), index))
        offset, crowds = offset + int(truth.sum()), crowds + int(in_crowd.sum())
    score, match, ignore = np.concatenate(scores), np.concatenate(matches), np.concatenate(ignored)
    order = np.argsort(-score, kind="stable")
    order = order[match[order] > -2]  # without detections in a crowd region
    order = order[~np.append(ignore, False)[match[order]]]  # keeps unmatched ones: -1 indexes the appended element
    match = match[order]
    correct = np.zeros(len(match), np.bool_)
    objects, first = np.unique(match, return_index=True)
    correct[first[objects >= 0]] = True
    total, none = int((~ignore).sum()), np.zeros(0, np.int64)
    ranked = _Ranked(np.concatenate([none, *origins])[order], correct, np.concatenate([none, *owners])[~ignore])
    if not total:
        return ClassAP(name, -1.0, -1.0, -1.0, 0, len(ignore) + crowds, len(score)), ranked
    ap07, ap12 = average_precision(correct, total)
    row = ClassAP(name, ap07, ap12, int(correct.sum()) / total, total, int(ignore.sum()) + crowds, len(score))
    return row, ranked


def _match(boxes: Tensor, ground_truth: Array, iou: float, plus_one: bool, crowd: bool = False) -> Array:
    """(N, 4), (M, 4) -> (N,) int64: the ground-truth box with the highest IoU, -1 if that is less than `iou` > 0.

    crowd: the fraction inside counts instead of the IoU.
    """
    boxes, truth = boxes.double().cpu(), torch.from_numpy(ground_truth).double()
    matches = torch.full((len(boxes),), -1)
    order = boxes[:, 0].argsort()
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        chunk = boxes[rows]
        in_range = (truth[:, 2] + 1 >= chunk[:, 0].amin()) & (truth[:, 0] <= chunk[:, 2].amax() + 1)  # for plus_one
        near = in_range.nonzero()[:, 0]
        if len(near):
            are_crowd = near.new_ones(len(near), dtype=torch.bool) if crowd else None
            max_iou, best = pairwise_iou(chunk, truth[near], plus_one, are_crowd).max(dim=1)
            matches[rows] = torch.where(max_iou >= iou, near[best], -1)
    return matches.numpy()
