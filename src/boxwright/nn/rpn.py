"""Region proposal network (Faster R-CNN paper, section 3.1) on the maps of a feature pyramid.

B images, H x W px, L levels, h x w positions of a level, A anchors per position, N = sum of A*h*w anchors,
P proposals per image after padding
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.ops import exported
from boxwright.ops.coding import decode
from boxwright.ops.iou import pairwise_iou
from boxwright.ops.nms import greedy_fixed_point, keep_each, keep_greedily

MIN_SIDE = 1e-3  # px: smallest side; clipped boxes beside the image become lines on its edge (torchvision's limit)
# On an accelerator: 256 MiB per intermediate tensor, unless a single level needs more
MAX_PAIRS_PER_CHUNK = 2**26
# NMS rounds in a training step, which must not synchronize: enough for chains of 32 boxes, each suppressing the next.
# Usual images needed 1 to 8. Smooth gradients needed up to 41 in an untrained network, which then lacks a few
# proposals in that step.
TRAIN_NMS_ITERATIONS = 31


class Proposals(NamedTuple):
    """Proposals: boxes (B, P, 4) xyxy px, best first; valid (B, P) bool, False for padding rows, whose boxes are 0."""

    boxes: Tensor
    valid: Tensor


class ProposalNMS(NamedTuple):
    """Settings of an NMS that keeps up to `max_detections` boxes per group."""

    iou: float
    max_detections: int
    plus_one: bool = False
    kind: str = "standard"


class RegionProposals(nn.Module):
    """Head shared by all levels: objectness and box deltas of each anchor.

    L maps (B, C, h, w) -> objectness logits (B, N) and deltas (B, N, 4), in the order of `anchors`.
    convs: 3x3 convolutions before the two outputs; a single one has no number in its name.
    """

    def __init__(self, channels: int, anchors: int, convs: int = 1) -> None:
        super().__init__()
        first = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs)]
        self.conv = first[0] if convs == 1 else nn.Sequential(*(nn.Sequential(conv, nn.ReLU()) for conv in first))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, anchors * 4, 1)
        for layer in (*first, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)  # Faster R-CNN paper, section 3.1.3
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        objectness, deltas = [], []
        for level in maps:
            shared = F.relu(self.conv(level))
            objectness.append(self.objectness(shared).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(shared).permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4))
        return torch.cat(objectness, 1).float(), torch.cat(deltas, 1).float()


def base_anchors(
    strides: Sequence[int], scale: float, ratios: Sequence[float], plus_one: bool, rounded: bool = True
) -> Tensor:
    """(L, A, 4) xyxy px: anchors at each level's first position, with sides of stride * scale and each h / w ratio.

    With `rounded`, coordinates are whole pixels. With plus_one (MindSpore zoo, anchor_generator.py) anchors are
    centered at (stride - 1) / 2 and include both end pixels, else at 0, as in torchvision.
    """
    stride = torch.tensor(strides, dtype=torch.float64)[:, None]
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()
    side = stride[..., None] * scale * torch.stack((1 / root, root), -1)  # (L, A, 2)
    center = (stride[..., None] - 1) / 2 if plus_one else 0.0
    half = (side - int(plus_one)) / 2
    corners = torch.cat((center - half, center + half), -1)
    return (corners.round() if rounded else corners).float()


def anchors(base: Tensor, shapes: Sequence[Sequence[int]], strides: Sequence[int | tuple[int, int]]) -> Tensor:
    """All anchors (N, 4) xyxy px, by level, row, column, ratio. base: (L, A, 4); shapes: (h, w) of each level; strides:
    of each level in px, one number or (down, across)."""
    levels = []
    for corners, (h, w), stride in zip(base, shapes, strides, strict=True):
        down, across = stride if isinstance(stride, tuple) else (stride, stride)
        axes = torch.arange(h, device=base.device) * down, torch.arange(w, device=base.device) * across
        y, x = torch.meshgrid(*axes, indexing="ij")
        origin = torch.stack((x, y, x, y), -1).view(-1, 1, 4)
        levels.append((origin + corners).view(-1, 4))
    return torch.cat(levels)


@torch.no_grad()
def propose(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    counts: Sequence[int],
    extents: Tensor,
    *,
    pre_nms_top_k: int,
    proposals: int,
    iou: float,
    plus_one: bool,
    limit_shrink: bool = False,
    rounds: int = 0,
) -> Proposals:
    """Select the proposals of each image.

    The `pre_nms_top_k` best boxes of each level, clipped to the image, enter NMS; the best of all levels together are
    kept. Boxes with a side below MIN_SIDE are dropped, except with `plus_one`, where x1 = x2 is one pixel wide.

    Args:
        objectness: (B, N) logits.
        deltas: (B, N, 4), relative to the anchors.
        anchors: (N, 4) xyxy px.
        counts: Number of anchors of each level.
        extents: (B, 2), height and width px of each image.
        pre_nms_top_k: Boxes per level that enter NMS.
        proposals: P, boxes per image after NMS.
        iou: IoU threshold of NMS, which never uses plus_one.
        plus_one: Passed to `coding.decode`.
        limit_shrink: Passed to `coding.decode`.
        rounds: Rounds of `greedy_fixed_point` on accelerators.
    """
    best = []
    first = 0
    for count in counts:
        best.append(objectness[:, first : first + count].topk(min(pre_nms_top_k, count), dim=1).indices + first)
        first += count
    index = torch.cat(best, 1)
    scores = objectness.gather(1, index)
    chosen_deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
    decoded = decode(chosen_deltas, anchors[index], deltas.new_ones(4), plus_one, limit_shrink)
    boxes = torch.minimum(decoded.clamp(min=0), extents.flip(-1).repeat(1, 2)[:, None])
    kept = _kept(boxes, scores, [indices.shape[1] for indices in best], iou, rounds)
    if not plus_one:
        kept = kept & ~((boxes[..., 2:] - boxes[..., :2]) < MIN_SIDE).any(-1)  # NaN is kept, so that it is reported
    missing = max(0, proposals - kept.shape[1])
    ranked = F.pad(scores.masked_fill(~kept, -torch.inf), (0, missing), value=-torch.inf)
    value, order = ranked.topk(proposals, dim=1)
    valid = value > -torch.inf
    chosen = F.pad(boxes, (0, 0, 0, missing)).gather(1, order[..., None].expand(-1, -1, 4))
    return Proposals(torch.where(valid[..., None], chosen, 0), valid)


def _kept(boxes: Tensor, scores: Tensor, counts: list[int], iou: float, rounds: int) -> Tensor:
    """boxes (B, K, 4), scores (B, K), counts[l] of each level, best first -> (B, K) bool: NMS within each level."""
    if exported.is_exporting():
        levels = zip(torch.split(boxes, counts, 1), torch.split(scores, counts, 1), strict=True)
        return torch.cat([keep_each(level, score[:, None], iou, -torch.inf)[:, 0] for level, score in levels], 1)
    if boxes.device.type != "cpu":
        return kept_at_once(boxes, counts, iou, rounds)
    kept: Tensor = kept_in_blocks(boxes, counts, iou)
    return kept


@torch.library.custom_op("boxwright::kept_in_blocks", mutates_args=())
def kept_in_blocks(boxes: Tensor, counts: list[int], iou: float) -> Tensor:
    """`_kept` on a CPU. A custom operator, because a compiled graph cannot have a loop that depends on the data."""
    level = torch.cat([torch.full((count,), i, device=boxes.device) for i, count in enumerate(counts)])
    group = level + len(counts) * torch.arange(len(boxes), device=boxes.device)[:, None]
    kept = keep_greedily(boxes.flatten(0, 1), group.flatten(), ProposalNMS(iou, max(counts)))
    return kept.view(boxes.shape[:2])


@kept_in_blocks.register_fake
def _(boxes: Tensor, counts: list[int], iou: float) -> Tensor:
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def kept_at_once(boxes: Tensor, counts: list[int], iou: float, rounds: int) -> Tensor:
    """`_kept` on accelerators, where small operators take as long as large ones: levels are padded to one length, and
    each box is compared with all boxes of its level. With `rounds` above 0 nothing synchronizes."""
    longest = max(counts)
    padded = [F.pad(level, (0, 0, 0, longest - level.shape[1])) for level in torch.split(boxes, counts, 1)]
    levels = torch.stack(padded, 1).flatten(0, 1)  # (B * L, longest, 4)
    kept = []
    with torch.autocast(boxes.device.type, enabled=False):  # autocast would convert the overlaps in each round
        for chunk in torch.split(levels, max(1, MAX_PAIRS_PER_CHUNK // longest**2)):
            alive = torch.ones_like(chunk[..., 0], dtype=torch.bool)
            kept.append(greedy_fixed_point(alive, pairwise_iou(chunk, chunk) > iou, rounds))
    by_level = torch.cat(kept).view(len(boxes), len(counts), longest)
    return torch.cat([by_level[:, i, :count] for i, count in enumerate(counts)], 1)
