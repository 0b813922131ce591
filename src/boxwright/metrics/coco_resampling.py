"""Average precision on resampled images, from the matches of one evaluation and the weights of the images.

An image that is drawn w times counts as w equal images, so nothing is matched again: a resample changes only how often
each detection and each object counts. The result is exactly that of an evaluation of the resampled images.

N images, B resamples, K classes, A = 4 areas, T = 10 IoU thresholds, R = 101 recalls; in one class and area: P
detections that are a true positive or ignored at some threshold, H of them true positives at one threshold
"""

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from boxwright.arrays import Array
from boxwright.metrics.coco_matches import AREA_RANGES, Matches
from boxwright.metrics.resampling import Resampled, mean_of_valid

RECALLS = np.linspace(0, 1, 101)
# Hundredths whose value in RECALLS is rounded up: a recall of exactly this hundredth does not reach it.
ROUNDED_UP = np.arange(101) / 100 < RECALLS
EXACT_IN_FLOAT32 = 20_000  # objects of a class up to which float32 separates 100 times a recall from the next integer
ELEMENTS_AT_ONCE = 2_000_000  # true positives of a class at all thresholds, times resamples
AREA_KEYS = ("AP", "AP_small", "AP_medium", "AP_large")  # of AREA_RANGES
ALL = 0


def resample(matches: Matches, weights: NDArray[np.float32]) -> Resampled:
    """AP, AP50, AP75 and AP by area of each resample, and AP and AP50 of each class.

    Args:
        matches: The matches of one model on N images.
        weights: (N, B) how often each image is in each resample.
    """
    classes, resamples = len(matches.starts) - 1, weights.shape[1]
    ap = np.full((len(AREA_RANGES), resamples, classes), math.nan)
    ap50, ap75 = (np.full((resamples, classes), math.nan) for _ in range(2))
    by_label = np.argsort(matches.object_labels, kind="stable")
    ends = np.searchsorted(matches.object_labels[by_label], np.arange(classes + 1))

    def fill(label: int, area: int) -> None:
        objects = by_label[ends[label] : ends[label + 1]]
        images = matches.object_images[objects[matches.object_in_range[area, objects]]]
        if not len(images):
            return
        count = weights[images].sum(axis=0)
        values = np.where(count > 0, _class(matches, weights, label, area, count), math.nan)
        ap[area, :, label] = values.mean(axis=0)
        if area == ALL:
            ap50[:, label], ap75[:, label] = values[0], values[5]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors of a class are small; on a busy machine, threads would wait for each other
    try:
        for label, area in product(range(classes), range(len(AREA_RANGES))):
            fill(label, area)
    finally:
        torch.set_num_threads(threads)
    of_classes = {"AP": ap[ALL], "AP50": ap50, "AP75": ap75, **dict(zip(AREA_KEYS, ap, strict=True))}
    summary = {key: mean_of_valid(values) for key, values in of_classes.items()}
    return Resampled(summary, {"ap": ap[ALL], "ap50": ap50})


