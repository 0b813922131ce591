"""YOLOX with DarkNet-53 (Ge et al. 2021, arXiv:2107.08430): no anchors, decoupled heads, SimOTA.

    B images, H x W px, C classes, h x w cells of a scale, N = sum of h*w: all cells of all scales,
    M boxes per image after padding

A cell's 5 + C channels: x, y from its corner in strides, logarithms of w and h in strides, objectness, classes (the
last two logits). Between backbone and heads lies the neck of YOLOv3 with spatial pyramid pooling.
"""

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import Config as Section
from boxwright.config import Fraction, NotNegative, Positive
from boxwright.nn.blocks import Activation, ConvNormAct, Style, spp, upsample2x
from boxwright.nn.darknet import DarkNet53
from boxwright.nn.yolo import CellConfig, CellDetector, trunk
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from boxwright.ops.iou import iou
from boxwright.ops.losses import across_processes, was_looked_for
from boxwright.ops.simota import SimOTA, assign
from boxwright.types import Batch

STRIDES = (32, 16, 8)  # px per cell, in the order of the raw maps
HIDDEN = 256  # channels of the heads (paper, section 2.1)
PRIOR = 0.01  # initial probability of objectness and of each class (YOLOX; Lin et al. 2017)


class LossConfig(Section):
    """Weights of the loss terms."""

    box: NotNegative = 5.0  # 1 - IoU^2
    objectness: NotNegative = 1.0  # objectness of all cells
    classes: NotNegative = 1.0  # classes of positive cells, with the IoU of the box as target
    # L1 loss of the four values before decoding; the paper adds it, with weight 1, once mosaic is off
    l1: NotNegative = 0.0


class Config(CellConfig):
    name: Literal["yolox"] = "yolox"
    backbone_activation: Activation = "leaky"  # activation of the backbone
    norm_eps: Positive = 1e-3
    norm_momentum: Fraction = 0.03
    loss: LossConfig = LossConfig()


class Points(Cells):
    """Anchor-free cells: their `anchor` is the stride."""

    def boxes(self, logits: Tensor, cell: Tensor | slice = slice(None)) -> Tensor:
        """Encoded boxes (..., 4) of the cells `cell` -> xyxy px. Logarithms are clamped as in `Cells`."""
        center = self.corner[cell] + logits[..., :2] * self.stride[cell]
        side = logits[..., 2:].clamp(max=10).exp() * self.anchor[cell]
        return cxcywh_to_xyxy(torch.cat((center, side), -1))

    def numbers(self, boxes: Tensor) -> Tensor:
        """boxes (..., N, 4) xyxy px with sides above 0, one per cell -> (..., N, 4), the inverse of `boxes`."""
        center, side = xyxy_to_cxcywh(boxes).chunk(2, -1)
        return torch.cat(((center - self.corner) / self.stride, (side / self.stride).log()), -1)


