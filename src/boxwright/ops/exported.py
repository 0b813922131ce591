"""Operators that exchange formats also have, each as one node of an exported program.

B images, C classes, G groups of boxes, each suppressed separately, N boxes of a group, R boxes per image,
I input and O output channels, H x W and h x w maps.

Inside `export_operators(...)` an export writes the operators named there. Otherwise their callers compute the same with
PyTorch's operators.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

Operator = Literal["nms", "roi_align", "deform_conv", "grid_sample"]
_available: ContextVar[tuple[Operator, ...]] = ContextVar("available", default=())


@contextmanager
def export_operators(*operators: Operator) -> Iterator[None]:
    """Export, inside the context, for a format that has these operators."""
    before = _available.set(operators)
    try:
        yield
    finally:
        _available.reset(before)


def exporting_with(operator: Operator) -> bool:
    """Whether the current export is for a format that has this operator."""
    return is_exporting() and operator in _available.get()  # in this order: torch.compile cannot trace a ContextVar


def is_tracing() -> bool:
    """Whether `torch.jit.trace` is running."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_exporting() -> bool:
    """Whether a program is being recorded (export or trace). Before PyTorch 2.10, compiling counted as exporting."""
    return (torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()) or is_tracing()


# These only occur in programs that are written to a file, so only the shapes of their outputs are computed.


@torch.library.custom_op("boxwright::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    """boxes (G, N, 4) xyxy, scores (G, C, N) -> (G, C, N) bool: boxes that are kept in each class of each group."""
    raise NotImplementedError


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("boxwright::roi_align", mutates_args=())
def roi_align(maps: list[Tensor], boxes: Tensor, level: Tensor, bins: int, samples: int) -> Tensor:
    """maps (B, I, h, w) each; boxes (B, R, 4) xyxy in px of the map with index `level` (B, R), whose first pixel is
    centered at 0.5; bins: per side; samples: per bin along each side -> (B, R, I, bins, bins)."""
    raise NotImplementedError


@roi_align.register_fake
def _(maps: list[Tensor], boxes: Tensor, level: Tensor, bins: int, samples: int) -> Tensor:
    return maps[0].new_empty(*boxes.shape[:2], maps[0].shape[1], bins, bins)


@torch.library.custom_op("boxwright::deform_conv", mutates_args=())
def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int) -> Tensor:
    """x (B, I, H, W), offset (B, 18, h, w) px relative to a convolution with padding 1, (row, column) of each kernel
    position side by side, mask (B, 9, h, w), weight (O, I, 3, 3) -> (B, O, h, w). The map is zero outside."""
    raise NotImplementedError


@deform_conv.register_fake
def _(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])
