"""Association of boxes: their overlaps, and the assignment with the largest sum of scores."""

import numpy as np

from boxwright.arrays import Array
from boxwright.extras import import_extra


def overlaps(a: Array, b: Array) -> Array:
    """(N, 4), (M, 4) xyxy px -> IoU (N, M) float64, 0 where both areas are 0.

    In NumPy, since for the few boxes of a frame `ops.iou.pairwise_iou` takes several times as long.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    corners = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    shared = np.prod(np.maximum(corners, 0), axis=2)
    area_a, area_b = (np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b))
    iou: Array = shared / np.maximum(area_a[:, None] + area_b - shared, np.finfo(np.float64).tiny)
    return iou


def assign(scores: Array) -> tuple[Array, Array]:
    """Pairs of rows and columns, each at most once, with the largest sum of scores.

    Args:
        scores: (N, M), 0 where a pair is not allowed.

    Returns:
        (K,) ascending rows and (K,) columns of the pairs with a score above 0.

    Raises:
        InputError: SciPy is not installed.
    """
    if not scores.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows, columns = import_extra("scipy.optimize", "video").linear_sum_assignment(scores, maximize=True)
    found = scores[rows, columns] > 0
    return rows[found], columns[found]
