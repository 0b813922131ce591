"""BatchBuilder and boxes through one geometric change: every result pixel is sampled once.

    B canvases, H x W px each; K results, h x w px each, made of T tiles (1, or 4 in a mosaic); M boxes a canvas

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

from boxwright.types import Batch

LARGE = 4 * 1024 * 1024  # bytes from which NumPy asks for large pages


@dataclass(frozen=True)
class WarpGeometry:
    """Where canvases go: first, as tiles, onto a plane, then by one matrix from the plane to the result.

    tiles (K, T): the canvas that each tile shows. shift (K, T, 2): plane (x, y) px of its canvas's corner. center
    (K, 2): plane point where four tiles meet, tile 0 top left, then top right, bottom left, bottom right; infinite
    where tile 0 covers everything. matrix (K, 3, 3): plane px -> result px.
    """

    tiles: npt.NDArray[np.int64]
    shift: npt.NDArray[np.float64]
    center: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]


def warp(
    batch: Batch, placement: WarpGeometry, size: tuple[int, int], *, fill: float, min_side: float, min_visible: float
) -> Batch:
    """K results (K, 3, *size) float32 in [0, 1] with T * M rows of boxes; the frames are those of `batch`.

    fill: gray, 0 to 255, where no canvas is. min_side (px) and min_visible (share of the area): boxes left with that
    side or less, or with a smaller share, get label -1. Crowd regions stay while any area is left: what they hide is no
    background.
    """
    # A mosaic shows contents without the canvas's own borders; one tile shows its canvas whole.
    contents = np.array([frame.content for frame in batch.frames])[placement.tiles]
    inverses = np.linalg.inv(placement.matrix)
    drawn = (placement.shift, placement.center, placement.matrix, inverses, contents, placement.tiles)
    shift, center, matrix, inverse, content, tiles = to_device(drawn, batch.images.device)
    tiles = tiles.long()
    one, tilted = tiles.shape[1] == 1, bool(placement.matrix[:, 2, :2].any())
    # The fill becomes 0, since sampling pads with zeros, and is added again afterwards.
    strip = None if one else _strip(batch.images).float().sub_(fill)
    images = empty_hugepages((len(tiles), 3, *size), tiles.device)
    for part in chunks(images):
        x, y = _plane_points(inverse[part], size, tilted)
        if strip is None:
            sampled = _sample_canvas(batch.images[tiles[part, 0]].float().sub_(fill), x, y)
        else:
            areas = torch.cat([shift, content, tiles[..., None] * float(batch.images.shape[2])], 2)
            sampled = _sample_mosaic(strip, areas[part], center[part], x, y)
        images[part] = sampled.add_(fill).div_(255).clamp_(0, 1)

    count, rows = len(tiles), tiles.shape[1] * batch.labels.shape[1]
    boxes = batch.boxes[tiles] + torch.cat([shift, shift], 2)[:, :, None]  # (K, T, M, 4) on the plane
    shown = boxes if one else _cut_to_tiles(boxes, shift, center, content)
    whole, seen = (_move(each.reshape(count, rows, 4), matrix) for each in (boxes, shown))
    seen[..., 0::2].clamp_(0, size[1])
    seen[..., 1::2].clamp_(0, size[0])
    sides, whole_sides = seen[..., 2:] - seen[..., :2], whole[..., 2:] - whole[..., :2]
    labels, crowd = (each[tiles].reshape(count, rows) for each in (batch.labels, batch.ignore))
    enough = (sides > min_side).all(-1) & (sides.prod(-1) >= min_visible * whole_sides.prod(-1))
    kept = (labels >= 0) & torch.where(crowd, (sides > 0).all(-1), enough)
    return Batch(images, seen * kept[..., None], labels.masked_fill(~kept, -1), crowd & kept, batch.frames)


def to_device(arrays: Sequence[npt.NDArray[Any]], device: torch.device, dtype: npt.DTypeLike = np.float32) -> list[Tensor]:
    """The arrays as `dtype` on `device`, in one copy. From pinned memory a GPU fetches it by itself, so that this
    program need not wait for the GPU to finish its earlier work."""
    packed = torch.from_numpy(np.concatenate([each.ravel() for each in arrays]).astype(dtype))
    if device.type == "cuda":
        packed = packed.pin_memory()
    parts = torch.split(packed.to(device, non_blocking=True), [each.size for each in arrays])
    return [part.view(each.shape) for part, each in zip(parts, arrays, strict=True)]


def chunks(images: Tensor) -> list[slice]:
    """The rows to work on at once: all on a GPU; one by one on a CPU, whose cache holds the planes of one image.

    Row by row measured 1.3 times (colors) to 3 times (mosaic) as fast on two cores at 640 px.
    """
    rows = len(images)
    return [slice(row, row + 1) for row in range(rows)] if images.device.type == "cpu" else [slice(0, rows)]


def empty_hugepages(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A float32 tensor whose numbers are still to be written.

    On a CPU large ones are NumPy's memory, for which Linux is asked to use large pages: a fresh batch of 64 images of
    224 px is then written in half the time or less, the rest of which went into page faults. Small ones stay PyTorch's,
    which always begin at a multiple of 64 bytes: elsewhere rounding may differ from run to run.
    """
    if device.type == "cpu" and 4 * math.prod(shape) >= LARGE:
        return torch.from_numpy(np.empty(shape, dtype=np.float32))
    return torch.empty(shape, device=device)


