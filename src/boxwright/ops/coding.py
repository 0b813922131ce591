"""Boxes as deltas from reference boxes, as two-stage detectors regress them.

... leading dimensions that broadcast; boxes are xyxy px, deltas are (dx, dy, dw, dh)
"""

import math

import torch
from torch import Tensor

# No side becomes more than 1000 / 16 times that of its reference, so that an untrained network cannot overflow
# (Detectron). The MindSpore zoo's wh_ratio_clip of 0.016 is its reciprocal, and limits both directions.
MAX_LOG_SCALE = math.log(1000 / 16)


def encode(boxes: Tensor, references: Tensor, stds: Tensor, plus_one: bool = False) -> Tensor:
    """Boxes (..., 4), references (..., 4) -> deltas (..., 4) (Faster R-CNN paper, equation 2).

    stds (4,): divisors of the deltas. plus_one: a width is x2 - x1 + 1 (MindSpore zoo).
    Sides are at least a millionth of a pixel, so that padding stays finite.
    """
    (center, side), (from_center, from_side) = (_center_and_side(xyxy, plus_one) for xyxy in (boxes, references))
    moved = (center - from_center) / from_side
    grown = (side / from_side).log()
    return torch.cat((moved, grown), -1) / stds


def decode(
    deltas: Tensor, references: Tensor, stds: Tensor, plus_one: bool = False, limit_shrink: bool = False
) -> Tensor:
    """Inverse of `encode`: deltas (..., 4), references (..., 4) -> boxes (..., 4), not clipped to the image.

    dw and dh are at most MAX_LOG_SCALE; with `limit_shrink` or `plus_one` they are at least -MAX_LOG_SCALE, too.
    """
    moved, grown = (deltas * stds).chunk(2, -1)
    from_center, from_side = _center_and_side(references, plus_one)
    center = from_center + moved * from_side
    grown = grown.clamp(-MAX_LOG_SCALE if plus_one or limit_shrink else None, MAX_LOG_SCALE)
    half = (from_side * grown.exp() - int(plus_one)) / 2
    return torch.cat((center - half, center + half), -1)


def _center_and_side(boxes: Tensor, plus_one: bool) -> tuple[Tensor, Tensor]:
    low, high = boxes.chunk(2, -1)
    return (low + high) / 2, (high - low + int(plus_one)).clamp(min=1e-6)
