"""Deformable 3x3 convolution with the layers that predict its offsets and masks."""

import torch
from torch import Tensor, nn

from boxwright.ops.deform import Sampling, deform_conv


class DeformConv2d(nn.Module):
    """(B, in, H, W) -> (B, out, H / stride, W / stride), rounded up. The convolution itself has no bias.

    Offsets and mask logits come from two ordinary convolutions of the same map, initialized to zero: at first every
    sample lies on the grid and has the weight 0.5. Sampling positions: `boxwright.ops.deform`.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Stride of the sampling grid.
        sampling: As in `ops.deform`.
        masks: Whether samples are multiplied by masks (v2); False: v1.
        groups: Groups of adjacent input channels, each with its own offsets and masks.
        bias: Whether the two convolutions have a bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        sampling: Sampling,
        *,
        masks: bool = True,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.groups = groups
        self.sampling: Sampling = sampling
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        # As in He et al. 2015b (section 2.2, backward case), like the ordinary convolutions around it.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.offset = _zero_conv(inputs, 18 * groups, stride, bias)
        self.mask = _zero_conv(inputs, 9 * groups, stride, bias) if masks else None

    def forward(self, x: Tensor) -> Tensor:
        offset = self.offset(x)
        mask = torch.ones_like(offset[:, ::2]) if self.mask is None else torch.sigmoid(self.mask(x))
        if self.groups == 1:
            return deform_conv(x, offset, mask, self.weight, self.stride, self.sampling)
        groups = zip(*(part.chunk(self.groups, 1) for part in (x, offset, mask, self.weight)), strict=True)
        parts = [
            deform_conv(channels, at, of, weight, self.stride, self.sampling) for channels, at, of, weight in groups
        ]
        return torch.stack(parts).sum(0)


def _zero_conv(inputs: int, outputs: int, stride: int, bias: bool) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
