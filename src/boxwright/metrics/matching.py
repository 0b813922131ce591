"""Which detections are correct at IoU 0.5, and TIDE's kinds of error (arXiv 2008.08115) of the others.

N detections and M objects of one image
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.dataset import Sample
from boxwright.metrics.coco_matches import MAX_DETECTIONS, ranks_in
from boxwright.metrics.regions import class_regions

if TYPE_CHECKING:
    from boxwright.types import Detections

MIN_IOU = 0.5  # of a match
BACKGROUND_IOU = 0.1  # up to which a detection is on background


class Kind(IntEnum):
    """The status of a detection or an object.

    Detections: TIDE's kinds of error, or CORRECT; IGNORED in crowd and ignore regions and for classes that were not
    looked for; NOT_COUNTED beyond the best 100 of a class in an image. An object is CORRECT if it is detected,
    CLASSIFICATION or LOCALIZATION if the best-scoring error on it is of that kind, else MISSED; IGNORED for regions.
    """

    CORRECT = 0
    CLASSIFICATION = 1
    LOCALIZATION = 2
    BOTH = 3
    DUPLICATE = 4
    BACKGROUND = 5
    MISSED = 6
    IGNORED = 7
    NOT_COUNTED = 8


# accessing a member of an enum takes as long as a small NumPy operation
_CORRECT, _CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED, _IGNORED, _NOT_COUNTED = map(
    int, Kind
)
ERRORS = (Kind.CLASSIFICATION, Kind.LOCALIZATION, Kind.BOTH, Kind.DUPLICATE, Kind.BACKGROUND, Kind.MISSED)


@dataclass(frozen=True, slots=True)
class Found:
    """Detections, image by image, the best score first.

    Attributes:
        images: (N,) indices of images.
        boxes: (N, 4) float64 xyxy px.
        scores: (N,) float64.
        labels: (N,) classes.
        kinds: (N,) int8, `Kind`.
        objects: (N,) index in `Objects` of the object that `kinds` refers to, or that overlaps most; -1: none overlaps.
        ious: (N,) IoU with that object.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    kinds: NDArray[np.int8]
    objects: NDArray[np.int64]
    ious: NDArray[np.float64]

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(N,) whether AP counts each detection."""
        counted: NDArray[np.bool_] = self.kinds < Kind.IGNORED
        return counted


@dataclass(frozen=True, slots=True)
class Objects:
    """The ground truth, image by image; regions as well.

    Attributes:
        images: (M,) indices of images.
        boxes: (M, 4) float64 xyxy px.
        labels: (M,) classes.
        kinds: (M,) int8, `Kind`.
        detections: (M,) index in `Found` of the detection that `kinds` refers to; -1: none.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    kinds: NDArray[np.int8]
    detections: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections and ground truth of a data set. images: number of images."""

    found: Found
    objects: Objects
    images: int


def match(samples: Sequence[Sample], detections: Sequence["Detections"]) -> Matches:
    """Match detections to objects, and classify the errors.

    As in COCO's metrics, each detection in the order of scores takes the free object of its class with the highest IoU,
    if that is at least 0.5.

    Args:
        samples: The ground truth, in px of the images.
        detections: The detections of each sample, with the labels of the ground truth.
    """
    found: list[tuple[Array, ...]] = []
    objects: list[tuple[Array, ...]] = []
    first_found = first_object = 0
    for index, (sample, result) in enumerate(zip(samples, detections, strict=True)):
        of_found, of_objects = _match_image(sample, result)
        kinds, rows, ious, order = of_found
        boxes = result.boxes.numpy(force=True)[order].astype(np.float64)
        scores = result.scores.numpy(force=True)[order].astype(np.float64)
        image, rows = np.full(len(order), index), np.where(rows < 0, -1, rows + first_object)
        found.append((image, boxes, scores, result.labels.numpy(force=True)[order], kinds, rows, ious))
        kinds, rows = of_objects
        image, rows = np.full(len(sample), index), np.where(rows < 0, -1, rows + first_found)
        objects.append((image, sample.boxes.astype(np.float64), sample.labels, kinds, rows))
        first_found, first_object = first_found + len(order), first_object + len(sample)
    return Matches(
        Found(*map(np.concatenate, zip(*found, strict=True))),
        Objects(*map(np.concatenate, zip(*objects, strict=True))),
        len(samples),
    )


def _match_image(sample: Sample, result: "Detections") -> tuple[tuple[Array, Array, Array, Array], tuple[Array, Array]]:
    """Kinds, rows of objects (-1: none), IoUs and order of the detections; kinds and detections of the objects."""
    scores, labels = result.scores.numpy(force=True), result.labels.numpy(force=True)
    order = np.argsort(-scores, kind="stable")
    labels, boxes = labels[order], result.boxes.numpy(force=True)[order].astype(np.float64)
    usable = np.flatnonzero((sample.labels >= 0) & ~sample.crowd)
    object_kinds = np.full(len(sample), _IGNORED, np.int8)
    object_kinds[usable] = _MISSED
    object_rows = np.full(len(sample), -1)
    kinds = np.full(len(order), _BACKGROUND, np.int8)
    if len(order) > MAX_DETECTIONS:
        kinds[ranks_in(labels) >= MAX_DETECTIONS] = _NOT_COUNTED
    rows, ious = np.full(len(order), -1), np.zeros(len(order))
    if len(usable) and len(order):
        counted = kinds != _NOT_COUNTED
        overlaps, same = pairwise_iou(boxes, sample.boxes[usable]), labels[:, None] == sample.labels[usable][None]
        of_class = np.where(same & counted[:, None], overlaps, 0)
        matched, taken = _assign(of_class)
        best = _classify(kinds, overlaps, of_class, same, matched)
        ious = np.take_along_axis(overlaps, best[:, None], axis=1)[:, 0]
        rows = np.where(ious > 0, usable[best], -1)
        object_kinds[usable[taken >= 0]] = _CORRECT
        object_rows[usable] = taken
    if len(order) and (sample.crowd.any() or sample.labeled is not None):
        unmatched = (kinds != _CORRECT) & (kinds != _NOT_COUNTED)
        kinds[unmatched & in_regions(sample, result, boxes, labels)] = _IGNORED
    errors = np.flatnonzero((kinds == _CLASSIFICATION) | (kinds == _LOCALIZATION))
    for row in errors[::-1].tolist():  # the best score last, so that it stays
        if object_kinds[rows[row]] != _CORRECT:
            object_kinds[rows[row]], object_rows[rows[row]] = kinds[row], row
    return (kinds, rows, ious, order), (object_kinds, object_rows)


def _assign(of_class: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """IoU of pairs of one class, (N, M) -> the object of each detection and the detection of each object, -1: none."""
    matched, taken = np.full(of_class.shape[0], -1), np.full(of_class.shape[1], -1)
    pairs = np.nonzero(of_class >= MIN_IOU)
    order = np.lexsort((-of_class[pairs], pairs[0]))
    for detection, number in zip(pairs[0][order].tolist(), pairs[1][order].tolist(), strict=True):
        if matched[detection] < 0 and taken[number] < 0:
            matched[detection], taken[number] = number, detection
    return matched, taken


def _classify(
    kinds: NDArray[np.int8], overlaps: Array, of_class: Array, same: Array, matched: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Write TIDE's kinds into `kinds`; returns the column of the object that each refers to."""
    of_others = np.where(same, 0, overlaps)
    best_same, best_other = of_class.argmax(axis=1), of_others.argmax(axis=1)
    best: NDArray[np.int64] = overlaps.argmax(axis=1)
    every = np.arange(len(kinds))
    iou_same, iou_other, iou = of_class[every, best_same], of_others[every, best_other], overlaps[every, best]
    tests = (
        (_CORRECT, matched >= 0, matched),
        (_LOCALIZATION, (iou_same >= BACKGROUND_IOU) & (iou_same <= MIN_IOU), best_same),
        (_CLASSIFICATION, iou_other >= MIN_IOU, best_other),
        (_DUPLICATE, iou_same >= MIN_IOU, best_same),  # whose object is taken, else it would match
        (_BOTH, iou > BACKGROUND_IOU, best),
    )
    open_ = kinds != _NOT_COUNTED
    for kind, holds, column in tests:
        chosen = open_ & holds
        kinds[chosen], best[chosen] = kind, column[chosen]
        open_ &= ~chosen
    return best


