"""Resizing inside a graph: the kinds of `CanvasConfig.resize` as operators on tensors, for images of any size.

B images, h x w their px, H x W px of the canvas, n px of an image's side, S px of a canvas's side

Each side is resized by itself, so an image costs two gathers or two matrix products. Where something depends on the
image's size, both ways are computed and one is taken: a graph does not branch.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

STEPS = 2048.0  # OpenCV's weights are whole multiples of 1/2048
PILLOW_STEPS = 2.0**22  # likewise
LONGEST = 8192  # px: sides up to which `_nearest` knows Pillow's sums


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the canvas. old: () px of the image. new: () px that it is resized to. place (S,): which of
    these px a canvas px shows, within 0 .. new - 1. All int64. fixed: `new` where it is the same for all images.
    """

    old: Tensor
    new: Tensor
    place: Tensor
    fixed: int | None = None


def resize(planes: Tensor, rows: Side, columns: Side, kind: str) -> Tensor:
    """planes (B, 3, h, w), uint8 or float in 0..255 -> float32 (B, 3, H, W) in 0..255; whole numbers but for darknet
    and float."""
    if kind == "darknet":
        return _between(planes, rows, columns, _on_corners)
    if kind == "float":
        return _between(planes, rows, columns, _position)
    if kind == "zoo":
        return _zoo(planes.float(), rows, columns)
    linear = _linear(planes, rows, columns)
    if kind == "linear":
        return linear
    shrinks = (rows.new < rows.old) & (columns.new < columns.old)
    return torch.where(shrinks, _area(planes.float(), rows, columns), linear)


def _linear(planes: Tensor, rows: Side, columns: Side) -> Tensor:
    """OpenCV's INTER_LINEAR of bytes, bit for bit: rows in whole numbers, then columns, cut off twice on the way."""
    y, x = _position(rows), _position(columns).clamp(min=0)
    x = torch.minimum(x, (columns.old - 1).float())  # at its ends a row is repeated, a column blended with itself
    sums = [_blend(planes.index_select(2, at), x, columns.old) for at in _neighbors(y, rows.old)]
    parts = [_cut(one, weight[:, None]) for one, weight in zip(sums, _weights(y), strict=True)]
    return ((parts[0] + parts[1] + 2) / 4).floor()


def _position(side: Side) -> Tensor:
    """(S,) where the middle of a new px lies among the middles of the old ones; below 0 before the first."""
    return ((2 * side.place + 1) * side.old - side.new).float() / (2 * side.new).float()


