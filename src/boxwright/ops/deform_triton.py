"""Sampling of a deformable convolution, and its gradients, in Triton. Imported only when it is used.

B images, C channels, H x W the input map, h x w the output map, 9 kernel positions row-major; a sample is one kernel
position of one output pixel of one image: B * h * w * 9 samples, in this order, each with C channels side by side.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Block of one program. A thread loads 8 channels of a sample, 16 bytes in bfloat16 at once, in float32 twice 16 bytes.
SAMPLES, CHANNELS = 16, 64


@torch.library.custom_op("boxwright::deform_samples", mutates_args=())
def deform_samples(pixels: Tensor, position: Tensor, mask: Tensor) -> Tensor:
    """Weighted sum of the four pixels around each position, times the mask; the map is zero outside.

    pixels (B, H, W, C), position (B, 2, 9, h, w): row and column, px, mask (B, 9, h, w) -> (B, h, w, 9, C) in the type
    of `pixels`. Sums are of the type of `position`, float32 or float64. The gradient of `pixels` is summed in no fixed
    order. At an integer position the gradient is the one to its right, as in torchvision's kernel.
    """
    made = position.shape[3:]
    out = pixels.new_empty(len(pixels), *made, 9, pixels.shape[3])
    _run(_sample, pixels, position, mask, out)
    return out


@deform_samples.register_fake
def _(pixels: Tensor, position: Tensor, mask: Tensor) -> Tensor:
    return pixels.new_empty(len(pixels), *position.shape[3:], 9, pixels.shape[3])


@torch.library.custom_op("boxwright::deform_samples_backward", mutates_args=())
def deform_samples_backward(
    grad: Tensor, pixels: Tensor, position: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """grad (B, h, w, 9, C) -> gradients of pixels, position and mask, in their shapes and types."""
    to_pixels = torch.zeros(pixels.shape, dtype=position.dtype, device=pixels.device)
    to_position, to_mask = (
        torch.empty(part.shape, dtype=position.dtype, device=part.device) for part in (position, mask)
    )
    _run(_backward, pixels, position, mask, grad.contiguous(), to_pixels, to_position, to_mask)
    return to_pixels.type_as(pixels), to_position, to_mask.type_as(mask)


@deform_samples_backward.register_fake
def _(grad: Tensor, pixels: Tensor, position: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    made = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (pixels, position, mask))
    return next(made), next(made), next(made)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pixels, position, mask = ctx.saved_tensors
    gradients: tuple[Tensor, Tensor, Tensor] = deform_samples_backward(grad, pixels, position, mask)
    return gradients


deform_samples.register_autograd(_gradients, setup_context=_keep)


def _run(kernel: Any, pixels: Tensor, position: Tensor, mask: Tensor, *others: Tensor) -> None:
    """Launch a kernel. others: contiguous tensors that it reads or writes."""
    batch, height, width, channels = pixels.shape
    made = position.shape[3] * position.shape[4]
    count = batch * made * 9
    with torch.cuda.device_of(pixels):  # type: ignore[no-untyped-call]
        kernel[(triton.cdiv(count, SAMPLES),)](
            pixels.contiguous(), position.contiguous(), mask.contiguous(), *others,
            count, made, height, width, channels, SAMPLES, CHANNELS,
        )  # fmt: skip


@triton.jit
def _numbers(index, made):
    """For the samples `index`: their image, and their indices in `position` (rows) and `mask`."""
    place, kernel = index // 9, index % 9
    image, pixel = place // made, place % made
    return image, (image * 18 + kernel) * made + pixel, (image * 9 + kernel) * made + pixel


@triton.jit
def _place(position, mask, index, live, made, height, width):
    """For the samples `index`: start of their image in `pixels`, pixel up and left, fractions beyond it, mask."""
    image, at_row, at_mask = _numbers(index, made)
    down = tl.load(position + at_row, mask=live, other=0)
    right = tl.load(position + at_row + 9 * made, mask=live, other=0)
    factor = tl.load(mask + at_mask, mask=live, other=0).to(down.dtype)
    top, left = tl.floor(down), tl.floor(right)
    down, right = down - top, right - left
    # Clamped to positions whose neighbors are outside, before the conversion: NaN cannot index beyond the map.
    row = tl.minimum(tl.maximum(top, -2), height).to(tl.int32)
    column = tl.minimum(tl.maximum(left, -2), width).to(tl.int32)
    return image * height * width, row, column, down, right, factor


@triton.jit
def _pixel(start, row, column, live, height, width):
    """Index of a pixel in `pixels`, and whether it lies in the map."""
    inside = live & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return (start + row * width + column).to(tl.int64), inside


@triton.jit
def _sample(
    pixels, position, mask, out, count, made, height, width,
    channels: tl.constexpr, samples: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0) * samples + tl.arange(0, samples)
    live = index < count
    start, row, column, down, right, factor = _place(position, mask, index, live, made, height, width)
    for first in range(0, channels, block):
        channel = first + tl.arange(0, block)
        total = tl.zeros((samples, block), down.dtype)
        for corner in tl.static_range(4):
            a, b = corner // 2, corner % 2
            share = factor * ((1 - a) + (2 * a - 1) * down) * ((1 - b) + (2 * b - 1) * right)
            at, inside = _pixel(start, row + a, column + b, live, height, width)
            here = inside[:, None] & (channel < channels)[None, :]
            value = tl.load(pixels + at[:, None] * channels + channel[None, :], mask=here, other=0)
            total += share[:, None] * value.to(down.dtype)
        here = live[:, None] & (channel < channels)[None, :]
        tl.store(
            out + index.to(tl.int64)[:, None] * channels + channel[None, :], total.to(out.dtype.element_ty), mask=here
        )


@triton.jit
def _backward(
    pixels, position, mask, grad, to_pixels, to_position, to_mask, count, made, height, width,
    channels: tl.constexpr, samples: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0) * samples + tl.arange(0, samples)
    live = index < count
    start, row, column, down, right, factor = _place(position, mask, index, live, made, height, width)
    by_row = tl.zeros((samples,), down.dtype)
    by_column = tl.zeros((samples,), down.dtype)
    by_mask = tl.zeros((samples,), down.dtype)
    for first in range(0, channels, block):
        channel = first + tl.arange(0, block)
        here = live[:, None] & (channel < channels)[None, :]
        given = tl.load(grad + index.to(tl.int64)[:, None] * channels + channel[None, :], mask=here, other=0).to(
            down.dtype
        )
        for corner in tl.static_range(4):
            a, b = corner // 2, corner % 2
            row_share = (1 - a) + (2 * a - 1) * down
            column_share = (1 - b) + (2 * b - 1) * right
            at, inside = _pixel(start, row + a, column + b, live, height, width)
            here = inside[:, None] & (channel < channels)[None, :]
            where = at[:, None] * channels + channel[None, :]
            value = tl.load(pixels + where, mask=here, other=0).to(down.dtype)
            product = tl.sum(given * value, 1)
            by_row += (2 * a - 1) * column_share * product
            by_column += (2 * b - 1) * row_share * product
            by_mask += row_share * column_share * product
            share = factor * row_share * column_share
            tl.atomic_add(to_pixels + where, given * share[:, None], mask=here, sem="relaxed")
    _, at_row, at_mask = _numbers(index, made)
    tl.store(to_position + at_row, by_row * factor, mask=live)
    tl.store(to_position + at_row + 9 * made, by_column * factor, mask=live)
    tl.store(to_mask + at_mask, by_mask, mask=live)
