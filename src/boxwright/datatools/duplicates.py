"""Detection of objects that are labeled twice, without comparing all pairs of boxes of a group (image and class).

T boxes. A minimum IoU bounds the differences of the left and top edges, and of the logarithms of the sides.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from boxwright.ops.iou import pairwise_iou

MIN_IOU = 0.9  # of two boxes of a class that are probably the same object
EQUAL = 2.0  # instead of the IoU, for identical boxes
MAX_SHIFT = (1 - MIN_IOU) / MIN_IOU  # of an edge, relative to the smaller side
MAX_STEPS = 24  # following boxes that each box is compared with; more are in range along x only if boxes are stacked
MAX_ALL_PAIRS = 16  # boxes of a cell of which all pairs are compared

Rows = NDArray[np.int64]
Boxes = NDArray[np.float64]


def same_object(boxes: Boxes, groups: Rows) -> tuple[Rows, NDArray[np.float64]]:
    """Find for each box an earlier box of its group with an IoU of at least MIN_IOU.

    It is the first identical box, or else the one with the highest IoU. If more than MAX_ALL_PAIRS boxes are so close
    together that they may all be one object, it is not always the one with the highest IoU.

    Args:
        boxes: (T, 4) xyxy, finite, with positive sides.
        groups: (T,) group ids.

    Returns:
        (T,) the index of the earlier box, -1 for none, and (T,) their IoU, EQUAL for identical boxes.
    """
    found = _Found(boxes)
    order = np.lexsort((np.arange(len(boxes)), *boxes.T[::-1], groups))
    repeats = (groups[order[1:]] == groups[order[:-1]]) & (boxes[order[1:]] == boxes[order[:-1]]).all(axis=1)
    heads = np.concatenate([[True], ~repeats])[: len(boxes)]
    first = order[np.flatnonzero(heads)[np.cumsum(heads) - 1]] if len(boxes) else order
    found.partner[order[~heads]], found.best[order[~heads]] = first[~heads], EQUAL
    rows = np.sort(order[heads])  # only the first of identical boxes is compared further
    rows = rows[np.lexsort((boxes[rows, 0], groups[rows]))]
    crowded = groups[_sweep(rows, groups[rows], found, MAX_STEPS)]
    if len(crowded):
        rows = rows[np.isin(groups[rows], crowded)]
        for cells in _cells(boxes[rows], groups[rows]):
            _within(rows, cells, found)
    return found.partner, found.best


class _Found:
    """The best match of each box so far."""

    def __init__(self, boxes: Boxes) -> None:
        self.boxes = boxes
        self.partner = np.full(len(boxes), -1)
        self.best = np.zeros(len(boxes))

    def compare(self, early: Rows, late: Rows) -> None:
        """Compare pairs of rows; the late ones are unique."""
        overlap = iou(self.boxes[early], self.boxes[late])
        near = overlap >= MIN_IOU
        overlap, early, late = overlap[near], early[near], late[near]
        better = (overlap > self.best[late]) | ((overlap == self.best[late]) & (early < self.partner[late]))
        self.best[late[better]], self.partner[late[better]] = overlap[better], early[better]

    def compare_steps(self, a: Rows, b: Rows) -> None:
        """Compare pairs of rows; both are unique."""
        ahead = a < b
        self.compare(a[ahead], b[ahead])
        self.compare(b[~ahead], a[~ahead])


def _sweep(rows: Rows, groups: Rows, found: _Found, steps: int) -> Rows:
    """Compare rows, sorted by (group, x1), with the next `steps`; returns the rows with more than these in range."""
    x1 = found.boxes[rows, 0]
    reach = x1 + MAX_SHIFT * _sides(found.boxes[rows])[:, 0] * (1 + 1e-6) + 1e-6
    at = np.arange(len(rows))
    for step in range(1, steps + 1):
        at = at[at + step < len(rows)]
        at = at[(groups[at] == groups[at + step]) & (x1[at + step] <= reach[at])]
        found.compare_steps(rows[at], rows[at + step])
    return rows[at]


def _cells(boxes: Boxes, groups: Rows) -> Iterator[Rows]:
    """Yield (T,) cell ids 16 times, so that two boxes of a group with IoU >= MIN_IOU share a cell at least once.

    Cells form a lattice over the logarithms of both sides and, with a step proportional to the sides, over the left and
    top edges. A step is twice the maximum difference of two such boxes, so at least one of two lattices that are
    shifted by half a step contains both in one cell; the four dimensions have two lattices each.
    """
    step = 2.2 * np.log(1 / MIN_IOU)  # 2, with a margin for rounding
    level = np.log(_sides(boxes)) / step  # (T, 2)
    for moved in np.ndindex(2, 2, 2, 2):
        sizes = np.floor(level + np.array(moved[:2]) / 2)
        unit = 2.2 * MAX_SHIFT * np.exp((sizes + 1 - np.array(moved[:2]) / 2) * step)  # of the largest box in there
        places = np.floor(boxes[:, :2] / unit + np.array(moved[2:]) / 2)
        columns = (groups, *sizes.T, *places.T)
        order = np.lexsort(columns)
        starts = np.zeros(len(boxes), dtype=bool)
        for column in columns:
            starts[1:] |= column[order[1:]] != column[order[:-1]]
        cells = np.empty(len(boxes), dtype=np.int64)
        cells[order] = np.cumsum(starts)
        yield cells


def _within(rows: Rows, cells: Rows, found: _Found) -> None:
    """Compare the rows of each cell: all pairs of a small cell, else until every row that has a match is matched."""
    order = np.lexsort((rows, cells))
    rows, cells = rows[order], cells[order]
    counts = np.bincount(cells)[cells]
    is_small = counts <= MAX_ALL_PAIRS
    small, inside = rows[is_small], cells[is_small]
    at = np.arange(len(small))
    for step in range(1, MAX_ALL_PAIRS):
        at = at[at + step < len(small)]
        at = at[inside[at] == inside[at + step]]
        found.compare_steps(small[at], small[at + step])
    starts = np.flatnonzero(np.diff(cells[~is_small], prepend=-1))
    for crowd in np.split(rows[~is_small], starts[1:]):
        unmatched = crowd[found.best[crowd] == 0]
        while len(unmatched):  # a cell has at most a few hundred boxes with a pairwise IoU below MIN_IOU
            index = int(np.searchsorted(crowd, unmatched[0]))
            before, row, after = crowd[:index], crowd[index : index + 1], crowd[index + 1 :]
            if index:
                best = iou(found.boxes[before], found.boxes[row]).argmax()
                found.compare(before[best : best + 1], row)
            found.compare(np.repeat(row, len(after)), after)
            unmatched = unmatched[1:]
            unmatched = unmatched[found.best[unmatched] == 0]


def _sides(boxes: Boxes) -> Boxes:
    return boxes[:, 2:] - boxes[:, :2]


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """(N, 4), (N, 4) -> (N,); one of them may have a single row."""
    overlap: NDArray[np.float64] = pairwise_iou(torch.from_numpy(a)[:, None], torch.from_numpy(b)[:, None]).numpy()
    return overlap[:, 0, 0]
