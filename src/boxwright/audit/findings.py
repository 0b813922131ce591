"""Labels that may be wrong, by comparison with the detections of a network that was not trained on the image.

As in ObjectLab (arXiv 2309.00832), each kind of error has its own score. Here all scores are in [0, 1] and computed
from scores of detections, so that all kinds share one ranking. s is the score of a detection; support is the highest
score of a detection of the object's class at an IoU of at least 0.5 with the object.

- missing: no object at IoU 0.5 with the detection. s (1 - 2 IoU) (1 - c), where c is the fraction of the detection that
  lies on one object: a small network often detects parts of an object in addition to the object.
- class: another class at IoU 0.5. s (1 - support).
- location: a detection of the class at an IoU from 0.1 to 0.5 that does not overlap another object as much.
  s (1 - support), which decreases from an IoU of 0.25 to 0 at 0.5.
- spurious: 1 - the highest s near the object, of any class.

A spurious label has an object that was not detected, which may be an error of the network. How often the network misses
objects is measured on all labels of the class (`_trust`).

N detections and M objects of one image
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.dataset import Dataset, Sample
from boxwright.metrics.matching import BACKGROUND_IOU, MIN_IOU, areas, in_regions, intersections, pairwise_iou
from boxwright.types import Detections

ALIKE = 0.25  # insignificant difference of scores
PRIOR = 0.05  # prior fraction of spurious labels


class Kind(StrEnum):
    """The kind of an error: a missing box, a box without an object, a wrong class, or a wrong location."""

    MISSING = "missing"
    SPURIOUS = "spurious"
    CLASS = "class"
    LOCATION = "location"


KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """A label that may be wrong.

    Attributes:
        kind: The kind of error.
        score: Score in (0, 1); higher scores are more certain.
        image: Index of the image.
        row: Row of the box in the data set; -1 for a missing box.
        box: (4,) xyxy px of the detection that the label should match; None for a spurious box.
        label: Class of that detection; -1 for a spurious box.
    """

    kind: Kind
    score: float
    image: int
    row: int
    box: tuple[float, float, float, float] | None
    label: int


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The evidence for label errors in one image.

    Attributes:
        boxes: (N, 4) boxes of the detections, best score first.
        labels: (N,) labels of the detections.
        missing: (N,) scores of missing boxes.
        objects: (M,) rows of the objects in the image.
        classes: (M,) scores of wrong classes.
        places: (M,) scores of wrong locations.
        class_of, place_of: (M,) indices of the detections with these scores.
        empty: (M,) scores of spurious boxes.
    """

    boxes: Array
    labels: NDArray[np.int64]
    missing: NDArray[np.float64]
    objects: NDArray[np.int64]
    classes: NDArray[np.float64]
    places: NDArray[np.float64]
    class_of: NDArray[np.int64]
    place_of: NDArray[np.int64]
    empty: NDArray[np.float64]


def find(dataset: Dataset, results: Sequence[Detections], least: float = 0.0) -> list[Finding]:
    """Find labels that may be wrong, the most certain first.

    Detections in crowd and ignore regions, and of classes that were not looked for, are no evidence. Difficult labels
    are never reported.

    Args:
        dataset: P images with labels.
        results: Detections of each image, with low scores too, by networks that were not trained on it.
        least: Minimum score of a finding.
    """
    samples = [dataset[index] for index in range(len(dataset))]
    found = [_examine(sample, result) for sample, result in zip(samples, results, strict=True)]
    found = _discounted(samples, found)
    findings = []
    for index, (sample, evidence) in enumerate(zip(samples, found, strict=True)):
        findings += _of_image(index, int(dataset.starts[index]), sample, evidence, least)
    return sorted(findings, key=lambda finding: -finding.score)


