"""SimOTA, the assignment of objects to cells by the network's predictions (YOLOX, Ge et al. 2021, section 2.1).

B images, N cells, M boxes per image after padding, C classes
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.iou import pairwise_iou
from boxwright.types import Batch

MAX_PAIRS_PER_CHUNK = 2**24  # pairs of cell and object at once; bounds the memory, 64 MiB for each intermediate tensor
FAR = 1e5  # extra cost of cells that are only in the box, or only near its center; cells in both come first (YOLOX)
MIN_LOG = -100.0  # as in torch's binary cross entropy of probabilities


class SimOTA(NamedTuple):
    """Settings of the assignment; the defaults are the paper's and those of its first release.

    Attributes:
        radius: Half the side of the square around an object's center in which its cells lie, in cells of each stride.
        iou_weight: Weight of the IoU term of the cost; that of the class term is 1.
        candidates: An object gets as many cells as the sum of this many highest IoUs, rounded down, but at least 1.
    """

    radius: float = 2.5
    iou_weight: float = 3.0
    candidates: int = 10


class Assignment(NamedTuple):
    """Objects assigned to the cells.

    Attributes:
        matched_gt_idx: (B, N) int64, index of the object of a positive cell; 0 elsewhere.
        positive: (B, N) bool, cells with an object.
        ignored: (B, N) bool, cells in a crowd region, and cells that would be positive if a region were an object.
    """

    matched_gt_idx: Tensor
    positive: Tensor
    ignored: Tensor


@torch.no_grad()
def assign(rows: Tensor, boxes: Tensor, centers: Tensor, stride: Tensor, batch: Batch, settings: SimOTA) -> Assignment:
    """Assign to each object the cells of least cost within its center region.

    The cost is the cross entropy of the classes, where a cell's probability is the geometric mean of objectness and
    class, plus `iou_weight` times the negative logarithm of the IoU. If several objects take the same cell, the one of
    least cost gets it.

    Args:
        rows: (B, N, 5+C) logits: box, objectness, classes.
        boxes: (B, N, 4) xyxy px, decoded from them.
        centers: (N, 2) px, of the cells.
        stride: (N, 1) px.
        batch: The batch, with M >= 1.
        settings: See `SimOTA`.
    """
    images = max(1, MAX_PAIRS_PER_CHUNK // (batch.labels.shape[1] * rows.shape[1]))
    assignments = []
    for first in range(0, len(rows), images):
        here = slice(first, first + images)
        objects, labels, is_region = batch.boxes[here], batch.labels[here], batch.ignore[here]
        assignments.append(_assign(rows[here], boxes[here], objects, labels, is_region, centers, stride, settings))
    return Assignment(*(torch.cat(parts) for parts in zip(*assignments, strict=True)))


def _assign(
    rows: Tensor,
    boxes: Tensor,
    objects: Tensor,
    labels: Tensor,
    is_region: Tensor,
    centers: Tensor,
    stride: Tensor,
    settings: SimOTA,
) -> Assignment:
    """`assign` for as many images as fit into memory."""
    real = (labels >= 0) & (objects[..., 2:] > objects[..., :2]).all(-1)
    low, high = objects[:, :, None].chunk(2, -1)  # (B, M, 1, 2)
    inside = ((centers > low) & (centers < high)).all(-1) & real[..., None]  # (B, M, N)
    near = ((centers - (low + high) / 2).abs() < settings.radius * stride).all(-1) & real[..., None]
    overlap = pairwise_iou(objects, boxes)
    cost = class_cost(rows, labels) - settings.iou_weight * (overlap + 1e-8).log()
    cost = torch.where(inside & near, cost, cost + FAR).masked_fill(~(inside | near), torch.inf)
    claims = _cheapest(cost, overlap * (inside | near), settings.candidates)
    is_region = (is_region & real)[..., None]
    cost, matched = cost.masked_fill(~claims | is_region, torch.inf).min(1)
    positive = cost.isfinite()
    ignored = ((inside | claims) & is_region).any(1)
    return Assignment(torch.where(positive, matched, 0), positive, ignored)


def class_cost(rows: Tensor, labels: Tensor) -> Tensor:
    """rows (B, N, 5+C) logits, labels (B, M) -> (B, M, N): the sum over the classes of the cross entropies between a
    cell's probabilities and the object's class."""
    log = (F.logsigmoid(rows[..., 4:5]) + F.logsigmoid(rows[..., 5:])) / 2
    log_rest = (-log.exp()).log1p().clamp(min=MIN_LOG)  # log(1 - probability)
    of_object = labels.clamp(min=0)[:, None].expand(-1, rows.shape[1], -1)
    # avoids a tensor (B, M, N, C): the sum for all classes as negatives, plus the difference for the right class
    right = (log_rest - log.clamp(min=MIN_LOG)).gather(2, of_object)
    return (right - log_rest.sum(2, keepdim=True)).mT


def _cheapest(cost: Tensor, overlap: Tensor, candidates: int) -> Tensor:
    """cost and overlap (B, M, N) -> (B, M, N) bool: the cells of least finite cost of each object."""
    candidates = min(candidates, cost.shape[2])
    count = overlap.topk(candidates, 2).values.sum(2, keepdim=True).floor().clamp(min=1)
    least, cell = cost.topk(candidates, 2, largest=False)
    taken = (torch.arange(candidates, device=cost.device) < count) & least.isfinite()
    return torch.zeros_like(cost, dtype=torch.bool).scatter(2, cell, taken)
