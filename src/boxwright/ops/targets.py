"""Targets for the cells of anchor-based maps (YOLOv3, YOLOv4).

B images, M boxes per image after padding, C classes, K = S*A anchors of all scales
P claims to cells per object, R = P*M rows: claim by claim, object by object
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.anchors import Cells, Overlap
from boxwright.ops.assign import last_claim
from boxwright.types import Batch


@dataclass(frozen=True)
class Targets:
    """Rows of an object and the cell that it claims.

    Attributes:
        boxes: (B, R, 4) xyxy px.
        positive: (B, R) bool, rows that own their cell.
        cell: (B, R), index of the cell; 0 where none is claimed.
        classes: (B, R, C) in [0, 1], class targets.
        ignored: (B, N) bool, cells that crowd and ignore regions would claim if they were objects; None: none.
        weights: (B, R) factors in the class loss, each the weight of the object's class; or one for all.
    """

    boxes: Tensor
    positive: Tensor
    cell: Tensor
    classes: Tensor
    ignored: Tensor | None = None
    weights: Tensor | float = 1.0

    def weight(self, size: tuple[float, float]) -> Tensor:
        """(B, R): 2 minus the fraction of the input, (H, W) px, that the box covers, so that small boxes count more; 0
        for rows without a cell."""
        height, width = size
        area = (self.boxes[..., 2:] - self.boxes[..., :2]).prod(-1)
        return self.positive * (2 - area / (height * width))


def assign_best(batch: Batch, cells: Cells, classes: int, smoothing: float = 0.0) -> Targets:
    """Assign each object to the cell under its center, for the scale and anchor of the best shape (YOLOv3). P is 1.

    smoothing: 1 becomes 1 - smoothing, 0 becomes smoothing / (classes - 1) (MindSpore zoo).
    """
    return assign_to(batch, cells.responsible(batch.boxes), len(cells.corner), classes, smoothing)


def assign_to(batch: Batch, cell: Tensor, total: int, classes: int, smoothing: float = 0.0) -> Targets:
    """Assign each object to its `cell` (B, M) in 0..total-1. P is 1. smoothing: as in `assign_best`."""
    return _resolve(batch, cell[:, None], torch.ones_like(cell[:, None], dtype=torch.bool), total, classes, smoothing)


def assign_similar(
    batch: Batch,
    cells: Cells,
    classes: int,
    iou: float | Tensor,
    smoothing: float = 0.0,
    overlap: Overlap | None = None,
) -> Targets:
    """As `assign_best`, and in addition each object to the cells of all anchors whose shape overlaps its own by more
    than `iou`, a number or (K,) (YOLOv4; Darknet's iou_thresh). P is 1 + K, and a later claim beats an earlier one of
    another object. overlap: see `Cells.similar`.
    """
    best = cells.responsible(batch.boxes)[:, None]
    cell, fits = cells.similar(batch.boxes, iou, overlap)
    claims = torch.cat((torch.ones_like(best, dtype=torch.bool), fits.mT), 1)
    return _resolve(batch, torch.cat((best, cell.mT), 1), claims, len(cells.corner), classes, smoothing)


def _resolve(batch: Batch, cell: Tensor, claims: Tensor, total: int, classes: int, smoothing: float) -> Targets:
    """cell, claims (B, P, M): the last of several claims to one cell wins, and also gets the other claims' classes."""
    passes = claims.shape[1]
    side = batch.boxes[..., 2:] - batch.boxes[..., :2]
    claims, cell = claims & (side > 0).all(-1)[:, None], cell.flatten(1)
    regions = (claims & (batch.ignore & (batch.labels >= 0))[:, None]).flatten(1)
    # Rows without a claim write to an extra column, which is dropped.
    ignored = regions.new_zeros(len(cell), total + 1).scatter(1, torch.where(regions, cell, total), True)[:, :-1]
    claims = (claims & batch.valid[:, None]).flatten(1)
    cell = torch.where(claims, cell, 0)
    winner = last_claim(cell, claims, total)
    row = torch.arange(winner.shape[1], device=winner.device)
    ones = F.one_hot(batch.labels.clamp(min=0), classes).float().repeat(1, passes, 1) * claims[..., None]
    into = winner.clamp(min=0)[..., None].expand_as(ones)
    bits = torch.zeros_like(ones).scatter_reduce(1, into, ones, "amax")
    return Targets(
        boxes=batch.boxes.repeat(1, passes, 1),
        positive=winner == row,
        cell=cell,
        classes=torch.where(bits > 0, 1 - smoothing, smoothing / max(classes - 1, 1)),
        ignored=ignored,
        weights=batch.label_weights.repeat(1, passes),
    )
