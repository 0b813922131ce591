"""YOLOv4 (Bochkovskiy et al. 2020) with CSPDarkNet-53, and YOLOv4-tiny: network, loss, decoding.

    B images, H x W px, C classes, A = 3 anchors per scale, S scales (coarse first), h x w cells of a scale,
    N = sum of A*h*w: all cells of all scales, R rows of `Targets`

A cell's 5 + C channels: x, y, w, h, objectness, classes (all logits; w and h are logarithms).
"""

from typing import Annotated, Literal, Self

import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import AUTO, Anchors, Fraction, NotNegative, Width
from boxwright.config import Config as Section
from boxwright.nn.blocks import Activation, ConvNormAct, spp, upsample2x
from boxwright.nn.cspdarknet import STEM, CSPDarkNet53, YOLOv4TinyBackbone
from boxwright.nn.yolo import ANCHORS_PER_SCALE, AnchorConfig, AnchorDetector, Head, TinyAnchorDetector, styles, trunk
from boxwright.ops import losses
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.boxes import relative
from boxwright.ops.iou import ciou, zoo_giou
from boxwright.ops.targets import Targets, assign_similar
from boxwright.types import Batch

COCO_ANCHORS = ((12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401))


class LossConfig(Section):
    """Settings of the loss; the defaults are the MindSpore zoo's (src/yolo.py of official/cv/YOLOv4)."""

    # zoo_giou, ciou: 1 minus that overlap of box and object. mse: center and sides, as in YOLOv3
    box_loss: Literal["zoo_giou", "ciou", "mse"] = "zoo_giou"
    box: NotNegative = 10.0  # weight of the box term
    objectness: NotNegative = 1.0  # weight of the objectness term
    classes: NotNegative = 1.0  # weight of the class term
    scales: tuple[NotNegative, ...] = ()  # weights of the scales, fine to coarse; empty: 1 each
    # an object is assigned its best anchor and all others with a higher shape IoU than this (Darknet's iou_thresh)
    assign_iou: Fraction = 0.213
    ignore_iou: Fraction = 0.7  # background cells whose box overlaps an object by this or more are ignored in the loss
    # the sum over cells is divided by the number of images (MindSpore zoo, Darknet) or of cells with an object
    normalize: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0  # s: class targets are 1 - s and s / (classes - 1) instead of 1 and 0


class Config(AnchorConfig):
    name: Literal["yolov4"] = "yolov4"
    network: Literal["cspdarknet53", "tiny"] = "cspdarknet53"  # backbone and neck
    width: Width = 1.0  # channel multiplier
    backbone_activation: Activation = "mish"  # activation of the backbone; other layers have leaky
    # the neck concatenates a finer map before an upsampled one (Darknet); false: after it (MindSpore zoo)
    lateral_first: bool = True
    anchors: Anchors = COCO_ANCHORS
    # range of a center, as a factor on the cell around its middle (Darknet's scale_x_y); fine scale to coarse
    scale_xy: tuple[Annotated[float, Field(ge=1)], ...] = (1.2, 1.1, 1.05)
    loss: LossConfig = LossConfig()

    @pydantic.model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        scales = self.anchor_count // ANCHORS_PER_SCALE
        if self.anchors != AUTO and len(self.anchors) != self.anchor_count:
            raise ValueError(f"anchors holds {len(self.anchors)} pairs, {self.network} needs {self.anchor_count}")
        if self.loss.scales and len(self.loss.scales) != scales:
            raise ValueError(f"loss.scales holds {len(self.loss.scales)} numbers, {self.network} needs {scales}")
        if len(self.scale_xy) != scales:
            raise ValueError(f"scale_xy holds {len(self.scale_xy)} numbers, {self.network} needs {scales}")
        return self

    @property
    def anchor_count(self) -> int:
        return ANCHORS_PER_SCALE * (3 if self.network == "cspdarknet53" else 2)


