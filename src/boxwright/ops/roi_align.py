"""RoI align (He et al. 2017, arXiv:1703.06870): 7 x 7 values of a map for each box, whatever its size.

B images, R boxes each, C channels, h x w a map; 7 bins a side, 2 samples a bin and side, so 14 samples a side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.bilinear import neighbors, table_of, weighted_rows

BINS = 7
SAMPLES = 2  # a bin and side


def roi_align(
    maps: Sequence[Tensor], boxes: Tensor, level: Tensor, strides: Sequence[int], *, aligned: bool, plus_one: bool
) -> Tensor:
    """maps (B, C, h, w) each; boxes (B, R, 4) xyxy px; level (B, R) int64: which map -> (B, R, C, 7, 7).

    A bin is the mean of its samples; one more than a pixel outside the map counts as zero. Gradient to maps only.

    aligned: half a map pixel is subtracted, so that pixel centers lie where they should. plus_one: the last pixel
    belongs to the box, which therefore ends at x2 + 1, y2 + 1, and a box whose x2 is 0 is taken for padding and gives
    zeros (both as in MindSpore's kernel). With neither, a box is at least one map pixel wide and
    high, as in torchvision's kernel.

    All maps at once in plain PyTorch: no loop over levels with shapes that depend on the data, and on a CPU about four
    times as fast as torchvision's kernel.
    """
    stride = _of_level(strides, level)[..., None]
    low = boxes.detach()[..., :2] / stride - 0.5 * aligned
    side = (boxes.detach()[..., 2:] + float(plus_one)) / stride - 0.5 * aligned - low
    if not aligned and not plus_one:
        side = side.clamp(min=1)
    if exported.knows("roi_align"):
        out: Tensor = exported.roi_align(list(maps), torch.cat((low, low + side), -1) + 0.5, level, BINS, SAMPLES)
    else:
        out = _in_bags(maps, low, side, level)
    return out * (boxes[..., 2] >= 0.001)[..., None, None, None] if plus_one else out


def _in_bags(maps: Sequence[Tensor], low: Tensor, side: Tensor, level: Tensor) -> Tensor:
    """low, side (B, R, 2): (x, y) px of the box's map; the first pixel's center is at 0."""
    batch, count = level.shape
    first, widths, row_last, column_last = _geometry(maps, level)
    # All sides of an image's grid are kept apart: 14 rows, 14 columns, of which the 49 bins take their pairs.
    rows, row_share = _samples(low[..., 1], side[..., 1], row_last)
    columns, column_share = _samples(low[..., 0], side[..., 0], column_last)
    rows = (first[..., None, None] + rows * widths[..., None, None])[:, :, :, None, :, None]
    index = rows + columns[:, :, None, :, None, :]  # (B, R, 7, 7, 4, 4): two samples of two pixels, along either axis
    share = row_share[:, :, :, None, :, None] * column_share[:, :, None, :, None, :]
    table = torch.cat([table_of(level_map) for level_map in maps])
    out = weighted_rows(table, index.reshape(-1, 16), share.reshape(-1, 16))
    return out.view(batch, count, BINS, BINS, table.shape[1]).permute(0, 1, 4, 2, 3)


def _samples(low: Tensor, side: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis of a box, (B, R) px of the map -> (B, R, 7, 4) pixels that each bin reads, and their shares."""
    bins = torch.arange(BINS, device=low.device)[:, None]
    within = (torch.arange(SAMPLES, device=low.device) + 0.5) / SAMPLES
    size = (side / BINS)[..., None, None]
    position = low[..., None, None] + bins * size + within * size  # in the order of the kernel, which rounds alike
    last = last[..., None, None]
    counts = (position >= -1) & (position <= last + 1)
    index, share = neighbors(position.clamp(min=0).minimum(last), last[..., None])
    return index.flatten(-2), (share * counts[..., None] / SAMPLES).flatten(-2)


def _geometry(maps: Sequence[Tensor], level: Tensor) -> tuple[Tensor, ...]:
    """Of each box, (B, R): the table row at which its image's map begins, that map's width, its last row and column."""
    batch = level.shape[0]
    areas = [level_map.shape[2] * level_map.shape[3] for level_map in maps]
    begins = [batch * sum(areas[:i]) for i in range(len(areas))]
    image = torch.arange(batch, device=level.device)[:, None]
    first = _of_level(begins, level) + image * _of_level(areas, level)
    heights, widths = (_of_level([level_map.shape[axis] for level_map in maps], level) for axis in (2, 3))
    return first, widths, heights - 1, widths - 1


def _of_level(values: Sequence[int], level: Tensor) -> Tensor:
    """(B, R) -> (B, R) int64. Filled on the device: a list of numbers sent there would make it wait."""
    return torch.stack([level.new_full((), value) for value in values])[level]
