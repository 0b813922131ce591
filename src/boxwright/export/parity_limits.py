"""How far an exported file may differ from PyTorch, and which of two sets of answers belong together."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Limits:
    """raw: difference of a raw tensor as a share of its largest number. score: difference of scores. edge: of a box's
    edges, as a share of the image's longer side. matched: share of detections that have a partner. proposals: the
    same, of a two-stage detector's; so near-equal are many of them that more of their fate is rounding. quality: drop
    of AP, of classifiers top-1.
    """

    raw: float
    score: float
    edge: float
    matched: float
    proposals: float
    quality: float


# float32: a hundred times what float32 loses; the one in a hundred boxes left over is for pairs whose overlap lies
# within rounding of the threshold of suppression. float16: its numbers have 11 bits, an error of 2^-11 a layer.
LIMITS = {"float32": Limits(1e-3, 1e-3, 1e-3, 0.99, 0.95, 1e-3), "float16": Limits(3e-2, 3e-2, 1e-2, 0.95, 0.8, 5e-3)}


def mutual_nearest(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (row, column) of a cost (N, M) that are each other's cheapest."""
    if not cost.numel():
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty
    column = cost.argmin(dim=1)
    row = torch.arange(len(cost))
    mutual = cost.argmin(dim=0)[column] == row
    return row[mutual], column[mutual]
