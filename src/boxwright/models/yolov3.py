"""YOLOv3 (Redmon and Farhadi 2018) with DarkNet-53, and YOLOv3-tiny: network, loss, decoding.

    B images, H x W px, C classes, A = 3 anchors a scale, S scales (coarse first), h x w cells of a scale,
    N = sum of A*h*w: all cells of all scales, M boxes an image after padding

A cell's 5 + C channels: x, y, w, h, objectness, classes (all logits; w and h are logarithms).
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import ClassCount, Fraction, ModelConfig, Positive, Triple, Width
from boxwright.config import Config as BaseConfig
from boxwright.models import darknet_cls
from boxwright.nn import timm_names, yolo_names
from boxwright.nn.blocks import Activation, ConvNormAct, Style, double
from boxwright.nn.darknet import DarkNet53
from boxwright.nn.yolo import A, AnchorDetector, Head, raw_map
from boxwright.ops import losses
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.targets import Targets, assign_best
from boxwright.types import Batch

COCO_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))


class LossConfig(BaseConfig):
    ignore_iou: Fraction = 0.7  # background cells whose box overlaps some object by this or more teach nothing
    # the sum over cells is divided by the number of images (MindSpore zoo, Darknet) or of object boxes
    normalise: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0


class Config(ModelConfig):
    size_step: ClassVar[int] = 32  # both sides of the input are multiples of this, px

    name: Literal["yolov3"] = "yolov3"
    network: Literal["darknet53", "tiny"] = "darknet53"
    classes: ClassCount
    width: Width = 1.0  # factor on the channels of `tiny`
    padding: Literal["symmetric", "same"] = "symmetric"  # of stride-2 convolutions: Darknet, MindSpore zoo
    backbone_activation: Activation = "leaky"
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1  # share of the new statistic, as torch counts it
    backbone_norm_momentum: Fraction = 0.1
    mean: Triple = (0.0, 0.0, 0.0)  # RGB, in the 0-to-1 scale
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    anchors: tuple[tuple[Positive, Positive], ...] = COCO_ANCHORS  # (width, height) px, small to large
    multi_label: bool = False  # a box may be reported as several classes; otherwise as its best one only
    loss: LossConfig = LossConfig()

    @pydantic.model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        needed = A * (3 if self.network == "darknet53" else 2)
        if len(self.anchors) != needed:
            raise ValueError(f"anchors holds {len(self.anchors)} pairs, {self.network} needs {needed}")
        if self.network == "darknet53" and self.width != 1:
            raise ValueError(f"width is {self.width}, only the tiny network has another than 1")
        return self


class YOLOv3(AnchorDetector):
    """Base of the two networks: their loss."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.mean, config.std, config.anchors, config.multi_label)
        self.config = config

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms xy, wh, objectness and classes; see `loss_terms`."""
        raw = self(batch.images)
        return self.loss_of_raw(raw, batch)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """`loss` for raw maps already computed."""
        settings, cells = self.config.loss, self.cells(raw)
        targets = assign_best(batch, cells, self.config.classes, settings.label_smoothing)
        sums = loss_terms(flatten(raw, A), cells, targets, batch, settings.ignore_iou)
        return losses.normalise(sums, targets, settings.normalise)


class YOLOv3DarkNet53(YOLOv3):
    """DarkNet-53 and three heads. (B, 3, H, W) -> maps at strides 32, 16, 8."""

    strides = (32, 16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = _styles(config)
        self.backbone = DarkNet53(backbone)
        c3, c4, c5 = self.backbone.channels
        self.head32 = Head(c5, 512, config.classes, 32, neck)
        self.lead16 = ConvNormAct(512, 256, 1, neck)
        self.head16 = Head(256 + c4, 256, config.classes, 16, neck)
        self.lead8 = ConvNormAct(256, 128, 1, neck)
        self.head8 = Head(128 + c3, 128, config.classes, 8, neck)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(x)
        route, raw32 = self.head32(c5)
        route, raw16 = self.head16(torch.cat((double(self.lead16(route)), c4), dim=1))
        _, raw8 = self.head8(torch.cat((double(self.lead8(route)), c3), dim=1))
        return raw32, raw16, raw8


class TinyBackbone(nn.Module):
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
        # The pool of stride 1 keeps the size: it looks right and down, past the edge at minus infinity.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2, stride=1)
        return c4, seventh(x)


class YOLOv3Tiny(YOLOv3):
    """YOLOv3-tiny. (B, 3, H, W) -> maps at strides 32 and 16."""

    strides = (32, 16)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = _styles(config)
        c = {n: max(1, round(n * config.width)) for n in (16, 32, 64, 128, 256, 512, 1024)}
        self.backbone = TinyBackbone(tuple(c.values()), backbone)
        self.trunk = ConvNormAct(c[1024], c[256], 1, neck)
        self.last32 = ConvNormAct(c[256], c[512], 3, neck)
        self.out32 = raw_map(c[512], config.classes, 32)
        self.lead = ConvNormAct(c[256], c[128], 1, neck)
        self.last16 = ConvNormAct(c[128] + c[256], c[256], 3, neck)
        self.out16 = raw_map(c[256], config.classes, 16)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c4, c5 = self.backbone(x)
        route = self.trunk(c5)
        raw32 = self.out32(self.last32(route))
        raw16 = self.out16(self.last16(torch.cat((double(self.lead(route)), c4), dim=1)))
        return raw32, raw16


def loss_terms(rows: Tensor, cells: Cells, targets: Targets, batch: Batch, ignore_iou: float) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits -> sums over all cells of all images.

    xy and wh weigh 2 - w*h, with sides relative to the input, so that small boxes count more (YOLOv3 paper, section 2,
    and Darknet). All are those of `ops/losses.py`.
    """
    found = losses.at_targets(rows, targets)
    xy, wh = losses.place_and_size(found, cells, targets)
    weight = targets.weight(cells.size)
    return {
        "xy": (weight * xy).sum(),
        "wh": (weight * wh).sum(),
        "objectness": losses.objectness(rows, cells, targets, batch, ignore_iou).sum(),
        "classes": losses.classes(found, targets).sum(),
    }


