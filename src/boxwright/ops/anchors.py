"""Cells of anchor-based maps: their positions, the boxes that their numbers encode, the cells of an object.

B images, S scales (coarse first), A anchors a scale, h x w positions of a scale, N = sum of A*h*w cells,
H x W px of the input
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from boxwright.ops.assign import best_anchor, shape_iou
from boxwright.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh


def flatten(raw: tuple[Tensor, ...], anchors: int) -> Tensor:
    """S maps (B, A*(5+C), h, w) -> float32 (B, N, 5+C), by scale, anchor, row, column."""
    levels = []
    for level in raw:
        b, channels, h, w = level.shape
        cells = level.float().reshape(b, anchors, channels // anchors, h * w)
        levels.append(cells.transpose(2, 3).flatten(1, 2))
    return torch.cat(levels, 1)


def objectness(raw: tuple[Tensor, ...], anchors: int) -> Tensor:
    """`flatten(raw, anchors)[..., 4]`: float32 logits (B, N)."""
    levels = [level.reshape(len(level), anchors, -1, *level.shape[2:])[:, :, 4].flatten(1) for level in raw]
    return torch.cat(levels, 1).float()


def rows_at(raw: tuple[Tensor, ...], anchors: int, image: Tensor, cell: Tensor) -> Tensor:
    """`flatten(raw, anchors)[image, cell]`, float32 (K, 5+C); image (K,) in 0..B-1, cell (K,) in 0..N-1.

    Of a few cells it is much faster than laying out all of them.
    """
    rows, first = torch.empty(()), 0
    for level in raw:
        _, channels, h, w = level.shape
        cells = level.reshape(-1, anchors, channels // anchors, h * w)
        here = (cell - first).clamp(0, anchors * h * w - 1)  # cells of other scales read any row, which is dropped
        found = cells[image, here // (h * w), :, here % (h * w)].float()
        rows = torch.where((cell >= first)[:, None], found, rows) if first else found
        first += anchors * h * w
    return rows


@dataclass(frozen=True)
class Cells:
    """The N cells of all maps in the order of `flatten`: by scale (coarse first), anchor, row, column.

    corner (N, 2): top left of the cell, px. stride (N, 1): px. scale_xy (N, 1): how far a center may lie, as a factor
    on the cell about its middle (Darknet's scale_x_y; 1: inside). anchor (N, 2): width, height, px. anchors (S, A, 2).
    grids: (first cell, h, w, stride) of each scale. size: (H, W) of the input, px.
    """

    corner: Tensor
    stride: Tensor
    scale_xy: Tensor
    anchor: Tensor
    anchors: Tensor
    grids: tuple[tuple[int, int, int, int], ...]
    size: tuple[int, int]

    @classmethod
    def of(
        cls, shapes: Sequence[Sequence[int]], strides: Sequence[int], anchors: Tensor, scale_xy: Sequence[float] = ()
    ) -> Self:
        """shapes: (h, w) of each map. anchors (S, A, 2) px. scale_xy: of each map; none: 1."""
        corners, sides, factors, sizes, grids = [], [], [], [], []
        first = 0
        for (h, w), stride, pairs, factor in zip(
            shapes, strides, anchors, scale_xy or [1.0] * len(anchors), strict=True
        ):
            axes = torch.arange(h, device=anchors.device), torch.arange(w, device=anchors.device)
            y, x = torch.meshgrid(*axes, indexing="ij")
            corners.append(stride * torch.stack((x, y), -1).view(-1, 2).repeat(len(pairs), 1))
            sides.append(torch.full((len(pairs) * h * w, 1), float(stride), device=anchors.device))
            factors.append(torch.full((len(pairs) * h * w, 1), factor, device=anchors.device))
            sizes.append(pairs.repeat_interleave(h * w, 0))
            grids.append((first, h, w, stride))
            first += len(pairs) * h * w
        size = (grids[0][1] * grids[0][3], grids[0][2] * grids[0][3])
        corner, side, factor_xy, anchor = (torch.cat(column) for column in (corners, sides, factors, sizes))
        return cls(corner.float(), side, factor_xy, anchor, anchors, tuple(grids), size)

    def boxes(self, logits: Tensor, cell: Tensor | slice = slice(None)) -> Tensor:
        """logits (..., 4) of the cells `cell` -> xyxy px.

        Logarithms are clamped at 10 (22,026 anchors wide), so that an untrained network cannot overflow.
        """
        scale_xy = self.scale_xy[cell]
        offset = scale_xy * logits[..., :2].sigmoid() - (scale_xy - 1) / 2
        center = self.corner[cell] + offset * self.stride[cell]
        side = logits[..., 2:].clamp(max=10).exp() * self.anchor[cell]
        return cxcywh_to_xyxy(torch.cat((center, side), -1))

    def of_scales(self, values: Sequence[float]) -> Tensor:
        """A value for each scale, coarse first -> (N,) that of each cell's scale."""
        counts = (self.anchors.shape[1] * h * w for _, h, w, _ in self.grids)
        return torch.cat([self.stride.new_full((n,), value) for n, value in zip(counts, values, strict=True)])

    def under(self, boxes: Tensor) -> Tensor:
        """boxes (..., 4) xyxy px -> (..., S*A) the cells under the center, one of each scale and anchor."""
        center = xyxy_to_cxcywh(boxes)[..., :2]
        anchor = torch.arange(self.anchors.shape[1], device=boxes.device)
        cells = []
        for first, h, w, stride in self.grids:
            x, y = (center / stride).floor().long().unbind(-1)
            position = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
            cells.append(first + anchor * (h * w) + position[..., None])
        return torch.cat(cells, -1)

    def responsible(self, boxes: Tensor) -> Tensor:
        """boxes (..., 4) xyxy px -> (...) the cell under the center, in the scale and of the anchor that fit best."""
        best = best_anchor(boxes[..., 2:] - boxes[..., :2], self.anchors.flatten(0, 1))
        return self.under(boxes).gather(-1, best[..., None])[..., 0]

    def similar(self, boxes: Tensor, iou: float) -> tuple[Tensor, Tensor]:
        """boxes (..., 4) xyxy px -> the cells `under` them (..., S*A), and which have an anchor of similar shape:
        `shape_iou` above `iou`, or the best anchor repeated on another scale (as in YOLOv4-tiny)."""
        fit = shape_iou(boxes[..., 2:] - boxes[..., :2], self.anchors.flatten(0, 1))
        best, first = fit.max(-1, keepdim=True)
        again = (fit == best).scatter(-1, first, False)
        return self.under(boxes), (fit > iou) | again
