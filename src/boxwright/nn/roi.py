"""Second stage: features, class and box of each proposal.

B images, R boxes per image, C classes without background
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.ops.boxes import area
from boxwright.ops.roi_align import ROI_BINS, roi_align

FINEST = 56  # px: boxes below twice this side use the finest level (FPN paper, equation 1, with its 224 at level 4)


class BoxHead(nn.Module):
    """Classes and box deltas from RoI features.

    Args:
        channels: Channels of the features.
        classes: C, without background.
        convs: 3x3 convolutions with batch norm before the dense layers.
        dense: Dense layers before the two outputs, 1 or 2.
        hidden: Outputs of each of them.
    """

    def __init__(self, channels: int, classes: int, convs: int, dense: int, hidden: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_conv_norm_relu(channels) for _ in range(convs)))
        self.fc1 = nn.Linear(channels * ROI_BINS * ROI_BINS, hidden)
        self.fc2 = nn.Linear(hidden, hidden) if dense == 2 else nn.Identity()
        self.classes = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 * (classes + 1))
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):  # Fast R-CNN paper, section 4.1
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, channels, 7, 7) -> logits (B, R, C+1), background first, and deltas (B, R, 4*(C+1))."""
        if len(self.convs):
            features = self.convs(features.flatten(0, 1)).view_as(features)
        x = F.relu(self.fc1(features.flatten(2)))
        x = F.relu(self.fc2(x))
        return self.classes(x).float(), self.deltas(x).float()


def _conv_norm_relu(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def features_of(
    maps: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[int],
    *,
    aligned: bool,
    plus_one: bool,
    samples: int = 2,
) -> Tensor:
    """maps (B, channels, h, w), fine first; boxes (B, R, 4) xyxy px -> (B, R, channels, 7, 7). For the other arguments
    see `roi_align`."""
    level = level_of(boxes, len(maps), plus_one)
    return roi_align(maps, boxes, level, strides, aligned=aligned, plus_one=plus_one, samples=samples)


def level_of(boxes: Tensor, levels: int, plus_one: bool) -> Tensor:
    """(..., 4) xyxy px -> (...) int64 in 0..levels - 1: larger boxes take coarser maps."""
    ratio = area(boxes, plus_one).sqrt() / FINEST
    # Clamped as integers: NaN, which the engine reports after the step, converts to any integer.
    return torch.log2(ratio + 1e-6).floor().long().clamp(0, levels - 1)
