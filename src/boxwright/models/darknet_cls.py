"""DarkNet-53 and CSPDarkNet-53 as image classifiers: the backbones that YOLOv3 and YOLOv4 start from.

The backbone's parameters have the same names as in the detectors, so `--weights RUN --transfer` finds its layers.
"""

from typing import Literal

from torch import Tensor, nn

from boxwright.config import Padding
from boxwright.nn import cspdarknet
from boxwright.nn.blocks import Activation, Style
from boxwright.nn.classifier import ClassifierConfig, ImageClassifier
from boxwright.nn.darknet import DarkNet53


class Config(ClassifierConfig):
    name: Literal["darknet_cls"] = "darknet_cls"
    network: Literal["darknet53", "cspdarknet53"] = "darknet53"  # the backbone
    padding: Padding = "symmetric"  # of stride-2 convolutions: Darknet and timm symmetric, MindSpore zoo same
    activation: Activation = "leaky"  # after each convolution


class BackboneClassifier(ImageClassifier):
    """Backbone, global average pooling of its last map, and a linear layer.

    The linear layer is a 1x1 convolution, as in Darknet, whose files hold nothing else.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        style = Style(config.activation, config.padding, config.norm_eps, config.norm_momentum, config.negative_slope)
        csp = config.network == "cspdarknet53"
        self.backbone = cspdarknet.CSPDarkNet53(style, cspdarknet.STEM) if csp else DarkNet53(style)
        self.classifier = nn.Conv2d(self.backbone.channels[-1], config.classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        last: Tensor = self.backbone(x)[-1]
        logits: Tensor = self.classifier(last.mean((2, 3), keepdim=True))
        return logits.flatten(1)


def build(config: Config) -> BackboneClassifier:
    """Build the network with random weights (torch's default: He uniform with a = sqrt(5))."""
    return BackboneClassifier(config)
