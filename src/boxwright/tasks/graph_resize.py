"""Resizing inside a graph: the methods of `CanvasConfig.resize` as tensor operations, for images of any size.

B images of h x w px, H x W canvas px; n px of an image's side, S px of a canvas's side

Rows and columns are resized separately, with two gathers or two matrix products. Where the method depends on the size
of the image, both results are computed and one is selected, since a graph does not branch.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

STEPS = 2048.0  # OpenCV's weights are multiples of 1/2048
PILLOW_STEPS = 2.0**22  # likewise
MAX_SIDE = 8192  # px: sides up to which `_nearest` reproduces Pillow's rounding errors


@dataclass(frozen=True, slots=True)
class Side:
    """The resizing of one side; tensors are int64.

    Attributes:
        old: () px of the image.
        new: () px of the resized image.
        index: (S,) the px of the resized image at each canvas px, within 0 .. new - 1.
        fixed: `new`, if it is the same for all images.
    """

    old: Tensor
    new: Tensor
    index: Tensor
    fixed: int | None = None


def resize(planes: Tensor, rows: Side, columns: Side, kind: str) -> Tensor:
    """planes (B, 3, h, w), uint8 or float in 0..255 -> (B, 3, H, W) float32 in 0..255, rounded to integers except for
    the methods darknet and float."""
    if kind == "darknet":
        return _bilinear(planes, rows, columns, _aligned_corners)
    if kind == "float":
        return _bilinear(planes, rows, columns, _position)
    if kind in ("zoo", "pillow"):
        return _zoo(planes.float(), rows, columns, bilinear=kind == "pillow")
    linear = _linear(planes, rows, columns)
    if kind == "linear":
        return linear
    shrinks = (rows.new < rows.old) & (columns.new < columns.old)
    return torch.where(shrinks, _area(planes.float(), rows, columns), linear)


def _linear(planes: Tensor, rows: Side, columns: Side) -> Tensor:
    """OpenCV's INTER_LINEAR of bytes, bit-exact: along x, then along y, in integers with two truncations."""
    y, x = _position(rows), _position(columns).clamp(min=0)
    x = torch.minimum(
        x, (columns.old - 1).float()
    )  # at the borders, rows are repeated and columns blended with themselves
    sums = [_blend(planes.index_select(2, row), x, columns.old) for row in _neighbors(y, rows.old)]
    terms = [_multiply(total, weight[:, None]) for total, weight in zip(sums, _weights(y), strict=True)]
    return ((terms[0] + terms[1] + 2) / 4).floor()


def _position(side: Side) -> Tensor:
    """(S,) the center of each new px, in px from the center of the first old px."""
    return ((2 * side.index + 1) * side.old - side.new).float() / (2 * side.new).float()


