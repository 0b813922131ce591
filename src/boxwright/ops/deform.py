"""Deformable convolution, version 2 (Zhu et al. 2018, arXiv:1811.11168): 3x3, dilation 1, one group.

B images, C input and O output channels, H x W the input map, h x w the output map, 9 kernel positions row-major.

Two semantics:
- standard: kernel position (r, c) of output (i, j) reads row i * stride + r - 1 + its offset, column j * stride + c - 1
  + its offset, as an ordinary convolution with padding 1 does; the map is zero outside.
- zoo (the MindSpore model zoo): one row further down and one column further right; positions are clamped to the map.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.bilinear import neighbors, table_of, weighted_rows
from boxwright.ops.kernels import deform_kernel

Sampling = Literal["standard", "zoo"]


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int, sampling: Sampling) -> Tensor:
    """x (B, C, H, W), offset (B, 18, h, w) px, mask (B, 9, h, w), weight (O, C, 3, 3) -> (B, O, h, w).

    offset: first the 9 vertical offsets of the kernel positions, then the 9 horizontal ones. mask: factor on each
    sample. Positions are at least float32, because float16 cannot represent quarter pixels beyond 512.

    `ops/kernels.py` chooses the implementation.
    """
    if exported.exporting_with("deform_conv"):
        shift = _in_pairs(_shift(x, offset, stride, sampling))
        out: Tensor = exported.deform_conv(x, shift, mask, weight, stride)
        return out
    if exported.exporting_with("grid_sample"):
        return by_grid_sample(x, _positions(x, _grid(offset, stride), offset, sampling), mask, weight)
    kernel = deform_kernel(x.device.type)
    if kernel == "torchvision":
        return in_torchvision(x, _shift(x, offset, stride, sampling), mask, weight, stride)
    compute = in_triton if kernel == "triton" else in_plain_torch
    return compute(x, _positions(x, _grid(offset, stride), offset, sampling), mask, weight)


def _grid(offset: Tensor, stride: int) -> Tensor:
    """offset (B, 18, h, w) -> (2, 9, h, w) float: row and column that a convolution with padding 1 samples, in px."""
    like = torch.promote_types(offset.dtype, torch.float32)
    height, width = offset.shape[2:]
    rows = torch.arange(height, device=offset.device, dtype=like)[:, None] * stride
    columns = torch.arange(width, device=offset.device, dtype=like) * stride
    step = torch.arange(-1, 2, device=offset.device, dtype=like)
    rows = step.repeat_interleave(3)[:, None, None] + rows
    columns = step.repeat(3)[:, None, None] + columns
    return torch.stack((rows.expand(9, height, width), columns.expand(9, height, width)))


def _positions(x: Tensor, grid: Tensor, offset: Tensor, sampling: Sampling) -> Tensor:
    """Sampled positions (B, 2, 9, h, w) px, row and column."""
    height, width = x.shape[2:]
    position = grid + torch.unflatten(offset, 1, (2, 9))
    if sampling == "standard":
        return position
    rows, columns = (position + 1).unbind(1)
    return torch.stack((_clamp(rows, height - 1), _clamp(columns, width - 1)), 1)


def _shift(x: Tensor, offset: Tensor, stride: int, sampling: Sampling) -> Tensor:
    """Offsets (B, 2, 9, h, w) float px with which standard sampling reads the same positions."""
    if sampling == "standard":
        return torch.unflatten(offset, 1, (2, 9)).to(torch.promote_types(offset.dtype, torch.float32))
    grid = _grid(offset, stride)
    return _positions(x, grid, offset, sampling) - grid


def _clamp(position: Tensor, last: int) -> Tensor:
    """Clamp to 0..last, with zero gradient where clamped, and also at `last`, whose right-hand derivative is 0."""
    return torch.where(position >= last, float(last), position.clamp(min=0))


def in_plain_torch(x: Tensor, position: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Deformable convolution on any device. position (B, 2, 9, h, w): absolute, px; the map is zero outside."""
    batch, channels, height, width = x.shape
    made = position.shape[3:]
    at = position.permute(0, 3, 4, 2, 1)  # (B, h, w, 9, 2)
    rows, row_share = neighbors(at[..., 0], height - 1)
    columns, column_share = neighbors(at[..., 1], width - 1)
    share = row_share[..., :, None] * column_share[..., None, :] * mask.permute(0, 2, 3, 1)[..., None, None]
    first = torch.arange(batch, device=x.device).view(-1, 1, 1, 1, 1, 1) * (height * width)
    index = first + rows[..., :, None] * width + columns[..., None, :]  # (B, h, w, 9, 2, 2): the four pixels around
    samples = weighted_rows(table_of(x), index.reshape(-1, 4), share.reshape(-1, 4))
    kernel = weight.permute(2, 3, 1, 0).reshape(9 * channels, len(weight))
    out = samples.view(-1, 9 * channels) @ kernel
    return out.view(batch, *made, len(weight)).permute(0, 3, 1, 2)


def by_grid_sample(x: Tensor, position: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """As `in_plain_torch`, with operators that exchange formats have."""
    batch, channels, height, width = x.shape
    made = position.shape[3:]
    # grid_sample expects (x, y) from -1 at the outer edge of the first pixel to 1 at that of the last
    sides = position.new_tensor([height, width]).view(2, 1, 1, 1)
    at = ((2 * position + 1) / sides - 1).flip(1).permute(0, 2, 3, 4, 1)  # (B, 9, h, w, 2)
    samples = F.grid_sample(x, at.flatten(1, 2).type_as(x), align_corners=False)  # (B, C, 9 * h, w)
    samples = samples.view(batch, channels, 9, *made) * mask[:, None]
    return F.conv2d(samples.flatten(1, 2), weight.reshape(len(weight), 9 * channels, 1, 1))


def in_torchvision(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int) -> Tensor:
    """As `in_plain_torch`, by torchvision. offset (B, 2, 9, h, w): relative to a convolution with padding 1, px."""
    from torchvision.ops import deform_conv2d

    same = [tensor.type_as(offset) for tensor in (x, _in_pairs(offset), weight, mask)]  # torchvision requires one type
    out: Tensor = deform_conv2d(*same[:3], stride=stride, padding=1, mask=same[3])
    return out.type_as(x)


def in_triton(x: Tensor, position: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """As `in_plain_torch`, in Triton. Samples have the type of x and are kept for the gradient of the weights."""
    from boxwright.ops.deform_triton import deform_samples

    channels = 9 * x.shape[1]
    samples = deform_samples(x.permute(0, 2, 3, 1).contiguous(), position.contiguous(), mask.contiguous())
    # A convolution instead of a matrix product, so that float32 is computed as in ordinary layers (TF32 by default).
    kernel = weight.permute(0, 2, 3, 1).reshape(len(weight), channels, 1, 1)
    return F.conv2d(samples.flatten(3).permute(0, 3, 1, 2), kernel)


def _in_pairs(offset: Tensor) -> Tensor:
    """(B, 2, 9, h, w) -> (B, 18, h, w): row and column of each kernel position side by side, as torchvision expects."""
    return offset.transpose(1, 2).flatten(1, 2)
