"""The loss of Darknet's [yolo] and [Gaussian_yolo] heads, with its gradients (src/yolo_layer.c, gaussian_yolo_layer.c).

B images, S heads, N cells of all heads, K anchors of all heads, R rows of `Targets`, C classes

Differences from Darknet: of several objects in a cell and anchor the last counts. The best anchor is chosen among those
in a mask, so objects are also learned whose best anchor in the file is in no mask. Whether a background cell that
overlaps an object is ignored does not depend on its classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from boxwright.config import Config, Fraction, NotNegative, Positive
from boxwright.nn.darknet_boxes import normal_loss, overlap_loss
from boxwright.ops import iou, losses
from boxwright.ops.anchors import Cells, Overlap
from boxwright.ops.targets import Targets, assign_similar
from boxwright.types import Batch

# One value per head in the file's order, or one for all
Weights = Annotated[tuple[NotNegative, ...], Field(min_length=1)]
Fractions = Annotated[tuple[Fraction, ...], Field(min_length=1)]
Flags = Annotated[tuple[bool, ...], Field(min_length=1)]
OVERLAPS: dict[str, Overlap] = {"iou": iou.iou, "giou": iou.giou, "diou": iou.diou, "ciou": iou.ciou}


class LossConfig(Config):
    """Settings of the loss, taken from the .cfg; the defaults are Darknet's for a head without the keys."""

    # mse: center and sides, as in YOLOv3, or their negative log-likelihood for a [Gaussian_yolo]. Other values: 1 minus
    # that overlap of box and object. As in Darknet, its gradient with respect to center and sides relative to the input
    # is backpropagated through the exponential of the sides, but not through the sigmoid of the center
    box_loss: Literal["mse", "iou", "giou", "diou", "ciou"] = "mse"
    box: Weights = (0.75,)  # weight of the box term (iou_normalizer)
    uncertainty: Weights = (1.0,)  # weight of the standard deviations' term of a [Gaussian_yolo] (uc_normalizer)
    max_delta: tuple[Positive, ...] = ()  # limit of the box gradients of one object; empty: no limit
    objectness: Weights = (1.0,)  # weight of the objectness term (obj_normalizer)
    classes: Weights = (1.0,)  # weight of the class term
    # an object is assigned its best anchor and all others of the head with a higher shape overlap than this
    # (iou_thresh)
    assign_iou: Fractions = (1.0,)
    assign_kind: Literal["iou", "giou", "diou", "ciou"] = "iou"  # overlap that `assign_iou` refers to (iou_thresh_kind)
    # cells without an object whose predicted box overlaps one by more are assigned to it, too (truth_thresh)
    truth_iou: Fractions = (1.0,)
    # background cells whose box overlaps an object by this or more are ignored (ignore_thresh)
    ignore_iou: Fractions = (0.5,)
    # objectness target of cells with an object: the overlap of their box with it, its square above `truth_iou`, and 0
    # below `ignore_iou`. false: 1
    objectness_smooth: Flags = (False,)
    focal_loss: Flags = (False,)  # focal loss of classes, with alpha 0.5 and gamma 2
    # factor per class on box, objectness and own class of its objects; empty: 1 (counters_per_class)
    class_weights: tuple[Positive, ...] = ()
    own_class: Weights = (1.0,)  # factor on the object's own class only (cls_normalizer with counters_per_class)
    # the sum over cells is divided by the number of images (Darknet) or of cells with an object
    normalize: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0  # s: class targets are 1 - s / 2 and s / 2 instead of 1 and 0 (label_smooth_eps)


class CellSettings:
    """Settings of each cell, (N,), from the head that it belongs to."""

    def __init__(self, settings: LossConfig, cells: Cells, new_coords: Sequence[bool]) -> None:
        def of_cells(values: Sequence[float]) -> Tensor:
            return cells.of_scales(values if len(values) == len(cells.grids) else [*values] * len(cells.grids))

        self.box, self.uncertainty = of_cells(settings.box), of_cells(settings.uncertainty)
        self.limit = of_cells(settings.max_delta) if settings.max_delta else None
        self.objectness, self.classes = of_cells(settings.objectness), of_cells(settings.classes)
        self.own_class = of_cells(settings.own_class)
        self.truth_iou, self.ignore_iou = of_cells(settings.truth_iou), of_cells(settings.ignore_iou)
        self.smooth, self.focal = of_cells(settings.objectness_smooth) > 0, of_cells(settings.focal_loss) > 0
        self.squashed = of_cells(new_coords)


