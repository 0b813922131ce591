"""Targets of the cells of anchor-based maps (YOLOv3, YOLOv4).

B images, M boxes an image after padding, C classes, K = S*A anchors of all scales
P claims to cells an object, R = P*M rows: claim by claim, object by object
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
    """An object and the cell it claims in each row.

    Attributes:
        boxes: (B, R, 4) xyxy px.
        positive: (B, R) bool, rows that own their cell.
        cell: (B, R), 0 where none is claimed.
        classes: (B, R, C) in [0, 1].
        ignored: (B, N) bool, cells that crowd and ignore regions would claim if they were objects, which they may be;
            None: none.
        weights: (B, R) factors in the loss of classes, each that of the object's class; or one for all.
    """

    boxes: Tensor
    positive: Tensor
    cell: Tensor
    classes: Tensor
    ignored: Tensor | None = None
    weights: Tensor | float = 1.0

    def weight(self, size: tuple[float, float]) -> Tensor:
        """(B, R): 2 less the share of the input, (H, W) px, that the box covers: small boxes count more. 0 where the
        row owns no cell."""
        height, width = size
        area = (self.boxes[..., 2:] - self.boxes[..., :2]).prod(-1)
        return self.positive * (2 - area / (height * width))


def assign_best(batch: Batch, cells: Cells, classes: int, smoothing: float = 0.0) -> Targets:
    """Each object to the cell under its center, of the scale and anchor that fit best (YOLOv3). P is 1.

    smoothing: 1 becomes 1 - smoothing, 0 becomes smoothing / (classes - 1) (MindSpore zoo).
    """
    return assign_to(batch, cells.responsible(batch.boxes), len(cells.corner), classes, smoothing)


def assign_to(batch: Batch, cell: Tensor, total: int, classes: int, smoothing: float = 0.0) -> Targets:
    """Each object to its `cell` (B, M) in 0..total-1. P is 1. smoothing: as in `assign_best`."""
    return _resolve(batch, cell[:, None], torch.ones_like(cell[:, None], dtype=torch.bool), total, classes, smoothing)


def assign_similar(
    batch: Batch,
    cells: Cells,
    classes: int,
    iou: float | Tensor,
    smoothing: float = 0.0,
    overlap: Overlap | None = None,
) -> Targets:
    """As `assign_best`, and then each object to the cells of all anchors whose shape overlaps its own by more than
    `iou`, a number or (K,), too (YOLOv4; Darknet's iou_thresh). P is 1 + K, and a later claim beats an earlier one of
    another object. overlap: see `Cells.similar`.
    """
    best = cells.responsible(batch.boxes)[:, None]
    cell, fits = cells.similar(batch.boxes, iou, overlap)
    claims = torch.cat((torch.ones_like(best, dtype=torch.bool), fits.mT), 1)
    return _resolve(batch, torch.cat((best, cell.mT), 1), claims, len(cells.corner), classes, smoothing)


def _resolve(batch: Batch, cell: Tensor, claims: Tensor, total: int, classes: int, smoothing: float) -> Targets:
    """cell, claims (B, P, M): of several claims to one cell the last wins, and has the others' classes too."""
    passes = claims.shape[1]
    side = batch.boxes[..., 2:] - batch.boxes[..., :2]
    claims, cell = claims & (side > 0).all(-1)[:, None], cell.flatten(1)
    regions = (claims & (batch.ignore & (batch.labels >= 0))[:, None]).flatten(1)
    # Rows that claim no cell write to one more that is cut off.
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
