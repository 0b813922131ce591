"""What YOLOv4 learns from (Bochkovskiy et al. 2020): one term for whole boxes, objectness, classes.

B images, N cells, R rows of `Targets`, C classes, H x W px of the input
"""

from typing import Literal

from torch import Tensor

from boxwright.config import Config, Fraction, NotNegative
from boxwright.ops import losses
from boxwright.ops.anchors import Cells
from boxwright.ops.boxes import relative
from boxwright.ops.iou import ciou, zoo_giou
from boxwright.ops.targets import Targets, assign_similar
from boxwright.types import Batch


class LossConfig(Config):
    """The defaults are the MindSpore zoo's (src/yolo.py of official/cv/YOLOv4)."""

    # how a box differs from its object. zoo_giou, ciou: 1 less that overlap. parts: centre and sides, as in YOLOv3
    difference: Literal["zoo_giou", "ciou", "parts"] = "zoo_giou"
    box: NotNegative = 10.0  # weight of that term
    objectness: NotNegative = 1.0  # likewise
    classes: NotNegative = 1.0  # likewise
    scales: tuple[NotNegative, ...] = ()  # weights of the scales, fine to coarse; none: 1 each
    similar_iou: Fraction = 0.213  # besides the best anchor, all whose shape overlaps the object's by more learn it
    ignore_iou: Fraction = 0.7  # background cells whose box overlaps some object by this or more teach nothing
    # the sum over cells is divided by the number of images (MindSpore zoo, Darknet) or of cells that own an object
    normalise: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0


def yolov4_loss(rows: Tensor, cells: Cells, batch: Batch, settings: LossConfig) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits, in the order of `cells` -> the terms box, objectness and classes, weighted."""
    classes = rows.shape[-1] - 5
    targets = assign_similar(batch, cells, classes, settings.similar_iou, settings.label_smoothing)
    return losses.normalise(loss_terms(rows, cells, targets, batch, settings), targets, settings.normalise)


def loss_terms(rows: Tensor, cells: Cells, targets: Targets, batch: Batch, settings: LossConfig) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits -> sums over all cells of all images.

    box: the difference of box and object, times 2 - w*h with sides relative to the input. objectness and classes: those
    of `ops/losses.py`. Each times its weight and that of the scale.
    """
    found = losses.at_targets(rows, targets)
    difference = _difference(found, cells, targets, settings)
    scale = cells.of_scales(settings.scales[::-1] or (1.0,) * len(cells.grids))  # (N,)
    here = scale[targets.cell]  # (B, R)
    objectness = losses.objectness(rows, cells, targets, batch, settings.ignore_iou)
    return {
        "box": settings.box * (here * targets.weight(cells.size) * difference).sum(),
        "objectness": settings.objectness * (scale * objectness).sum(),
        "classes": settings.classes * (here * losses.classes(found, targets)).sum(),
    }


def _difference(found: Tensor, cells: Cells, targets: Targets, settings: LossConfig) -> Tensor:
    """found (B, R, 5+C) logits -> (B, R) of each row's box and object."""
    if settings.difference == "parts":
        xy, wh = losses.place_and_size(found, cells, targets)
        return xy + wh
    measure = ciou if settings.difference == "ciou" else zoo_giou
    boxes = cells.boxes(found[..., :4], targets.cell)
    return 1 - measure(relative(boxes, cells.size), relative(targets.boxes, cells.size))