def yolo_loss(
    rows: Tensor,
    cells: Cells,
    batch: Batch,
    settings: LossConfig,
    new_coords: Sequence[bool],
    spread: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits, in the order of `cells` -> the terms box, objectness and classes, weighted.

    new_coords: per head, whether its map holds values in [0, 1], from which the logits were computed. spread: (B, N, 4)
    logits of the standard deviations of [Gaussian_yolo] heads; adds the term uncertainty. class_weights: (C,),
    `settings.class_weights` on the device.
    """
    own = CellSettings(settings, cells, new_coords)
    targets, labels = _assign(rows, cells, batch, settings, own)
    predicted, here = losses.at_targets(rows, targets), targets.cell
    factor = torch.ones_like(predicted[..., 0])
    if class_weights is not None:
        factor = class_weights[labels]
    weight, limit = own.box[here] * factor, None if own.limit is None else own.limit[here]
    sums = {}
    if spread is not None:
        deviations = losses.at_targets(spread, targets)
        factors = weight, own.uncertainty[here], limit
        box, uncertainty = normal_loss(predicted[..., :4], deviations, cells, targets, *factors)
        sums["uncertainty"] = uncertainty.sum()
    elif settings.box_loss == "mse":
        place, size = losses.place_and_size(predicted, cells, targets)
        box = weight * targets.weight(cells.size) * (cells.scale_xy[here][..., 0] * place + size)
    if settings.box_loss != "mse":
        overlap = OVERLAPS[settings.box_loss]
        box = overlap_loss(predicted[..., :4], cells, targets, overlap, weight, limit, own.squashed[here])
    objectness = _objectness(rows, cells, targets, batch, settings, own, factor)
    classes = _classes(predicted[..., 5:], targets, labels, settings, own, class_weights)
    of_labels = 1.0 if batch.class_weights is None else batch.class_weights[labels]
    sums |= {
        "box": box.sum(),
        "objectness": (own.objectness * objectness).sum(),
        "classes": (own.classes[here] * targets.positive * of_labels * classes).sum(),
    }
    return losses.normalize(sums, targets, settings.normalize)


def _assign(
    rows: Tensor, cells: Cells, batch: Batch, settings: LossConfig, own: CellSettings
) -> tuple[Targets, Tensor]:
    """Targets, and (B, R) the classes of their objects.

    With `truth_iou` there are N more rows: each cell without an object, with the object that its box overlaps most.
    """
    classes = rows.shape[-1] - 5
    similar = settings.assign_iou if len(settings.assign_iou) > 1 else settings.assign_iou * len(cells.grids)
    of_anchors = torch.cat([rows.new_full((g.anchors,), value) for value, g in zip(similar, cells.grids, strict=True)])
    kind = None if settings.assign_kind == "iou" else OVERLAPS[settings.assign_kind]
    targets = assign_similar(batch, cells, classes, of_anchors, overlap=kind)
    labels = batch.labels.clamp(min=0).repeat(1, 1 + len(of_anchors))
    if min(settings.truth_iou) == 1 or not batch.labels.shape[1]:
        return targets, labels
    overlap, index = losses.best_object(cells.boxes(rows[..., :4].detach()), batch)
    positive = (overlap > own.truth_iou) & (losses.cells_with_object(targets, rows.shape[1]) == 0)
    more = batch.labels.clamp(min=0).gather(1, index)
    bits = F.one_hot(more, classes) * torch.where(own.smooth, overlap.square(), 1.0)[..., None]
    cell = torch.where(positive, torch.arange(rows.shape[1], device=rows.device), 0)
    together = replace(
        targets,
        boxes=torch.cat((targets.boxes, batch.boxes.gather(1, index[..., None].expand(-1, -1, 4))), 1),
        positive=torch.cat((targets.positive, positive), 1),
        cell=torch.cat((targets.cell, cell), 1),
        classes=torch.cat((targets.classes, bits), 1),
    )
    return together, torch.cat((labels, more), 1)


def _objectness(
    rows: Tensor, cells: Cells, targets: Targets, batch: Batch, settings: LossConfig, own: CellSettings, factor: Tensor
) -> Tensor:
    """Objectness cross entropy (B, N). factor: (B, R), class weight of each row's object."""
    goal, background = losses.objectness_targets(rows, cells, targets, batch, own.ignore_iou)
    counted = (goal > 0) | background
    assigned = batch.labels.shape[1] * (1 + len(cells.anchors))  # rows, without those of `truth_iou`
    # Rows without a cell write to an extra column, which is dropped.
    cell = torch.where(targets.positive, targets.cell, rows.shape[1])[:, :assigned]
    factors = factor.new_ones(len(rows), rows.shape[1] + 1).scatter(1, cell, factor[:, :assigned])[:, :-1]
    if any(settings.objectness_smooth):
        overlap, _ = losses.best_object(cells.boxes(rows[..., :4].detach()), batch)
        above = overlap > own.ignore_iou
        learned = torch.where(overlap > own.truth_iou, overlap.square(), overlap * above)
        goal, counted = torch.where(own.smooth, learned, goal), counted | (own.smooth & above)
        factors = torch.where(own.smooth, 1.0, factors)
    errors = F.binary_cross_entropy_with_logits(rows[..., 4], goal, reduction="none")
    return factors * errors * counted * _slope(rows[..., 4], own.squashed)


def _classes(
    logits: Tensor,
    targets: Targets,
    labels: Tensor,
    settings: LossConfig,
    own: CellSettings,
    class_weights: Tensor | None,
) -> Tensor:
    """logits (B, R, C), labels (B, R) of the rows' objects -> (B, R) sum of the classes' cross entropies."""
    here = targets.cell
    smooth = targets.classes * (1 - settings.label_smoothing) + settings.label_smoothing / 2
    errors = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    if class_weights is not None:
        factors = class_weights * own.own_class[here][..., None]
        errors = torch.where(targets.classes > 0, factors * errors, errors)
    if any(settings.focal_loss):
        # Darknet's factor on all classes: from the probability of the object's class, and detached
        p = logits.detach().sigmoid().gather(2, labels[..., None])
        factor = -0.5 * (1 - p) * (2 * p * (p + 1e-15).log() + p - 1)
        focal = factor * F.binary_cross_entropy_with_logits(logits, targets.classes, reduction="none")
        errors = torch.where(own.focal[here][..., None], focal, errors)
    return (errors * _slope(logits, own.squashed[here][..., None])).sum(-1)


def _slope(logits: Tensor, squashed: Tensor) -> Tensor:
    """Derivative of the sigmoid where `squashed` is 1, else 1; detached."""
    t = logits.detach().sigmoid()
    return torch.where(squashed > 0, t * (1 - t), 1.0)
