"""Shared by YOLOv3, YOLOv4 and Darknet's .cfg files: the head of a scale, and the bases of detectors with anchors.

    B images, H x W px, C classes, A anchors per scale, S scales, h x w cells of a scale,
    N = sum of A*h*w: all cells of all scales, K candidates

A cell's 5 + C channels: x, y, w, h, objectness, classes (all logits; w and h are logarithms).
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from boxwright.config import Anchors, BatchNormModelConfig, Padding, numbers_of
from boxwright.nn.blocks import Activation, ConvNormAct, Style, upsample2x
from boxwright.nn.network import Network
from boxwright.ops.anchors import Cells, flatten, objectness, rows_at
from boxwright.types import Detections

ANCHORS_PER_SCALE = 3  # of YOLOv3 and YOLOv4


def trunk(inputs: int, hidden: int, style: Style) -> nn.Sequential:
    """Five convolutions, 1x1 and 3x3 in turn. (B, inputs, h, w) -> (B, hidden, h, w)."""
    return nn.Sequential(
        ConvNormAct(inputs, hidden, 1, style),
        ConvNormAct(hidden, hidden * 2, 3, style),
        ConvNormAct(hidden * 2, hidden, 1, style),
        ConvNormAct(hidden, hidden * 2, 3, style),
        ConvNormAct(hidden * 2, hidden, 1, style),
    )


def objectness_prior(stride: float) -> float:
    """Logit of objectness for 8 objects per 640 x 640 px image, as in MindYOLO, on a map of this stride in px.

    Without it the background loss of thousands of cells dominates the first steps.
    """
    return math.log(8 / (640 / stride) ** 2)


def raw_map(inputs: int, classes: int, stride: int) -> nn.Conv2d:
    """Last layer of a scale, its objectness bias set to the prior. (B, inputs, h, w) -> (B, A*(5+C), h, w)."""
    layer = nn.Conv2d(inputs, ANCHORS_PER_SCALE * (5 + classes), 1)
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias.view(ANCHORS_PER_SCALE, -1)[:, 4] = objectness_prior(stride)
    return layer


class Head(nn.Module):
    """Trunk, whose output the next scale reads too, and two convolutions that give this scale's map."""

    def __init__(self, inputs: int, hidden: int, classes: int, stride: int, style: Style) -> None:
        super().__init__()
        self.trunk = trunk(inputs, hidden, style)
        self.last = ConvNormAct(hidden, hidden * 2, 3, style)
        self.out = raw_map(hidden * 2, classes, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, h, w) -> the trunk's output (B, hidden, h, w), the map (B, A*(5+C), h, w)."""
        route = self.trunk(x)
        return route, self.out(self.last(route))


class CellConfig(BatchNormModelConfig):
    multi_label: bool = False  # a box may be reported once per class; false: only with its best class


class AnchorConfig(CellConfig):
    padding: Padding = "symmetric"  # of stride-2 convolutions: Darknet symmetric, MindSpore zoo same
    anchors: Anchors  # (width, height) px, small to large; auto: computed from the training boxes


def styles(config: AnchorConfig, activation: Activation, momentum: float) -> tuple[Style, Style]:
    """Style of the backbone, with this activation and momentum, and style of all other layers."""
    backbone = Style(activation, config.padding, config.norm_eps, momentum)
    return backbone, Style("leaky", config.padding, config.norm_eps, config.norm_momentum)


