"""Preprocessing inside a graph: `images/canvas.py` for image sizes that are only known at run time.

B images of h x w px, H x W canvas px
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.recipe import CanvasConfig
from boxwright.tasks.graph_resize import Side, floored, resize

Pair = tuple[Tensor, Tensor]  # () int64 each: (height, width), or numerator and denominator


@dataclass(frozen=True, slots=True)
class GraphFrame:
    """Like `types.Frame`, as tensors (2,) float32 in (y, x).

    Attributes:
        size: px of the image.
        scale: Canvas px per image px.
        offset: Canvas px of the image's corner.
        extent: Canvas px that the image covers.
    """

    size: Tensor
    scale: Tensor
    offset: Tensor
    extent: Tensor

    def to_original(self, boxes: Tensor) -> Tensor:
        """(..., 4) xyxy canvas px -> px of the image, not clipped."""
        return (boxes - _xyxy(self.offset)) / _xyxy(self.scale)

    def clip(self, boxes: Tensor) -> Tensor:
        """(..., 4) xyxy px of the image, clipped to it."""
        return torch.minimum(boxes.clamp(min=0), _xyxy(self.size))

    def relative(self, boxes: Tensor) -> Tensor:
        """(..., 4) xyxy px of the image -> fractions of its size."""
        return boxes / _xyxy(self.size)


def on_canvas(images: Tensor, canvas: CanvasConfig) -> tuple[Tensor, GraphFrame]:
    """images (B, h, w, 3) uint8 RGB -> canvases (B, 3, H, W) float32 in 0..255, and their frame."""
    planes = images.permute(0, 3, 1, 2)
    size = old = _number(planes.shape[2]), _number(planes.shape[3])
    *before, new = sizes = _sizes(size, canvas)
    for target in before:  # no resized image is longer than the canvas's longer side
        px = torch.arange(max(canvas.size))
        planes = resize(planes, _side(old[0], target[0], px), _side(old[1], target[1], px), canvas.resize)
        old = target
    offset = _offset(new, canvas)
    rows, columns = (torch.arange(side) - first for side, first in zip(canvas.size, offset, strict=True))
    fixed = canvas.size if canvas.fit == "stretch" else (None, None)
    down, across = _side(old[0], new[0], rows, fixed[0]), _side(old[1], new[1], columns, fixed[1])
    resized = resize(planes, down, across, canvas.resize)
    inside = ((rows >= 0) & (rows < new[0]))[:, None] & (columns >= 0) & (columns < new[1])
    fill = canvas.fill if canvas.resize in ("darknet", "float") else round(canvas.fill)
    extent, original = torch.stack(new).float(), torch.stack(size).float()
    scale = extent / original if canvas.fit != "zoo_corner" else _zoo_factor(size, sizes, canvas).expand(2)
    frame = GraphFrame(original, scale, torch.stack(offset).float(), extent)
    return torch.where(inside, resized, float(fill)), frame


def _sizes(size: Pair, canvas: CanvasConfig) -> list[Pair]:
    """The sizes to which an image is resized in turn: two with zoo_corner, which are often equal, else one."""
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
        case "mmdet_corner" | "torchvision_corner" | "detectron2_corner":
            return [_turning(size, canvas)]
        case "crop":
            short = _number(canvas.short_side or min(canvas.size))
            high, wide = floored(h * short, w).clamp(min=1), floored(w * short, h).clamp(min=1)
            return [(torch.where(h < w, short, high), torch.where(h < w, wide, short))]


def _turning(size: Pair, canvas: CanvasConfig) -> Pair:
    """The size for a limit of the shorter and the longer side, in float64 like `images/canvas.py`; a runtime without
    float64 may differ by 1 px where the product is at a rounding boundary."""
    (h, w), (height, width) = [side.double() for side in size], canvas.size
    short, long = canvas.short_side or min(canvas.size), canvas.long_side or max(canvas.size)
    if canvas.fit == "detectron2_corner":
        first = short / torch.minimum(h, w)
        shorter = torch.minimum(h, w)
        h, w = (torch.where(side == shorter, float(short), side * first) for side in (h, w))
        limits = [torch.ones_like(h), long / torch.maximum(h, w), height / h, width / w]
    else:
        limits = [short / torch.minimum(h, w), long / torch.maximum(h, w), height / h, width / w]
    factor = torch.stack(limits).amin(0)
    half = 0.0 if canvas.fit == "torchvision_corner" else 0.5
    high, wide = ((side * factor + half).floor().long().clamp(min=1) for side in (h, w))
    return high, wide


def _offset(new: Pair, canvas: CanvasConfig) -> Pair:
    """Top and left px of the image on the canvas, () each; negative if it is larger; rounded as in preprocessing."""
    rows, columns = (_number(side) - extent for side, extent in zip(canvas.size, new, strict=True))
    if canvas.fit not in ("letterbox", "crop"):
        return torch.zeros_like(rows), torch.zeros_like(columns)
    top, left = (margin.sign() * floored(margin.abs(), _number(2)) for margin in (rows, columns))
    return top, left


def _zoo_first(size: Pair, canvas: CanvasConfig) -> Pair:
    long, short = torch.maximum(*size), torch.minimum(*size)
    return _smaller((_number(max(canvas.size)), long), (_number(min(canvas.size)), short))


def _zoo_second(first: Pair, canvas: CanvasConfig) -> Pair:
    height, width = (_number(side) for side in canvas.size)
    return _smaller((_number(1), _number(1)), _smaller((height, first[0]), (width, first[1])))


def _zoo_factor(size: Pair, sizes: list[Pair], canvas: CanvasConfig) -> Tensor:
    """() the product of both scales, without the rounding between them, as the MindSpore zoo transforms boxes."""
    (a, b), (c, d) = _zoo_first(size, canvas), _zoo_second(sizes[0], canvas)
    return (a.float() / b.float()) * (c.float() / d.float())


def _smaller(a: Pair, b: Pair) -> Pair:
    """The smaller of two fractions, in integers, which no runtime rounds."""
    first = a[0] * b[1] <= b[0] * a[1]
    return torch.where(first, a[0], b[0]), torch.where(first, a[1], b[1])


def _scaled(size: Pair, factor: Pair) -> Pair:
    """Both sides times `factor`, to the nearest px, at least 1."""
    numerator, denominator = factor
    h, w = (floored(2 * side * numerator + denominator, 2 * denominator).clamp(min=1) for side in size)
    return h, w


def _side(old: Tensor, new: Tensor, index: Tensor, fixed: int | None = None) -> Side:
    return Side(old, new, torch.minimum(index.clamp(min=0), new - 1), fixed)


def _number(value: int) -> Tensor:
    """() int64, so that everything derived from a side is computed when the graph runs."""
    return torch.full((), value, dtype=torch.int64)


def _xyxy(pair: Tensor) -> Tensor:
    """(2,) (y, x) -> (4,) (x, y, x, y)."""
    return pair.flip(0).repeat(2)