def _examine(sample: Sample, result: Detections) -> _Evidence:
    order = np.argsort(-result.scores.numpy(force=True), kind="stable")
    boxes = result.boxes.numpy(force=True)[order].astype(np.float64)
    scores = result.scores.numpy(force=True)[order].astype(np.float64)
    labels = result.labels.numpy(force=True)[order]
    objects = np.flatnonzero((sample.labels >= 0) & ~sample.crowd & (areas(sample.boxes) > 0))
    if not len(order):
        nothing, none = np.zeros(len(objects)), np.zeros(len(objects), np.int64)
        return _Evidence(boxes, labels, scores, objects, nothing, nothing, none, none, nothing + 1)
    says = scores * ~in_regions(sample, result, boxes, labels)  # without detections in regions
    iou = pairwise_iou(boxes, sample.boxes[objects])
    same, at = labels[:, None] == sample.labels[objects][None], iou >= MIN_IOU
    support = (scores[:, None] * (same & at)).max(axis=0)
    presence = (scores[:, None] * np.minimum(1, iou / MIN_IOU)).max(axis=0)
    of_others = (says * ~(same & at).any(axis=1))[:, None] * (at & ~same)
    apart = np.clip(2 - 2 * iou / MIN_IOU, 0, 1)  # correct boxes of a small network often have an IoU near 0.5
    nearby = says[:, None] * (same & (iou >= BACKGROUND_IOU)) * apart * _alone(iou)
    classes, places = of_others.max(axis=0) * (1 - support), nearby.max(axis=0) * (1 - support)
    place_of = nearby.argmax(axis=0)
    covered = intersections(boxes, sample.boxes[objects]) / np.maximum(areas(boxes), 1e-9)[:, None]
    missing = says * np.maximum(0, 1 - iou.max(axis=1, initial=0) / MIN_IOU) * (1 - covered.max(axis=1, initial=0))
    # a detection near an object is one finding: a wrong location, or a missing object
    moved = (places > classes) & (places > missing[place_of])
    places = places * moved
    missing[place_of[moved]] = 0
    missing[_repeated(boxes, missing)] = 0
    return _Evidence(boxes, labels, missing, objects, classes, places, of_others.argmax(axis=0), place_of, 1 - presence)


def _alone(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) IoUs -> (N, M) 1 - (the IoU with the best other object, relative to this one), at least 0."""
    best = np.sort(np.concatenate([np.zeros((len(iou), 2)), iou], axis=1), axis=1)[:, -2:]
    others = np.where(iou == best[:, 1:], best[:, :1], best[:, 1:])
    alone: NDArray[np.float64] = np.maximum(0, 1 - others / np.maximum(iou, 1e-9))
    return alone


def _repeated(boxes: Array, missing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) detections that overlap a detection of any class that is more likely a missing box."""
    order = np.argsort(-missing, kind="stable")
    close = np.triu(pairwise_iou(boxes[order], boxes[order]) >= MIN_IOU, 1) & (missing[order] > 0)[:, None]
    repeated = np.zeros(len(boxes), dtype=bool)
    repeated[order] = close.any(axis=0)
    return repeated


def _discounted(samples: Sequence[Sample], found: Sequence[_Evidence]) -> list[_Evidence]:
    """The evidence, with scores of spurious boxes reduced by how often the network misses such objects."""
    labels = np.concatenate([sample.labels[each.objects] for sample, each in zip(samples, found, strict=True)])
    empty = np.concatenate([each.empty for each in found])
    parts = np.split(empty * _trust(empty, labels), np.cumsum([len(each.objects) for each in found])[:-1])
    return [replace(each, empty=part) for each, part in zip(found, parts, strict=True)]


def _trust(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(V,) the weight of each value as evidence for a label error, as opposed to an error of the network.

    PRIOR / (PRIOR + q), where q is the fraction of the other values in its group that are about as high or higher: 1
    for an outlier, and small if many labels have such values.
    """
    trust = np.ones(len(values))
    for label in np.unique(groups).tolist():
        own = values[groups == label]
        others = len(own) - 1 - np.searchsorted(np.sort(own), own - ALIKE, side="left")
        trust[groups == label] = PRIOR / (PRIOR + others / max(1, len(own) - 1))
    return trust


def _of_image(index: int, start: int, sample: Sample, evidence: _Evidence, least: float) -> list[Finding]:
    """The findings of one image: at most one for each object."""
    doubted = ~sample.difficult[evidence.objects]
    kinds = np.stack([evidence.empty, evidence.classes, evidence.places]) * doubted
    best, findings = kinds.argmax(axis=0), []
    scores = np.take_along_axis(kinds, best[None], axis=0)[0] if len(best) else np.zeros(0)
    detections = np.choose(best, [np.full(len(best), -1), evidence.class_of, evidence.place_of])
    named = (Kind.SPURIOUS, Kind.CLASS, Kind.LOCATION)
    for place in np.flatnonzero(scores > least).tolist():
        kind, number = named[best[place]], int(detections[place])
        box = None if number < 0 else tuple(evidence.boxes[number].tolist())
        label = -1 if number < 0 else int(evidence.labels[number])
        row = start + int(evidence.objects[place])
        findings.append(Finding(kind, float(scores[place]), index, row, box, label))
    for number in np.flatnonzero(evidence.missing > least).tolist():
        box, label = tuple(evidence.boxes[number].tolist()), int(evidence.labels[number])
        findings.append(Finding(Kind.MISSING, float(evidence.missing[number]), index, -1, box, label))
    return findings
