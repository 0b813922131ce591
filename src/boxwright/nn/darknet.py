"""DarkNet-53 without its classifier (YOLOv3 paper, table 1)."""

from torch import Tensor, nn

from boxwright.nn.blocks import Bottleneck, ConvNormAct, Style, run_stages

STEM = 32  # channels of the first layer
# At strides 2 to 32: channels as a multiple of STEM, and residual blocks
STAGES = ((2, 1), (4, 2), (8, 8), (16, 8), (32, 4))


class DarkNet53(nn.Module):
    """(B, 3, H, W) -> maps of 256, 512 and 1024 channels at strides 8, 16 and 32. H and W: multiples of 32."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.channels = (8 * STEM, 16 * STEM, 32 * STEM)
        self.stem = ConvNormAct(3, STEM, 3, style)
        self.stages = nn.ModuleList()
        inputs = STEM
        for multiple, blocks in STAGES:
            outputs = multiple * STEM
            down = ConvNormAct(inputs, outputs, 3, style, stride=2)
            self.stages.append(nn.Sequential(down, *(Bottleneck(outputs, outputs, style) for _ in range(blocks))))
            inputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return run_stages(self.stem(x), self.stages)
