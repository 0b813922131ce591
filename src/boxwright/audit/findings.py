"""Labels that may be wrong, by comparison with the detections of a network that was not trained on the image.

As in ObjectLab (arXiv 2309.00832), each kind of error has a score of its own, from what the detections say; here it is
an estimate of the probability that the label is wrong, so that kinds share one ranking. With s the score of a
detection, and support the highest score of a detection of the object's class at an IoU of at least 0.5 with it:

- missing: no object at IoU 0.5 with the detection. s, less where it partly lies on an object that has support.
- class: another class at IoU 0.5, with a higher score than support. s (1 - support).
- location: no support, but a detection of the class at an IoU from 0.1 to 0.5 that no other object explains. s.
- spurious: nothing at the place, not even with a low score, where most objects of the class are found.

N detections and M objects of one image
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.dataset import Dataset, Sample
from boxwright.metrics.matching import BACKGROUND_IOU, MIN_IOU, areas, in_regions, pairwise_iou
from boxwright.types import Detections


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
        presence: (M,) how surely something is at the place.
    """

    boxes: Array
    labels: NDArray[np.int64]
    missing: NDArray[np.float64]
    objects: NDArray[np.int64]
    classes: NDArray[np.float64]
    places: NDArray[np.float64]
    class_of: NDArray[np.int64]
    place_of: NDArray[np.int64]
    presence: NDArray[np.float64]


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
    expected = _expected_presence(dataset, found)
    findings = []
    for index, (sample, evidence) in enumerate(zip(samples, found, strict=True)):
        findings += _of_image(index, int(dataset.starts[index]), sample, evidence, expected, least)
    return sorted(findings, key=lambda finding: -finding.score)


def _examine(sample: Sample, result: Detections) -> _Evidence:
    order = np.argsort(-result.scores.numpy(force=True), kind="stable")
    boxes = result.boxes.numpy(force=True)[order].astype(np.float64)
    scores = result.scores.numpy(force=True)[order].astype(np.float64)
    labels = result.labels.numpy(force=True)[order]
    objects = np.flatnonzero((sample.labels >= 0) & ~sample.crowd & (areas(sample.boxes) > 0))
    if not len(order):
        nothing, none = np.zeros(len(objects)), np.zeros(len(objects), np.int64)
        return _Evidence(boxes, labels, scores, objects, nothing, nothing, none, none, nothing)
    says = scores * ~in_regions(sample, result, boxes, labels)  # of what is not labeled as it is detected
    iou = pairwise_iou(boxes, sample.boxes[objects])
    same, at = labels[:, None] == sample.labels[objects][None], iou >= MIN_IOU
    support = (scores[:, None] * (same & at)).max(axis=0)
    presence = (scores[:, None] * np.minimum(1, iou / MIN_IOU)).max(axis=0)
    free = ~at.any(axis=1)  # detections that no object explains
    of_others = says[:, None] * (at & ~same)
    nearby = (says * free)[:, None] * (same & (iou >= BACKGROUND_IOU))
    classes, places = of_others.max(axis=0) * (1 - support), nearby.max(axis=0) * (1 - support)
    place_of = nearby.argmax(axis=0)
    used = np.zeros(len(order), dtype=bool)
    used[place_of[places > classes]] = True
    on_objects = (iou * support[None]).max(axis=1, initial=0)
    missing = says * free * ~used * np.maximum(0, 1 - on_objects / MIN_IOU)
    missing[_repeated(boxes, missing)] = 0
    return _Evidence(boxes, labels, missing, objects, classes, places, of_others.argmax(axis=0), place_of, presence)


def _repeated(boxes: Array, missing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) detections at the place of another that is more likely a missing box, of whatever class."""
    order = np.argsort(-missing, kind="stable")
    close = np.triu(pairwise_iou(boxes[order], boxes[order]) >= MIN_IOU, 1) & (missing[order] > 0)[:, None]
    repeated = np.zeros(len(boxes), dtype=bool)
    repeated[order] = close.any(axis=0)
    return repeated


def _expected_presence(dataset: Dataset, found: Sequence[_Evidence]) -> NDArray[np.float64]:
    """(K,) the mean `presence` of the objects of each class, 0 for one without objects."""
    rows = np.concatenate(
        [each.objects + start for each, start in zip(found, dataset.starts.tolist(), strict=False)]
    ).astype(np.int64)
    presence, labels = np.concatenate([each.presence for each in found]), dataset.rows.labels[rows]
    counts = np.bincount(labels, minlength=len(dataset.names))
    expected: NDArray[np.float64] = np.bincount(labels, presence, len(dataset.names)) / np.maximum(counts, 1)
    return expected


def _of_image(
    index: int, start: int, sample: Sample, evidence: _Evidence, expected: NDArray[np.float64], least: float
) -> list[Finding]:
    """The findings of one image: at most one for each object."""
    doubted = ~sample.difficult[evidence.objects]
    labels = sample.labels[evidence.objects]
    kinds = np.stack([(1 - evidence.presence) * expected[labels], evidence.classes, evidence.places]) * doubted
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
