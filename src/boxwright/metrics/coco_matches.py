"""The matches of COCO's evaluation: which detections are true positives, which false positives, which ignored.

hotcoco computes the metrics, but returns its matches only as Python objects, which takes twenty times as long as the
metrics. Intervals need all matches.

D detections, C of them with a candidate (a box of their image and class with an IoU of at least 0.5), G boxes of the
ground truth, P pairs of a detection and a candidate, K classes, A = 4 areas, T = 10 IoU thresholds
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array

AREA_RANGES = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])  # px, both ends included
THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100  # per image and class
PAIRS_AT_ONCE = 2_000_000  # pairs of a detection and a box; 200 MB


@dataclass(frozen=True, slots=True)
class Matches:
    """The detections of a data set, sorted by class and descending score, and their matches.

    Attributes:
        images: (D,) the image of each detection, from 0.
        starts: (K + 1,) the first detection of each class.
        in_range: (A, D) whether the detection's own area is in the range.
        candidates: (C,) indices of detections that have a candidate; no other detection is a true positive.
        hits: (A, T, C) true positives.
        ignored: (A, T, C) neither true nor false positives. Detections without a candidate are ignored if they are not
            `in_range`.
        object_images: (G,) the image of each object, without crowd regions.
        object_labels: (G,) the class of each object.
        object_in_range: (A, G) whether the object's area is in the range.
    """

    images: NDArray[np.int64]
    starts: NDArray[np.int64]
    in_range: NDArray[np.bool_]
    candidates: NDArray[np.int64]
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_images: NDArray[np.int64]
    object_labels: NDArray[np.int64]
    object_in_range: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Truth:
    """The boxes of the ground truth.

    Attributes:
        images: (G,) indices of images, from 0.
        labels: (G,) classes.
        boxes: (G, 4) xywh float64 px.
        areas: (G,) px.
        crowd: (G,) crowd regions.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: Array
    areas: Array
    crowd: NDArray[np.bool_]


def match(truth: Truth, results: Array, classes: int) -> Matches:
    """Match detections like COCO's evaluation.

    Args:
        truth: The ground truth, in the order of the images.
        results: (D, 7) float64 rows of image from 1, x, y, width, height, score, category from 1.
        classes: Number of classes, K.
    """
    results = results[_order(results)]
    images, labels, boxes = results[:, 0].astype(np.int64) - 1, results[:, 6].astype(np.int64) - 1, results[:, 1:5]
    detection, candidate, iou = _pairs(truth, images, labels, boxes, classes)
    candidates, of_pair = np.unique(detection, return_inverse=True)
    ranks = ranks_in(images[candidates] * classes + labels[candidates])
    outside = np.array([_outside(truth.areas, ends) for ends in AREA_RANGES])
    in_range = np.array([~_outside(boxes[:, 2] * boxes[:, 3], ends) for ends in AREA_RANGES])
    best = np.lexsort((-candidate, -iou, of_pair, ranks[of_pair]))  # equal IoU: the last box, as in COCO
    number = np.cumsum(np.diff(of_pair[best], prepend=-1) != 0)  # rank of each pair's detection in that order
    shape = (len(AREA_RANGES), len(THRESHOLDS), len(candidates))
    hits, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for area, out in enumerate(outside):
        ignore = truth.crowd | out
        order = best[np.argsort(2 * number + ignore[candidate[best]], kind="stable")]  # ignored boxes last
        matched = _assign(of_pair[order], candidate[order], iou[order], ranks, truth.crowd)
        found = matched >= 0
        on_ignored = np.append(ignore, False)[matched]
        hits[area] = found & ~on_ignored
        ignored[area] = on_ignored | (~found & ~in_range[area, candidates])
    objects = ~truth.crowd
    starts = np.searchsorted(labels, np.arange(classes + 1))
    return Matches(
        images, starts, in_range, candidates, hits, ignored,
        truth.images[objects], truth.labels[objects], ~outside[:, objects],
    )  # fmt: skip


