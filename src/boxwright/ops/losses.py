"""Shared loss terms.

B images, N cells, M boxes per image after padding, R rows of `Targets`, C classes
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.anchors import Cells
from boxwright.ops.boxes import xyxy_to_cxcywh
from boxwright.ops.iou import pairwise_iou
from boxwright.ops.targets import Targets
from boxwright.types import Batch, ClassBatch

OVERLAPS_AT_ONCE = 2**24  # IoUs computed at once; bounds the memory, 64 MiB for each intermediate tensor


def processes() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def across_processes(count: Tensor, minimum: float = 0.0) -> Tensor:
    """Mean of `count` over all processes, whose total is at least `minimum`.

    Dividing each process's loss sum by this, and averaging gradients over processes (DDP), gives the gradient of the
    global sum divided by the global count. Without a process group it is max(count, minimum).
    """
    total = count.detach().clone()
    if processes() > 1:
        dist.all_reduce(total)
    return torch.clamp(total, min=minimum) / processes()


def normalize(sums: dict[str, Tensor], targets: Targets, by: Literal["images", "boxes"]) -> dict[str, Tensor]:
    """Divide sums over all cells of the batch by its images or by the cells with an object."""
    count = across_processes(targets.positive.sum(), minimum=1) if by == "boxes" else len(targets.positive)
    return {name: total / count for name, total in sums.items()}


def at_targets(rows: Tensor, targets: Targets) -> Tensor:
    """rows (B, N, 5+C) of all cells -> (B, R, 5+C): rows of the cells of the targets."""
    return rows.gather(1, targets.cell[..., None].expand(-1, -1, rows.shape[-1]))


def encode_targets(cells: Cells, targets: Targets) -> tuple[Tensor, Tensor]:
    """Target boxes encoded relative to their cells, two tensors (B, R, 2): position of the center within the cell's
    range, in [0, 1], and logarithms of the sides relative to the anchor."""
    center, side = xyxy_to_cxcywh(targets.boxes).chunk(2, -1)
    side = torch.where(targets.positive[..., None], side, 1.0)
    scale_xy = cells.scale_xy[targets.cell]
    position = ((center - cells.corner[targets.cell]) / cells.stride[targets.cell] + (scale_xy - 1) / 2) / scale_xy
    return position, (side / cells.anchor[targets.cell]).log()


def place_and_size(found: Tensor, cells: Cells, targets: Targets) -> tuple[Tensor, Tensor]:
    """found (B, R, 5+C) logits -> two tensors (B, R), for rows that own a cell: cross entropy of the position of the
    center within the cell's range, and half the squared difference of the logarithms of the sides (YOLOv3)."""
    position, logs = encode_targets(cells, targets)
    errors = F.binary_cross_entropy_with_logits(found[..., :2], position, reduction="none")
    return errors.sum(-1), 0.5 * (found[..., 2:4] - logs).square().sum(-1)


def objectness(rows: Tensor, cells: Cells, targets: Targets, batch: Batch, ignore_iou: float | Tensor) -> Tensor:
    """rows (B, N, 5+C) logits -> (B, N) cross entropy; 0 for ignored cells (see `objectness_targets`)."""
    objects, background = objectness_targets(rows, cells, targets, batch, ignore_iou)
    counted = (objects > 0) | background
    return F.binary_cross_entropy_with_logits(rows[..., 4], objects, reduction="none") * counted


def objectness_targets(
    rows: Tensor, cells: Cells, targets: Targets, batch: Batch, ignore_iou: float | Tensor
) -> tuple[Tensor, Tensor]:
    """rows (B, N, 5+C) logits -> (B, N) 1 for cells with an object, 0 for others; (B, N) bool: background cells. These
    exclude cells whose box overlaps an object, or lies in a crowd region, by at least `ignore_iou` (a number or (N,)),
    `targets.ignored`, and cells whose most probable class was not looked for."""
    objects = cells_with_object(targets, rows.shape[1])
    background = _best_overlap(cells.boxes(rows[..., :4].detach()), batch) < ignore_iou
    if targets.ignored is not None:
        background &= ~targets.ignored
    if batch.labeled is not None:
        background &= was_looked_for(rows[..., 5:], batch.labeled)
    return objects, background


