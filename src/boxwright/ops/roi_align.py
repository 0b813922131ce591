"""RoI align (He et al. 2017, arXiv:1703.06870): 7 x 7 values of a map for each box of any size.

B images, R boxes per image, C channels, h x w maps; 7 bins per side, each with 2 x 2 samples, or a number of samples
that depends on the size of the box.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.bilinear import neighbors, table_of, weighted_rows

ROI_BINS = 7  # per side
MAX_SAMPLES_PER_BIN = 1024  # adaptive samples per bin along each side: for a box of 7168 px of its map


def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    level: Tensor,
    strides: Sequence[int],
    *,
    aligned: bool,
    plus_one: bool,
    samples: int = 2,
) -> Tensor:
    """maps (B, C, h, w) each; boxes (B, R, 4) xyxy px; level (B, R) int64: index of its map -> (B, R, C, 7, 7).

    A bin is the mean of its samples; a sample more than a pixel outside the map is zero. Gradient to maps only.

    aligned: half a map pixel is subtracted, so that pixel centers lie at half pixels. plus_one: the last pixel belongs
    to the box, which therefore ends at x2 + 1, y2 + 1, and a box whose x2 is 0 is padding and gives zeros (both
    as in MindSpore's kernel). With neither, a box is at least one map pixel wide and high, as in torchvision's kernel.

    samples: per bin along each side. 0, adaptive: a seventh of the box's side on its map, rounded up (`sampling_ratio`
    of torchvision, Detectron2 and mmcv).

    Plain PyTorch, all maps at once: no loop over levels with data-dependent shapes, and on a CPU about four times as
    fast as torchvision's kernel.
    """
    stride = _of_level(strides, level)[..., None]
    low = boxes.detach()[..., :2] / stride - 0.5 * aligned
    side = (boxes.detach()[..., 2:] + float(plus_one)) / stride - 0.5 * aligned - low
    if not aligned and not plus_one:
        side = side.clamp(min=1)
    if exported.exporting_with("roi_align"):
        out: Tensor = exported.roi_align(list(maps), torch.cat((low, low + side), -1) + 0.5, level, ROI_BINS, samples)
    elif samples:
        out = _in_bags(maps, low, side, level, samples)
    else:
        out = _in_adaptive_bags(maps, low, side, level)
    return out * (boxes[..., 2] >= 0.001)[..., None, None, None] if plus_one else out


def _in_bags(maps: Sequence[Tensor], low: Tensor, side: Tensor, level: Tensor, samples: int) -> Tensor:
    """RoI align with 1-D bags. low, side (B, R, 2): (x, y) px of the box's map; the first pixel's center is at 0."""
    batch, count = level.shape
    first, widths, row_last, column_last = _geometry(maps, level)
    # Rows and columns of the grid are computed separately: 14 rows and 14 columns, combined in the 49 bins.
    rows, row_share = _samples(low[..., 1], side[..., 1], row_last, samples)
    columns, column_share = _samples(low[..., 0], side[..., 0], column_last, samples)
    rows = (first[..., None, None] + rows * widths[..., None, None])[:, :, :, None, :, None]
    index = rows + columns[:, :, None, :, None, :]  # (B, R, 7, 7, 4, 4): two samples of two pixels, along either axis
    share = row_share[:, :, :, None, :, None] * column_share[:, :, None, :, None, :]
    table = torch.cat([table_of(level_map) for level_map in maps])
    out = weighted_rows(table, index.reshape(-1, 4 * samples**2), share.reshape(-1, 4 * samples**2))
    return out.view(batch, count, ROI_BINS, ROI_BINS, table.shape[1]).permute(0, 1, 4, 2, 3)


def _in_adaptive_bags(maps: Sequence[Tensor], low: Tensor, side: Tensor, level: Tensor) -> Tensor:
    """`_in_bags` with adaptive samples. A bin of n x m samples reads at most (n + 1) x (m + 1) pixels, each once, in a
    bag of that length."""
    batch, count = level.shape
    first, widths, row_last, column_last = (values.flatten() for values in _geometry(maps, level))
    low, side = low.flatten(0, 1), side.flatten(0, 1)
    wanted = torch.where(side > 0, (side / ROI_BINS).ceil(), 0)  # none for NaN
    across, down = wanted.clamp(max=MAX_SAMPLES_PER_BIN).long().unbind(1)  # samples (B * R,)
    longest = max(max(level_map.shape[2:]) for level_map in maps) // ROI_BINS + 1  # a box within its map needs no more
    if not exported.is_exporting():
        longest = max(int(down.max()), int(across.max()), 1) if len(down) else 1
    rows, row_share = _window(low[:, 1], side[:, 1], down, row_last, longest)
    columns, column_share = _window(low[:, 0], side[:, 0], across, column_last, longest)
    lengths = ((down + 1) * (across + 1)).repeat_interleave(ROI_BINS**2)
    starts = lengths.cumsum(0) - lengths
    bag = torch.repeat_interleave(lengths)  # bag of each entry
    entry = torch.ones_like(bag).cumsum(0) - 1 - starts[bag]  # its index within its bag
    box, width = bag // ROI_BINS**2, (across + 1)[bag // ROI_BINS**2]
    row_bin, column_bin, i, j = bag // ROI_BINS, box * ROI_BINS + bag % ROI_BINS, entry // width, entry % width
    row = (rows[row_bin] + i).minimum(row_last[box])
    column = (columns[column_bin] + j).minimum(column_last[box])
    share = row_share[row_bin, i] * column_share[column_bin, j]
    table = torch.cat([table_of(level_map) for level_map in maps])
    out = weighted_rows(table, first[box] + row * widths[box] + column, share, starts)
    return out.view(batch, count, ROI_BINS, ROI_BINS, table.shape[1]).permute(0, 1, 4, 2, 3)


def _window(low: Tensor, side: Tensor, samples: Tensor, last: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Along one axis: low, side (R,) px of the map; samples (R,), at most `longest` -> (7 * R,) the first pixel that
    each bin reads, and the weights (7 * R, longest + 1) of this pixel and the following ones."""
    bins = torch.arange(ROI_BINS, device=low.device)[:, None]
    number = torch.arange(longest, device=low.device)
    taken = samples.clamp(min=1)[:, None, None]
    size, last = (side / ROI_BINS)[:, None, None], last[:, None, None]
    position = low[:, None, None] + bins * size + (number + 0.5) * size / taken  # (R, 7, longest); rounds as kernels do
    counts = (number < samples[:, None, None]) & (position >= -1) & (position <= last + 1)
    index, share = neighbors(position.clamp(min=0).minimum(last), last[..., None])
    begin = index[:, :, 0, 0]
    place = (index - begin[..., None, None]).clamp(0, longest).flatten(2)
    share = (share * counts[..., None] / taken[..., None]).flatten(2)
    shares = share.new_zeros(*begin.shape, longest + 1).scatter_add(2, place, share)
    return begin.flatten(), shares.flatten(0, 1)