def _neighbors(position: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The px before and after, within the image."""
    before = position.floor().long()
    last = count - 1
    return torch.minimum(before.clamp(min=0), last), torch.minimum((before + 1).clamp(min=0), last)


def _weights(position: Tensor) -> tuple[Tensor, Tensor]:
    """Of the px before and after, in STEPS."""
    share = position - position.floor()
    return ((1 - share) * STEPS).round(), (share * STEPS).round()


def _blend(planes: Tensor, x: Tensor, count: Tensor) -> Tensor:
    pairs = zip(_neighbors(x, count), _weights(x), strict=True)
    before, after = (planes.index_select(3, at).float() * weight for at, weight in pairs)
    return before + after


def _cut(total: Tensor, weight: Tensor) -> Tensor:
    """floor(floor(total / 16) * weight / 2^16). The product has more bits than a float32 holds, so it is cut in two."""
    total = (total / 16).floor()
    high = (total / 256).floor()
    low = total - 256 * high
    return ((high * weight + (low * weight / 256).floor()) / 256).floor()


def _on_corners(side: Side) -> Tensor:
    """(S,) where a new px lies among the old ones when the first and the last lie on theirs."""
    return (side.old - 1).float() / (side.new - 1).clamp(min=1).float() * side.place


def _between(planes: Tensor, rows: Side, columns: Side, position: Callable[[Side], Tensor]) -> Tensor:
    """Bilinear, not rounded."""
    y, x = position(rows), position(columns)
    across, down = x - x.floor(), (y - y.floor())[:, None]
    parts = []
    for at in _neighbors(y, rows.old):
        before, after = (planes.index_select(2, at).index_select(3, k).float() for k in _neighbors(x, columns.old))
        parts.append(before * (1 - across) + after * across)
    return parts[0] * (1 - down) + parts[1] * down


def _area(planes: Tensor, rows: Side, columns: Side) -> Tensor:
    """The mean over the area of a new px. Half a gray value goes to the even one, at half size up, as in OpenCV."""
    mean = _share_of_area(rows, planes.shape[2]) @ (planes @ _share_of_area(columns, planes.shape[3]).T)
    half = (rows.new * 2 == rows.old) & (columns.new * 2 == columns.old)
    return torch.where(half, (mean + 0.5).floor(), mean.round())


def _share_of_area(side: Side, count: int) -> Tensor:
    """(S, n): how much of a new px each of `count` old ones covers. In whole numbers, old px times `new`."""
    old, place = torch.arange(count, device=side.place.device), side.place[:, None]
    end = torch.minimum((place + 1) * side.old, (old + 1) * side.new)
    return (end - torch.maximum(place * side.old, old * side.new)).clamp(min=0).float() / side.old.float()


def _zoo(planes: Tensor, rows: Side, columns: Side) -> Tensor:
    """Pillow, which rounds after each side: bicubic, nearest or bilinear."""
    grows = (rows.new > rows.old) & (columns.new > columns.old)
    shrinks = (rows.new < rows.old) & (columns.new < columns.old)
    wide = _bytes(planes @ _pillow(columns, planes.shape[3], grows, shrinks).T)
    return _bytes(_pillow(rows, planes.shape[2], grows, shrinks) @ wide)


def _bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _pillow(side: Side, count: int, grows: Tensor, shrinks: Tensor) -> Tensor:
    """(S, n) weights of `count` old px. A side that shrinks is seen through a filter as much wider."""
    old, place = torch.arange(count, device=side.place.device), side.place[:, None]
    apart = ((2 * old + 1) * side.new - (2 * place + 1) * side.old).float()
    far = (apart / (2 * torch.maximum(side.old, side.new)).float()).abs()
    # Catmull-Rom's cubic, Pillow's a = -0.5
    near, outer = (1.5 * far - 2.5) * far * far + 1, ((-0.5 * far + 2.5) * far - 4) * far + 2
    cubic = torch.where(far < 1, near, torch.where(far < 2, outer, 0.0))
    weights = torch.where(grows, cubic, (1 - far).clamp(min=0)) * (old < side.old)
    weights = (weights / weights.sum(1, keepdim=True) * PILLOW_STEPS).round() / PILLOW_STEPS
    return torch.where(shrinks, (old == _nearest(side)[:, None]).float(), weights)


def _nearest(side: Side) -> Tensor:
    """(S,) the px under the middle of a new one that is larger. On the border of two the second, but where Pillow's
    running sum of doubles falls short of it: a graph without doubles cannot follow that, and looks it up.
    """
    above = (2 * side.place + 1) * side.old
    index = floored(above, 2 * side.new)
    if side.fixed is None:
        return index
    short = torch.from_numpy(_falls_short(side.fixed))
    row = floored(side.old, torch.full_like(side.old, _border_step(side.fixed))).clamp(max=len(short) - 1)
    on_border = index * 2 * side.new == above
    here = short.index_select(0, row[None])[0].index_select(0, side.place)
    return index - (on_border & here & (side.old <= LONGEST)).long()


def _border_step(new: int) -> int:
    """Middles of new px fall on borders only for sides that are a multiple of this."""
    return 2 * (new & -new)


@functools.cache
def _falls_short(new: int) -> npt.NDArray[np.bool_]:
    """Row i: for a side of i * `_border_step` px, whether Pillow's sum at each new px is below what it should be."""
    old = np.arange(0, LONGEST + 1, _border_step(new))[:, None]
    steps = np.repeat(old / new, new, axis=1)
    steps[:, 0] /= 2
    return np.asarray(steps.cumsum(1) < (2 * np.arange(new) + 1) * old / (2 * new))


def floored(a: Tensor, b: Tensor) -> Tensor:
    """a // b of whole numbers, a >= 0, b > 0."""
    return torch.div(a, b, rounding_mode="floor")