def _order(results: Array) -> NDArray[np.int64]:
    """Order by class, descending score and image; without detections beyond `MAX_DETECTIONS` of an image and class."""
    by_image = np.argsort(results[:, 0], kind="stable")
    by_score = by_image[np.argsort(-results[by_image, 5], kind="stable")]
    order: NDArray[np.int64] = by_score[np.argsort(results[by_score, 6].astype(np.int32), kind="stable")]
    if np.bincount(results[:, 0].astype(np.int64)).max(initial=0) <= MAX_DETECTIONS:
        return order
    group = results[order, 6] * (results[:, 0].max(initial=0) + 1) + results[order, 0]
    return order[ranks_in(group) < MAX_DETECTIONS]


def ranks_in(groups: Array) -> NDArray[np.int64]:
    """(D,) the rank of each element in its group, from 0."""
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=np.nan))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(first, np.diff(np.append(first, len(groups))))
    return ranks


def _outside(areas: Array, ends: Array) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = (areas < ends[0]) | (areas > ends[1])
    return outside


def _pairs(
    truth: Truth, images: Array, labels: Array, boxes: Array, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Each detection with each box of its image and class whose IoU is at least 0.5: (P,) indices of both, and IoU."""
    keys = truth.images * classes + truth.labels
    by_key = np.argsort(keys, kind="stable")
    own = images * classes + labels
    unique, first, number = np.unique(keys[by_key], return_index=True, return_counts=True)
    unique, first, number = np.append(unique, -1), np.append(first, 0), np.append(number, 0)  # for keys without boxes
    at = np.searchsorted(unique[:-1], own)
    at[unique[at] != own] = len(number) - 1
    first, counts = first[at], number[at]
    ends = np.cumsum(counts)
    parts, start = [], 0
    while start < len(own):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + PAIRS_AT_ONCE, "right")))
        count = counts[start:stop]
        detection = np.repeat(np.arange(start, stop), count)
        position = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
        candidate = by_key[first[detection] + position]
        iou = _iou(boxes[detection], truth.boxes[candidate], truth.crowd[candidate])
        near = iou >= THRESHOLDS[0]
        parts.append((detection[near], candidate[near], iou[near]))
        start = stop
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    detection, candidate, iou = (np.concatenate(columns) for columns in zip(empty, *parts, strict=True))
    return detection, candidate, iou


def _iou(detections: Array, boxes: Array, crowd: Array) -> Array:
    """(P, 4), (P, 4) xywh -> (P,) IoU, or the fraction of the detection in a crowd region; rounded like COCO's code."""
    low = np.maximum(detections[:, :2], boxes[:, :2])
    high = np.minimum(detections[:, :2] + detections[:, 2:], boxes[:, :2] + boxes[:, 2:])
    inside = (high - low).clip(min=0).prod(axis=1)
    area = detections[:, 2] * detections[:, 3]
    union = np.where(crowd, area, area + boxes[:, 2] * boxes[:, 3] - inside)
    iou: Array = np.divide(inside, union, out=np.zeros(len(union)), where=union > 0)
    return iou


def _assign(of_pair: Array, candidate: Array, iou: Array, ranks: Array, crowd: Array) -> NDArray[np.int64]:
    """Assign boxes to detections by descending score, at each threshold.

    All images and classes are processed together: first their best detections, then the second-best, and so on.

    Args:
        of_pair: (P,) the detection of each pair, sorted by its rank; its pairs by preference.
        candidate: (P,) the box of each pair.
        iou: (P,) the IoU of each pair.
        ranks: (C,) rank of each detection among those of its image and class that have a candidate.
        crowd: (G,) whether several detections can be assigned to the box.

    Returns:
        (T, C) the box of each detection; -1 for none.
    """
    matched = np.full((len(THRESHOLDS), len(ranks)), -1)
    free = np.ones((len(THRESHOLDS), len(crowd)), np.bool_)
    ends = np.searchsorted(ranks[of_pair], np.arange(int(ranks.max(initial=-1)) + 2))
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        detections, boxes = of_pair[start:stop], candidate[start:stop]
        possible = free[:, boxes] & (iou[start:stop] >= THRESHOLDS[:, None])
        firsts = np.flatnonzero(np.diff(detections, prepend=-1))
        position = np.where(possible, np.arange(stop - start), stop - start)
        chosen = np.minimum.reduceat(position, firsts, axis=1)  # (T, detections of this rank)
        threshold, which = np.nonzero(chosen < stop - start)
        taken = boxes[chosen[threshold, which]]
        matched[threshold, detections[firsts[which]]] = taken
        free[threshold, taken] = crowd[taken]
    return matched
