"""Anchors for a data set: k-means of the sizes of its boxes, as in Darknet's `detector calc_anchors`.

T boxes, K anchors, P images; sizes are (width, height) px of the network's input
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import Dataset
from boxwright.datatools.report import pluralize
from boxwright.errors import InputError, printable
from boxwright.images.canvas import frame_for
from boxwright.images.header import read_headers
from boxwright.recipe import CanvasConfig

Sizes = NDArray[np.float64]  # (..., 2) width, height

MATCHED = 0.5  # IoU above which an anchor counts as fitting a box
STARTS = 5  # runs of k-means from different centers, of which the best is used
MAX_ROUNDS = 300  # of k-means, which may alternate forever, since the mean does not minimize the distance
MAX_BOXES = 30_000  # for k-means, drawn at random; the statistics use all boxes


@dataclass(frozen=True, slots=True)
class Anchors:
    """Anchors and how well they fit.

    Attributes:
        boxes: (T, 2) sizes of the boxes.
        anchors: (K, 2) whole px, small to large by area.
        nearest: (T,) the anchor of highest IoU for each box.
        iou: (T,) that IoU, of shapes with the same center.
        title: Description of the boxes and the input.
        left_out: Reason for leaving out labels, as a phrase for `pluralize` -> number of labels.
    """

    boxes: Sizes
    anchors: Sizes
    nearest: NDArray[np.int64]
    iou: Sizes
    title: str
    left_out: dict[str, int]

    @property
    def quality(self) -> str:
        """A description of how well the anchors fit."""
        return f"mean IoU {self.iou.mean():.4f}, {(self.iou > MATCHED).mean():.1%} of the boxes above {MATCHED:g}"

    def __str__(self) -> str:
        pairs = self.anchors.astype(int).tolist()
        reasons = [pluralize(count, what) for what, count in self.left_out.items() if count]
        lines = [
            self.title,
            self.quality,
            "anchors = " + ",  ".join(f"{width},{height}" for width, height in pairs),
            f"model.anchors={pairs}".replace(" ", ""),
        ]
        if reasons:
            lines.insert(1, f"  left out: {', '.join(reasons)}")
        return "\n".join(map(printable, lines))


def choose(dataset: Dataset, canvas: CanvasConfig, count: int, seed: int = 0, remedy: str = "lower --count") -> Anchors:
    """Find anchors for the boxes of a data set.

    Args:
        dataset: The data set.
        canvas: The network's input; Darknet's calc_anchors supports `fit: stretch` only.
        count: Number of anchors, K.
        seed: Seed of the first centers.
        remedy: End of the error message.

    Raises:
        InputError: The data set has fewer than `count` boxes of different sizes.
    """
    boxes, left_out = resized(dataset, canvas)
    if (different := len(np.unique(boxes, axis=0))) < count:
        found = f"{dataset.split} has {different} boxes of different sizes"
        raise InputError(f"{dataset.root}: {found}, needed {count} at least; {remedy}")
    anchors = np.maximum(np.rint(cluster(boxes, count, seed)), 1)
    anchors = anchors[np.argsort(anchors.prod(axis=1), kind="stable")]  # as calc_anchors prints them
    nearest, iou = match(boxes, anchors)
    height, width = canvas.size
    title = f"{len(boxes)} boxes of {len(dataset)} images of {dataset.split}, {canvas.fit} to {width} x {height} px"
    return Anchors(boxes, anchors, nearest, iou, title, left_out)


def resized(dataset: Dataset, canvas: CanvasConfig) -> tuple[Sizes, dict[str, int]]:
    """(T, 2) the sizes of boxes on the canvas, and the number of labels left out by reason."""
    rows = dataset.rows
    images, which = np.unique(_image_sizes(dataset), axis=0, return_inverse=True)  # many images, few sizes
    scales = np.array([frame_for((max(h, 1), max(w, 1)), canvas, 0).scale for h, w in images.tolist()]).reshape(-1, 2)
    owner = which.reshape(-1)[dataset.image_indices()]
    has_size = (images > 0).all(axis=1).reshape(-1)[owner]
    with np.errstate(invalid="ignore", over="ignore"):
        sides = (rows.xyxy[:, 2:].astype(np.float64) - rows.xyxy[:, :2]) * scales[owner, ::-1]
        has_area = np.isfinite(sides).all(axis=1) & (sides > 0).all(axis=1)
    left_out = {
        "crowd region[s]": int(rows.crowd.sum()),
        "label[s] of unreadable images": int((~rows.crowd & ~has_size).sum()),
        "box[es] without area": int((~rows.crowd & has_size & ~has_area).sum()),
    }
    return sides[~rows.crowd & has_size & has_area], left_out


def cluster(boxes: Sizes, count: int, seed: int = 0) -> Sizes:
    """boxes (T, 2) -> (K, 2): the mean sizes of K clusters, with the distance 1 - IoU.

    As in AlexeyAB's Darknet (`calc_anchors` in src/detector.c): k-means++, whose first centers are boxes, each drawn
    with a probability proportional to the squared distance from the previous ones (Arthur and Vassilvitskii 2007).
    Of `STARTS` runs, the one with the highest mean IoU is used.
    """
    rng = np.random.default_rng(seed)
    if len(boxes) > MAX_BOXES:
        boxes = boxes[rng.choice(len(boxes), MAX_BOXES, replace=False)]
    runs = [_run(boxes, _first_centers(boxes, count, rng)) for _ in range(STARTS)]
    return max(runs, key=lambda centers: float(match(boxes, centers)[1].mean()))


def _run(boxes: Sizes, centers: Sizes) -> Sizes:
    """k-means from these centers (K, 2), until no box changes its cluster."""
    last = np.full(len(boxes), -1)
    for _ in range(MAX_ROUNDS):
        nearest, _ = match(boxes, centers)
        if (nearest == last).all():
            break
        sums = np.stack([np.bincount(nearest, side, minlength=len(centers)) for side in boxes.T], axis=1)
        counts = np.bincount(nearest, minlength=len(centers))[:, None]
        centers, last = np.where(counts, sums / np.maximum(counts, 1), centers), nearest
    return centers


def match(boxes: Sizes, anchors: Sizes) -> tuple[NDArray[np.int64], Sizes]:
    """boxes (T, 2), anchors (K, 2) -> (T,) the anchor of highest IoU, (T,) that IoU. Computed one anchor at a time, so
    memory holds T numbers, not T * K."""
    nearest, best = np.zeros(len(boxes), dtype=np.int64), np.full(len(boxes), -1.0)
    areas = boxes.prod(axis=1)
    for number, anchor in enumerate(anchors):
        shared = np.minimum(boxes, anchor).prod(axis=1)
        iou = shared / (areas + anchor.prod() - shared)
        nearest[iou > best] = number
        np.maximum(best, iou, out=best)
    return nearest, best


def _first_centers(boxes: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    centers = boxes[rng.integers(len(boxes))][None]
    while len(centers) < count:
        distance = 1 - match(boxes, centers)[1]
        weight = np.square(np.maximum(distance, 0))
        if not weight.sum():  # all remaining boxes in the sample equal a center
            weight = np.ones(len(boxes))
        centers = np.concatenate([centers, boxes[rng.choice(len(boxes), p=weight / weight.sum())][None]])
    return np.asarray(centers)


def _image_sizes(dataset: Dataset) -> NDArray[np.int64]:
    """(P, 2) (height, width) px, declared or from the image's header; -1 if it cannot be read."""
    sizes = dataset.images.sizes
    paths = [dataset.path(index) for index in np.flatnonzero(sizes[:, 0] < 0).tolist()]
    stored = np.full_like(sizes, -1)
    stored[sizes[:, 0] < 0] = np.array([header.size for header in read_headers(paths)]).reshape(-1, 2)
    return np.maximum(sizes, stored)
