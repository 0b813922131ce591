"""A deformable 3x3 convolution with the layers that predict its offsets and masks."""

import torch
from torch import Tensor, nn

from boxwright.ops.deform import Sampling, deform_conv


class DeformConv2d(nn.Module):
    """(B, in, H, W) -> (B, out, H / stride, W / stride), rounded up. No biases.

    Offsets and the logits of masks come from two ordinary convolutions of the same map, whose weights start at zero: at
    first every sample counts half and lies on the grid. Sampling positions: `boxwright.ops.deform`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, sampling: Sampling) -> None:
        super().__init__()
        self.stride = stride
        self.sampling: Sampling = sampling
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        # As in He et al. 2015b (section 2.2, backward case), like the ordinary convolutions around it.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.offset = _zero_conv(inputs, 18, stride)
        self.mask = _zero_conv(inputs, 9, stride)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.sigmoid(self.mask(x))
        return deform_conv(x, self.offset(x), mask, self.weight, self.stride, self.sampling)


def _zero_conv(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    return conv
