"""Feature pyramid network (Lin et al. 2017, section 3), with one more level for large boxes.

B images, C channels, h x w cells of a level
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Feature pyramid without activations; with `norm` a batch norm follows each convolution."""

    def __init__(self, inputs: Sequence[int], outputs: int, norm: bool = False) -> None:
        super().__init__()
        self.inner = nn.ModuleList(_conv(channels, outputs, 1, norm) for channels in inputs)
        self.outer = nn.ModuleList(_conv(outputs, outputs, 3, norm) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L maps, fine to coarse, (B, inputs[l], h_l, w_l) -> L maps (B, outputs, h_l, w_l) and one more that has every
        second row and column of the last."""
        merged: list[Tensor] = []  # coarse to fine
        for conv, level in zip(reversed(self.inner), reversed(maps), strict=True):
            x = conv(level)
            if merged:
                x = x + F.interpolate(merged[-1], size=x.shape[-2:], mode="nearest")
            merged.append(x)
        levels = [conv(level) for conv, level in zip(self.outer, reversed(merged), strict=True)]
        return (*levels, levels[-1][:, :, ::2, ::2])


def _conv(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Module:
    """Convolution with bias, or with batch norm instead; initialized as in torchvision."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if norm:
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
