"""Tiny-DarkNet (Redmon, Darknet's tiny.cfg): a classifier of a million weights, of Darknet and of the MindSpore zoo.

B images, H x W px, C classes
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import ClassCount, Fraction, ModelConfig, NotNegative, Positive, Triple
from boxwright.nn.blocks import ConvNormAct, Style
from boxwright.nn.classifier import ImageClassifier

# (outputs, kernel) of each block; the picture is halved between the stages
STAGES = (
    ((16, 3),),
    ((32, 3),),
    ((16, 1), (128, 3), (16, 1), (128, 3)),
    ((32, 1), (256, 3), (32, 1), (256, 3)),
    ((64, 1), (512, 3), (64, 1), (512, 3), (128, 1)),
)


class Config(ModelConfig):
    task: ClassVar[Literal["detect", "classify"]] = "classify"
    size_step: ClassVar[int] = 1  # any size; odd sides are halved upwards

    name: Literal["tiny_darknet"] = "tiny_darknet"
    classes: ClassCount
    # what gives the classes, before the mean over the picture: a plain convolution with bias (Darknet), or a block with
    # batch norm and activation like all others (MindSpore zoo)
    last: Literal["plain", "block"] = "plain"
    slope: NotNegative = 0.1  # of the activations below zero: Darknet 0.1, MindSpore zoo 0.2
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1  # share of the new statistic, as torch counts it
    # weights of fresh convolutions: normal of this deviation, cut at two of them (MindSpore zoo); 0: torch's He uniform
    init_deviation: NotNegative = 0.0
    mean: Triple = (0.0, 0.0, 0.0)  # RGB, in the 0-to-1 scale
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    label_smoothing: Fraction = 0.0  # share of a label that is spread over the other classes


class TinyDarkNet(ImageClassifier):
    """Five stages with max pooling of 2 x 2 px between them, and the mean of the map at stride 16."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.mean, config.std, config.size_step, config.label_smoothing)
        style = Style("leaky", "symmetric", config.norm_eps, config.norm_momentum, config.slope)
        self.backbone = nn.ModuleList()
        inputs = 3
        for plan in STAGES:
            blocks = []
            for outputs, kernel in plan:
                blocks.append(ConvNormAct(inputs, outputs, kernel, style))
                inputs = outputs
            self.backbone.append(nn.Sequential(*blocks))
        block = config.last == "block"
        self.last = ConvNormAct(inputs, config.classes, 1, style) if block else nn.Conv2d(inputs, config.classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        first, *others = self.backbone
        x = first(x)
        for stage in others:
            x = stage(F.max_pool2d(x, 2, ceil_mode=True))
        return self.last(x).mean((2, 3))  # type: ignore[no-any-return]


def build(config: Config) -> TinyDarkNet:
    """A network with random weights."""
    model = TinyDarkNet(config)
    if deviation := config.init_deviation:
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.trunc_normal_(part.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
    return model


def mindspore_name(parameter: str) -> str | None:
    """The name that a parameter has in the MindSpore zoo, which numbers the blocks from 1; None where it has none."""
    module, _, leaf = parameter.rpartition(".")
    module, _, kind = module.rpartition(".")
    number = _NUMBERS.get(module)
    ending = _MINDSPORE_LEAVES.get(f"{kind}.{leaf}")
    return f"conv{number}.{ending}" if number and ending else None


_NUMBERS = {
    place: number
    for number, place in enumerate(
        [f"backbone.{s}.{k}" for s, plan in enumerate(STAGES) for k in range(len(plan))] + ["last"], 1
    )
}
_MINDSPORE_LEAVES = {
    "conv.weight": "conv.weight",
    "norm.weight": "bn.gamma",
    "norm.bias": "bn.beta",
    "norm.running_mean": "bn.moving_mean",
    "norm.running_var": "bn.moving_variance",
}