def build(config: Config) -> YOLOv3:
    """A network with random weights (torch's: He uniform with a = sqrt(5), as in the MindSpore zoo)."""
    return YOLOv3DarkNet53(config) if config.network == "darknet53" else YOLOv3Tiny(config)


def _styles(config: Config) -> tuple[Style, Style]:
    """Of the backbone, of everything after it."""
    return (
        Style(config.backbone_activation, config.padding, config.norm_eps, config.backbone_norm_momentum),
        Style("leaky", config.padding, config.norm_eps, config.norm_momentum),
    )


def mindspore_name(parameter: str) -> str | None:
    """The name that a parameter of the DarkNet-53 network has in the MindSpore zoo; None where it has none."""
    return yolo_names.mindspore_name(parameter, _PLACES)


def mindspore_backbone(entry: str, config: Config) -> str | None:
    """Our name for an entry of the zoo's classifier."""
    return yolo_names.mindspore_backbone(entry, _PLACES)


def foreign_names(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """timm's `darknet53`, a classifier, under our names."""
    return timm_names.darknet53(tensors)


def classifier(config: Config) -> darknet_cls.Config | None:
    """The classifier that the backbone comes from; None for another network or width."""
    whole = config.network == "darknet53" and config.width == 1
    return darknet_cls.Config(network="darknet53", classes=config.classes) if whole else None


def _places() -> dict[str, str]:
    """Our layer -> the zoo's."""
    places = {"lead16": "conv1", "lead8": "conv2"}
    for number, head in enumerate(("head32", "head16", "head8")):
        places |= {f"{head}.trunk.{k}": f"backblock{number}.conv{k}" for k in range(5)}
        places |= {f"{head}.last": f"backblock{number}.conv5", head: f"backblock{number}.conv6"}
    return yolo_names.darknet53_places() | places


_PLACES = _places()