def _samples(low: Tensor, side: Tensor, last: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis: low, side (B, R) px of the map -> (B, R, 7, 2 * samples) pixels of each bin, and weights."""
    bins = torch.arange(ROI_BINS, device=low.device)[:, None]
    within = (torch.arange(samples, device=low.device) + 0.5) / samples
    size = (side / ROI_BINS)[..., None, None]
    position = low[..., None, None] + bins * size + within * size  # in the order of the kernel, for the same rounding
    last = last[..., None, None]
    counts = (position >= -1) & (position <= last + 1)
    index, share = neighbors(position.clamp(min=0).minimum(last), last[..., None])
    return index.flatten(-2), (share * counts[..., None] / samples).flatten(-2)


def _geometry(maps: Sequence[Tensor], level: Tensor) -> tuple[Tensor, ...]:
    """For each box, (B, R): table row at which its image's map begins, the map's width, its last row and column."""
    batch = level.shape[0]
    areas = [level_map.shape[2] * level_map.shape[3] for level_map in maps]
    begins = [batch * sum(areas[:i]) for i in range(len(areas))]
    image = torch.arange(batch, device=level.device)[:, None]
    first = _of_level(begins, level) + image * _of_level(areas, level)
    heights, widths = (_of_level([level_map.shape[axis] for level_map in maps], level) for axis in (2, 3))
    return first, widths, heights - 1, widths - 1


def _of_level(values: Sequence[int], level: Tensor) -> Tensor:
    """`values` of the levels (B, R) -> (B, R) int64. Computed on the device: copying a list to it would synchronize."""
    return torch.stack([level.new_full((), value) for value in values])[level]