def _plane_points(inverse: Tensor, size: tuple[int, int], tilted: bool) -> tuple[Tensor, Tensor]:
    """Plane x and y, (K, h, w) each, of the middle of every result pixel. inverse (K, 3, 3): result -> plane."""
    across = torch.arange(size[1], device=inverse.device) + 0.5
    down = torch.arange(size[0], device=inverse.device) + 0.5
    x, y, depth = (
        (inverse[:, row, 0, None] * across)[:, None, :]
        + (inverse[:, row, 1, None] * down + inverse[:, row, 2, None])[:, :, None]
        for row in range(3)
    )
    return (x.div_(depth), y.div_(depth)) if tilted else (x, y)


def _sample_canvas(canvases: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """One canvas for each result. canvases (K, 3, H, W), x and y (K, h, w) px -> (K, 3, h, w)."""
    height, width = canvases.shape[2:]
    grid = torch.stack([x.mul_(2 / width).sub_(1), y.mul_(2 / height).sub_(1)], -1)
    return F.grid_sample(canvases, grid, align_corners=False)


def _strip(canvases: Tensor) -> Tensor:
    """(B, 3, H, W) -> (1, 3, B * H, W), one below the other, so that one sampling reaches all of them."""
    return canvases.transpose(0, 1).flatten(1, 2)[None]


def _sample_mosaic(strip: Tensor, areas: Tensor, center: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Up to four canvases of the strip for each result, -> (K, 3, h, w).

    areas (K, 4, 7): shift (x, y) on the plane, content (x1, y1, x2, y2) on the canvas, the canvas's first row in the
    strip. center (K, 2), x and y (K, h, w): plane px.
    """
    tile = (x >= center[:, 0, None, None]) + 2 * (y >= center[:, 1, None, None]).long()  # (K, h, w)
    tile += 4 * torch.arange(len(tile), device=tile.device)[:, None, None]
    left, top, x1, y1, x2, y2, start = areas.flatten(0, 1)[tile.flatten()].view(*tile.shape, 7).unbind(-1)
    x, y = x - left, y - top
    outside = (x < x1) | (x >= x2) | (y < y1) | (y >= y2)
    # Half a pixel inside its content, nothing is blended with a canvas border or the next canvas in the strip.
    x.clamp_(x1 + 0.5, x2 - 0.5).mul_(2 / strip.shape[3]).sub_(1).masked_fill_(outside, -3.0)  # -3: beyond the padding
    y.clamp_(y1 + 0.5, y2 - 0.5).add_(start).mul_(2 / strip.shape[2]).sub_(1)
    return F.grid_sample(strip.expand(len(tile), -1, -1, -1), torch.stack([x, y], -1), align_corners=False)


def _cut_to_tiles(boxes: Tensor, shift: Tensor, center: Tensor, content: Tensor) -> Tensor:
    """(K, 4, M, 4) plane boxes cut to the part of the plane where their tile is seen (nothing left: no area)."""
    low = content[..., :2] + shift  # (K, 4, 2)
    high = content[..., 2:] + shift
    tile = torch.arange(4, device=boxes.device)
    beyond = torch.stack([tile % 2 == 1, tile >= 2], -1)  # (4, 2) right of the center, below it
    middle = center[:, None].expand_as(low)
    low = torch.where(beyond, torch.maximum(low, middle), low)[:, :, None]
    high = torch.where(beyond, high, torch.minimum(high, middle))[:, :, None]
    return torch.cat([boxes[..., :2].clamp(low, high), boxes[..., 2:].clamp(low, high)], -1)


def _move(boxes: Tensor, matrix: Tensor) -> Tensor:
    """(K, N, 4) boxes -> the upright boxes around their four moved corners. matrix (K, 3, 3)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x1, y2, x2, y2], -1).view(*boxes.shape[:2], 4, 2)
    moved = F.pad(corners, (0, 1), value=1.0) @ matrix[:, None].transpose(-1, -2)
    points = moved[..., :2] / moved[..., 2:]
    return torch.cat([points.amin(-2), points.amax(-2)], -1)