class YOLOv4(AnchorDetector):
    """Base of both networks, with their loss."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.scale_xy)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """Loss terms box, objectness and classes; see `yolov4_loss`."""
        return yolov4_loss(flatten(raw, self.counts), self.cells(raw), batch, self.config.loss)


class YOLOv4CSPDarkNet53(YOLOv4):
    """CSPDarkNet-53, spatial pyramid pooling, a path aggregation neck (YOLOv4 paper, section 3.4) and three heads.

    (B, 3, H, W) -> maps at strides 32, 16, 8.
    """

    strides = (32, 16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = styles(config, config.backbone_activation, config.norm_momentum)
        stem = _stem(config)
        c128, c256, c512, c1024 = (stem * factor for factor in (4, 8, 16, 32))

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> ConvNormAct:
            return ConvNormAct(inputs, outputs, kernel, neck, stride)

        self.lateral_first = config.lateral_first
        self.backbone = CSPDarkNet53(backbone, stem)
        self.pre_spp = nn.Sequential(conv(c1024, c512, 1), conv(c512, c1024, 3), conv(c1024, c512, 1))
        self.post_spp = nn.Sequential(conv(4 * c512, c512, 1), conv(c512, c1024, 3), conv(c1024, c512, 1))
        self.reduce16 = conv(c512, c256, 1)
        self.lateral16 = conv(c512, c256, 1)
        self.trunk16 = trunk(c512, c256, neck)
        self.reduce8 = conv(c256, c128, 1)
        self.lateral8 = conv(c256, c128, 1)
        self.head8 = Head(c256, c128, config.classes, 8, neck)
        self.down16 = conv(c128, c256, 3, stride=2)
        self.head16 = Head(c512, c256, config.classes, 16, neck)
        self.down32 = conv(c256, c512, 3, stride=2)
        self.head32 = Head(c1024, c512, config.classes, 32, neck)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(x)
        p5 = self.post_spp(spp(self.pre_spp(c5)))
        p4 = self.trunk16(self._join(upsample2x(self.reduce16(p5)), self.lateral16(c4)))
        route, raw8 = self.head8(self._join(upsample2x(self.reduce8(p4)), self.lateral8(c3)))
        route, raw16 = self.head16(torch.cat((self.down16(route), p4), 1))
        _, raw32 = self.head32(torch.cat((self.down32(route), p5), 1))
        return raw32, raw16, raw8

    def _join(self, coarse: Tensor, lateral: Tensor) -> Tensor:
        """Two maps (B, c, h, w) -> their concatenation (B, 2c, h, w), in the order of `lateral_first`."""
        return torch.cat((lateral, coarse) if self.lateral_first else (coarse, lateral), 1)


class YOLOv4Tiny(TinyAnchorDetector, YOLOv4):
    """YOLOv4-tiny."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = styles(config, config.backbone_activation, config.norm_momentum)
        stem = _stem(config)
        self.add_neck(YOLOv4TinyBackbone(backbone, stem), 8 * stem, 16 * stem, (4 * stem, 8 * stem, 16 * stem), neck)


def yolov4_loss(rows: Tensor, cells: Cells, batch: Batch, settings: LossConfig) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits, in the order of `cells` -> the terms box, objectness and classes, weighted."""
    classes = rows.shape[-1] - 5
    targets = assign_similar(batch, cells, classes, settings.assign_iou, settings.label_smoothing)
    return losses.normalize(loss_terms(rows, cells, targets, batch, settings), targets, settings.normalize)


def loss_terms(rows: Tensor, cells: Cells, targets: Targets, batch: Batch, settings: LossConfig) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits -> sums over all cells of all images.

    box: the loss of box and object, times 2 - w*h with sides relative to the input. objectness and classes: as in
    `ops/losses.py`. Each is multiplied by its weight and by that of the scale.
    """
    predicted = losses.at_targets(rows, targets)
    box_loss = _box_loss(predicted, cells, targets, settings)
    scale = cells.of_scales(settings.scales[::-1] or (1.0,) * len(cells.grids))  # (N,)
    here = scale[targets.cell]  # (B, R)
    objectness = losses.objectness(rows, cells, targets, batch, settings.ignore_iou)
    return {
        "box": settings.box * (here * targets.weight(cells.size) * box_loss).sum(),
        "objectness": settings.objectness * (scale * objectness).sum(),
        "classes": settings.classes * (here * losses.classes(predicted, targets)).sum(),
    }


def _box_loss(predicted: Tensor, cells: Cells, targets: Targets, settings: LossConfig) -> Tensor:
    """predicted (B, R, 5+C) logits -> (B, R): the box loss of each row."""
    if settings.box_loss == "mse":
        xy, wh = losses.place_and_size(predicted, cells, targets)
        return xy + wh
    measure = ciou if settings.box_loss == "ciou" else zoo_giou
    boxes = cells.boxes(predicted[..., :4], targets.cell)
    return 1 - measure(relative(boxes, cells.size), relative(targets.boxes, cells.size))


def build(config: Config) -> YOLOv4:
    """Build the network with random weights (torch's default: He uniform with a = sqrt(5), as in the MindSpore zoo)."""
    return YOLOv4CSPDarkNet53(config) if config.network == "cspdarknet53" else YOLOv4Tiny(config)


def _stem(config: Config) -> int:
    """Channels of the first layer."""
    return max(2, round(STEM * config.width))
