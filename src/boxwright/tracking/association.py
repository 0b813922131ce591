"""Which row goes with which column: overlaps of boxes, and the assignment of the largest sum."""

import numpy as np
import torch

from boxwright.arrays import Array
from boxwright.extras import import_extra
from boxwright.ops.iou import pairwise_iou


def overlaps(a: Array, b: Array) -> Array:
    """(N, 4), (M, 4) xyxy px -> IoU (N, M) float64."""
    first, second = (torch.from_numpy(np.ascontiguousarray(boxes, np.float64)) for boxes in (a, b))
    iou: Array = pairwise_iou(first, second).numpy()
    return iou


def assign(scores: Array) -> tuple[Array, Array]:
    """Pairs of rows and columns, each at most once, with the largest sum of scores.

    Args:
        scores: (N, M), 0 where a pair is not allowed.

    Returns:
        (K,) rows, which ascend, and (K,) columns of the pairs with a score above 0.

    Raises:
        InputError: SciPy is not installed.
    """
    rows, columns = import_extra("scipy.optimize", "video").linear_sum_assignment(scores, maximize=True)
    found = scores[rows, columns] > 0
    return rows[found], columns[found]
