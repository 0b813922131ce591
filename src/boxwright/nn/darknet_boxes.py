"""Box losses with Darknet's gradients. They are not the derivatives of the loss values, so they are set explicitly.

B images, N cells of all heads, R rows of `Targets`

In all functions: found (B, R, 4), box logits; weight (B, R), a factor; limit (B, R), the largest gradient.
"""

import math

import torch
from torch import Tensor

from boxwright.ops import losses
from boxwright.ops.anchors import Cells, Overlap
from boxwright.ops.boxes import cxcywh_to_xyxy, relative, xyxy_to_cxcywh
from boxwright.ops.targets import Targets

# [Gaussian_yolo] (gaussian_yolo_layer.c): added to a standard deviation and to a density
DEVIATION_FLOOR = 0.3
DENSITY_FLOOR = 1e-9


def overlap_loss(
    found: Tensor,
    cells: Cells,
    targets: Targets,
    overlap: Overlap,
    weight: Tensor,
    limit: Tensor | None,
    squashed: Tensor,
) -> Tensor:
    """Overlap loss (B, R): weight * (1 - overlap of box and object).

    The gradient is taken with respect to center and sides relative to the input. It is backpropagated through the
    exponential of the sides, but not through the sigmoid of the center. squashed: (B, R), 1 where the head has
    new_coords, else 0.
    """
    logits = found.detach()
    with torch.enable_grad():
        boxes = xyxy_to_cxcywh(relative(cells.boxes(logits, targets.cell), cells.size)).requires_grad_()
        value = overlap(cxcywh_to_xyxy(boxes), relative(targets.boxes, cells.size))
        (slope,) = torch.autograd.grad(value.sum(), boxes)
    t, sides, new = logits[..., :2].sigmoid(), logits[..., 2:].clamp(max=10), squashed[..., None] > 0
    delta = weight[..., None] * slope * torch.cat((torch.ones_like(t), torch.where(new, 1.0, sides.exp())), -1)
    if limit is not None:
        delta = torch.minimum(delta, limit[..., None]).maximum(-limit[..., None])
    # With new_coords a sigmoid follows, whose derivative is t (1 - t); our logits of its sides are 2 log(2 t).
    delta = delta * torch.where(new, torch.cat((t * (1 - t), (sides / 2).exp() / 4), -1), 1.0)
    loss = torch.where(targets.positive, weight * (1 - value.detach()), 0.0)
    return _with_gradient(loss, found, delta, targets)


def normal_loss(
    found: Tensor,
    spread: Tensor,
    cells: Cells,
    targets: Targets,
    weight: Tensor,
    spread_weight: Tensor,
    limit: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gaussian loss, two tensors (B, R): half the negative log-likelihood of the object, whose position in the cell and
    logarithms of the sides are normally distributed around the box (Choi et al. 2019, Gaussian YOLOv3, equation 6).

    The first has the gradient of the box, the second that of the standard deviations; neither is backpropagated through
    a sigmoid. Small boxes count more, as in `Targets.weight`.

    spread: (B, R, 4), logits of the standard deviations. spread_weight: the factor on the second.
    """
    position, logs = losses.encode_targets(cells, targets)
    scale_xy = cells.scale_xy[targets.cell]
    goal = torch.cat((scale_xy * position, logs), -1)
    with torch.enable_grad():
        mean = torch.cat((scale_xy * found[..., :2].sigmoid(), found[..., 2:]), -1).detach().requires_grad_()
        deviation = spread.detach().sigmoid().requires_grad_()
        falloff = (-0.5 * ((goal - mean) / deviation).square()).exp()
        density = falloff / (math.sqrt(2 * math.pi) * (deviation + DEVIATION_FLOOR))
        value = 0.5 * (density + DENSITY_FLOOR).log()
        slopes = torch.autograd.grad(value.sum(), (mean, deviation))
    small = targets.weight(cells.size)
    total = torch.where(targets.positive, -small * value.detach().sum(-1), 0.0)
    result = []
    for logits, slope, factor in zip((found, spread), slopes, (weight, spread_weight), strict=True):
        delta = ((factor * small)[..., None] * slope).nan_to_num(0.0, 0.0, 0.0)  # standard deviations of 0
        if limit is not None:
            delta = torch.minimum(delta, limit[..., None]).maximum(-limit[..., None])
        result.append(_with_gradient(factor * total, logits, delta, targets))
    return result[0], result[1]


def _with_gradient(loss: Tensor, logits: Tensor, delta: Tensor, targets: Targets) -> Tensor:
    """The value of `loss` (B, R), with -delta as the gradient of the logits (B, R, 4) of rows that own a cell."""
    delta = torch.where(targets.positive[..., None], delta, 0.0)
    return loss.detach() + ((logits.detach() - logits) * delta).sum(-1)
