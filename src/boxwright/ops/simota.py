"""SimOTA, the assignment of objects to cells by what the network predicts (YOLOX, Ge et al. 2021, section 2.1).

B images, N cells, M boxes an image after padding, C classes
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.iou import pairwise_iou
from boxwright.types import Batch

MAX_PAIRS_PER_CHUNK = 2**24  # pairs of cell and object; bounds the memory, 64 MiB for each intermediate tensor
FAR = 1e5  # cost of cells that lie only in the box or only near its center: those in both are taken first (YOLOX)
MIN_LOG = -100.0  # as in torch's binary cross entropy of probabilities


class SimOTA(NamedTuple):
    """Settings of the assignment; the defaults are the paper's and those of its first release.

    Attributes:
        radius: Half side of the square around an object's center, in cells of each stride, that its cells lie in.
        iou_weight: Of the IoU term of the cost, beside that of the classes.
        candidates: An object has as many cells as the sum of its so many highest IoUs, rounded down, but at least 1.
    """

    radius: float = 2.5
    iou_weight: float = 3.0
    candidates: int = 10


class Assignment(NamedTuple):
    """Objects of the cells.

    Attributes:
        matched_gt_idx: (B, N) int64, the object of a positive cell; 0 elsewhere.
        positive: (B, N) bool, has an object.
        ignored: (B, N) bool, lies in a crowd region, or would be positive if a region were an object, which it may be.
    """

    matched_gt_idx: Tensor
    positive: Tensor
    ignored: Tensor


@torch.no_grad()
def assign(rows: Tensor, boxes: Tensor, centers: Tensor, stride: Tensor, batch: Batch, settings: SimOTA) -> Assignment:
    """The cells of each object: those of the least cost within its center region.

    The cost is the cross entropy of the classes, of which a cell's probability is the geometric mean of objectness and
    class, plus `iou_weight` times the negative logarithm of the IoU. Of several objects that take the same cell, that
    of the least cost has it.

    Args:
        rows: (B, N, 5+C) logits: box, objectness, classes.
        boxes: (B, N, 4) xyxy px, decoded from them.
        centers: (N, 2) px, of the cells.
        stride: (N, 1) px.
        batch: M of at least 1.
        settings: See `SimOTA`.
    """
    images = max(1, MAX_PAIRS_PER_CHUNK // (batch.labels.shape[1] * rows.shape[1]))
    found = []
    for first in range(0, len(rows), images):
        here = slice(first, first + images)
        objects, labels, is_region = batch.boxes[here], batch.labels[here], batch.ignore[here]
        found.append(_assign(rows[here], boxes[here], objects, labels, is_region, centers, stride, settings))
    return Assignment(*(torch.cat(parts) for parts in zip(*found, strict=True)))


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
    """`assign` for images whose pairs fit into memory."""
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
    log_rest = (-log.exp()).log1p().clamp(min=MIN_LOG)  # of 1 less the probability
    of_object = labels.clamp(min=0)[:, None].expand(-1, rows.shape[1], -1)
    # no tensor of (B, M, N, C): all classes as if they were wrong, and the difference that the right one makes
    right = (log_rest - log.clamp(min=MIN_LOG)).gather(2, of_object)
    return (right - log_rest.sum(2, keepdim=True)).mT


def _cheapest(cost: Tensor, overlap: Tensor, candidates: int) -> Tensor:
    """cost and overlap (B, M, N) -> (B, M, N) bool: the cells of each object that cost least, if finite."""
    candidates = min(candidates, cost.shape[2])
    count = overlap.topk(candidates, 2).values.sum(2, keepdim=True).floor().clamp(min=1)
    least, cell = cost.topk(candidates, 2, largest=False)
    taken = (torch.arange(candidates, device=cost.device) < count) & least.isfinite()
    return torch.zeros_like(cost, dtype=torch.bool).scatter(2, cell, taken)
