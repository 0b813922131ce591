"""YOLOv3 (Redmon and Farhadi 2018) with DarkNet-53, and YOLOv3-tiny: network, loss, decoding.

    B images, H x W px, C classes, A = 3 anchors a scale, S scales (coarse first), h x w cells of a scale,
    N = sum of A*h*w: all cells of all scales, M boxes an image after padding, K candidates

A cell's 5 + C channels: x, y, w, h, objectness, classes (all logits; w and h are logarithms).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import Config as BaseConfig
from boxwright.config import Fraction, Positive, Triple
from boxwright.errors import InputError
from boxwright.nn.blocks import Activation, ConvNormAct, Style, double
from boxwright.nn.darknet import DarkNet53
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.assign import last_claim
from boxwright.ops.boxes import xyxy_to_cxcywh
from boxwright.ops.iou import pairwise_iou
from boxwright.ops.losses import across_processes
from boxwright.types import Batch, Detections

A = 3  # anchors a scale
OVERLAPS_AT_ONCE = 2**24  # of the ignore test; bounds the memory, 64 MiB for each intermediate tensor
COCO_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))


class LossConfig(BaseConfig):
    ignore_iou: Fraction = 0.7  # background cells whose box overlaps some object by this or more teach nothing
    # the sum over cells is divided by the number of images (MindSpore zoo, Darknet) or of object boxes
    normalise: Literal["images", "boxes"] = "images"
    label_smoothing: Fraction = 0.0


class Config(BaseConfig):
    size_step: ClassVar[int] = 32  # both sides of the input are multiples of this, px

    name: Literal["yolov3"] = "yolov3"
    network: Literal["darknet53", "tiny"] = "darknet53"
    classes: Annotated[int, Field(ge=1)]
    width: Positive = 1.0  # factor on the channels of `tiny`
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


class Head(nn.Module):
    """Five convolutions that lead on to the next scale, and two that end in this scale's map."""

    def __init__(self, inputs: int, hidden: int, outputs: int, style: Style) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            ConvNormAct(inputs, hidden, 1, style),
            ConvNormAct(hidden, hidden * 2, 3, style),
            ConvNormAct(hidden * 2, hidden, 1, style),
            ConvNormAct(hidden, hidden * 2, 3, style),
            ConvNormAct(hidden * 2, hidden, 1, style),
        )
        self.last = ConvNormAct(hidden, hidden * 2, 3, style)
        self.out = nn.Conv2d(hidden * 2, outputs, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, h, w) -> the route onward (B, hidden, h, w), the map (B, outputs, h, w)."""
        route = self.trunk(x)
        return route, self.out(self.last(route))


class Full(nn.Module):
    """DarkNet-53 and three heads. (B, 3, H, W) -> maps at strides 32, 16, 8."""

    strides = (32, 16, 8)

    def __init__(self, config: Config) -> None:
        super().__init__()
        backbone, neck = _styles(config)
        outputs = A * (5 + config.classes)
        self.backbone = DarkNet53(backbone)
        c3, c4, c5 = self.backbone.channels
        self.head32 = Head(c5, 512, outputs, neck)
        self.lead16 = ConvNormAct(512, 256, 1, neck)
        self.head16 = Head(256 + c4, 256, outputs, neck)
        self.lead8 = ConvNormAct(256, 128, 1, neck)
        self.head8 = Head(128 + c3, 128, outputs, neck)

    @property
    def last_layers(self) -> tuple[nn.Conv2d, ...]:
        return self.head32.out, self.head16.out, self.head8.out

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
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


class Tiny(nn.Module):
    """YOLOv3-tiny. (B, 3, H, W) -> maps at strides 32 and 16."""

    strides = (32, 16)

    def __init__(self, config: Config) -> None:
        super().__init__()
        backbone, neck = _styles(config)
        outputs = A * (5 + config.classes)
        c = {n: max(1, round(n * config.width)) for n in (16, 32, 64, 128, 256, 512, 1024)}
        self.backbone = TinyBackbone(tuple(c.values()), backbone)
        self.trunk = ConvNormAct(c[1024], c[256], 1, neck)
        self.last32 = ConvNormAct(c[256], c[512], 3, neck)
        self.out32 = nn.Conv2d(c[512], outputs, 1)
        self.lead = ConvNormAct(c[256], c[128], 1, neck)
        self.last16 = ConvNormAct(c[128] + c[256], c[256], 3, neck)
        self.out16 = nn.Conv2d(c[256], outputs, 1)

    @property
    def last_layers(self) -> tuple[nn.Conv2d, ...]:
        return self.out32, self.out16

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        c4, c5 = self.backbone(x)
        route = self.trunk(c5)
        raw32 = self.out32(self.last32(route))
        raw16 = self.out16(self.last16(torch.cat((double(self.lead(route)), c4), dim=1)))
        return raw32, raw16


class YOLOv3(nn.Module):
    """The detector around one of the two networks."""

    mean: Tensor
    std: Tensor
    anchors: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network = Full(config) if config.network == "darknet53" else Tiny(config)
        self.raw_names = tuple(f"stride{stride}" for stride in self.network.strides)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1))
        # (S, A, 2) px, coarse first like the raw maps; part of the recipe, so not of the state
        anchors = torch.tensor(config.anchors, dtype=torch.float32).view(-1, A, 2).flip(0)
        self.register_buffer("anchors", anchors, persistent=False)
        for stride, layer in zip(self.network.strides, self.network.last_layers, strict=True):
            _start_at_prior(layer, stride)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> S maps (B, A*(5+C), h, w), coarse first."""
        (height, width), step = images.shape[-2:], self.config.size_step
        if height % step or width % step:
            raise InputError(f"data.canvas.size: found {height} x {width} px, YOLOv3 needs multiples of {step}")
        raw: tuple[Tensor, ...] = self.network((images - self.mean) / self.std)
        return raw

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms xy, wh, objectness and classes; see `loss_terms`."""
        raw = self(batch.images)
        return self.loss_of_raw(raw, batch)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """`loss` for raw maps already computed."""
        settings = self.config.loss
        cells = self.cells(raw)
        targets = assign(batch, cells, self.config.classes, settings.label_smoothing)
        terms = loss_terms(flatten(raw, A), cells, targets, settings.ignore_iou)
        if settings.normalise == "boxes":
            count = across_processes(targets.positive.sum(), least=1)
            return {name: term / count for name, term in terms.items()}
        return {name: term / len(batch.images) for name, term in terms.items()}

    @torch.no_grad()
    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Boxes with objectness times class >= threshold, canvas px, one entry an image, before suppression."""
        rows = flatten(raw, A)
        # A score is at most its objectness, so most cells leave before their classes are looked at.
        image, cell = (rows[..., 4].sigmoid() >= threshold).nonzero(as_tuple=True)
        found = rows[image, cell]  # (K, 5+C), image by image
        boxes = self.cells(raw).boxes(found[:, :4], cell)
        scores = found[:, 4:5].sigmoid() * found[:, 5:].sigmoid()
        if self.config.multi_label:
            row, label = (scores >= threshold).nonzero(as_tuple=True)
        else:
            best, label = scores.max(dim=1)
            row = (best >= threshold).nonzero()[:, 0]
            label = label[row]
        counts = image[row].bincount(minlength=len(rows)).tolist()
        parts = (boxes[row], scores[row, label], label)
        return [Detections(*one) for one in zip(*(torch.split(part, counts) for part in parts), strict=True)]

    def cells(self, raw: tuple[Tensor, ...]) -> Cells:
        """Where the cells of these maps lie."""
        return Cells.of([one.shape[-2:] for one in raw], self.network.strides, self.anchors)