def _neighbors(position: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The px before and after, within the image."""
    before = position.floor().long()
    last = count - 1
    return torch.minimum(before.clamp(min=0), last), torch.minimum((before + 1).clamp(min=0), last)


def _weights(position: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the px before and after, in units of 1 / STEPS."""
    fraction = position - position.floor()
    return ((1 - fraction) * STEPS).round(), (fraction * STEPS).round()


def _blend(planes: Tensor, x: Tensor, count: Tensor) -> Tensor:
    pairs = zip(_neighbors(x, count), _weights(x), strict=True)
    before, after = (planes.index_select(3, column).float() * weight for column, weight in pairs)
    return before + after


def _multiply(total: Tensor, weight: Tensor) -> Tensor:
    """floor(floor(total / 16) * weight / 2^16), in two halves, since the product has more bits than float32."""
    total = (total / 16).floor()
    high = (total / 256).floor()
    low = total - 256 * high
    return ((high * weight + (low * weight / 256).floor()) / 256).floor()


def _aligned_corners(side: Side) -> Tensor:
    """(S,) the position of a new px in old px, if the first and last px of both coincide."""
    return (side.old - 1).float() / (side.new - 1).clamp(min=1).float() * side.index


def _bilinear(planes: Tensor, rows: Side, columns: Side, position: Callable[[Side], Tensor]) -> Tensor:
    """Bilinear interpolation, not rounded."""
    y, x = position(rows), position(columns)
    across, down = x - x.floor(), (y - y.floor())[:, None]
    blended = []
    for row in _neighbors(y, rows.old):
        before, after = (planes.index_select(2, row).index_select(3, k).float() for k in _neighbors(x, columns.old))
        blended.append(before * (1 - across) + after * across)
    return blended[0] * (1 - down) + blended[1] * down


def _area(planes: Tensor, rows: Side, columns: Side) -> Tensor:
    """The mean over the area of a new px, rounded half to even, or half up at exactly half size, as in OpenCV."""
    mean = _area_weights(rows, planes.shape[2]) @ (planes @ _area_weights(columns, planes.shape[3]).T)
    half = (rows.new * 2 == rows.old) & (columns.new * 2 == columns.old)
    return torch.where(half, (mean + 0.5).floor(), mean.round())


def _area_weights(side: Side, count: int) -> Tensor:
    """(S, n) the fraction of a new px that each of `count` old px covers, computed in integers (old px times `new`)."""
    old, index = torch.arange(count, device=side.index.device), side.index[:, None]
    end = torch.minimum((index + 1) * side.old, (old + 1) * side.new)
    return (end - torch.maximum(index * side.old, old * side.new)).clamp(min=0).float() / side.old.float()


def _zoo(planes: Tensor, rows: Side, columns: Side, bilinear: bool) -> Tensor:
    """Pillow's bicubic, nearest or bilinear resizing, which rounds after each side. bilinear: always bilinear."""
    grows = (rows.new > rows.old) & (columns.new > columns.old) & (not bilinear)
    shrinks = (rows.new < rows.old) & (columns.new < columns.old) & (not bilinear)
    wide = _bytes(planes @ _pillow(columns, planes.shape[3], grows, shrinks).T)
    return _bytes(_pillow(rows, planes.shape[2], grows, shrinks) @ wide)


def _bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _pillow(side: Side, count: int, grows: Tensor, shrinks: Tensor) -> Tensor:
    """(S, n) weights of `count` old px. For a side that shrinks, the filter is wider by the scale factor."""
    old, index = torch.arange(count, device=side.index.device), side.index[:, None]
    distance = ((2 * old + 1) * side.new - (2 * index + 1) * side.old).float()
    x = (distance / (2 * torch.maximum(side.old, side.new)).float()).abs()
    # Catmull-Rom's cubic, Pillow's a = -0.5
    inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    cubic = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    weights = torch.where(grows, cubic, (1 - x).clamp(min=0)) * (old < side.old)
    weights = (weights / weights.sum(1, keepdim=True) * PILLOW_STEPS).round() / PILLOW_STEPS
    return torch.where(shrinks, (old == _nearest(side)[:, None]).float(), weights)


def _nearest(side: Side) -> Tensor:
    """(S,) the old px at the center of each new px, for shrinking. If the center is on a border: the second px, or the
    first one where Pillow's rounding error requires it."""
    numerator = (2 * side.index + 1) * side.old
    index = floored(numerator, 2 * side.new)
    if side.fixed is None:
        return index
    table = torch.from_numpy(_falls_short(side.fixed))
    row = floored(side.old, torch.full_like(side.old, _border_step(side.fixed))).clamp(max=len(table) - 1)
    on_border = index * 2 * side.new == numerator
    short = table.index_select(0, row[None])[0].index_select(0, side.index)
    return index - (on_border & short & (side.old <= MAX_SIDE)).long()


def _border_step(new: int) -> int:
    """Centers of new px fall on borders only for sides that are a multiple of this."""
    return 2 * (new & -new)


@functools.cache
def _falls_short(new: int) -> npt.NDArray[np.bool_]:
    """Row i: for a side of i * `_border_step` px, whether Pillow's sum at each new px is below the exact value."""
    old = np.arange(0, MAX_SIDE + 1, _border_step(new))[:, None]
    steps = np.repeat(old / new, new, axis=1)
    steps[:, 0] /= 2
    return np.asarray(steps.cumsum(1) < (2 * np.arange(new) + 1) * old / (2 * new))


def floored(a: Tensor, b: Tensor) -> Tensor:
    """a // b of integers, a >= 0, b > 0."""
    return torch.div(a, b, rounding_mode="floor")
