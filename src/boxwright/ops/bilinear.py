"""Bilinear sampling of maps, for deformable convolution and RoI align.

A table holds maps as rows of C channels, one row per pixel. N values are sampled, each a weighted sum of K rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def table_of(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), a view where the memory format is channels-last."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def neighbors(position: Tensor, last: int | Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels around each position along one axis whose pixels are 0 to `last`.

    (...) float px -> (..., 2) int64, always within the axis, and (..., 2): weight of each pixel, zero if it lies
    outside. At an integer position the gradient is the one to its right, as in torchvision's kernels.
    """
    low = position.detach().floor()
    beyond = position - low
    pixel = torch.stack((low, low + 1), -1)
    share = torch.stack((1 - beyond, beyond), -1)
    inside = (pixel >= 0) & (pixel <= last)
    # Clamped as integers, so that NaN or infinity, when training diverges, cannot index beyond the table.
    index = pixel.long().clamp(min=0)
    index = index.clamp(max=last) if isinstance(last, int) else index.minimum(last.long())
    return index, share * inside


def weighted_rows(table: Tensor, index: Tensor, weight: Tensor, starts: Tensor | None = None) -> Tensor:
    """table (P, C), index (N, K) int64, weight (N, K) -> (N, C): the sum over K of weight * table[index].

    starts (N,): index and weight are 1-D, the rows of all values one after the other; those of value n begin at
    starts[n]. Computed by `embedding_bag`, which does not hold the N * K rows in memory.
    """
    return F.embedding_bag(index, table, starts, per_sample_weights=weight.type_as(table), mode="sum")
