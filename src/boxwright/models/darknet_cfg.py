"""The network of a Darknet .cfg file: a detector, or a classifier where the file has no head.

    B images, H x W px, C classes, A anchors per head, h x w cells of its map

The raw outputs of a detector are the maps before each head, in the file's order, as Darknet computes them.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import AUTO, RGB, Anchors, numbers_of
from boxwright.darknet_cfg.layers import Connected, Convolution, Head, Softmax
from boxwright.darknet_cfg.plan import Plan, anchor_count, plan, with_anchors, with_classes, with_size
from boxwright.darknet_cfg.text import MAX_CFG
from boxwright.errors import InputError
from boxwright.nn import darknet_layers
from boxwright.nn.classifier import ImageClassifier, LabelConfig
from boxwright.nn.darknet_loss import LossConfig, yolo_loss
from boxwright.nn.network import Network
from boxwright.nn.region_loss import RegionLossConfig, region_loss
from boxwright.nn.yolo import CellConfig, CellDetector, objectness_prior
from boxwright.ops.anchors import flatten
from boxwright.types import Batch

LUMA = (0.299, 0.587, 0.114)  # of RGB in a gray image (ITU-R BT.601)
LOGIT_EPS = 1e-7  # logits are taken of numbers in [eps, 1 - eps]; float32 holds 1 - 1e-7


class Config(CellConfig, LabelConfig):
    """Config of a network from a .cfg file; the task follows from the file.

    Attributes:
        cfg: Text of the .cfg.
        classes: Number of classes. If it differs from the text's, the filters before each head are changed to match.
        anchors: (width, height) in px of the input; they replace the text's, and heads select them by their masks.
            None: those of the text.
    """

    name: Literal["darknet_cfg"] = "darknet_cfg"
    cfg: Annotated[str, Field(max_length=MAX_CFG)]
    multi_label: bool = True
    anchors: Anchors | None = None
    loss: LossConfig = LossConfig()  # of [yolo] and [Gaussian_yolo] heads
    region_loss: RegionLossConfig = RegionLossConfig()  # of a [region] head

    @pydantic.model_validator(mode="before")
    @classmethod
    def _classes_of_the_file(cls, tree: object) -> object:
        if isinstance(tree, dict) and "classes" not in tree and isinstance(tree.get("cfg"), str):
            return {**tree, "classes": plan(tree["cfg"][:MAX_CFG]).classes}
        return tree

    @pydantic.model_validator(mode="after")
    def _is_a_network(self) -> Self:
        if self.anchors is not None:
            if not (needed := self.anchor_count):
                raise ValueError("anchors set, and this .cfg is a classifier; leave them out")
            if self.anchors != AUTO and len(self.anchors) != needed:
                raise ValueError(f"anchors holds {len(self.anchors)} pairs, the .cfg needs {needed}")
        if (found := len(self.loss.class_weights)) not in {0, self.classes}:
            raise ValueError(f"loss.class_weights holds {found} numbers, needed {self.classes}, one per class, or none")
        for key, values in self.loss:
            if (
                key != "class_weights"
                and isinstance(values, tuple)
                and len(values) not in ({0, 1, len(self.plan.heads)})
            ):
                raise ValueError(f"loss.{key} holds {len(values)} numbers, needed {len(self.plan.heads)} or one")
        return self

    @property
    def text(self) -> str:
        """Text of the .cfg, with these classes and anchors."""
        text = with_classes(self.cfg, self.classes)
        return text if self.anchors in (None, AUTO) else with_anchors(text, numbers_of(self.anchors))

    @property
    def plan(self) -> Plan:
        return plan(self.text)

    @property
    def anchor_count(self) -> int:
        return anchor_count(plan(self.cfg))

    @property
    def task(self) -> str:  # type: ignore[override]
        return "detect" if self.plan.heads else "classify"

    @property
    def augment(self) -> str:  # type: ignore[override]
        return "augment" if self.plan.heads else "class_augment"

    @property
    def size_step(self) -> int:  # type: ignore[override]
        """Largest stride of a head; 1 if the strides are not integers, and for classifiers."""
        sides = [side for pair in self.plan.strides for side in pair]
        return int(max(sides)) if sides and all(side == int(side) for side in sides) else 1


class Layers(nn.ModuleList):
    """The layers of a .cfg, one module each."""

    def __init__(self, config: Config) -> None:
        super().__init__(darknet_layers.module(layer, config.norm_momentum) for layer in config.plan.layers)
        self.text, self.plan = config.text, config.plan
        self.last_use = {index: layer.section.index for layer in self.plan.layers for index in layer.inputs}
        self.sizes = {self.plan.image[1:]}  # (H, W) known to fit

    def forward(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Outputs of the layers numbered `wanted`, for normalized images (B, 3, H, W)."""
        self.check_size(int(x.shape[2]), int(x.shape[3]))
        if self.plan.image[0] == 1 and x.shape[1] == RGB:
            x = (x * x.new_tensor(LUMA).view(RGB, 1, 1)).sum(1, keepdim=True)
        outputs, found = {-1: x}, {}
        for layer, module in zip(self.plan.layers[: max(wanted) + 1], self, strict=False):
            index = layer.section.index
            if isinstance(layer, Head) and index not in self.last_use and index not in wanted:
                continue
            inputs: list[object] = [outputs[each] for each in layer.inputs]
            if isinstance(layer, Convolution) and layer.share is not None:
                inputs.append(self[layer.share])
            outputs[index] = module(*inputs)
            if index in wanted:
                found[index] = outputs[index]
            for each in {*layer.inputs, index}:
                if self.last_use.get(each, -1) <= index:
                    outputs.pop(each, None)
        return [found[index] for index in wanted]

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError if the layers cannot process an input of this size, its maps would have other strides, or a
        classifier's last map would have more positions and so more classes."""
        if (height, width) in self.sizes:
            return
        other = plan(with_size(self.text, height, width), "the .cfg")
        fixed = [[layer.size for layer in each.layers if isinstance(layer, Connected)] for each in (self.plan, other)]
        if fixed[0] != fixed[1] or (other.strides, other.classes) != (self.plan.strides, self.plan.classes):
            _, own_height, own_width = self.plan.image
            raise InputError(
                f"data.canvas.size: found {height} x {width} px, this .cfg needs {own_height} x {own_width} px, as its "
                "[net] says"
            )
        self.sizes.add((height, width))


