"""Boxes of one group (image and class) that are one object labeled twice, in far less than all pairs.

T boxes in all; IoU >= t of two boxes bounds how far apart their left and top edges and the logarithms of their
sides can be, which is what every step below relies on
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from boxwright.ops.iou import pairwise_iou

NEAR_IOU = 0.9  # IoU from which two boxes of a class are probably one object labeled twice
EQUAL = 2.0  # in place of an IoU, for boxes that are the same
SHIFT = (1 - NEAR_IOU) / NEAR_IOU  # by which edges can differ at most, as a share of the smaller side
MAX_STEPS = 24  # boxes after it that one is compared with; more begin within reach along x only where boxes are stacked
MAX_ALL_PAIRS = 16  # boxes of a cell that are all compared with each other

Rows = NDArray[np.int64]
Boxes = NDArray[np.float64]


def same_object(boxes: Boxes, groups: Rows) -> tuple[Rows, NDArray[np.float64]]:
    """For each box the earlier one of its group that it repeats (-1: none), and their IoU: EQUAL when the same.

    Every box that an earlier one overlaps to NEAR_IOU or more gets such a partner: the first of those that are the
    same, else the one that it overlaps most. Only where more than MAX_ALL_PAIRS boxes lie so close that they may all be
    one object, that is one of them, not always the best.

    boxes: (T, 4) xyxy, finite, of sides above 0. groups: (T,), any numbers.
    """
    found = _Found(boxes)
    order = np.lexsort((np.arange(len(boxes)), *boxes.T[::-1], groups))
    repeats = (groups[order[1:]] == groups[order[:-1]]) & (boxes[order[1:]] == boxes[order[:-1]]).all(axis=1)
    heads = np.concatenate([[True], ~repeats])[: len(boxes)]
    first = order[np.flatnonzero(heads)[np.cumsum(heads) - 1]] if len(boxes) else order
    found.partner[order[~heads]], found.best[order[~heads]] = first[~heads], EQUAL
    rows = np.sort(order[heads])  # what is left is judged without the repeated ones: their first stands for them
    rows = rows[np.lexsort((boxes[rows, 0], groups[rows]))]
    crowded = groups[_sweep(rows, groups[rows], found, MAX_STEPS)]
    if len(crowded):
        rows = rows[np.isin(groups[rows], crowded)]
        for cells in _cells(boxes[rows], groups[rows]):
            _within(rows, cells, found)
    return found.partner, found.best


class _Found:
    """The best partner of each box so far."""

    def __init__(self, boxes: Boxes) -> None:
        self.boxes = boxes
        self.partner = np.full(len(boxes), -1)
        self.best = np.zeros(len(boxes))

    def compare(self, early: Rows, late: Rows) -> None:
        """Pairs of rows, of which no late one comes twice."""
        overlap = iou(self.boxes[early], self.boxes[late])
        near = overlap >= NEAR_IOU
        overlap, early, late = overlap[near], early[near], late[near]
        better = (overlap > self.best[late]) | ((overlap == self.best[late]) & (early < self.partner[late]))
        self.best[late[better]], self.partner[late[better]] = overlap[better], early[better]

    def compare_steps(self, a: Rows, b: Rows) -> None:
        """Pairs of rows, of which no a and no b comes twice."""
        ahead = a < b
        self.compare(a[ahead], b[ahead])
        self.compare(b[~ahead], a[~ahead])


def _sweep(rows: Rows, groups: Rows, found: _Found, steps: int) -> Rows:
    """Compare rows, sorted by (group, x1), with the k-th after them, k = 1, 2, ..., as long as x1 is near enough.

    Returns the rows for which `steps` of that were not enough.
    """
    x1, reach = found.boxes[rows, 0], found.boxes[rows, 0] + SHIFT * _sides(found.boxes[rows])[:, 0] * (1 + 1e-6) + 1e-6
    at = np.arange(len(rows))
    for step in range(1, steps + 1):
        at = at[at + step < len(rows)]
        at = at[(groups[at] == groups[at + step]) & (x1[at + step] <= reach[at])]
        found.compare_steps(rows[at], rows[at + step])
    return rows[at]


def _cells(boxes: Boxes, groups: Rows) -> Iterator[Rows]:
    """(T,) numbers of cells, 16 times: two boxes of IoU >= NEAR_IOU and one group share a cell at least once.

    Cells are a lattice over the logarithms of both sides and, in steps that grow with the sides, over the left and top
    edge. A step is twice as long as what lies between such boxes, so that one of two lattices, the second moved by half
    a step, does not part them; of each of the four numbers there are two.
    """
    step = 2.2 * np.log(1 / NEAR_IOU)  # 2, and a tenth for rounding
    level = np.log(_sides(boxes)) / step  # (T, 2)
    for moved in np.ndindex(2, 2, 2, 2):
        sizes = np.floor(level + np.array(moved[:2]) / 2)
        unit = 2.2 * SHIFT * np.exp((sizes + 1 - np.array(moved[:2]) / 2) * step)  # of the largest box in there
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
    """Compare the rows of each cell: of a small one all pairs, of others until every row that has a partner has one."""
    order = np.lexsort((rows, cells))
    rows, cells = rows[order], cells[order]
    counts = np.bincount(cells)[cells]
    few = counts <= MAX_ALL_PAIRS
    small, inside = rows[few], cells[few]
    at = np.arange(len(small))
    for step in range(1, MAX_ALL_PAIRS):
        at = at[at + step < len(small)]
        at = at[inside[at] == inside[at + step]]
        found.compare_steps(small[at], small[at + step])
    starts = np.flatnonzero(np.diff(cells[~few], prepend=-1))
    for crowd in np.split(rows[~few], starts[1:]):
        open_ = crowd[found.best[crowd] == 0]
        while len(open_):  # of rows that are not NEAR_IOU each other a cell holds some hundreds at most
            place = int(np.searchsorted(crowd, open_[0]))
            before, one, after = crowd[:place], crowd[place : place + 1], crowd[place + 1 :]
            if place:
                best = iou(found.boxes[before], found.boxes[one]).argmax()
                found.compare(before[best : best + 1], one)
            found.compare(np.repeat(one, len(after)), after)
            open_ = open_[1:]
            open_ = open_[found.best[open_] == 0]


def _sides(boxes: Boxes) -> Boxes:
    return boxes[:, 2:] - boxes[:, :2]


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """(N, 4), (N, 4) -> (N,); one of the two may have one row."""
    overlap: NDArray[np.float64] = pairwise_iou(torch.from_numpy(a)[:, None], torch.from_numpy(b)[:, None]).numpy()
    return overlap[:, 0, 0]
