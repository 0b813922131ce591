"""YOLOv3 (Redmon and Farhadi 2018) with DarkNet-53, and YOLOv3-tiny: network, loss, decoding.

    B images, H x W px, C classes, A = 3 anchors per scale, S scales (coarse first), h x w cells of a scale,
    N = sum of A*h*w: all cells of all scales, M boxes per image after padding

A cell's 5 + C channels: x, y, w, h, objectness, classes (all logits; w and h are logarithms).
"""

import math
from typing import Literal, Self

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import AUTO, Anchors, Fraction, Width
from boxwright.config import Config as Section
from boxwright.nn.blocks import Activation, ConvNormAct, Style, upsample2x
from boxwright.nn.darknet import DarkNet53
from boxwright.nn.yolo import ANCHORS_PER_SCALE, AnchorConfig, AnchorDetector, Head, TinyAnchorDetector, styles
from boxwright.ops import losses
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.targets import Targets, assign_best
from boxwright.types import Batch

COCO_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))


class LossConfig(Section):
    ignore_iou: Fraction = 0.7  # background cells whose box overlaps an object by this or more are ignored in the loss
    # the sum over cells is divided by the number of images (MindSpore zoo, Darknet) or of object boxes
    normalize: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0  # s: class targets are 1 - s and s / (classes - 1) instead of 1 and 0


class Config(AnchorConfig):
    name: Literal["yolov3"] = "yolov3"
    network: Literal["darknet53", "tiny"] = "darknet53"  # backbone and neck
    width: Width = 1.0  # channel multiplier of `tiny`
    backbone_activation: Activation = "leaky"  # activation of the backbone; other layers have leaky
    backbone_norm_momentum: Fraction = 0.1  # norm_momentum of the backbone; `norm_momentum` is that of the other layers
    anchors: Anchors = COCO_ANCHORS
    loss: LossConfig = LossConfig()

    @pydantic.model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        if self.anchors != AUTO and len(self.anchors) != self.anchor_count:
            raise ValueError(f"anchors holds {len(self.anchors)} pairs, {self.network} needs {self.anchor_count}")
        if self.network == "darknet53" and self.width != 1:
            raise ValueError(f"width is {self.width}, only the tiny network has another than 1")
        return self

    @property
    def anchor_count(self) -> int:
        return ANCHORS_PER_SCALE * (3 if self.network == "darknet53" else 2)


class YOLOv3(AnchorDetector):
    """Base of both networks, with their loss."""

    config: Config

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Loss terms xy, wh, objectness and classes; see `loss_terms`."""
        settings, cells = self.config.loss, self.cells(raw)
        targets = assign_best(batch, cells, self.config.classes, settings.label_smoothing)
        sums = loss_terms(flatten(raw, self.counts), cells, targets, batch, settings.ignore_iou)
        return losses.normalize(sums, targets, settings.normalize)


class YOLOv3DarkNet53(YOLOv3):
    """DarkNet-53 and three heads. (B, 3, H, W) -> maps at strides 32, 16, 8."""

    strides = (32, 16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = styles(config, config.backbone_activation, config.backbone_norm_momentum)
        self.backbone = DarkNet53(backbone)
        c3, c4, c5 = self.backbone.channels
        self.head32 = Head(c5, c4, config.classes, 32, neck)
        self.reduce16 = ConvNormAct(c4, c3, 1, neck)
        self.head16 = Head(c3 + c4, c3, config.classes, 16, neck)
        self.reduce8 = ConvNormAct(c3, c3 // 2, 1, neck)
        self.head8 = Head(c3 // 2 + c3, c3 // 2, config.classes, 8, neck)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(x)
        route, raw32 = self.head32(c5)
        route, raw16 = self.head16(torch.cat((upsample2x(self.reduce16(route)), c4), dim=1))
        _, raw8 = self.head8(torch.cat((upsample2x(self.reduce8(route)), c3), dim=1))
        return raw32, raw16, raw8


class YOLOv3TinyBackbone(nn.Module):
    """(B, 3, H, W) -> maps of 256 and 1024 channels (times width) at strides 16 and 32 (Darknet's yolov3-tiny.cfg)."""

    def __init__(self, channels: tuple[int, ...], style: Style) -> None:
        super().__init__()
        inputs = (3, *channels[:-1])
        self.layers = nn.ModuleList(ConvNormAct(i, o, 3, style) for i, o in zip(inputs, channels, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        *first, fifth, sixth, seventh = self.layers
        for layer in first:
            x = F.max_pool2d(layer(x), 2)
        c4: Tensor = fifth(x)
        x = sixth(F.max_pool2d(c4, 2))
        # The stride-1 pool keeps the size: it is padded right and bottom, with minus infinity.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2, stride=1)
        return c4, seventh(x)


class YOLOv3Tiny(TinyAnchorDetector, YOLOv3):
    """YOLOv3-tiny."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = styles(config, config.backbone_activation, config.backbone_norm_momentum)
        c = [max(1, round(n * config.width)) for n in (16, 32, 64, 128, 256, 512, 1024)]
        self.add_neck(YOLOv3TinyBackbone(tuple(c), backbone), c[4], c[6], (c[3], c[4], c[5]), neck)


def loss_terms(rows: Tensor, cells: Cells, targets: Targets, batch: Batch, ignore_iou: float) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits -> sums over all cells of all images.

    xy and wh have the weight 2 - w*h, with sides relative to the input, so that small boxes count more (YOLOv3 paper,
    section 2, and Darknet). The terms are defined in `ops/losses.py`.
    """
    predicted = losses.at_targets(rows, targets)
    xy, wh = losses.place_and_size(predicted, cells, targets)
    weight = targets.weight(cells.size)
    return {
        "xy": (weight * xy).sum(),
        "wh": (weight * wh).sum(),
        "objectness": losses.objectness(rows, cells, targets, batch, ignore_iou).sum(),
        "classes": losses.classes(predicted, targets).sum(),
    }


def build(config: Config) -> YOLOv3:
    """Build the network with random weights (torch's default: He uniform with a = sqrt(5), as in the MindSpore zoo)."""
    return YOLOv3DarkNet53(config) if config.network == "darknet53" else YOLOv3Tiny(config)
