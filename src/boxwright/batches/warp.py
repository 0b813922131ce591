"""Geometric transform of canvases and boxes; every output pixel is sampled once.

    B canvases, C channels, H x W px each; K outputs, h x w px each, made of T tiles (1, or 4 in a mosaic); M boxes per
    canvas

Coordinates are continuous: pixel i covers i to i + 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.batches.compilable import compilable
from boxwright.types import Batch

HUGEPAGE_BYTES = 4 << 20  # from which NumPy requests huge pages


@dataclass(frozen=True)
class WarpGeometry:
    """Canvases are placed as tiles on a plane, which one matrix maps to the output.

    In a mosaic the tiles are top left, top right, bottom left, bottom right; else tile 0 covers everything.
    """

    tiles: npt.NDArray[np.int64]  # (K, T) index of the canvas of each tile
    shift: npt.NDArray[np.float64]  # (K, T, 2) plane (x, y) px of the top left corner of that canvas
    center: npt.NDArray[np.float64]  # (K, 2) plane (x, y) px where the four tiles meet; infinite without a mosaic
    matrix: npt.NDArray[np.float64]  # (K, 3, 3) plane px -> output px


def warp(
    batch: Batch, geometry: WarpGeometry, size: tuple[int, int], *, fill: float, min_side: float, min_visible: float
) -> Batch:
    """Transform images and boxes: (K, C, *size) float32 in [0, 1], T * M rows of boxes, and the frames of `batch`.

    fill: gray level, 0 to 255, where there is no canvas. Boxes with a remaining side of `min_side` px or less, or with
    less than the fraction `min_visible` of their area remaining, get label -1. Crowd regions are kept while any area
    remains, since the objects in them are not background.
    """
    # A mosaic shows the contents without the padding of their canvases; a single tile shows its full canvas.
    contents = np.array([frame.content for frame in batch.frames])[geometry.tiles]
    inverses = np.linalg.inv(geometry.matrix)
    arrays = (geometry.shift, geometry.center, geometry.matrix, inverses, contents, geometry.tiles)
    shift, center, matrix, inverse, content, tiles = to_device(arrays, batch.images.device)
    tiles = tiles.long()
    single, perspective = tiles.shape[1] == 1, bool(geometry.matrix[:, 2, :2].any())
    # The fill is subtracted and added again, since sampling pads with zeros.
    strip = None if single else _strip(batch.images).float().sub_(fill)
    images = empty_hugepages((len(tiles), batch.images.shape[1], *size), tiles.device)
    for chunk in chunks(images):
        if strip is None:
            images[chunk] = _canvas_pixels(batch.images, tiles[chunk, 0], inverse[chunk], size, perspective, fill)
        else:
            areas = torch.cat([shift, content, tiles[..., None] * float(batch.images.shape[2])], 2)
            images[chunk] = _mosaic_pixels(strip, areas[chunk], center[chunk], inverse[chunk], size, perspective, fill)

    count, rows = len(tiles), tiles.shape[1] * batch.labels.shape[1]
    boxes = batch.boxes[tiles] + torch.cat([shift, shift], 2)[:, :, None]  # (K, T, M, 4) on the plane
    visible = boxes if single else _clip_to_tiles(boxes, shift, center, content)
    full, clipped = (_transform_boxes(each.reshape(count, rows, 4), matrix) for each in (boxes, visible))
    clipped[..., 0::2].clamp_(0, size[1])
    clipped[..., 1::2].clamp_(0, size[0])
    sides, full_sides = clipped[..., 2:] - clipped[..., :2], full[..., 2:] - full[..., :2]
    labels, crowd = (each[tiles].reshape(count, rows) for each in (batch.labels, batch.ignore))
    large_enough = (sides > min_side).all(-1) & (sides.prod(-1) >= min_visible * full_sides.prod(-1))
    valid = (labels >= 0) & torch.where(crowd, (sides > 0).all(-1), large_enough)
    labeled = None
    if batch.labeled is not None:  # in a mosaic, the classes that were looked for in all of its images
        of_tiles = batch.labeled[tiles]  # (K, T, C)
        labeled = of_tiles[:, 0] & (of_tiles.all(1) | center[:, :1].isinf())
    return Batch(
        images, clipped * valid[..., None], labels.masked_fill(~valid, -1), crowd & valid, batch.frames, labeled=labeled
    )


@compilable
def _canvas_pixels(
    images: Tensor, which: Tensor, inverse: Tensor, size: tuple[int, int], perspective: bool, fill: float
) -> Tensor:
    """(K, C, *size) in [0, 1] of a canvas each. images (B, C, H, W) uint8; which (K,); inverse: of `_plane_points`."""
    x, y = _plane_points(inverse, size, perspective)
    return _to_unit(_sample_canvas(images[which].float().sub_(fill), x, y), fill)


@compilable
def _mosaic_pixels(
    strip: Tensor,
    areas: Tensor,
    center: Tensor,
    inverse: Tensor,
    size: tuple[int, int],
    perspective: bool,
    fill: float,
) -> Tensor:
    """`_canvas_pixels` for four canvases each. strip: of `_strip`. areas (K, 4, 7): shift, content, start in it."""
    x, y = _plane_points(inverse, size, perspective)
    return _to_unit(_sample_mosaic(strip, areas, center, x, y), fill)


def _to_unit(sampled: Tensor, fill: float) -> Tensor:
    """Gray levels minus `fill` -> [0, 1]."""
    return sampled.add_(fill).div_(255).clamp_(0, 1)


def to_device(
    arrays: Sequence[npt.NDArray[Any]], device: torch.device, dtype: npt.DTypeLike = np.float32
) -> list[Tensor]:
    """The arrays as `dtype` on `device`, in one copy, which does not synchronize with a GPU."""
    packed = torch.from_numpy(np.concatenate([each.ravel() for each in arrays]).astype(dtype))
    if device.type == "cuda":
        packed = packed.pin_memory()
    tensors = torch.split(packed.to(device, non_blocking=True), [each.size for each in arrays])
    return [tensor.view(each.shape) for tensor, each in zip(tensors, arrays, strict=True)]


def chunks(images: Tensor) -> list[slice]:
    """The rows to process at a time: all on a GPU, one on a CPU, since one image fits into its cache.

    That was 1.3 times (colors) to 3 times (mosaic) as fast on two cores at 640 px.
    """
    rows = len(images)
    return [slice(row, row + 1) for row in range(rows)] if images.device.type == "cpu" else [slice(0, rows)]


def empty_hugepages(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """An uninitialized float32 tensor.

    On a CPU large ones are allocated by NumPy, which requests huge pages: without page faults, a new batch of 64 images
    of 224 px is written in half the time. Small ones are allocated by PyTorch, aligned to 64 bytes: without alignment,
    rounding may differ between runs.
    """
    if device.type == "cpu" and 4 * math.prod(shape) >= HUGEPAGE_BYTES:
        return torch.from_numpy(np.empty(shape, dtype=np.float32))
    return torch.empty(shape, device=device)


def _plane_points(inverse: Tensor, size: tuple[int, int], perspective: bool) -> tuple[Tensor, Tensor]:
    """Plane x and y, (K, h, w) each, of the center of every output pixel. inverse (K, 3, 3): output -> plane."""
    columns = torch.arange(size[1], device=inverse.device) + 0.5
    rows = torch.arange(size[0], device=inverse.device) + 0.5
    x, y, depth = (
        (inverse[:, i, 0, None] * columns)[:, None, :]
        + (inverse[:, i, 1, None] * rows + inverse[:, i, 2, None])[:, :, None]
        for i in range(3)
    )
    return (x.div_(depth), y.div_(depth)) if perspective else (x, y)


def _sample_canvas(canvases: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample one canvas per output: canvases (K, 3, H, W), x and y (K, h, w) px -> (K, 3, h, w)."""
    height, width = canvases.shape[2:]
    grid = torch.stack([x.mul_(2 / width).sub_(1), y.mul_(2 / height).sub_(1)], -1)
    return F.grid_sample(canvases, grid, align_corners=False)


