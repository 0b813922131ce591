"""ResNet-50, -101 and -152 without the classifier (He et al. 2015, table 1), optionally with deformable layers.

    B images, H x W px, C channels

A stage's stride is in its first 3x3 convolution (V1.5), as in torchvision, timm and the MindSpore zoo, or in the 1x1
before it, as in the paper and in Caffe. Modules have torchvision's names.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.config import Padding
from boxwright.nn.deform import DeformConv2d

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # blocks per stage
WIDTHS = (64, 128, 256, 512)  # channels of a stage's 3x3 convolutions
EXPANSION = 4  # output channels of a stage / its width

Deform = Literal["none", "standard", "zoo"]
StrideIn = Literal["conv1", "conv2"]
Conv = Callable[[int, int, int], nn.Module]  # (inputs, outputs, stride) -> a 3x3 layer


class Bottleneck(nn.Module):
    """1x1, 3x3 (may be deformable), one of them with the stride, 1x1 to 4 * width, added to the input.

    (B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)
    """

    def __init__(self, inputs: int, width: int, stride: int, conv2: Conv, stride_in: StrideIn) -> None:
        super().__init__()
        outputs = EXPANSION * width
        first, second = (stride, 1) if stride_in == "conv1" else (1, stride)
        self.conv1 = _conv(inputs, width, 1, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv2(width, width, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn3.weight)  # blocks start as the identity (Goyal et al. 2017, section 5.1)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


class ResNet(nn.Module):
    """(B, 3, H, W) -> c2, c3, c4, c5: maps of 256, 512, 1024, 2048 channels at strides 4, 8, 16, 32.

    H and W: multiples of 32. deform: sampling of the 3x3 layers in every block of the last three stages. padding (of
    the max-pool): `symmetric` pads 1 on every side (torchvision), `same` bottom and right only (MindSpore).
    masks, groups, bias: of deformable layers (`nn/deform.py`). stride_in: the convolution with the stride of a stage.
    """

    def __init__(
        self,
        depth: Literal[50, 101, 152],
        *,
        deform: Deform,
        padding: Padding,
        masks: bool = True,
        groups: int = 1,
        bias: bool = False,
        stride_in: StrideIn = "conv2",
    ) -> None:
        super().__init__()
        self.channels = tuple(EXPANSION * width for width in WIDTHS)
        conv: Conv = _conv3
        if deform != "none":
            conv = partial(DeformConv2d, sampling=deform, masks=masks, groups=groups, bias=bias)
        self.pad_end = padding == "same"
        self.conv1 = _conv(3, WIDTHS[0], 7, 2)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        blocks = BLOCKS[depth]
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks[0], 1, _conv3, stride_in)
        self.layer2 = _stage(self.channels[0], WIDTHS[1], blocks[1], 2, conv, stride_in)
        self.layer3 = _stage(self.channels[1], WIDTHS[2], blocks[2], 2, conv, stride_in)
        self.layer4 = _stage(self.channels[2], WIDTHS[3], blocks[3], 2, conv, stride_in)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) normalized -> c2, c3, c4, c5 at strides 4, 8, 16, 32."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        # After a ReLU, zero padding never exceeds its neighbors.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2) if self.pad_end else F.max_pool2d(x, 3, 2, 1)
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


def _stage(inputs: int, width: int, blocks: int, stride: int, conv2: Conv, stride_in: StrideIn) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride, conv2, stride_in)
    rest = (Bottleneck(EXPANSION * width, width, 1, conv2, stride_in) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _conv3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return _conv(inputs, outputs, 3, stride)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias, initialized as in He et al. 2015b (section 2.2, backward case) and torchvision."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