def in_regions(sample: Sample, result: "Detections", boxes: Array, labels: Array) -> NDArray[np.bool_]:
    """(N,) whether at least half of each detection lies in a region of its class, as in `coco.score`."""
    regions, region_labels = class_regions(sample, result)
    crowd = sample.crowd & (sample.labels >= 0)
    regions = np.concatenate([sample.boxes[crowd], regions])
    region_labels = np.append(sample.labels[crowd], region_labels)
    inside = intersections(boxes, regions) >= MIN_IOU * np.maximum(areas(boxes), 1e-9)[:, None]
    ignored: NDArray[np.bool_] = (inside & (labels[:, None] == region_labels[None])).any(axis=1)
    return ignored


def pairwise_iou(boxes: Array, others: Array) -> NDArray[np.float64]:
    """(N, 4), (M, 4) xyxy -> IoU (N, M)."""
    inter = intersections(boxes, others)
    iou: NDArray[np.float64] = inter / np.maximum(areas(boxes)[:, None] + areas(others)[None] - inter, 1e-9)
    return iou


def intersections(boxes: Array, others: Array) -> NDArray[np.float64]:
    """(N, 4), (M, 4) xyxy px -> areas (N, M) px."""
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    width = np.minimum(boxes[:, None, 2], others[None, :, 2]) - np.maximum(boxes[:, None, 0], others[None, :, 0])
    height = np.minimum(boxes[:, None, 3], others[None, :, 3]) - np.maximum(boxes[:, None, 1], others[None, :, 1])
    inter: NDArray[np.float64] = np.maximum(width, 0) * np.maximum(height, 0)
    return inter


def areas(boxes: Array) -> NDArray[np.float64]:
    """(N, 4) xyxy px -> areas (N,) in px."""
    sides: NDArray[np.float64] = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
    product: NDArray[np.float64] = np.prod(sides, axis=1)
    return product
