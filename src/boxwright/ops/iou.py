"""Overlap of boxes, xyxy in any unit.

... leading dimensions that broadcast, N and M boxes
"""

import math

import torch
from torch import Tensor

from boxwright.ops.boxes import area


def pairwise_iou(a: Tensor, b: Tensor, plus_one: bool = False, crowd: Tensor | None = None) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M) in [0, 1]; 0 where both areas are 0.

    plus_one: coordinates are pixel indices and both ends count, so a width is x2 - x1 + 1 (MindSpore zoo).
    crowd: (..., M) bool, columns with the fraction of `a` inside instead of the IoU, as in COCO's evaluation.
    """
    # Each coordinate separately, contiguous in memory: twice as fast on a CPU as (x, y) pairs.
    ax1, ay1, ax2, ay2 = a.transpose(-1, -2).contiguous()[..., :, None].unbind(-3)
    bx1, by1, bx2, by2 = b.transpose(-1, -2).contiguous()[..., None, :].unbind(-3)
    # In place where possible, since most of the time is spent on new memory.
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1))
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1))
    if plus_one:
        width, height = width.add_(1), height.add_(1)
    shared = width.clamp_(min=0).mul_(height.clamp_(min=0))
    area_a, area_b = area(a, plus_one)[..., :, None], area(b, plus_one)[..., None, :]
    union = (area_a + area_b).sub_(shared)
    if crowd is not None:
        union = torch.where(crowd[..., None, :], area_a, union)
    return shared.div_(union.clamp_(min=1.2e-38))


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M) in [0, 1): squared distance of the centers over the squared diagonal
    of their enclosing box (Zheng et al. 2020, equation 6); 0 if both are the same point."""
    ax1, ay1, ax2, ay2 = a.transpose(-1, -2).contiguous()[..., :, None].unbind(-3)
    bx1, by1, bx2, by2 = b.transpose(-1, -2).contiguous()[..., None, :].unbind(-3)
    across = (ax1 + ax2 - bx1 - bx2).square() + (ay1 + ay2 - by1 - by2).square()
    width, height = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1), torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    return across / 4 / (width.square() + height.square()).clamp(min=1.2e-38)


def iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU of pairs, (..., 4), (..., 4) -> (...) in [0, 1]."""
    shared = _product((torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0))
    return shared / (_product(a[..., 2:] - a[..., :2]) + _product(b[..., 2:] - b[..., :2]) - shared + eps)


def giou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalized IoU of pairs, (..., 4), (..., 4) -> (...) in [-1, 1]: IoU minus the fraction of the enclosing box
    that neither covers (Rezatofighi et al. 2019, algorithm 1)."""
    shared = _product((torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0))
    union = _product(a[..., 2:] - a[..., :2]) + _product(b[..., 2:] - b[..., :2]) - shared
    enclosing = _product(torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2]))
    return shared / (union + eps) - (enclosing - union) / (enclosing + eps)


def diou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Distance IoU of pairs, (..., 4), (..., 4) -> (...) in [-1, 1]: IoU minus the squared distance of the centers over
    the squared diagonal of their enclosing box (Zheng et al. 2020, equations 6 and 7)."""
    return iou(a, b, eps) - _distance(a, b, eps)


def ciou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of pairs, (..., 4), (..., 4) -> (...) in [-1.5, 1]; `a` is the prediction.

    Distance IoU minus a term for the difference of aspect ratios (Zheng et al. 2020, equations 8 to 11). The weight of
    this term is detached.
    """
    (wa, ha), (wb, hb) = ((box[..., 2:] - box[..., :2]).unbind(-1) for box in (a, b))
    overlap = iou(a, b, eps)
    aspect = 4 / math.pi**2 * (torch.atan(wb / (hb + eps)) - torch.atan(wa / (ha + eps))).square()
    with torch.no_grad():
        weight = aspect / (aspect - overlap + 1 + eps)
    return overlap - _distance(a, b, eps) - weight * aspect


def zoo_giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalized IoU of pairs (Rezatofighi et al. 2019, algorithm 1) as the MindSpore zoo's YOLOv4 trains with it:
    (..., 4), (..., 4) -> (...) in [-1, 1]. Boxes are relative to the input, since `eps` is added to both areas.

    The sides of the intersection are not clamped at 0. Boxes that are apart on one axis therefore have a negative
    intersection and larger gradients; boxes apart on both axes have a positive one.
    """
    area_a, area_b = (_product(box[..., 2:] - box[..., :2]) for box in (a, b))
    shared = _product(torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]))
    union = area_a + area_b - shared
    enclosing = _product(torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2]))
    return (shared / (union + eps) - (enclosing - union) / (enclosing + eps)).clamp(-1, 1)


def _distance(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """(..., 4), (..., 4) -> (...): squared distance of the centers over the squared diagonal of the enclosing box."""
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    return (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]).square().sum(-1) / 4 / (enclosing.square().sum(-1) + eps)


def _product(sides: Tensor) -> Tensor:
    """Product (..., 2) -> (...). The gradient of `Tensor.prod` searches for zeros, which synchronizes with a GPU."""
    return sides[..., 0] * sides[..., 1]
