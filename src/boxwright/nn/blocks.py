"""Shared blocks: convolution with batch norm and activation, bottleneck, spatial pyramid pooling."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import Padding

Activation = Literal["relu", "leaky", "silu", "mish"]


@dataclass(frozen=True)
class Style:
    """Differences between implementations of one architecture.

    Attributes:
        activation: Activation after each batch norm.
        padding: Padding of 3x3 stride-2 layers. `symmetric` pads 1 on every side (Darknet, MindYOLO); `same` pads
            bottom and right only (the MindSpore zoo; sides must be even).
        norm_eps: Epsilon of batch norm.
        norm_momentum: Weight of the new batch statistic, as in torch.
        negative_slope: Slope of `leaky` below 0; 0.1 in Darknet (activations.h).
    """

    activation: Activation = "leaky"
    padding: Padding = "symmetric"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    negative_slope: float = 0.1


def activation(style: Style) -> nn.Module:
    """Build the activation; it works in place if backward does not need its input."""
    match style.activation:
        case "leaky":
            return nn.LeakyReLU(style.negative_slope, inplace=True)
        case "relu":
            return nn.ReLU(inplace=True)
        case "silu":
            return nn.SiLU()
        case "mish":
            return nn.Mish()


def upsample2x(x: Tensor) -> Tensor:
    """Nearest-neighbor upsampling: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def spp(x: Tensor) -> Tensor:
    """Spatial pyramid pooling, (B, C, h, w) -> (B, 4C, h, w): maxima over 13x13, 9x9 and 5x5 cells, and the map itself.

    A 9x9 maximum is a 5x5 maximum of 5x5 maxima, and so on; padding never is the maximum.
    """
    five = F.max_pool2d(x, 5, 1, 2)
    nine = F.max_pool2d(five, 5, 1, 2)
    return torch.cat((F.max_pool2d(nine, 5, 1, 2), nine, five, x), 1)


def run_stages(x: Tensor, stages: Iterable[nn.Module]) -> tuple[Tensor, Tensor, Tensor]:
    """Run x through five stages in turn and return the outputs of the last three."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps[2], maps[3], maps[4]


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation: (B, in, H, W) -> (B, out, H / stride, W / stride).

    Parameters are declared in Darknet's order.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style: Style, stride: int = 1) -> None:
        super().__init__()
        self.pad_end = stride == 2 and style.padding == "same"
        padding = 0 if self.pad_end else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs, style.norm_eps, style.norm_momentum)
        self.act = activation(style)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_end:
            x = F.pad(x, (0, 1, 0, 1))
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    """1x1 to `hidden` channels (default: half the outputs), 3x3 back; with `shortcut` the input is added, with no
    activation after it."""

    def __init__(
        self, inputs: int, outputs: int, style: Style, shortcut: bool = True, hidden: int | None = None
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        hidden = hidden or outputs // 2
        self.conv1 = ConvNormAct(inputs, hidden, 1, style)
        self.conv2 = ConvNormAct(hidden, outputs, 3, style)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y
