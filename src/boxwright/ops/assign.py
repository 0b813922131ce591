"""Assignment of objects to cells.

B images, M boxes an image after padding, K anchors, N cells
"""

import torch
from torch import Tensor


def shape_iou(sides: Tensor, anchors: Tensor) -> Tensor:
    """sides (..., 2), anchors (K, 2) or (..., K, 2), width and height, px -> (..., K) IoU of boxes with the same
    center."""
    shared = torch.minimum(sides[..., None, :], anchors).prod(-1)
    union = sides.prod(-1)[..., None] + anchors.prod(-1) - shared
    return shared / union.clamp(min=torch.finfo(sides.dtype).tiny)


def best_anchor(sides: Tensor, anchors: Tensor) -> Tensor:
    """sides (..., 2), anchors (K, 2) -> (...) index of the anchor of highest `shape_iou` (YOLOv2 paper, section 2)."""
    return shape_iou(sides, anchors).argmax(-1)


def last_claim(cells: Tensor, claims: Tensor, total: int) -> Tensor:
    """cells (B, M) in 0..total-1, claims (B, M) bool -> (B, M): index of the last row that claims the same cell.

    Rows without a claim get -1. Deterministic, also on a GPU: the largest row index wins.
    """
    row = torch.arange(cells.shape[1], device=cells.device).expand_as(cells)
    winner = row.new_full((len(cells), total), -1)
    winner = winner.scatter_reduce(1, cells, torch.where(claims, row, -1), "amax")
    return torch.where(claims, winner.gather(1, cells), -1)
