"""Tolerances of the parity check, and matching of outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Limits:
    """Tolerances of an exported file.

    Attributes:
        raw: Maximum difference of a raw output, relative to its largest absolute value.
        score: Maximum difference of scores.
        edge: Maximum difference of box edges, relative to the image's longer side.
        matched: Minimum fraction of detections that match.
        proposals: `matched` for two-stage detectors, where rounding decides between many nearly equal proposals.
        quality: Maximum drop of AP, or of top-1.
    """

    raw: float
    score: float
    edge: float
    matched: float
    proposals: float
    quality: float


# float32: a hundred times its rounding error; one in a hundred boxes may differ, for pairs whose IoU is within rounding
# of the NMS threshold. float16: the significand has 11 bits, so each layer has a relative error of 2^-11.
LIMITS = {"float32": Limits(1e-3, 1e-3, 1e-3, 0.99, 0.95, 1e-3), "float16": Limits(3e-2, 3e-2, 1e-2, 0.95, 0.8, 5e-3)}


def mutual_nearest(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (row, column) of a cost matrix (N, M) where each is the other's minimum."""
    if not cost.numel():
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty
    column = cost.argmin(dim=1)
    row = torch.arange(len(cost))
    mutual = cost.argmin(dim=0)[column] == row
    return row[mutual], column[mutual]
