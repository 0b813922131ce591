"""The second stage: features, class and box of each proposal.

B images, R boxes an image, C classes without background
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.ops.boxes import area
from boxwright.ops.roi_align import roi_align

BINS = 7  # a side
FINEST = 56  # px: boxes below twice this side take the finest level (FPN paper, equation 1, with its 224 at level 4)


class BoxHead(nn.Module):
    """Two layers over a box's features. (B, R, channels, 7, 7) -> logits (B, R, C+1), background first, and deltas
    (B, R, 4*(C+1)), four a class."""

    def __init__(self, channels: int, classes: int, hidden: int = 1024) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * BINS * BINS, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classes = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 * (classes + 1))
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):  # Fast R-CNN paper, section 4.1
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.fc1(features.flatten(2)))
        x = F.relu(self.fc2(x))
        return self.classes(x).float(), self.deltas(x).float()


def features_of(
    maps: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], *, aligned: bool, plus_one: bool
) -> Tensor:
    """maps (B, channels, h, w), fine first; boxes (B, R, 4) xyxy px -> (B, R, channels, 7, 7)."""
    return roi_align(maps, boxes, level_of(boxes, len(maps), plus_one), strides, aligned=aligned, plus_one=plus_one)


def level_of(boxes: Tensor, levels: int, plus_one: bool) -> Tensor:
    """(..., 4) xyxy px -> (...) int64 in 0..levels - 1: larger boxes take coarser maps."""
    ratio = area(boxes, plus_one).sqrt() / FINEST
    # Clamped as whole numbers too: NaN, which the engine reports after the step, may become any.
    return torch.log2(ratio + 1e-6).floor().long().clamp(0, levels - 1)
