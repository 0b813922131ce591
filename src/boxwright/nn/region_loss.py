"""The loss of Darknet's [region] heads, YOLOv2's (delta_region_box and forward_region_layer in src/region_layer.c).

B images, N cells of the head, K anchors, M boxes an image after padding, C classes

Differences from Darknet: cells are also ignored in crowd and ignore regions, and where classes were not looked for.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from boxwright.config import Config, Fraction, NotNegative
from boxwright.ops import losses
from boxwright.ops.anchors import Cells
from boxwright.ops.assign import shape_iou
from boxwright.ops.iou import iou
from boxwright.ops.targets import Targets, assign_best, assign_to
from boxwright.types import Batch

ANCHOR_WEIGHT = 0.01  # weight of the box loss of cells without an object, whose target is their anchor (region_layer.c)


class RegionLossConfig(Config):
    """Settings of the loss, taken from the .cfg; the defaults are Darknet's for a [region] without the keys."""

    box: NotNegative = 1.0  # weight of center and sides (coord_scale)
    objectness: NotNegative = 1.0  # weight of the objectness of cells with an object (object_scale)
    background: NotNegative = 1.0  # weight of the objectness of all other cells (noobject_scale)
    classes: NotNegative = 1.0  # weight of the classes (class_scale)
    ignore_iou: Fraction = 0.5  # background cells whose box overlaps an object by this or more are ignored (thresh)
    rescore: bool = False  # objectness target of cells with an object: the overlap of their box; false: 1
    # an object is assigned the anchor of the best shape; false: the anchor whose predicted box has the best shape
    bias_match: bool = False
    focal_loss: bool = False  # focal loss of classes, with alpha 0.5 and gamma 2
    # for the first this many images, the box target of cells without an object is their anchor, with weight 0.01
    # (region_layer.c)
    anchor_images: Annotated[int, Field(ge=0)] = 12_800
    normalize: Literal["images", "boxes"] = "images"  # divisor of the sum over cells, as in `LossConfig`


def region_loss(
    rows: Tensor, cells: Cells, batch: Batch, settings: RegionLossConfig, softmax: bool
) -> dict[str, Tensor]:
    """rows (B, N, 5+C), the map's values in the order of `cells` -> the terms box, objectness and classes, weighted.

    softmax: whether scores are a softmax over the classes; otherwise the map's values are the scores.
    """
    targets = _assign(rows, cells, batch, settings.bias_match)
    predicted, owns = losses.at_targets(rows, targets), targets.positive
    objects, background = losses.objectness_targets(rows, cells, targets, batch, settings.ignore_iou)
    background = background & (objects == 0)
    with torch.no_grad():
        overlap = iou(cells.boxes(predicted[..., :4], targets.cell), targets.boxes)
    goal = overlap if settings.rescore else torch.ones_like(overlap)
    sums = {
        "box": settings.box * (owns * _box(predicted, *losses.encode_targets(cells, targets))).sum(),
        "objectness": settings.objectness * (owns * _half_square(predicted[..., 4].sigmoid() - goal)).sum()
        + settings.background * (background * _half_square(rows[..., 4].sigmoid())).sum(),
        "classes": settings.classes
        * (owns * targets.weights * _classes(predicted[..., 5:], batch.labels, settings, softmax)).sum(),
    }
    if batch.seen is not None and settings.anchor_images:
        middle = torch.full_like(rows[..., :2], 0.5)
        anchors = (objects == 0) * _box(rows, middle, torch.zeros_like(middle))
        sums["box"] = sums["box"] + ANCHOR_WEIGHT * (batch.seen < settings.anchor_images) * anchors.sum()
    return losses.normalize(sums, targets, settings.normalize)


def _assign(rows: Tensor, cells: Cells, batch: Batch, bias_match: bool) -> Targets:
    """Assign each object to the cell under its center, and to the anchor whose shape, or predicted shape, fits best."""
    classes = rows.shape[-1] - 5
    if bias_match:
        return assign_best(batch, cells, classes)
    under = cells.under(batch.boxes)  # (B, M, K)
    logits = rows.detach()[..., :4].gather(1, under.flatten(1)[..., None].expand(-1, -1, 4))
    predicted = cells.boxes(logits.view(*under.shape, 4), under)
    fit = shape_iou(batch.boxes[..., 2:] - batch.boxes[..., :2], predicted[..., 2:] - predicted[..., :2])
    cell = under.gather(2, fit.argmax(-1, keepdim=True))[..., 0]
    return assign_to(batch, cell, rows.shape[1], classes)


def _box(predicted: Tensor, position: Tensor, logs: Tensor) -> Tensor:
    """predicted (B, R, 5+C), position and logs (B, R, 2) -> (B, R): half the squared errors of center and sides."""
    errors = torch.cat((predicted[..., :2].sigmoid() - position, predicted[..., 2:4] - logs), -1)
    return _half_square(errors).sum(-1)


def _classes(logits: Tensor, labels: Tensor, settings: RegionLossConfig, softmax: bool) -> Tensor:
    """logits (B, M, C), labels (B, M) -> (B, M): cross entropy of the softmax, or half the squared errors."""
    labels = labels.clamp(min=0)
    if not softmax:
        return _half_square(logits - F.one_hot(labels, logits.shape[-1])).sum(-1)
    log = logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    return -0.5 * (1 - log.exp()).square() * log if settings.focal_loss else -log


def _half_square(errors: Tensor) -> Tensor:
    return 0.5 * errors.square()
