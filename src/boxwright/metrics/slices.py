"""AP50 by quarters of the images: by brightness, sharpness and objects per image.

P images
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.images.draw import displayed
from boxwright.json_text import JsonObject
from boxwright.metrics.error_split import mean_ap
from boxwright.metrics.matching import Kind, Matches

SIDE = 320  # px: the longer side of an image whose sharpness is measured, so that sizes can be compared
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Slice:
    """A quarter of the images.

    Attributes:
        low: The smallest value of the property in this quarter.
        high: The largest value.
        images: Number of images; not exactly a quarter of all if values are equal.
        objects: Number of objects in these images.
        ap50: AP50 in [0, 1]; -1 without objects.
        recall: Fraction of the objects that are detected with any score; -1 without objects.
    """

    low: float
    high: float
    images: int
    objects: int
    ap50: float
    recall: float


def appearance(image: Array) -> tuple[float, float]:
    """Brightness and sharpness of an image (h, w, C).

    Brightness: the mean gray level in [0, 1]. Sharpness: the variance of the Laplacian of the gray levels in 0..255,
    after resizing to `SIDE` px where the image is larger.
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(displayed(image), size, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return float(gray.mean()) / 255, float(cv2.Laplacian(gray, cv2.CV_32F).var())


def quartiles(matches: Matches, looks: Mapping[int, tuple[float, float]]) -> dict[str, tuple[Slice, ...]]:
    """AP50 by quartiles of brightness, sharpness and objects per image. looks: `appearance` of images by index."""
    objects = matches.objects
    crowding = np.bincount(objects.images[objects.kinds != Kind.IGNORED], minlength=matches.images).astype(float)
    properties = {"objects per image": (np.arange(matches.images), crowding)}
    if looks:
        indices = np.array(sorted(looks))
        brightness, sharpness = np.array([looks[index] for index in indices.tolist()]).T
        properties = {"brightness": (indices, brightness), "sharpness": (indices, sharpness)} | properties
    return {name: _slices(matches, indices, values) for name, (indices, values) in properties.items()}


def _slices(matches: Matches, indices: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[Slice, ...]:
    """The slices of images at `indices` with `values` of a property."""
    found, objects = matches.found, matches.objects
    correct = found.kinds == Kind.CORRECT
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.counted[order]]
    group = np.full(matches.images, -1)
    group[indices] = np.searchsorted(np.quantile(values, QUARTILES), values, side="left")
    slices = []
    for number in range(len(QUARTILES) + 1):
        inside = values[group[indices] == number]
        if not len(inside):
            continue
        chosen = (group[objects.images] == number) & (objects.kinds != Kind.IGNORED)
        totals = np.bincount(objects.labels[chosen], minlength=1)
        rows = order[group[found.images[order]] == number]
        recall = float((objects.kinds[chosen] == Kind.CORRECT).mean()) if chosen.any() else -1.0
        ap50 = mean_ap(rows, correct, found.labels, totals)
        bounds = float(inside.min()), float(inside.max())
        slices.append(Slice(*bounds, len(inside), int(chosen.sum()), ap50, recall))
    return tuple(slices)


def to_json(slices: Mapping[str, tuple[Slice, ...]]) -> JsonObject:
    return {name: [asdict(row) for row in rows] for name, rows in slices.items()}
