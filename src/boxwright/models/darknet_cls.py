"""DarkNet-53 and CSPDarkNet-53 as classifiers of pictures: the backbones that YOLOv3 and YOLOv4 start from.

The backbone has the names that it has in the detectors, so that `--weights RUN --transfer` finds its layers.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from boxwright.config import ClassCount, Fraction, ModelConfig, NotNegative, Positive, Triple
from boxwright.nn import timm_names
from boxwright.nn.blocks import Activation, Style
from boxwright.nn.classifier import ImageClassifier
from boxwright.nn.cspdarknet import CSPDarkNet53
from boxwright.nn.darknet import DarkNet53


class Config(ModelConfig):
    task: ClassVar[Literal["detect", "classify"]] = "classify"
    size_step: ClassVar[int] = 32  # both sides of the input are multiples of this, px

    name: Literal["darknet_cls"] = "darknet_cls"
    network: Literal["darknet53", "cspdarknet53"] = "darknet53"
    classes: ClassCount
    padding: Literal["symmetric", "same"] = "symmetric"  # of stride-2 convolutions: Darknet and timm, MindSpore zoo
    activation: Activation = "leaky"
    slope: NotNegative = 0.1  # of `leaky` below zero: Darknet 0.1, timm 0.01
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1  # share of the new statistic, as torch counts it
    mean: Triple = (0.0, 0.0, 0.0)  # RGB, in the 0-to-1 scale
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    label_smoothing: Fraction = 0.0  # share of a label that is spread over the other classes


class BackboneClassifier(ImageClassifier):
    """A backbone, the mean of its last map over all places, and a weighted sum of that for each class.

    The sum is a 1x1 convolution, as in Darknet, whose files hold nothing else.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.mean, config.std, config.size_step, config.label_smoothing)
        style = Style(config.activation, config.padding, config.norm_eps, config.norm_momentum, config.slope)
        self.backbone = DarkNet53(style) if config.network == "darknet53" else CSPDarkNet53(style)
        self.classifier = nn.Conv2d(self.backbone.channels[-1], config.classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        (*_, last) = self.backbone(x)
        return self.classifier(last.mean((2, 3), keepdim=True)).flatten(1)  # type: ignore[no-any-return]


def build(config: Config) -> BackboneClassifier:
    """A network with random weights (torch's: He uniform with a = sqrt(5))."""
    return BackboneClassifier(config)


def foreign_names(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """timm's `darknet53` or `cspdarknet53` under our names."""
    return timm_names.darknet53(tensors) if config.network == "darknet53" else timm_names.cspdarknet53(tensors)
