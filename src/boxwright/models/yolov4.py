"""YOLOv4 (Bochkovskiy et al. 2020) with CSPDarkNet-53, and YOLOv4-tiny: network, loss, decoding.

    B images, H x W px, C classes, A = 3 anchors a scale, S scales (coarse first), h x w cells of a scale

A cell's 5 + C channels: x, y, w, h, objectness, classes (all logits; w and h are logarithms).
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import ClassCount, Fraction, ModelConfig, Positive, Triple, Width
from boxwright.models import darknet_cls
from boxwright.nn import timm_names, yolo_names
from boxwright.nn.blocks import Activation, ConvNormAct, Style, double
from boxwright.nn.cspdarknet import STEM, CSPDarkNet53, TinyBackbone
from boxwright.nn.yolo import A, AnchorDetector, Head, raw_map, trunk
from boxwright.ops.anchors import flatten
from boxwright.ops.yolov4_loss import LossConfig, yolov4_loss
from boxwright.types import Batch

COCO_ANCHORS = ((12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401))


class Config(ModelConfig):
    size_step: ClassVar[int] = 32  # both sides of the input are multiples of this, px

    name: Literal["yolov4"] = "yolov4"
    network: Literal["cspdarknet53", "tiny"] = "cspdarknet53"
    classes: ClassCount
    width: Width = 1.0  # factor on the channels
    padding: Literal["symmetric", "same"] = "symmetric"  # of stride-2 convolutions: Darknet, MindSpore zoo
    backbone_activation: Activation = "mish"
    lateral_first: bool = True  # where the neck joins a finer map with a doubled one: Darknet; false: MindSpore zoo
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1  # share of the new statistic, as torch counts it
    mean: Triple = (0.0, 0.0, 0.0)  # RGB, in the 0-to-1 scale
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    anchors: tuple[tuple[Positive, Positive], ...] = COCO_ANCHORS  # (width, height) px, small to large
    # how far a centre may lie, as a factor on the cell about its middle (Darknet's scale_x_y); fine scale to coarse
    reach: tuple[Annotated[float, Field(ge=1)], ...] = (1.2, 1.1, 1.05)
    multi_label: bool = False  # a box may be reported as several classes; otherwise as its best one only
    loss: LossConfig = LossConfig()

    @pydantic.model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        scales = 3 if self.network == "cspdarknet53" else 2
        if len(self.anchors) != A * scales:
            raise ValueError(f"anchors holds {len(self.anchors)} pairs, {self.network} needs {A * scales}")
        if self.loss.scales and len(self.loss.scales) != scales:
            raise ValueError(f"loss.scales holds {len(self.loss.scales)} numbers, {self.network} needs {scales}")
        if len(self.reach) != scales:
            raise ValueError(f"reach holds {len(self.reach)} numbers, {self.network} needs {scales}")
        return self


class YOLOv4(AnchorDetector):
    """Base of the two networks: their loss."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.mean, config.std, config.anchors, config.multi_label, config.reach)
        self.config = config

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms box, objectness and classes; see `yolov4_loss`."""
        return self.loss_of_raw(self(batch.images), batch)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """`loss` for raw maps already computed."""
        return yolov4_loss(flatten(raw, A), self.cells(raw), batch, self.config.loss)


class YOLOv4CSPDarkNet53(YOLOv4):
    """CSPDarkNet-53, pooling over several extents, a neck up and down again (YOLOv4 paper, section 3.4), three heads.

    (B, 3, H, W) -> maps at strides 32, 16, 8.
    """

    strides = (32, 16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = _styles(config)
        stem = _stem(config)
        c128, c256, c512, c1024 = (stem * factor for factor in (4, 8, 16, 32))

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> ConvNormAct:
            return ConvNormAct(inputs, outputs, kernel, neck, stride)

        self.lateral_first = config.lateral_first
        self.backbone = CSPDarkNet53(backbone, stem)
        self.before = nn.Sequential(conv(c1024, c512, 1), conv(c512, c1024, 3), conv(c1024, c512, 1))
        self.after = nn.Sequential(conv(4 * c512, c512, 1), conv(c512, c1024, 3), conv(c1024, c512, 1))
        self.lead16 = conv(c512, c256, 1)
        self.lateral16 = conv(c512, c256, 1)
        self.trunk16 = trunk(c512, c256, neck)
        self.lead8 = conv(c256, c128, 1)
        self.lateral8 = conv(c256, c128, 1)
        self.head8 = Head(c256, c128, config.classes, 8, neck)
        self.down16 = conv(c128, c256, 3, stride=2)
        self.head16 = Head(c512, c256, config.classes, 16, neck)
        self.down32 = conv(c256, c512, 3, stride=2)
        self.head32 = Head(c1024, c512, config.classes, 32, neck)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(x)
        p5 = self.after(pool_pyramid(self.before(c5)))
        p4 = self.trunk16(self._join(self.lead16(p5), self.lateral16(c4)))
        route, raw8 = self.head8(self._join(self.lead8(p4), self.lateral8(c3)))
        route, raw16 = self.head16(torch.cat((self.down16(route), p4), 1))
        _, raw32 = self.head32(torch.cat((self.down32(route), p5), 1))
        return raw32, raw16, raw8

    def _join(self, coarse: Tensor, lateral: Tensor) -> Tensor:
        """(B, c, h/2, w/2), (B, c, h, w) -> (B, 2c, h, w)."""
        maps = (lateral, double(coarse)) if self.lateral_first else (double(coarse), lateral)
        return torch.cat(maps, 1)


def pool_pyramid(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 4C, h, w): the maxima over 13x13, 9x9 and 5x5 places, and the map itself.

    A maximum over 9x9 is one over 5x5 of those over 5x5, and so on; nothing beyond the edge counts.
    """
    five = F.max_pool2d(x, 5, 1, 2)
    nine = F.max_pool2d(five, 5, 1, 2)
    return torch.cat((F.max_pool2d(nine, 5, 1, 2), nine, five, x), 1)


