"""Tiny-DarkNet (Redmon, Darknet's tiny.cfg): a classifier with a million parameters, also in the MindSpore zoo.

B images, H x W px, C classes
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import NotNegative
from boxwright.nn.blocks import ConvNormAct, Style
from boxwright.nn.classifier import ClassifierConfig, ImageClassifier

# (outputs, kernel) of each block; the map is halved between stages
STAGES = (
    ((16, 3),),
    ((32, 3),),
    ((16, 1), (128, 3), (16, 1), (128, 3)),
    ((32, 1), (256, 3), (32, 1), (256, 3)),
    ((64, 1), (512, 3), (64, 1), (512, 3), (128, 1)),
)


class Config(ClassifierConfig):
    size_step: ClassVar[int] = 1  # any size; odd sides are halved upwards

    name: Literal["tiny_darknet"] = "tiny_darknet"
    # last layer, before global average pooling: a plain convolution with bias (Darknet), or a block with batch norm and
    # activation like all others (MindSpore zoo)
    last: Literal["plain", "block"] = "plain"
    # initial weights of convolutions: normal with this std, truncated at 2 std (MindSpore zoo); 0: torch's He uniform
    init_std: NotNegative = 0.0


class TinyDarkNet(ImageClassifier):
    """Five stages with 2 x 2 max pooling between them, and global average pooling of the map at stride 16."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        style = Style("leaky", "symmetric", config.norm_eps, config.norm_momentum, config.negative_slope)
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
        logits: Tensor = self.last(x)
        return logits.mean((2, 3))


def build(config: Config) -> TinyDarkNet:
    """Build the network with random weights."""
    model = TinyDarkNet(config)
    if std := config.init_std:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, 0.0, std, -2 * std, 2 * std)
    return model
