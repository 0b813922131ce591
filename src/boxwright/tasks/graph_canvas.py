"""An image on its canvas inside a graph: `images/canvas.py` once more, with sizes that are only known when it runs.

B images of one size, h x w their px, H x W px of the canvas
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.recipe import CanvasConfig
from boxwright.tasks.graph_resize import Side, floored, resize

Pair = tuple[Tensor, Tensor]  # () int64 each: of rows and of columns, or above and below a fraction's line


@dataclass(frozen=True, slots=True)
class Placed:
    """Like `types.Frame`, in tensors (2,) float32, rows first. size: px of the image. scale: canvas px for one of
    them. offset: canvas px where it begins. extent: canvas px that it covers.
    """

    size: Tensor
    scale: Tensor
    offset: Tensor
    extent: Tensor

    def to_original(self, boxes: Tensor) -> Tensor:
        """(..., 4) xyxy canvas px -> px of the image, not cut."""
        return (boxes - _xyxy(self.offset)) / _xyxy(self.scale)

    def cut(self, boxes: Tensor) -> Tensor:
        """(..., 4) xyxy px of the image, cut to it."""
        return torch.minimum(boxes.clamp(min=0), _xyxy(self.size))

    def relative(self, boxes: Tensor) -> Tensor:
        """(..., 4) xyxy px of the image -> shares of it."""
        return boxes / _xyxy(self.size)


def on_canvas(images: Tensor, canvas: CanvasConfig) -> tuple[Tensor, Placed]:
    """images (B, h, w, 3) uint8 RGB -> float32 (B, 3, H, W) in 0..255, and where they lie there."""
    planes = images.permute(0, 3, 1, 2)
    size = old = _number(planes.shape[2]), _number(planes.shape[3])
    *before, new = sizes = _sizes(size, canvas)
    for wanted in before:  # no fitted image is longer than the canvas's longer side
        px = torch.arange(max(canvas.size))
        planes = resize(planes, _side(old[0], wanted[0], px), _side(old[1], wanted[1], px), canvas.resize)
        old = wanted
    offset = _offset(new, canvas)
    rows, columns = (torch.arange(side) - first for side, first in zip(canvas.size, offset, strict=True))
    fixed = canvas.size if canvas.fit == "stretch" else (None, None)
    down, across = _side(old[0], new[0], rows, fixed[0]), _side(old[1], new[1], columns, fixed[1])
    shown = resize(planes, down, across, canvas.resize)
    inside = ((rows >= 0) & (rows < new[0]))[:, None] & (columns >= 0) & (columns < new[1])
    fill = canvas.fill if canvas.resize in ("darknet", "float") else round(canvas.fill)
    extent, whole = torch.stack(new).float(), torch.stack(size).float()
    scale = extent / whole if canvas.fit != "zoo_corner" else _zoo_factor(size, sizes, canvas).expand(2)
    return torch.where(inside, shown, float(fill)), Placed(whole, scale, torch.stack(offset).float(), extent)


def _sizes(size: Pair, canvas: CanvasConfig) -> list[Pair]:
    """To what an image is resized, one after the other; with zoo_corner twice, though often to the same."""
    (h, w), (height, width) = size, (_number(side) for side in canvas.size)
    match canvas.fit:
        case "stretch":
            return [(height, width)]
        case "letterbox":
            tight = width * h < height * w  # width is the tighter side
            high, wide = floored(h * width, w).clamp(min=1), floored(w * height, h).clamp(min=1)
            return [(torch.where(tight, high, height), torch.where(tight, width, wide))]
        case "corner":
            return [_scaled(size, _smaller((height, h), (width, w)))]
        case "zoo_corner":
            first = _scaled(size, _zoo_first(size, canvas))
            return [first, _scaled(first, _zoo_second(first, canvas))]
        case "torchvision_corner":
            return [_torchvision(size, canvas)]
        case "crop":
            short = _number(canvas.short_side or min(canvas.size))
            high, wide = floored(h * short, w).clamp(min=1), floored(w * short, h).clamp(min=1)
            return [(torch.where(h < w, short, high), torch.where(h < w, wide, short))]


def _torchvision(size: Pair, canvas: CanvasConfig) -> Pair:
    """In doubles, as torchvision reckons; a runtime without them may be a px apart where the product is a whole one."""
    (h, w), (height, width) = [side.double() for side in size], canvas.size
    short, long = canvas.short_side or min(canvas.size), canvas.long_side or max(canvas.size)
    limits = short / torch.minimum(h, w), long / torch.maximum(h, w), height / h, width / w
    factor = torch.stack(limits).amin(0)
    high, wide = ((side * factor).floor().long().clamp(min=1) for side in (h, w))
    return high, wide


def _offset(new: Pair, canvas: CanvasConfig) -> Pair:
    """() px each where the image begins, below 0 where it reaches out of the canvas; halves as in `_middle` there."""
    rows, columns = (_number(side) - one for side, one in zip(canvas.size, new, strict=True))
    if canvas.fit not in ("letterbox", "crop"):
        return torch.zeros_like(rows), torch.zeros_like(columns)
    up, left = (one.sign() * floored(one.abs(), _number(2)) for one in (rows, columns))
    return up, left


def _zoo_first(size: Pair, canvas: CanvasConfig) -> Pair:
    long, short = torch.maximum(*size), torch.minimum(*size)
    return _smaller((_number(max(canvas.size)), long), (_number(min(canvas.size)), short))


def _zoo_second(first: Pair, canvas: CanvasConfig) -> Pair:
    height, width = (_number(side) for side in canvas.size)
    return _smaller((_number(1), _number(1)), _smaller((height, first[0]), (width, first[1])))


def _zoo_factor(size: Pair, sizes: list[Pair], canvas: CanvasConfig) -> Tensor:
    """() of both fits together: its boxes miss their pixels by the rounding between."""
    (a, b), (c, d) = _zoo_first(size, canvas), _zoo_second(sizes[0], canvas)
    return (a.float() / b.float()) * (c.float() / d.float())


def _smaller(a: Pair, b: Pair) -> Pair:
    """The smaller one of two fractions. In whole numbers, which no runtime rounds."""
    first = a[0] * b[1] <= b[0] * a[1]
    return torch.where(first, a[0], b[0]), torch.where(first, a[1], b[1])


def _scaled(size: Pair, factor: Pair) -> Pair:
    """Both sides times `factor`, to the nearest px, at least 1."""
    above, below = factor
    h, w = (floored(2 * side * above + below, 2 * below).clamp(min=1) for side in size)
    return h, w


def _side(old: Tensor, new: Tensor, place: Tensor, fixed: int | None = None) -> Side:
    return Side(old, new, torch.minimum(place.clamp(min=0), new - 1), fixed)


def _number(value: int) -> Tensor:
    """() int64. A side of an image as a tensor: so all that follows from it is computed when the graph runs."""
    return torch.full((), value, dtype=torch.int64)


def _xyxy(pair: Tensor) -> Tensor:
    """(2,) of rows and columns -> (4,) for x, y, x, y."""
    return pair.flip(0).repeat(2)