class YOLOv4Tiny(YOLOv4):
    """YOLOv4-tiny. (B, 3, H, W) -> maps at strides 32 and 16."""

    strides = (32, 16)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone, neck = _styles(config)
        stem = _stem(config)
        c128, c256, c512 = (stem * factor for factor in (4, 8, 16))
        self.backbone = TinyBackbone(backbone, stem)
        self.trunk = ConvNormAct(c512, c256, 1, neck)
        self.last32 = ConvNormAct(c256, c512, 3, neck)
        self.out32 = raw_map(c512, config.classes, 32)
        self.lead = ConvNormAct(c256, c128, 1, neck)
        self.last16 = ConvNormAct(c128 + c256, c256, 3, neck)
        self.out16 = raw_map(c256, config.classes, 16)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c4, c5 = self.backbone(x)
        route = self.trunk(c5)
        raw32 = self.out32(self.last32(route))
        raw16 = self.out16(self.last16(torch.cat((double(self.lead(route)), c4), 1)))
        return raw32, raw16


def build(config: Config) -> YOLOv4:
    """A network with random weights (torch's: He uniform with a = sqrt(5), as in the MindSpore zoo)."""
    return YOLOv4CSPDarkNet53(config) if config.network == "cspdarknet53" else YOLOv4Tiny(config)


def _styles(config: Config) -> tuple[Style, Style]:
    """Of the backbone, of everything after it."""
    return (
        Style(config.backbone_activation, config.padding, config.norm_eps, config.norm_momentum),
        Style("leaky", config.padding, config.norm_eps, config.norm_momentum),
    )


def _stem(config: Config) -> int:
    """Channels of the first layer."""
    return max(2, round(STEM * config.width))


def mindspore_name(parameter: str) -> str | None:
    """The name that a parameter of the CSPDarkNet-53 network has in the MindSpore zoo; None where it has none."""
    return yolo_names.mindspore_name(parameter, _PLACES)


def mindspore_unused(entry: str) -> bool:
    """Two layers that the zoo's network holds and never uses: the head of its first way to stride 16."""
    return ".backblock0.conv5." in entry or ".backblock0.conv6." in entry


def mindspore_backbone(entry: str, config: Config) -> str | None:
    """Our name for an entry of the zoo's classifier."""
    return yolo_names.mindspore_backbone(entry, _PLACES)


def foreign_names(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """timm's `cspdarknet53`, a classifier, under our names."""
    return timm_names.cspdarknet53(tensors)


def classifier(config: Config) -> darknet_cls.Config | None:
    """The classifier that the backbone comes from; None for another network or width."""
    whole = config.network == "cspdarknet53" and config.width == 1
    return darknet_cls.Config(network="cspdarknet53", classes=config.classes) if whole else None


def _places() -> dict[str, str]:
    """Our layer -> the zoo's, which numbers those of the neck anew."""
    neck = [f"{side}.{k}" for side in ("before", "after") for k in range(3)]
    neck += ["lead16", "lateral16", "lead8", "lateral8", "down16", "down32"]
    places = {part: f"conv{number}" for number, part in enumerate(neck, 1)}
    for number, part in enumerate(("trunk16", "head8.trunk", "head16.trunk", "head32.trunk")):
        places |= {f"{part}.{k}": f"backblock{number}.conv{k}" for k in range(5)}
    for number, head in enumerate(("head8", "head16", "head32"), 1):
        places |= {f"{head}.last": f"backblock{number}.conv5", head: f"backblock{number}.conv6"}
    return yolo_names.cspdarknet53_places() | places


_PLACES = _places()