def _class(matches: Matches, weights: NDArray[np.float32], label: int, area: int, objects: Array) -> Array:
    """(T, B) the AP of a class at each threshold. objects: (B,) number of objects in each resample."""
    start, stop = matches.starts[label : label + 2].tolist()
    first, last = np.searchsorted(matches.candidates, [start, stop]).tolist()
    hits, ignored = matches.hits[area, :, first:last], matches.ignored[area, :, first:last]
    sometimes = (hits | ignored).any(axis=0)
    false = matches.in_range[area, start:stop].copy()  # at every threshold
    false[matches.candidates[first:last] - start] = ~sometimes
    mixed = sometimes & ~ignored.all(axis=0)
    points, hits, ignored = matches.candidates[first:last][mixed], hits[:, mixed], ignored[:, mixed]
    result = np.zeros((len(hits), len(objects)))
    if not hits.any():
        return result
    positions = np.flatnonzero(false) + start
    ends = np.searchsorted(positions, points)  # false positives after the last point change nothing
    images, offsets = torch.from_numpy(matches.images[positions[: ends[-1]]]), torch.from_numpy(np.append(0, ends))
    step = max(1, ELEMENTS_AT_ONCE // int(hits.sum()))
    for left in range(0, len(objects), step):
        columns = slice(left, left + step)
        drawn = np.ascontiguousarray(weights[:, columns])
        between = functional.embedding_bag(
            images, torch.from_numpy(drawn), offsets, mode="sum", include_last_offset=True
        ).numpy()  # (P, B) weights of the false positives between a point and the one before
        result[:, columns] = _thresholds(hits, ignored, drawn[matches.images[points]], between, objects[columns])
    return result


def _thresholds(hits: Array, ignored: Array, own: Array, between: Array, objects: Array) -> Array:
    """(T, B) AP from (T, P) true positives and ignored ones, (P, B) weights of the points and between them.

    The true positives of each threshold are divided into blocks of S rows, C blocks in all, stored as (S, C, B): sums
    and maxima over rows are computed in all blocks at once, and then over the blocks of a threshold.
    """
    places, threshold = _blocks(hits)
    goes_on = np.append(threshold[1:] == threshold[:-1], False)  # (C,) whether the next block continues
    points = np.minimum(places, len(own) - 1)
    found = np.concatenate([own, np.zeros_like(own[:1])])[places]
    for step in range(1, len(found)):
        found[step] += found[step - 1]
    found += _carried(np.add, found[-1], goes_on)
    counted = torch.from_numpy(between + own).cumsum(dim=0).numpy()  # NumPy takes twice as long
    counted = counted[points] - _skipped(ignored, own, threshold, points) if ignored.any() else counted[points]
    precision = np.divide(found, np.maximum(counted, 1, out=counted), out=counted)
    for step in range(len(found) - 2, -1, -1):  # interpolated: the maximum at this recall and all later ones
        np.maximum(precision[step], precision[step + 1], out=precision[step])
    later = _carried(np.maximum, precision[0][::-1], np.append(goes_on[-2::-1], False))
    np.maximum(precision, later[::-1], out=precision)
    reached = _recalls_reached(found, np.maximum(objects, 1))
    before = np.concatenate([np.zeros_like(reached[:1]), reached[:-1]])
    before[0, 1:] = reached[-1, :-1] * goes_on[:-1, None]
    sums = np.einsum("scb,scb->cb", precision, reached - before)
    result = np.zeros((len(hits), len(objects)))
    np.add.at(result, threshold, sums)
    return result / len(RECALLS)


def _blocks(hits: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(T, P) -> (S, C) the point in each row of each block, P for none, and (C,) the threshold of each block."""
    counts = hits.sum(axis=1)
    size = max(1, math.isqrt(int(counts.max())))
    blocks = -(-counts // size)
    places = np.full((int(blocks.sum()), size), hits.shape[1])
    ends = np.cumsum(blocks) * size
    rows = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)])
    places.reshape(-1)[rows] = np.nonzero(hits)[1]  # rows without a point come first: their recall is 0
    return places.T, np.repeat(np.arange(len(hits)), blocks)


def _carried(operation: np.ufunc, ends: Array, goes_on: NDArray[np.bool_]) -> Array:
    """(C, B) results of the blocks -> (C, B) the result over all earlier blocks of the same threshold."""
    carried = np.zeros_like(ends)
    for block in np.flatnonzero(goes_on).tolist():
        operation(carried[block], ends[block], out=carried[block + 1])
    return carried


def _skipped(ignored: Array, own: Array, threshold: Array, points: Array) -> Array:
    """(S, C, B) weights of the detections before each point that are ignored at the threshold of its block."""
    row, place = np.nonzero(ignored)
    sums = np.concatenate([np.zeros_like(own[:1]), np.cumsum(own[place], axis=0)])
    here = np.searchsorted(row * len(own) + place, threshold * len(own) + points)
    result: Array = sums[here] - sums[np.searchsorted(row, threshold)]
    return result


def _recalls_reached(found: Array, objects: Array) -> NDArray[np.float32]:
    """(S, C, B), (B,) -> (S, C, B) number of RECALLS that are at most `found / objects`."""
    exact = np.float64 if objects.max() > EXACT_IN_FLOAT32 else np.float32
    reached: Array = found * (100 / objects.astype(np.float64)).astype(exact)
    reached += (1 + 0.5 / objects).astype(exact)
    reached = np.floor(reached, out=reached)
    # A recall can equal a hundredth exactly; then the rounding of RECALLS matters.
    tied = np.flatnonzero(objects % 10 == 0)  # with other numbers of objects, no recall equals one of ROUNDED_UP
    if len(tied):
        hundredths = reached[..., tied].astype(np.int64) - 1
        at = found[..., tied].astype(np.float64) * 100 == hundredths * objects[tied].astype(np.float64)
        reached[..., tied] -= ROUNDED_UP[hundredths] & at
    return reached