class CellDetector(Network):
    """Base of detectors whose `forward` returns maps of cells with anchors; decodes these maps.

    Attributes:
        strides: Stride of each map, px, or (x, y) px.
        counts: A of each map.
        scale_xy: `scale_xy` of each map (see `Cells`); empty: 1.
        anchors: (K, 2) px, K the sum of A, in the order of the maps; from the recipe, so not in the state dict.
        cell_type: Class that encodes and decodes boxes.
    """

    counts: tuple[int, ...]
    scale_xy: tuple[float, ...]
    anchors: Tensor
    config: CellConfig
    cell_type: type[Cells] = Cells

    def logits(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Raw maps -> maps (B, A*(5+C), h, w) of the channels listed in the module's docstring."""
        return raw

    @torch.no_grad()
    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Boxes with objectness times class >= threshold, canvas px, one entry per image, before NMS."""
        maps = self.logits(raw)
        # A score is at most its objectness, so most cells can be dropped before their classes are computed.
        image, cell = (objectness(maps, self.counts).sigmoid() >= threshold).nonzero(as_tuple=True)
        candidates = rows_at(maps, self.counts, image, cell)  # (K, 5+C), image by image
        boxes = self.cells(raw).boxes(candidates[:, :4], cell)
        scores = candidates[:, 4:5].sigmoid() * candidates[:, 5:].sigmoid()
        if self.config.multi_label:
            row, label = (scores >= threshold).nonzero(as_tuple=True)
        else:
            best, label = scores.max(dim=1)
            row = (best >= threshold).nonzero()[:, 0]
            label = label[row]
        counts = image[row].bincount(minlength=len(raw[0])).tolist()
        columns = (boxes[row], scores[row, label], label)
        return [Detections(*rows) for rows in zip(*(torch.split(column, counts) for column in columns), strict=True)]

    def decode_padded(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """All boxes (B, N, 1, 4) and their scores (B, N, C), as in `decode`; -1 where `decode` reports nothing."""
        rows = flatten(self.logits(raw), self.counts)
        scores = rows[..., 4:5].sigmoid() * rows[..., 5:].sigmoid()
        if not self.config.multi_label:
            label = torch.arange(scores.shape[2], device=scores.device)
            scores = torch.where(label == scores.argmax(2, keepdim=True), scores, -1.0)
        return self.cells(raw).boxes(rows[..., :4])[:, :, None], scores

    def cells(self, raw: tuple[Tensor, ...]) -> Cells:
        """Cells of these maps."""
        ends = list(accumulate(self.counts))
        anchors = [self.anchors[end - count : end] for end, count in zip(ends, self.counts, strict=True)]
        return self.cell_type.of([level.shape[-2:] for level in raw], self.strides, anchors, self.scale_xy)


class AnchorDetector(CellDetector):
    """Base of detectors whose `maps` turns normalized images into S maps at `strides`, coarse first.

    Args:
        config: Config with A anchors per scale.
        scale_xy: `scale_xy` of each scale, fine to coarse (see `Cells`); empty: 1.
    """

    strides: tuple[int, ...]
    config: AnchorConfig

    def __init__(self, config: AnchorConfig, scale_xy: Sequence[float] = ()) -> None:
        super().__init__(config)
        self.scale_xy = tuple(reversed(scale_xy))
        self.raw_names = tuple(f"stride{stride}" for stride in self.strides)
        self.counts = (ANCHORS_PER_SCALE,) * len(self.strides)
        pairs = torch.tensor(numbers_of(config.anchors), dtype=torch.float32).view(-1, ANCHORS_PER_SCALE, 2).flip(0)
        self.register_buffer("anchors", pairs.flatten(0, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> S maps (B, A*(5+C), h, w), coarse first."""
        return self.maps(self.normalize(images))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalized images (B, 3, H, W) -> S maps (B, A*(5+C), h, w), coarse first."""
        raise NotImplementedError


class TinyAnchorDetector(AnchorDetector):
    """Base of YOLOv3-tiny and YOLOv4-tiny: two heads on a `backbone`. (B, 3, H, W) -> maps at strides 32 and 16."""

    strides = (32, 16)

    def add_neck(self, backbone: nn.Module, c4: int, c5: int, hidden: tuple[int, int, int], neck: Style) -> None:
        """Add `backbone`, whose maps have c4 and c5 channels, and the layers after it, of `hidden` channels."""
        c128, c256, c512 = hidden
        classes = self.config.classes
        self.backbone = backbone
        self.trunk = ConvNormAct(c5, c256, 1, neck)
        self.last32 = ConvNormAct(c256, c512, 3, neck)
        self.out32 = raw_map(c512, classes, 32)
        self.reduce = ConvNormAct(c256, c128, 1, neck)
        self.last16 = ConvNormAct(c128 + c4, c256, 3, neck)
        self.out16 = raw_map(c256, classes, 16)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        c4, c5 = self.backbone(x)
        route = self.trunk(c5)
        raw32 = self.out32(self.last32(route))
        raw16 = self.out16(self.last16(torch.cat((upsample2x(self.reduce(route)), c4), dim=1)))
        return raw32, raw16
