"""The loss of Darknet's [yolo] heads, with its gradients (delta_yolo_box and forward_yolo_layer in src/yolo_layer.c).

B images, S heads, N cells of all heads, K anchors of all heads, R rows of `Targets`, C classes

Differences: of several objects in a cell and anchor the last counts, and the best anchor is that of all masks, so that
objects are learned, too, whose best anchor in the file is in no mask. A background cell that overlaps an object is
ignored whatever its classes are.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from boxwright.config import Config, Fraction, NotNegative, Positive
from boxwright.ops import iou, losses
from boxwright.ops.anchors import Cells
from boxwright.ops.boxes import cxcywh_to_xyxy, relative, xyxy_to_cxcywh
from boxwright.ops.targets import Targets, assign_similar
from boxwright.types import Batch

Weights = Annotated[tuple[NotNegative, ...], Field(min_length=1)]  # of each head in the file's order, or one for all
Fractions = Annotated[tuple[Fraction, ...], Field(min_length=1)]  # likewise
OVERLAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou.iou, "giou": iou.giou, "diou": iou.diou, "ciou": iou.ciou,
}  # fmt: skip


class LossConfig(Config):
    """Taken from the .cfg; the defaults are Darknet's for a head without the keys."""

    # mse: center and sides, as in YOLOv3. Others: 1 less that overlap of box and object; as in Darknet its gradient is
    # by center and sides in shares of the input, and goes through the exponential of the sides, but not through the
    # logistic of the center
    box_loss: Literal["mse", "iou", "giou", "diou", "ciou"] = "mse"
    box: Weights = (0.75,)  # weight of that term (iou_normalizer)
    max_delta: tuple[Positive, ...] = ()  # limit of its gradients for one object, as for `box`; none: no limit
    objectness: Weights = (1.0,)  # weight of that term (obj_normalizer)
    classes: Weights = (1.0,)  # likewise
    # besides the best anchor, all of the head whose shape overlaps the object's by more are assigned to it (iou_thresh)
    assign_iou: Fractions = (1.0,)
    # background cells whose box overlaps an object by this or more are ignored (ignore_thresh)
    ignore_iou: Fractions = (0.5,)
    # the sum over cells is divided by the number of images (Darknet) or of cells with an object
    normalize: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0  # targets of classes are 1 - this / 2 and this / 2 (label_smooth_eps)


def yolo_loss(
    rows: Tensor, cells: Cells, batch: Batch, settings: LossConfig, new_coords: Sequence[bool]
) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits, in the order of `cells` -> the terms box, objectness and classes, weighted.

    new_coords: of each head, whether the logits come from numbers in [0, 1] that its map holds.
    """
    heads = len(cells.grids)

    def of_cells(values: Sequence[float]) -> Tensor:
        return cells.of_scales(values if len(values) == heads else [*values] * heads)

    similar = settings.assign_iou if len(settings.assign_iou) == heads else settings.assign_iou * heads
    of_anchors = [value for value, grid in zip(similar, cells.grids, strict=True) for _ in range(grid.anchors)]
    targets = assign_similar(batch, cells, rows.shape[-1] - 5, rows.new_tensor(of_anchors))
    found, here = losses.at_targets(rows, targets), targets.cell
    squashed = of_cells([float(value) for value in new_coords])
    limit = of_cells(settings.max_delta)[here] if settings.max_delta else None
    if settings.box_loss == "mse":
        box = targets.weight(cells.size) * torch.stack(losses.place_and_size(found, cells, targets)).sum(0)
        box = of_cells(settings.box)[here] * box
    else:
        overlap = OVERLAPS[settings.box_loss]
        box = overlap_loss(found[..., :4], cells, targets, overlap, of_cells(settings.box)[here], limit, squashed[here])
    smooth = targets.classes * (1 - settings.label_smoothing) + settings.label_smoothing / 2
    errors = F.binary_cross_entropy_with_logits(found[..., 5:], smooth, reduction="none")
    errors = errors * _slope(found[..., 5:], squashed[here][..., None])
    objectness = losses.objectness(rows, cells, targets, batch, of_cells(settings.ignore_iou))
    objectness = objectness * _slope(rows[..., 4], squashed)
    sums = {
        "box": box.sum(),
        "objectness": (of_cells(settings.objectness) * objectness).sum(),
        "classes": (of_cells(settings.classes)[here] * targets.positive * targets.weights * errors.sum(-1)).sum(),
    }
    return losses.normalize(sums, targets, settings.normalize)


def overlap_loss(
    found: Tensor,
    cells: Cells,
    targets: Targets,
    overlap: Callable[[Tensor, Tensor], Tensor],
    weight: Tensor,
    limit: Tensor | None,
    squashed: Tensor,
) -> Tensor:
    """found (B, R, 4) logits -> (B, R): weight times 1 less the overlap, with Darknet's gradients.

    weight, limit, squashed: (B, R), as `box`, `max_delta` of the settings, and whether the row is of new_coords.
    """
    height, width = cells.size
    size, logits = found.new_tensor([width, height, width, height]), found.detach()
    with torch.enable_grad():
        boxes = (xyxy_to_cxcywh(cells.boxes(logits, targets.cell)) / size).requires_grad_()
        value = overlap(cxcywh_to_xyxy(boxes), relative(targets.boxes, cells.size))
        (slope,) = torch.autograd.grad(value.sum(), boxes)
    t, sides, new = logits[..., :2].sigmoid(), logits[..., 2:].clamp(max=10), squashed[..., None] > 0
    delta = weight[..., None] * slope * torch.cat((torch.ones_like(t), torch.where(new, 1.0, sides.exp())), -1)
    if limit is not None:
        delta = torch.minimum(delta, limit[..., None]).maximum(-limit[..., None])
    # A head of new_coords hands its gradients to a logistic, t (1 - t); our logits of its sides are 2 log(2 t).
    delta = delta * torch.where(new, torch.cat((t * (1 - t), (sides / 2).exp() / 4), -1), 1.0)
    delta = torch.where(targets.positive[..., None], delta, 0.0)
    loss = torch.where(targets.positive, weight * (1 - value.detach()), 0.0)
    return loss + ((logits - found) * delta).sum(-1)  # the second is 0, with the gradient -delta


def _slope(logits: Tensor, squashed: Tensor) -> Tensor:
    """The factor of gradients that come through a logistic to where `squashed` is 1; else 1. It carries no gradient."""
    t = logits.detach().sigmoid()
    return torch.where(squashed > 0, t * (1 - t), 1.0)
