"""DarkNet-53 without its classifier (YOLOv3 paper, table 1)."""

from torch import Tensor, nn

from boxwright.nn.blocks import Bottleneck, ConvNormAct, Style, run_stages

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))  # (channels, residual blocks) at strides 2 to 32


class DarkNet53(nn.Module):
    """(B, 3, H, W) -> maps of 256, 512 and 1024 channels at strides 8, 16 and 32. H and W: multiples of 32."""

    channels = (256, 512, 1024)

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 32, 3, style)
        self.stages = nn.ModuleList()
        inputs = 32
        for outputs, blocks in STAGES:
            down = ConvNormAct(inputs, outputs, 3, style, stride=2)
            self.stages.append(nn.Sequential(down, *(Bottleneck(outputs, outputs, style) for _ in range(blocks))))
            inputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return run_stages(self.stem(x), self.stages)
