"""YOLOv3 as MindYOLO trains it at 640: SiLU, bounded box decoding, neighbor-cell assignment, CIoU.

    B images, A = 3 anchors per scale, C classes, h x w cells, M boxes per image after padding
    R = 3 * M candidate rows per anchor: each box in its own cell, one beside it, one above or below it

Layers keep the numbers of MindYOLO's configs/yolov3/yolov3.yaml (0-10 backbone, 11-27 neck, 28 outputs). The backbone
is declared first, in Darknet's order, so that `darknet53.conv.74` can be loaded into it.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import (
    BatchNormModelConfig,
    ClassCount,
    Fraction,
    NotNegative,
    OrAuto,
    Pairs,
    Positive,
    Triple,
    numbers_of,
)
from boxwright.config import Config as Section
from boxwright.nn.blocks import Bottleneck, ConvNormAct, Style, upsample2x
from boxwright.nn.darknet import DarkNet53
from boxwright.nn.network import Network
from boxwright.nn.yolo import objectness_prior
from boxwright.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from boxwright.ops.iou import ciou
from boxwright.ops.losses import across_processes, processes, was_looked_for
from boxwright.types import Batch, Detections

STRIDES = (32, 16, 8)  # px per cell, in the order of the raw maps
ANCHORS = 3  # per scale
CELLS = 3  # per box: its own, the nearer of left and right, the nearer of above and below


class LossConfig(Section):
    """Weights of the loss terms; they are not rescaled by the number of classes, input size or number of maps."""

    box: NotNegative = 0.05  # 1 - CIoU
    obj: NotNegative = 0.7  # objectness, with the CIoU of the box as its target
    cls: NotNegative = 0.3  # classes
    balance: Triple = (4.0, 1.0, 0.4)  # weights of objectness at strides 8, 16, 32
    anchor_ratio: Annotated[float, Field(gt=1)] = 4.0  # a box takes anchors whose sides differ by less than this factor
    # s: class targets are 1 - s / 2 and s / 2 instead of 1 and 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Config(BatchNormModelConfig):
    name: Literal["yolov3_640"] = "yolov3_640"
    classes: ClassCount = 80
    # (width, height) px, small to large: three for stride 8, three for 16, three for 32
    anchors: Annotated[Annotated[Pairs, Field(min_length=9, max_length=9)] | Literal["auto"], OrAuto()] = (
        (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
    )  # fmt: skip
    norm_eps: Positive = 1e-3
    norm_momentum: Fraction = 0.03
    loss: LossConfig = LossConfig()

    @property
    def anchor_count(self) -> int:
        return ANCHORS * len(STRIDES)


class Head(nn.Module):
    """Head of one scale: `body` gives features, also for the next finer scale; `last` and `output` the raw map."""

    def __init__(self, body: nn.Sequential, last: nn.Module, channels: int, outputs: int) -> None:
        super().__init__()
        self.body, self.last = body, last
        self.output = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, _, h, w) -> features for the finer scale (B, _, h, w), raw map (B, A*(5+C), h, w)."""
        x = self.body(x)
        return x, self.output(self.last(x))


