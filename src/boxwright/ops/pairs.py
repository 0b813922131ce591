"""Pairs of overlapping boxes by spatial hashing: the time grows with boxes and pairs, not with boxes squared.

    N boxes, E entries: one box in one cell, P pairs

A box belongs to the finest level whose cells are at least as large as its longer side, so it covers at most 2 x 2 cells
there. On each level its boxes are compared with each other and with those of finer levels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS = 1 << 20  # per chunk; bounds the search to about 300 MB, besides the pairs that its caller keeps
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def overlapping_pairs(boxes: Tensor, group: Tensor) -> Iterator[Tensor]:
    """boxes (N, 4) xyxy px, group (N,) int64 from 0 -> chunks (P, 2) int64 of all overlapping pairs within a group.

    Each pair occurs once, in no particular order. Boxes that only touch do not overlap.
    """
    level = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp(min=1).log2().ceil().long()
    for number in sorted(set(level.tolist())):
        cells = (boxes / 2**number).floor().long()
        cells[:, 2:] = torch.minimum(cells[:, 2:], cells[:, :2] + 1)  # rounding of log2 must not add a third cell
        member, member_key = _entries(cells, group, level == number)
        visitor, visitor_key = _entries(cells, group, level <= number)
        for left, right, key in _equal(member, member_key, visitor, visitor_key):
            once = (level[right] < number) | (right < left)
            pairs = torch.stack((left[once], right[once]), 1)
            low = torch.maximum(cells[pairs[:, 0], :2], cells[pairs[:, 1], :2])
            pairs = pairs[key[once] == _key(low, group[pairs[:, 0]], cells)]
            yield pairs[_overlap(boxes[pairs[:, 0]], boxes[pairs[:, 1]])]


def _entries(cells: Tensor, group: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """cells (N, 4): first and last column and row of each box -> (E,) box and (E,) key, of the `chosen` boxes."""
    rows = chosen.nonzero()[:, 0]
    low, high = cells[rows].chunk(2, 1)
    boxes, keys = [], []
    for step in CORNERS:
        cell = low + low.new_tensor(step)
        covered = (cell <= high).all(1)
        boxes.append(rows[covered])
        keys.append(_key(cell[covered], group[rows[covered]], cells))
    return torch.cat(boxes), torch.cat(keys)


def _key(cell: Tensor, group: Tensor, cells: Tensor) -> Tensor:
    """One integer for a cell (E, 2) of a group (E,)."""
    first, extent = cells.amin(0)[:2], cells.amax(0)[2:] - cells.amin(0)[:2] + 1
    column, row = (cell - first).unbind(1)
    return (group * extent[1] + row) * extent[0] + column


def _equal(
    member: Tensor, member_key: Tensor, visitor: Tensor, visitor_key: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of a member and a visitor with the same key: (P,), (P,) and the keys (P,), about `PAIRS` at a time."""
    member_key, order = member_key.sort()
    member = member[order]
    left = torch.searchsorted(member_key, visitor_key)
    count = torch.searchsorted(member_key, visitor_key, right=True) - left
    total = count.cumsum(0)
    turns = total // PAIRS
    for rows in torch.split(torch.arange(len(visitor)), torch.bincount(turns).tolist()):
        matches = count[rows]
        offset = torch.arange(int(matches.sum())) - (matches.cumsum(0) - matches).repeat_interleave(matches)
        row = rows.repeat_interleave(matches)
        yield member[left[row] + offset], visitor[row], visitor_key[row]


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """(P, 4), (P, 4) -> (P,) bool"""
    return (torch.minimum(a[:, 2:], b[:, 2:]) > torch.maximum(a[:, :2], b[:, :2])).all(1)


def connected(pairs: Tensor, count: int) -> Tensor:
    """Connected components: (P, 2) pairs of `count` nodes -> (count,) the lowest node of each node's component.

    Each round hooks every root to the lowest adjacent root and then halves all paths, so few rounds are needed.
    """
    root = torch.arange(count)
    while True:
        near = root[pairs]
        after = root.scatter_reduce(0, near.flatten(), near.amin(1).repeat_interleave(2), "amin")
        after = after[after]
        if torch.equal(after, root):
            return root
        root = after