def cells_with_object(targets: Targets, total: int) -> Tensor:
    """(B, total): 1 for cells with an object, 0 for others."""
    # Rows without a cell write to an extra column, which is dropped.
    cell = torch.where(targets.positive, targets.cell, total)
    return targets.boxes.new_zeros(len(cell), total + 1).scatter(1, cell, 1.0)[:, :-1]


def was_looked_for(scores: Tensor, labeled: Tensor) -> Tensor:
    """scores (B, ..., C), labeled (B, C) as in Batch -> (B, ...) bool: whether the class with the highest score was
    looked for.

    Otherwise an unlabeled object of that class may be there, so the cell is not trained as background. This is the loss
    of LVIS (Gupta et al. 2019) for a detector with class-agnostic objectness.
    """
    best = scores.argmax(-1)
    return labeled.gather(1, best.flatten(1)).view_as(best)


def classes(found: Tensor, targets: Targets) -> Tensor:
    """found (B, R, 5+C) logits -> (B, R) weighted sum of the cross entropies of the classes; 0 for rows without a
    cell."""
    errors = F.binary_cross_entropy_with_logits(found[..., 5:], targets.classes, reduction="none")
    return targets.positive * targets.weights * errors.sum(-1)


def cross_entropy(logits: Tensor, batch: ClassBatch, smoothing: float = 0.0) -> Tensor:
    """logits (B, C) -> scalar: cross entropy between softmax and target, averaged over the images.

    The target of one label is 1 - smoothing for its class and smoothing / (C - 1) for each other class (MindSpore zoo:
    src/CrossEntropySmooth.py; torch's label_smoothing is this with a value (C - 1) / C as large). The target of a blend
    of two images is the mean of both labels' targets, weighted by `batch.share`. The logarithm of each class is
    multiplied by its weight, as in torch's `cross_entropy`, whose mean is divided by the weights of the labels too.
    """
    logs = logits.float().log_softmax(-1)
    if batch.class_weights is not None:
        logs = logs * batch.class_weights
    true = logs.gather(1, batch.labels[:, None])[:, 0]
    if batch.others is not None and batch.share is not None:
        true = torch.lerp(logs.gather(1, batch.others[:, None])[:, 0], true, batch.share)
    if not smoothing:
        return -true.mean()
    off = smoothing / max(logits.shape[1] - 1, 1)
    return -((1 - smoothing - off) * true + off * logs.sum(-1)).mean()


def _best_overlap(boxes: Tensor, batch: Batch) -> Tensor:
    """boxes (B, N, 4) -> (B, N): highest IoU with an object of the image, or highest fraction inside a crowd region."""
    best = boxes.new_zeros(boxes.shape[:2])
    for overlap in _overlaps(boxes, batch, batch.labels >= 0):  # no padding
        best = torch.maximum(best, overlap.amax(-1))
    return best


def best_object(boxes: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """boxes (B, N, 4) -> two tensors (B, N): highest IoU with an object of the image, and the object's row."""
    best, index, first = boxes.new_zeros(boxes.shape[:2]), batch.labels.new_zeros(boxes.shape[:2]), 0
    for overlap in _overlaps(boxes, batch, batch.valid):
        value, row = overlap.max(-1)
        index = torch.where(value > best, row + first, index)
        best, first = torch.maximum(best, value), first + overlap.shape[2]
    return best, index


def _overlaps(boxes: Tensor, batch: Batch, rows: Tensor) -> Iterator[Tensor]:
    """IoU (B, N, m) with chunks of m boxes of the batch; 0 for boxes outside of `rows` (B, M) bool."""
    chunk = max(1, OVERLAPS_AT_ONCE // (boxes.shape[0] * boxes.shape[1]))
    for first in range(0, batch.boxes.shape[1], chunk):
        columns = slice(first, first + chunk)
        overlap = pairwise_iou(boxes, batch.boxes[:, columns], crowd=batch.ignore[:, columns])
        yield overlap * rows[:, None, columns]
