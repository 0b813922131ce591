"""CSPDarkNet-53 without its classifier (YOLOv4 paper, section 3.4), and YOLOv4-tiny's backbone.

    B images, H x W px, C channels

Each stage has a main path through its blocks and a shortcut past them, concatenated at its end (Wang et al. 2019,
CSPNet). Modules are declared, and run, in Darknet's order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.blocks import Bottleneck, ConvNormAct, Style, run_stages

STEM = 32  # channels of the first layer as published; all others are multiples
BLOCKS = (1, 2, 8, 8, 4)  # residual blocks of the stages at strides 2 to 32


class Stage(nn.Module):
    """CSP stage: (B, inputs, H, W) -> (B, outputs, H / 2, W / 2). width: channels of each path."""

    def __init__(self, inputs: int, outputs: int, width: int, hidden: int, blocks: int, style: Style) -> None:
        super().__init__()
        self.down = ConvNormAct(inputs, outputs, 3, style, stride=2)
        self.shortcut = ConvNormAct(outputs, width, 1, style)
        self.main_in = ConvNormAct(outputs, width, 1, style)
        self.blocks = nn.Sequential(*(Bottleneck(width, width, style, hidden=hidden) for _ in range(blocks)))
        self.main_out = ConvNormAct(width, width, 1, style)
        self.join = ConvNormAct(2 * width, outputs, 1, style)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        shortcut = self.shortcut(x)
        main = self.main_out(self.blocks(self.main_in(x)))
        joined: Tensor = self.join(torch.cat((main, shortcut), 1))
        return joined


class CSPDarkNet53(nn.Module):
    """(B, 3, H, W) -> maps of 8, 16 and 32 times `stem` channels at strides 8, 16 and 32. H and W: multiples of 32."""

    def __init__(self, style: Style, stem: int) -> None:
        super().__init__()
        self.channels = (8 * stem, 16 * stem, 32 * stem)
        self.stem = ConvNormAct(3, stem, 3, style)
        self.stages = nn.ModuleList()
        inputs = stem
        for number, blocks in enumerate(BLOCKS):
            outputs = inputs * 2
            # The first stage's paths have all channels, and its block halves them; later stages' paths have half.
            width = outputs if number == 0 else inputs
            self.stages.append(Stage(inputs, outputs, width, inputs, blocks, style))
            inputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return run_stages(self.stem(x), self.stages)


class TinyStage(nn.Module):
    """(B, C, H, W) -> concatenated paths (B, C, H, W), and the first layer's output with them (B, 2C, H, W).

    Later layers read the second half of the first layer's channels only (Darknet's route with groups=2, group_id=1).
    """

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        half = channels // 2
        self.conv = ConvNormAct(channels, channels, 3, style)
        self.first = ConvNormAct(half, half, 3, style)
        self.second = ConvNormAct(half, half, 3, style)
        self.join = ConvNormAct(channels, channels, 1, style)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        first = self.first(x.chunk(2, 1)[1])
        joined = self.join(torch.cat((self.second(first), first), 1))
        return joined, torch.cat((x, joined), 1)


class YOLOv4TinyBackbone(nn.Module):
    """(B, 3, H, W) -> maps of 8 and 16 times `stem` channels at strides 16 and 32 (Darknet's yolov4-tiny.cfg)."""

    def __init__(self, style: Style, stem: int = STEM) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, stem, 3, style, stride=2)
        self.down = ConvNormAct(stem, 2 * stem, 3, style, stride=2)
        self.stages = nn.ModuleList(TinyStage(factor * stem, style) for factor in (2, 4, 8))
        self.last = ConvNormAct(16 * stem, 16 * stem, 3, style)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down(self.stem(x))
        for stage in self.stages:
            joined, x = stage(x)
            x = F.max_pool2d(x, 2)
        return joined, self.last(x)
