"""Made ground truth and detections with errors of every kind. Needs only NumPy, as in TIDE's environment.

N boxes of the ground truth, M detections; boxes are xyxy px
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CASES, IMAGES, CLASSES = 12, 12, 4


class Image(NamedTuple):
    """boxes (N, 4), labels (N,), found (M, 4), scores (M,) all different, guesses (M,) labels of the detections."""

    boxes: Array
    labels: Array
    found: Array
    scores: Array
    guesses: Array


def made(seed: int) -> list[Image]:
    """Images of objects and of detections near them, on others, twice, of other classes, and of nothing.

    Case 0 has images without objects or without detections. All scores of a case differ.
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(IMAGES):
        count = int(rng.integers(0 if seed == 0 else 1, 7))
        low, side = rng.uniform(0, 300, (count, 2)), rng.uniform(20, 120, (count, 2))
        boxes, labels = np.concatenate([low, low + side], axis=1), rng.integers(0, CLASSES, count)
        times = rng.integers(0, 4, count)
        shift = rng.normal(0, 0.25, (times.sum(), 4)) * np.repeat(np.concatenate([side, side], axis=1), times, axis=0)
        near = np.repeat(boxes, times, axis=0) + shift * rng.uniform(0, 1, (len(shift), 1))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        other = rng.random(len(near)) < 0.25
        guesses = np.where(other, rng.integers(0, CLASSES, len(near)), np.repeat(labels, times))
        low, side = rng.uniform(0, 300, (3, 2)), rng.uniform(10, 150, (3, 2))
        found = np.concatenate([near, np.concatenate([low, low + side], axis=1)])
        guesses = np.append(guesses, rng.integers(0, CLASSES, 3))
        if seed == 0 and rng.random() < 0.2:
            found, guesses = found[:0], guesses[:0]
        images.append(Image(np.round(boxes, 2), labels, np.round(found, 2), np.zeros(len(found)), guesses))
    total = sum(len(image.found) for image in images)
    order = iter((rng.permutation(total) + 1) / (total + 1))
    return [image._replace(scores=np.array([next(order) for _ in image.found])) for image in images]