class YOLOv3At640(Network):
    """The detector. Raw maps (B, A*(5+C), h, w), coarse scale first; channels anchor by anchor: x, y, w, h, objectness,
    classes, all before the sigmoid. Implements `types.Detector`."""

    raw_names = ("stride32", "stride16", "stride8")
    strides = STRIDES
    config: Config
    anchors: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        style = Style("silu", "symmetric", config.norm_eps, config.norm_momentum)
        outputs = ANCHORS * (5 + config.classes)

        def conv(inputs: int, outputs: int, kernel: int) -> ConvNormAct:
            return ConvNormAct(inputs, outputs, kernel, style)

        def plain(inputs: int, outputs: int) -> Bottleneck:
            return Bottleneck(inputs, outputs, style, shortcut=False)

        self.backbone = DarkNet53(style)
        c3, c4, c5 = self.backbone.channels
        body32 = nn.Sequential(plain(c5, c5), conv(c5, c4, 1), conv(c4, c5, 3), conv(c5, c4, 1))
        self.head32 = Head(body32, conv(c4, c5, 3), c5, outputs)
        self.reduce16 = conv(c4, c3, 1)
        body16 = nn.Sequential(plain(c3 + c4, c4), plain(c4, c4), conv(c4, c3, 1))
        self.head16 = Head(body16, conv(c3, c4, 3), c4, outputs)
        self.reduce8 = conv(c3, c3 // 2, 1)
        body8 = nn.Sequential(plain(c3 // 2 + c3, c3), plain(c3, c3))
        self.head8 = Head(body8, plain(c3, c3), c3, outputs)

        # (3, A, 2) px, coarse scale first like the raw maps; determined by the recipe, so not in the state dict
        anchors = torch.tensor(numbers_of(config.anchors), dtype=torch.float32).view(3, ANCHORS, 2).flip(0)
        self.register_buffer("anchors", anchors, persistent=False)
        self._set_priors()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1], sides multiples of 32 -> raw maps at strides 32, 16, 8."""
        c3, c4, c5 = self.backbone(self.normalize(images))
        x, raw32 = self.head32(c5)
        x, raw16 = self.head16(torch.cat((upsample2x(self.reduce16(x)), c4), 1))
        _, raw8 = self.head8(torch.cat((upsample2x(self.reduce8(x)), c3), 1))
        return raw32, raw16, raw8

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Loss terms `box`, `obj`, `cls` for raw maps already computed.

        Each is its gain times a mean, times the number of images of all processes together: with gradients averaged
        over processes this is MindYOLO's mean loss times the global batch size, which its learning rate assumes.
        """
        gains = self.config.loss
        scales = []
        for level, anchors, stride, weight in zip(raw, self.anchors, STRIDES, reversed(gains.balance), strict=True):
            box, obj, cls = _scale_loss(_split(level), batch, anchors / stride, stride, gains)
            scales.append((box, obj * weight, cls))
        box, obj, cls = (torch.stack(terms).sum() for terms in zip(*scales, strict=True))
        images = len(batch.images) * processes()
        return {"box": box * gains.box * images, "obj": obj * gains.obj * images, "cls": cls * gains.cls * images}

    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Every class of every box whose objectness and score (objectness times class) are both >= `threshold`."""
        return candidates(self.predictions(raw), threshold)

    def decode_padded(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """All boxes (B, N, 1, 4) and their scores (B, N, C), as in `decode`."""
        rows = self.predictions(raw)
        return cxcywh_to_xyxy(rows[:, :, None, :4]), rows[..., 5:] * rows[..., 4:5]

    def predictions(self, raw: tuple[Tensor, ...]) -> Tensor:
        """(B, N, 5+C): center x, center y, width, height in px, objectness, classes; by map, anchor, row, column."""
        rows = []
        for level, anchors, stride in zip(raw, self.anchors, STRIDES, strict=True):
            y = _split(level).sigmoid()
            boxes = _boxes(y[:, :, :4], anchors[:, :, None, None])
            grid = _cells(y.shape[3], y.shape[4], y.device)
            xy = (boxes[:, :, :2] + grid) * stride
            rows.append(torch.cat((xy, boxes[:, :, 2:], y[:, :, 4:]), 2).permute(0, 1, 3, 4, 2).flatten(1, 3))
        return torch.cat(rows, 1)

    @torch.no_grad()
    def _set_priors(self) -> None:
        """Biases for 8 objects per 640 px image, classes near 0.6 / C (MindYOLO's yolov3_head.py; Lin et al. 2017)."""
        heads = (self.head32, self.head16, self.head8)
        for head, stride in zip(heads, STRIDES, strict=True):
            assert head.output.bias is not None
            bias = head.output.bias.view(ANCHORS, -1)
            bias[:, 4] += objectness_prior(stride)
            bias[:, 5:] += math.log(0.6 / (self.config.classes - 0.999999))


def build(config: Config) -> YOLOv3At640:
    return YOLOv3At640(config)


def candidates(predictions: Tensor, threshold: float) -> list[Detections]:
    """(B, N, 5+C) of `predictions` -> one entry per image; a box may appear once for each class above the threshold."""
    detections = []
    for rows in predictions:
        rows = rows[rows[:, 4] >= threshold]
        scores = rows[:, 5:] * rows[:, 4:5]
        row, label = (scores >= threshold).nonzero(as_tuple=True)
        detections.append(Detections(cxcywh_to_xyxy(rows[row, :4]), scores[row, label], label))
    return detections


def _scale_loss(
    raw: Tensor, batch: Batch, anchors: Tensor, stride: int, config: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """raw (B, A, 5+C, h, w), anchors (A, 2) in cells -> box, objectness and class loss of one scale, no gains yet."""
    h, w = raw.shape[3:]
    fits, cell, target = _assign(batch, anchors, stride, (h, w), config.anchor_ratio)
    is_region = (batch.ignore & (batch.labels >= 0)).repeat(1, CELLS)[:, None]  # (B, 1, R)
    taken = fits & ~is_region
    raw = raw.flatten(3)  # (B, A, 5+C, h*w)
    at = raw.gather(3, cell[:, :, None].expand(-1, -1, raw.shape[2], -1))  # (B, A, 5+C, R)
    positives = across_processes(taken.sum(), minimum=1)

    overlap = ciou(_corners(_boxes(at[:, :, :4].sigmoid(), anchors[:, :, None])), _corners(target))  # (B, A, R)
    box = ((1 - overlap) * taken).sum() / positives

    row = _last_row(taken, cell, h * w)
    goal = F.pad(overlap.detach().clamp(min=0), (1, 0)).gather(2, row)
    # a crowd region may be an object, so the cells that it would take are not background
    background = ~_in_crowd(batch, stride, (h, w)) & (_last_row(fits & is_region, cell, h * w) == 0)
    if batch.labeled is not None:
        background = background & was_looked_for(raw[:, :, 5:].movedim(2, -1), batch.labeled)
    counted = (row > 0) | background
    obj = (F.binary_cross_entropy_with_logits(raw[:, :, 4], goal, reduction="none") * counted).mean()

    logits = at[:, :, 5:]
    smooth = 0.5 * config.label_smoothing
    goals = torch.full_like(logits, smooth)
    labels = batch.labels.clamp(min=0).repeat(1, CELLS)[:, None, None].expand(-1, ANCHORS, 1, -1)
    goals = goals.scatter(2, labels, 1 - smooth)
    errors = F.binary_cross_entropy_with_logits(logits, goals, reduction="none").mean(2)
    weights = batch.label_weights.repeat(1, CELLS)[:, None]  # (B, 1, R)
    return box, obj, (errors * taken * weights).sum() / positives


def _assign(
    batch: Batch, anchors: Tensor, stride: int, cells: tuple[int, int], ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """anchors (A, 2) in cells -> fits (B, A, R) bool, cell (B, A, R) of h*w, target (B, A, 4, R): center from the
    cell's corner, width, height, in cells; a unit box elsewhere, so that nothing becomes NaN.

    A box takes an anchor whose sides differ by less than `ratio`, in its own cell and the nearer neighbor on each axis.
    """
    h, w = cells
    boxes = xyxy_to_cxcywh(batch.boxes) / stride  # (B, M, 4)
    center, side = boxes[..., :2], boxes[..., 2:]
    quotient = side[:, None] / anchors[:, None]  # (B, A, M, 2)
    fits = torch.maximum(quotient, 1 / quotient).amax(3) < ratio
    fits &= (batch.labels >= 0)[:, None]

    size = torch.cat((center.new_full((1,), w), center.new_full((1,), h)))
    beyond = size - center
    low = (center % 1 < 0.5) & (center > 1)  # (B, M, 2): left, above
    high = (beyond % 1 < 0.5) & (beyond > 1) & ~low  # right, below
    near = torch.stack((torch.ones_like(low[..., 0]), *(low | high).unbind(2)), 1)  # (B, 3, M)
    shift = 0.5 * (high.float() - low.float())  # (B, M, 2)
    axes = torch.eye(3, device=shift.device)[:, 1:]  # neither, x, y
    corner = (center[:, None] + shift[:, None] * axes[:, None]).floor()  # (B, 3, M, 2)
    corner = torch.minimum(corner.clamp(min=0), size - 1)

    taken = (fits[:, :, None] & near[:, None]).flatten(2)
    target = torch.cat((center[:, None] - corner, side[:, None].expand_as(corner)), 3)
    target = target.flatten(1, 2).transpose(1, 2)[:, None]  # (B, 1, 4, R)
    target = torch.where(taken[:, :, None], target, 1.0)
    cell = (corner[..., 1] * w + corner[..., 0]).long().flatten(1)
    return taken, cell[:, None].expand_as(taken), target


def _last_row(taken: Tensor, cell: Tensor, cells: int) -> Tensor:
    """taken and cell (B, A, R) -> (B, A, cells): the last row that takes the cell, counted from 1; 0: none."""
    row = torch.arange(1, taken.shape[2] + 1, device=taken.device)
    return cell.new_zeros((*cell.shape[:2], cells)).scatter_reduce(2, cell, row * taken, "amax")


def _in_crowd(batch: Batch, stride: int, cells: tuple[int, int]) -> Tensor:
    """(B, 1, h*w) bool: cells whose center lies in a crowd region; they are neither object nor background."""
    h, w = cells
    x, y = ((torch.arange(n, device=batch.boxes.device) + 0.5) * stride for n in (w, h))
    x1, y1, x2, y2 = batch.boxes[..., None].unbind(2)  # (B, M, 1)
    across = (x1 <= x) & (x < x2) & (batch.ignore & (batch.labels >= 0))[..., None]  # (B, M, w)
    down = (y1 <= y) & (y < y2)  # (B, M, h)
    return (down.float().transpose(1, 2) @ across.float() > 0).flatten(1)[:, None]


def _split(raw: Tensor) -> Tensor:
    """(B, A*(5+C), h, w) -> float32 (B, A, 5+C, h, w)."""
    batch, channels, h, w = raw.shape
    return raw.float().view(batch, ANCHORS, channels // ANCHORS, h, w)


def _boxes(y: Tensor, anchors: Tensor) -> Tensor:
    """Sigmoids (B, A, 4, ...), anchors (A, 2, ...) -> center from the cell's corner (-0.5 to 1.5), width, height."""
    return torch.cat((2 * y[:, :, :2] - 0.5, (2 * y[:, :, 2:]) ** 2 * anchors), 2)


def _corners(boxes: Tensor) -> Tensor:
    """(B, A, 4, R) center form -> (B, A, R, 4) xyxy."""
    return cxcywh_to_xyxy(boxes.transpose(2, 3))


def _cells(h: int, w: int, device: torch.device) -> Tensor:
    """(2, h, w): column and row of each cell."""
    y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack((x, y))
