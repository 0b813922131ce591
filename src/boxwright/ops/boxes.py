"""Boxes as (..., 4) tensors: xyxy is x1, y1, x2, y2 and cxcywh is center and size, in any unit."""

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    low, high = boxes.chunk(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    center, size = boxes.chunk(2, dim=-1)
    return torch.cat((center - size / 2, center + size / 2), dim=-1)


def area(boxes: Tensor, plus_one: bool = False) -> Tensor:
    """(..., 4) xyxy -> (...). 0 for a box with negative sides. plus_one: width is x2 - x1 + 1, as in `pairwise_iou`."""
    width, height = (boxes[..., 2:] - boxes[..., :2] + int(plus_one)).clamp(min=0).unbind(-1)
    return width * height


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 4) xyxy px clipped to an image of `size` = (height, width) px."""
    height, width = size
    return torch.stack((boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)), -1).flatten(-2)


def relative(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """(..., 4) xyxy px -> relative to an image of `size` = (height, width) px, in [0, 1] inside it."""
    height, width = size
    return torch.stack((boxes[..., 0::2] / width, boxes[..., 1::2] / height), -1).flatten(-2)
