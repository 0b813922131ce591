"""Labels that may be wrong, by comparison with the detections of a network that was not trained on the image.

As in ObjectLab (arXiv 2309.00832), each kind of error has a score of its own. Here all are in [0, 1] and made from
scores of detections, so that kinds share one ranking. With s the score of a detection, and support the highest score of
a detection of the object's class at an IoU of at least 0.5 with it:

- missing: no object at IoU 0.5 with the detection. s (1 - 2 IoU) (1 - c), with c the share of the detection that lies
  on one object: a small network often finds a part of an object beside the whole.
- class: another class at IoU 0.5. s (1 - support).
- location: a detection of the class at an IoU from 0.1 to 0.5 that lies on no other object as well. s (1 - support),
  from an IoU of 0.25 on less, to 0 at 0.5.
- spurious: 1 - the highest s near the object, of any class.

The last is about a label whose object was not found, which may be a failure of the network. How often it fails so is
measured on all labels of the class (`_trust`).

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

ALIKE = 0.25  # difference of scores that means little
PRIOR = 0.05  # share of labels that may be spurious, before anything is seen


class Kind(StrEnum):
    """What is wrong: no box, a box where nothing is, the class, or the place."""

    MISSING = "missing"
    SPURIOUS = "spurious"
    CLASS = "class"
    LOCATION = "location"


KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """A label that may be wrong.

    Attributes:
        kind: What is wrong.
        score: In (0, 1), the higher the surer.
        image: Index of the image.
        row: Row of the box in the data set; -1 for a missing box.
        box: (4,) xyxy px of a detection that the label should be like; None for a box where nothing is.
        label: Class of that detection; -1 for a box where nothing is.
    """

    kind: Kind
    score: float
    image: int
    row: int
    box: tuple[float, float, float, float] | None
    label: int


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What detections say of one image.

    Attributes:
        boxes: (N, 4) of the detections, the best score first.
        labels: (N,) of them.
        missing: (N,) scores of missing boxes.
        objects: (M,) rows in the image of the objects.
        classes: (M,) scores of wrong classes.
        places: (M,) scores of wrong places.
        class_of, place_of: (M,) the detections that say so.
        empty: (M,) scores of boxes where nothing is.
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
    """Labels that may be wrong, the surest first.

    Regions say nothing of the objects in them, nobody misses a class that was not looked for, and labels that are
    marked as difficult are not doubted.

    Args:
        dataset: P images with labels.
        results: Detections of each image, with low scores too, by networks that were not trained on it.
        least: The lowest score of a finding.
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
    says = scores * ~in_regions(sample, result, boxes, labels)  # of what is not labeled as it is detected
    iou = pairwise_iou(boxes, sample.boxes[objects])
    same, at = labels[:, None] == sample.labels[objects][None], iou >= MIN_IOU
    support = (scores[:, None] * (same & at)).max(axis=0)
    presence = (scores[:, None] * np.minimum(1, iou / MIN_IOU)).max(axis=0)
    of_others = (says * ~(same & at).any(axis=1))[:, None] * (at & ~same)
    apart = np.clip(2 - 2 * iou / MIN_IOU, 0, 1)  # a small network's own boxes are often near an IoU of 0.5
    nearby = says[:, None] * (same & (iou >= BACKGROUND_IOU)) * apart * _alone(iou)
    classes, places = of_others.max(axis=0) * (1 - support), nearby.max(axis=0) * (1 - support)
    place_of = nearby.argmax(axis=0)
    covered = intersections(boxes, sample.boxes[objects]) / np.maximum(areas(boxes), 1e-9)[:, None]
    missing = says * np.maximum(0, 1 - iou.max(axis=1, initial=0) / MIN_IOU) * (1 - covered.max(axis=1, initial=0))
    # a detection near an object is one finding: the object is at a wrong place, or it is another object
    moved = (places > classes) & (places > missing[place_of])
    places = places * moved
    missing[place_of[moved]] = 0
    missing[_repeated(boxes, missing)] = 0
    return _Evidence(boxes, labels, missing, objects, classes, places, of_others.argmax(axis=0), place_of, 1 - presence)


def _alone(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) IoUs -> (N, M) how much less each detection lies on any other object, from 0 for as much to 1."""
    best = np.sort(np.concatenate([np.zeros((len(iou), 2)), iou], axis=1), axis=1)[:, -2:]
    others = np.where(iou == best[:, 1:], best[:, :1], best[:, 1:])
    alone: NDArray[np.float64] = np.maximum(0, 1 - others / np.maximum(iou, 1e-9))
    return alone


def _repeated(boxes: Array, missing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) detections at the place of another that is more likely a missing box, of whatever class."""
    order = np.argsort(-missing, kind="stable")
    close = np.triu(pairwise_iou(boxes[order], boxes[order]) >= MIN_IOU, 1) & (missing[order] > 0)[:, None]
    repeated = np.zeros(len(boxes), dtype=bool)
    repeated[order] = close.any(axis=0)
    return repeated


def _discounted(samples: Sequence[Sample], found: Sequence[_Evidence]) -> list[_Evidence]:
    """The evidence, with scores of empty places that take into account how often the network misses such objects."""
    labels = np.concatenate([sample.labels[each.objects] for sample, each in zip(samples, found, strict=True)])
    empty = np.concatenate([each.empty for each in found])
    parts = np.split(empty * _trust(empty, labels), np.cumsum([len(each.objects) for each in found])[:-1])
    return [replace(each, empty=part) for each, part in zip(found, parts, strict=True)]


def _trust(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(V,) how far to trust each value that it is an error and no failure of the network.

    PRIOR / (PRIOR + q), with q the share of the other values of its group that are about as high or higher: 1 for one
    that stands out, and little where many labels are so.
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