class DecoupledHead(nn.Module):
    """Head of one scale: a 1x1 convolution, then two 3x3 for the classes, and two for box and objectness."""

    def __init__(self, inputs: int, classes: int, style: Style) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(ConvNormAct(HIDDEN, HIDDEN, 3, style), ConvNormAct(HIDDEN, HIDDEN, 3, style))

        self.stem = ConvNormAct(inputs, HIDDEN, 1, style)
        self.class_branch, self.box_branch = branch(), branch()
        self.classes = nn.Conv2d(HIDDEN, classes, 1)
        self.deltas = nn.Conv2d(HIDDEN, 4, 1)
        self.objectness = nn.Conv2d(HIDDEN, 1, 1)
        for layer in (self.classes, self.objectness):
            assert layer.bias is not None
            nn.init.constant_(layer.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> the raw map (B, 5+C, h, w)."""
        x = self.stem(x)
        box = self.box_branch(x)
        return torch.cat((self.deltas(box), self.objectness(box), self.classes(self.class_branch(x))), 1)


class YOLOX(CellDetector):
    """The detector. Raw maps (B, 5+C, h, w), coarse scale first."""

    raw_names = ("stride32", "stride16", "stride8")
    strides = STRIDES
    counts = (1, 1, 1)
    scale_xy = ()
    cell_type = Points
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        eps, momentum = config.norm_eps, config.norm_momentum
        style = Style("leaky", "symmetric", eps, momentum)

        def conv(inputs: int, outputs: int, kernel: int) -> ConvNormAct:
            return ConvNormAct(inputs, outputs, kernel, style)

        self.backbone = DarkNet53(Style(config.backbone_activation, "symmetric", eps, momentum))
        c3, c4, c5 = self.backbone.channels
        self.pre_spp = nn.Sequential(conv(c5, c4, 1), conv(c4, c5, 3), conv(c5, c4, 1))
        self.post_spp = nn.Sequential(conv(4 * c4, c4, 1), conv(c4, c5, 3), conv(c5, c4, 1))
        self.reduce16 = conv(c4, c3, 1)
        self.trunk16 = trunk(c3 + c4, c3, style)
        self.reduce8 = conv(c3, c3 // 2, 1)
        self.trunk8 = trunk(c3 // 2 + c3, c3 // 2, style)
        self.head32 = DecoupledHead(c4, config.classes, style)
        self.head16 = DecoupledHead(c3, config.classes, style)
        self.head8 = DecoupledHead(c3 // 2, config.classes, style)
        sides = torch.tensor(STRIDES, dtype=torch.float32)[:, None].expand(-1, 2).contiguous()
        self.register_buffer("anchors", sides, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1], sides multiples of 32 -> raw maps at strides 32, 16, 8."""
        c3, c4, c5 = self.backbone(self.normalize(images))
        p5 = self.post_spp(spp(self.pre_spp(c5)))
        p4 = self.trunk16(torch.cat((upsample2x(self.reduce16(p5)), c4), 1))
        p3 = self.trunk8(torch.cat((upsample2x(self.reduce8(p4)), c3), 1))
        return self.head32(p5), self.head16(p4), self.head8(p3)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Loss terms box, objectness, classes and, if its weight is above 0, l1; see `loss_terms`."""
        cells = self.cells(raw)
        assert isinstance(cells, Points)
        if not batch.labels.shape[1]:  # add a row of padding, since argmax fails on no rows
            boxes, labels = F.pad(batch.boxes, (0, 0, 0, 1)), F.pad(batch.labels, (0, 1), value=-1)
            batch = replace(batch, boxes=boxes, labels=labels, ignore=F.pad(batch.ignore, (0, 1)))
        terms = loss_terms(flatten(raw, self.counts), cells, batch, with_l1=self.config.loss.l1 > 0)
        return {name: getattr(self.config.loss, name) * term for name, term in terms.items()}


def loss_terms(rows: Tensor, cells: Points, batch: Batch, with_l1: bool = False) -> dict[str, Tensor]:
    """rows (B, N, 5+C) in the order of `cells` -> sums over all cells of all images, divided by the positive cells.

    box: 1 - IoU^2 of each positive cell. objectness: cross entropy of all cells, except ignored ones and background
    whose most probable class was not looked for. classes: cross entropy of positive cells, where the target of the
    object's class is the IoU of the box.
    """
    boxes = cells.boxes(rows[..., :4])
    predicted = assign(rows, boxes, cells.corner + cells.stride / 2, cells.stride, batch, SimOTA())
    positive, index = predicted.positive, predicted.matched_gt_idx
    objects = batch.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    overlap = iou(boxes, objects)

    counted = ~predicted.ignored
    if batch.labeled is not None:
        counted &= was_looked_for(rows[..., 5:], batch.labeled)
    objectness = F.binary_cross_entropy_with_logits(rows[..., 4], positive.float(), reduction="none")
    labels = batch.labels.clamp(min=0).gather(1, index)
    goals = F.one_hot(labels, rows.shape[2] - 5) * overlap.detach()[..., None]
    classes = F.binary_cross_entropy_with_logits(rows[..., 5:], goals, reduction="none").sum(-1)
    sums = {
        "box": ((1 - overlap.square()) * positive).sum(),
        "objectness": (objectness * (positive | counted)).sum(),
        "classes": (classes * positive * batch.label_weights.gather(1, index)).sum(),
    }
    if with_l1:
        objects = torch.where(positive[..., None], objects, boxes.detach())
        sums["l1"] = ((rows[..., :4] - cells.numbers(objects)).abs().sum(-1) * positive).sum()
    count = across_processes(positive.sum(), minimum=1)
    return {name: total / count for name, total in sums.items()}


def build(config: Config) -> YOLOX:
    """Build the network with random weights (torch's default: He uniform with a = sqrt(5))."""
    return YOLOX(config)
