"""Cells of anchor-based maps: their positions, the boxes that their values encode, and the cells of an object.

B images, S scales in the order of the raw maps, A anchors per scale, h x w positions of a scale, N = sum of A*h*w
cells, K = sum of A, H x W px of the input
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from boxwright.ops.assign import best_anchor, shape_iou
from boxwright.ops.boxes import cxcywh_to_xyxy, relative, xyxy_to_cxcywh

Stride = float | tuple[float, float]  # px, for both axes or (x, y)
Overlap = Callable[[Tensor, Tensor], Tensor]  # overlap of pairs of boxes, as in ops/iou.py


def flatten(raw: tuple[Tensor, ...], anchors: int | Sequence[int]) -> Tensor:
    """S maps (B, A*(5+C), h, w) -> float32 (B, N, 5+C), by scale, anchor, row, column.

    anchors: A of each scale, or one number for all.
    """
    levels = []
    for level, count in _with_anchors(raw, anchors):
        b, channels, h, w = level.shape
        cells = level.float().reshape(b, count, channels // count, h * w)
        levels.append(cells.transpose(2, 3).flatten(1, 2))
    return torch.cat(levels, 1)


def objectness(raw: tuple[Tensor, ...], anchors: int | Sequence[int]) -> Tensor:
    """`flatten(raw, anchors)[..., 4]`: float32 logits (B, N)."""
    levels = [
        level.reshape(len(level), count, -1, *level.shape[2:])[:, :, 4].flatten(1)
        for level, count in _with_anchors(raw, anchors)
    ]
    return torch.cat(levels, 1).float()


def rows_at(raw: tuple[Tensor, ...], anchors: int | Sequence[int], image: Tensor, cell: Tensor) -> Tensor:
    """`flatten(raw, anchors)[image, cell]`, float32 (K, 5+C); image (K,) in 0..B-1, cell (K,) in 0..N-1.

    For a few cells this is much faster than flattening all maps.
    """
    rows, first = torch.empty(()), 0
    for level, count in _with_anchors(raw, anchors):
        _, channels, h, w = level.shape
        cells = level.reshape(-1, count, channels // count, h * w)
        here = (cell - first).clamp(0, count * h * w - 1)  # cells of other scales read any row, which is dropped
        found = cells[image, here // (h * w), :, here % (h * w)].float()
        rows = torch.where((cell >= first)[:, None], found, rows) if first else found
        first += count * h * w
    return rows


def _with_anchors(raw: tuple[Tensor, ...], anchors: int | Sequence[int]) -> Iterator[tuple[Tensor, int]]:
    """Pairs of a map and its A."""
    return zip(raw, [anchors] * len(raw) if isinstance(anchors, int) else anchors, strict=True)


class Grid(NamedTuple):
    """Cells of a scale: index of the first cell among all N, h, w, A, and the stride (x, y) in px."""

    first: int
    h: int
    w: int
    anchors: int
    stride: tuple[float, float]

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.anchors * self.h * self.w


@dataclass(frozen=True)
class Cells:
    """The N cells of all maps in the order of `flatten`: by scale, anchor, row, column.

    corner (N, 2): top left of the cell, px. stride: px, (N, 1), or (N, 2) x, y if they differ. scale_xy (N, 1): range
    of a center, as a factor on the cell around its middle (Darknet's scale_x_y; 1: inside the cell). anchor (N, 2):
    width, height, px. anchors (K, 2): anchors of all scales, px. grids: the scales. size: (H, W) of the input, px.
    """

    corner: Tensor
    stride: Tensor
    scale_xy: Tensor
    anchor: Tensor
    anchors: Tensor
    grids: tuple[Grid, ...]
    size: tuple[float, float]

    @classmethod
    def of(
        cls,
        shapes: Sequence[Sequence[int]],
        strides: Sequence[Stride],
        anchors: Tensor | Sequence[Tensor],
        scale_xy: Sequence[float] = (),
    ) -> Self:
        """Cells of maps. For each map, shapes: (h, w); strides: px or (x, y) px; anchors: (A, 2) px; scale_xy: default
        1."""
        steps = [stride if isinstance(stride, tuple) else (stride, stride) for stride in strides]
        square = all(x == y for x, y in steps)
        corners, sides, factors, sizes, grids = [], [], [], [], []
        first = 0
        for (h, w), step, pairs, factor in zip(shapes, steps, anchors, scale_xy or [1.0] * len(anchors), strict=True):
            grids.append(Grid(first, h, w, len(pairs), step))
            count = grids[-1].cells
            y, x = torch.meshgrid(
                torch.arange(h, device=pairs.device), torch.arange(w, device=pairs.device), indexing="ij"
            )
            columns = [torch.full((count,), float(value), device=pairs.device) for value in step]
            side = columns[0][:, None] if square else torch.stack(columns, -1)
            corners.append((side[: h * w] * torch.stack((x, y), -1).view(-1, 2)).repeat(len(pairs), 1))
            sides.append(side)
            factors.append(torch.full((count, 1), factor, device=pairs.device))
            sizes.append(pairs.repeat_interleave(h * w, 0))
            first += count
        size = (grids[0].h * grids[0].stride[1], grids[0].w * grids[0].stride[0])
        corner, side, factor_xy, anchor = (torch.cat(column) for column in (corners, sides, factors, sizes))
        return cls(corner.float(), side, factor_xy, anchor, torch.cat(tuple(anchors)), tuple(grids), size)

    def boxes(self, logits: Tensor, cell: Tensor | slice = slice(None)) -> Tensor:
        """logits (..., 4) of the cells `cell` -> xyxy px.

        Logarithms are clamped at 10 (22,026 times the anchor), so that an untrained network cannot overflow.
        """
        scale_xy = self.scale_xy[cell]
        offset = scale_xy * logits[..., :2].sigmoid() - (scale_xy - 1) / 2
        center = self.corner[cell] + offset * self.stride[cell]
        side = logits[..., 2:].clamp(max=10).exp() * self.anchor[cell]
        return cxcywh_to_xyxy(torch.cat((center, side), -1))

    def of_scales(self, values: Sequence[float]) -> Tensor:
        """One value per scale -> (N,) the value of each cell's scale."""
        return torch.cat(
            [self.corner.new_full((grid.cells,), value) for grid, value in zip(self.grids, values, strict=True)]
        )

    def under(self, boxes: Tensor) -> Tensor:
        """boxes (..., 4) xyxy px -> (..., K) index of the cell under the center, for each scale and anchor."""
        center = xyxy_to_cxcywh(boxes)[..., :2]
        cells = []
        for grid in self.grids:
            anchor = torch.arange(grid.anchors, device=boxes.device)
            x, y = (center / self.stride[grid.first]).floor().long().unbind(-1)
            position = y.clamp(0, grid.h - 1) * grid.w + x.clamp(0, grid.w - 1)
            cells.append(grid.first + anchor * (grid.h * grid.w) + position[..., None])
        return torch.cat(cells, -1)

    def responsible(self, boxes: Tensor) -> Tensor:
        """boxes (..., 4) xyxy px -> (...) index of the cell under the center, for the anchor of the best shape."""
        best = best_anchor(boxes[..., 2:] - boxes[..., :2], self.anchors)
        return self.under(boxes).gather(-1, best[..., None])[..., 0]

    def similar(self, boxes: Tensor, iou: float | Tensor, overlap: Overlap | None = None) -> tuple[Tensor, Tensor]:
        """boxes (..., 4) xyxy px -> the cells `under` them (..., K), and which have an anchor of similar shape:
        `shape_iou` above `iou`, a number or (K,), or the best anchor repeated on another scale (as in YOLOv4-tiny).

        overlap: used instead of `shape_iou`, for the anchor and the box with the same center, relative to the input."""
        sides = boxes[..., 2:] - boxes[..., :2]
        fit = shape_iou(sides, self.anchors)
        best, first = fit.max(-1, keepdim=True)
        again = (fit == best).scatter(-1, first, False)
        if overlap is not None:
            pairs = [torch.cat((-each, each), -1) / 2 for each in (self.anchors, sides[..., None, :])]
            fit = overlap(*(relative(pair, self.size) for pair in pairs))
        return self.under(boxes), (fit > iou) | again