@dataclass(frozen=True)
class Targets:
    """What the cells must find. known (B, M): rows that are no padding. crowd (B, M): regions of many objects.

    boxes (B, M, 4) xyxy px. positive (B, M): rows that own their cell. cell (B, M): it, 0 elsewhere.
    classes (B, M, C) in [0, 1].
    """

    boxes: Tensor
    known: Tensor
    crowd: Tensor
    positive: Tensor
    cell: Tensor
    classes: Tensor


def assign(batch: Batch, cells: Cells, classes: int, smoothing: float = 0.0) -> Targets:
    """Each object to one cell; of several in one cell the last stays, and takes the others' classes as well.

    smoothing: 1 becomes 1 - smoothing, 0 becomes smoothing / (classes - 1) (MindSpore zoo).
    """
    side = batch.boxes[..., 2:] - batch.boxes[..., :2]
    claims = batch.valid & (side > 0).all(-1)
    cell = torch.where(claims, cells.responsible(batch.boxes), 0)
    owner = last_claim(cell, claims, len(cells.corner))
    row = torch.arange(owner.shape[1], device=owner.device)
    ones = F.one_hot(batch.labels.clamp(min=0), classes).float() * claims[..., None]
    into = owner.clamp(min=0)[..., None].expand_as(ones)
    bits = torch.zeros_like(ones).scatter_reduce(1, into, ones, "amax")
    return Targets(
        boxes=batch.boxes,
        known=batch.labels >= 0,
        crowd=batch.ignore,
        positive=owner == row,
        cell=cell,
        classes=torch.where(bits > 0, 1 - smoothing, smoothing / max(classes - 1, 1)),
    )