def _strip(canvases: Tensor) -> Tensor:
    """(B, 3, H, W) -> (1, 3, B * H, W), stacked vertically, so that one `grid_sample` can access all canvases."""
    return canvases.transpose(0, 1).flatten(1, 2)[None]


def _sample_mosaic(strip: Tensor, areas: Tensor, center: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample four canvases of the strip per output -> (K, 3, h, w). center (K, 2), x and y (K, h, w): plane px."""
    tile = (x >= center[:, 0, None, None]) + 2 * (y >= center[:, 1, None, None]).long()  # (K, h, w)
    tile += 4 * torch.arange(len(tile), device=tile.device)[:, None, None]
    left, top, x1, y1, x2, y2, start = areas.flatten(0, 1)[tile.flatten()].view(*tile.shape, 7).unbind(-1)
    x, y = x - left, y - top
    outside = (x < x1) | (x >= x2) | (y < y1) | (y >= y2)
    # Clamped half a pixel inside the content, so that nothing is blended with padding or the next canvas in the strip.
    x.clamp_(x1 + 0.5, x2 - 0.5).mul_(2 / strip.shape[3]).sub_(1).masked_fill_(outside, -3.0)  # -3: outside, hence 0
    y.clamp_(y1 + 0.5, y2 - 0.5).add_(start).mul_(2 / strip.shape[2]).sub_(1)
    return F.grid_sample(strip.expand(len(tile), -1, -1, -1), torch.stack([x, y], -1), align_corners=False)


def _clip_to_tiles(boxes: Tensor, shift: Tensor, center: Tensor, content: Tensor) -> Tensor:
    """(K, 4, M, 4) plane boxes clipped to the visible region of their tile; area 0 if they are outside."""
    low = content[..., :2] + shift  # (K, 4, 2)
    high = content[..., 2:] + shift
    tile = torch.arange(4, device=boxes.device)
    after_center = torch.stack([tile % 2 == 1, tile >= 2], -1)  # (4, 2): right of the center, below it
    middle = center[:, None].expand_as(low)
    low = torch.where(after_center, torch.maximum(low, middle), low)[:, :, None]
    high = torch.where(after_center, high, torch.minimum(high, middle))[:, :, None]
    return torch.cat([boxes[..., :2].clamp(low, high), boxes[..., 2:].clamp(low, high)], -1)


def _transform_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """(K, N, 4) boxes -> the axis-aligned bounds of their four transformed corners. matrix (K, 3, 3)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x1, y2, x2, y2], -1).view(*boxes.shape[:2], 4, 2)
    homogeneous = F.pad(corners, (0, 1), value=1.0) @ matrix[:, None].transpose(-1, -2)
    points = homogeneous[..., :2] / homogeneous[..., 2:]
    return torch.cat([points.amin(-2), points.amax(-2)], -1)
