"""Boxes as differences from other boxes, the way two-stage detectors learn them.

... leading dimensions that broadcast; boxes are xyxy px, deltas are (dx, dy, dw, dh)
"""

import math

import torch
from torch import Tensor

# A delta never makes a box more than 1000 / 16 times as large as its reference, so that an untrained network cannot
# overflow (Detectron). The MindSpore zoo's wh_ratio_clip of 0.016 is the same number upside down, and holds both ways.
LARGEST = math.log(1000 / 16)


def encode(boxes: Tensor, references: Tensor, stds: Tensor, plus_one: bool = False) -> Tensor:
    """(..., 4), (..., 4) -> deltas (..., 4) that `decode` turns into `boxes` again (Faster R-CNN paper, equation 2).

    stds (4,): the deltas are divided by these. plus_one: a width is x2 - x1 + 1 (MindSpore zoo).
    Sides of 0 are taken as a millionth of a pixel, so that padding stays finite.
    """
    (centre, side), (from_centre, from_side) = (_centre_and_side(each, plus_one) for each in (boxes, references))
    moved = (centre - from_centre) / from_side
    grown = (side / from_side).log()
    return torch.cat((moved, grown), -1) / stds


def decode(deltas: Tensor, references: Tensor, stds: Tensor, plus_one: bool = False) -> Tensor:
    """The inverse of `encode`: (..., 4), (..., 4) -> boxes (..., 4), not cut to the picture."""
    moved, grown = (deltas * stds).chunk(2, -1)
    from_centre, from_side = _centre_and_side(references, plus_one)
    centre = from_centre + moved * from_side
    grown = grown.clamp(-LARGEST if plus_one else None, LARGEST)
    half = (from_side * grown.exp() - int(plus_one)) / 2
    return torch.cat((centre - half, centre + half), -1)


def _centre_and_side(boxes: Tensor, plus_one: bool) -> tuple[Tensor, Tensor]:
    low, high = boxes.chunk(2, -1)
    return (low + high) / 2, (high - low + int(plus_one)).clamp(min=1e-6)