class CfgDetector(CellDetector):
    """Detector: (B, 3, H, W) RGB in [0, 1] -> the map before each head (B, A * values, h, w), in the file's order."""

    config: Config
    class_weights: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        heads, self.strides = config.plan.heads, config.plan.strides
        self.layers = Layers(config)
        self.heads = heads
        self.raw_names = tuple(f"{head.section.kind}{head.section.index}" for head in heads)
        self.counts = tuple(len(head.anchors) for head in heads)
        self.scale_xy = tuple(head.scale_xy for head in heads)
        pairs = [
            torch.tensor(head.anchors) * (torch.tensor(stride) if head.section.kind == "region" else 1)
            for head, stride in zip(heads, config.plan.strides, strict=True)
        ]
        self.register_buffer("anchors", torch.cat(pairs).float(), persistent=False)
        weights = torch.tensor(config.loss.class_weights) if config.loss.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self._expect_few_objects()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.layers(self.normalize(images), [head.inputs[0] for head in self.heads]))

    def check_trainable(self) -> None:
        first, *others = self.heads
        for head in others:
            if head.section.kind != first.section.kind or head.section.kind == "region":
                raise head.section.error("training needs heads of one kind, and one [region] at most")

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """The terms of `yolo_loss` or `region_loss`."""
        cells, head = self.cells(raw), self.heads[0]
        if head.section.kind == "region":
            return region_loss(flatten(raw, self.counts), cells, batch, self.config.region_loss, head.softmax)
        maps, spread = self.logits(raw), None
        if head.section.kind == "Gaussian_yolo":
            parts = [_split(level, count) for level, count in zip(raw, self.counts, strict=True)]
            maps, deviations = zip(*parts, strict=True)
            spread = flatten(deviations, self.counts)
        new_coords = [head.new_coords for head in self.heads]
        rows, settings = flatten(maps, self.counts), self.config.loss
        return yolo_loss(rows, cells, batch, settings, new_coords, spread, self.class_weights)

    def _expect_few_objects(self) -> None:
        """Initialize objectness biases as the other detectors here do (`objectness_prior`)."""
        for head, (x, y) in zip(self.heads, self.config.plan.strides, strict=True):
            own = [each for each in self.layers[head.inputs[0]].modules() if isinstance(each, nn.Conv2d)]
            if head.section.kind != "region" and own and own[-1].bias is not None:
                with torch.no_grad():
                    own[-1].bias.view(len(head.anchors), -1)[:, head.values - 1] = objectness_prior(math.sqrt(x * y))

    def logits(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(logits(level, head) for level, head in zip(raw, self.heads, strict=True))


def logits(level: Tensor, head: Head) -> Tensor:
    """Map before a head -> (B, A * (5 + C), h, w): the logits and logarithms that give the same boxes and scores.

    A plain [yolo] stores them; maps of other heads are converted.
    """
    plain = head.section.kind == "yolo" and not head.new_coords
    if plain:
        return level
    cells = level.float().reshape(len(level), len(head.anchors), -1, *level.shape[2:])
    if head.new_coords:  # (2 t)^2 = exp(2 log(2 |t|))
        place, size, rest = cells[:, :, :2], cells[:, :, 2:4], cells[:, :, 4:]
        parts = [place.logit(LOGIT_EPS), 2 * (2 * size.abs()).log(), rest.logit(LOGIT_EPS)]
    elif head.section.kind == "Gaussian_yolo":  # objectness is scaled by the certainty of the four coordinates
        certain = 1 - cells[:, :, 1:8:2].sigmoid().mean(2, keepdim=True)
        objectness = (cells[:, :, 8:9].sigmoid() * certain).logit(LOGIT_EPS)
        parts = [cells[:, :, 0:8:2], objectness, cells[:, :, 9:]]
    else:
        classes = cells[:, :, 5:].softmax(2) if head.softmax else cells[:, :, 5:]
        parts = [cells[:, :, :5], classes.logit(LOGIT_EPS)]
    return torch.cat(parts, 2).flatten(1, 2)


def _split(level: Tensor, anchors: int) -> tuple[Tensor, Tensor]:
    """Map before a [Gaussian_yolo] -> the map without standard deviations (B, A * (5 + C), h, w), and these (B, A * 4,
    h, w)."""
    cells = level.reshape(len(level), anchors, -1, *level.shape[2:])
    plain = torch.cat((cells[:, :, 0:8:2], cells[:, :, 8:]), 2)
    return plain.flatten(1, 2), cells[:, :, 1:8:2].flatten(1, 2)


class CfgClassifier(ImageClassifier):
    """Classifier: (B, 3, H, W) RGB in [0, 1] -> logits (B, C): the input of the last [softmax], over its temperature.

    If the last layer is not a [softmax], its output is returned, and its values are the scores.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.layers = Layers(config)
        last = config.plan.last
        self.softmax = isinstance(last, Softmax) and last.groups == 1
        self.wanted = last.inputs[0] if self.softmax else last.section.index
        self.temperature = last.temperature if isinstance(last, Softmax) and self.softmax else 1.0

    def logits(self, x: Tensor) -> Tensor:
        (last,) = self.layers(x, [self.wanted])
        found: Tensor = last.flatten(1)
        return found if self.temperature == 1 else found / self.temperature

    def scores(self, logits: Tensor) -> Tensor:
        return super().scores(logits) if self.softmax else logits


def build(config: Config) -> Network:
    """Build the network with random weights (torch's default: He uniform with a = sqrt(5))."""
    return CfgDetector(config) if config.plan.heads else CfgClassifier(config)