def loss_terms(rows: Tensor, cells: Cells, targets: Targets, ignore_iou: float) -> dict[str, Tensor]:
    """rows (B, N, 5+C) logits -> sums over all cells of all images.

    xy: cross entropy against the place in the cell. wh: half the squared difference of logarithms. Both weigh
    2 - w*h, with sides relative to the input, so that small boxes count more. objectness: cross entropy, but for
    background cells whose box overlaps an object by `ignore_iou` or lies so far in a crowd region. classes: cross
    entropy, one by one (YOLOv3 paper, section 2).
    """
    cross_entropy = F.binary_cross_entropy_with_logits
    found = rows.gather(1, targets.cell[..., None].expand(-1, -1, rows.shape[-1]))  # (B, M, 5+C)
    positive = targets.positive.float()
    centre, side = xyxy_to_cxcywh(targets.boxes).chunk(2, -1)
    side = torch.where(targets.positive[..., None], side, 1.0)
    height, width = cells.size
    weight = positive * (2 - side.prod(-1) / (height * width))
    place = (centre - cells.corner[targets.cell]) / cells.stride[targets.cell]
    logs = (side / cells.anchor[targets.cell]).log()

    # Rows that own no cell write to one more that is cut off.
    owned = torch.where(targets.positive, targets.cell, rows.shape[1])
    objects = rows.new_zeros(len(rows), rows.shape[1] + 1).scatter(1, owned, 1.0)[:, :-1]
    counted = (objects > 0) | (_best_overlap(cells.boxes(rows[..., :4].detach()), targets) < ignore_iou)
    objectness = cross_entropy(rows[..., 4], objects, reduction="none")
    return {
        "xy": (weight * cross_entropy(found[..., :2], place, reduction="none").sum(-1)).sum(),
        "wh": (weight * 0.5 * (found[..., 2:4] - logs).square().sum(-1)).sum(),
        "objectness": (objectness * counted).sum(),
        "classes": (positive * cross_entropy(found[..., 5:], targets.classes, reduction="none").sum(-1)).sum(),
    }


def _best_overlap(boxes: Tensor, targets: Targets) -> Tensor:
    """boxes (B, N, 4) -> (B, N): highest IoU with an object of the image; in a crowd region, the share inside it."""
    best = boxes.new_zeros(boxes.shape[:2])
    together = max(1, OVERLAPS_AT_ONCE // best.numel())
    for first in range(0, targets.boxes.shape[1], together):
        part = slice(first, first + together)
        overlap = pairwise_iou(boxes, targets.boxes[:, part], crowd=targets.crowd[:, part])
        best = torch.maximum(best, (overlap * targets.known[:, None, part]).amax(-1))
    return best


def build(config: Config) -> YOLOv3:
    """A network with random weights (torch's: He uniform with a = sqrt(5), as in the MindSpore zoo)."""
    return YOLOv3(config)


def _styles(config: Config) -> tuple[Style, Style]:
    """Of the backbone, of everything after it."""
    return (
        Style(config.backbone_activation, config.padding, config.norm_eps, config.backbone_norm_momentum),
        Style("leaky", config.padding, config.norm_eps, config.norm_momentum),
    )


def _start_at_prior(layer: nn.Conv2d, stride: int) -> None:
    """Set the objectness bias so that a fresh head expects 8 objects in a 640 px picture, as MindYOLO does.

    Without it the background of thousands of cells swamps the first steps.
    """
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias.view(A, -1)[:, 4] = math.log(8 / (640 / stride) ** 2)


def mindspore_name(parameter: str) -> str | None:
    """The name that a parameter of the DarkNet-53 network has in the MindSpore zoo; None where it has none."""
    heads = ["head32", "head16", "head8"]
    parts = parameter.split(".")
    leaf = _MINDSPORE_LEAVES.get(".".join(parts[-2:]))
    if parts[0] != "network" or leaf is None:
        return None
    match parts[1:-2]:
        case ["backbone", "stem"]:
            place = "backbone.conv0"
        case ["backbone", "stages", stage, "0"]:
            place = f"backbone.conv{int(stage) + 1}"
        case ["backbone", "stages", stage, block, conv]:
            place = f"backbone.layer{int(stage) + 1}.{int(block) - 1}.{conv}"
        case ["lead16" | "lead8" as lead]:
            place = "conv1" if lead == "lead16" else "conv2"
        case [head, "trunk", number] if head in heads:
            place = f"backblock{heads.index(head)}.conv{number}"
        case [head, "last"] if head in heads:
            place = f"backblock{heads.index(head)}.conv5"
        case [head] if head in heads:
            place = f"backblock{heads.index(head)}.conv6"
        case _:
            return None
    return f"feature_map.{place}.{leaf}"


_MINDSPORE_LEAVES = {
    "conv.weight": "0.weight",
    "norm.weight": "1.gamma",
    "norm.bias": "1.beta",
    "norm.running_mean": "1.moving_mean",
    "norm.running_var": "1.moving_variance",
    "out.weight": "weight",
    "out.bias": "bias",
}
