"""Matching of candidates to objects, and balanced sampling for the loss.

B images; per image N candidates (anchors or proposals), M objects after padding, K samples
"""

from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.ops.iou import pairwise_iou

MAX_PAIRS_PER_CHUNK = 2**24  # overlaps at once; bounds the memory, 64 MiB for each intermediate tensor
CROWD_IOF = 0.5  # a candidate with this fraction of its area in a crowd region is not background


class Matches(NamedTuple):
    """Matches of candidates; candidates that are neither positive nor negative are ignored in the loss.

    Attributes:
        matched_gt_idx: (B, N) int64, index of the object of a positive candidate; 0 elsewhere.
        positive: (B, N) bool, matched to an object.
        negative: (B, N) bool, background.
    """

    matched_gt_idx: Tensor
    positive: Tensor
    negative: Tensor


class Samples(NamedTuple):
    """Sampled candidates.

    Attributes:
        idx: (B, K) int64, indices of candidates, highest priority first.
        sampled: (B, K) bool, rows that hold a sample; others are padding.
    """

    idx: Tensor
    sampled: Tensor


def match(
    candidates: Tensor,
    usable: Tensor,
    objects: Tensor,
    valid_gt: Tensor,
    crowd: Tensor,
    *,
    positive: float,
    negative: float,
    minimum: float,
    plus_one: bool = False,
) -> Matches:
    """Match candidates to objects by IoU.

    A candidate is positive if its best IoU is at least `positive`, and matched to that object; negative if its best IoU
    is below `negative`. Also, each object is matched to the candidates with the highest IoU, if that is at least
    `minimum`; if several objects claim the same candidate, the last one wins (MindSpore zoo, bbox_assign_sample.py).

    Args:
        candidates: (B, N, 4) xyxy.
        usable: (B, N) bool; other candidates are neither positive nor negative.
        objects: (B, M, 4) xyxy.
        valid_gt: (B, M) bool, rows that are not padding.
        crowd: (B, M) bool, crowd regions.
        positive: Lowest IoU of positives.
        negative: Candidates below this IoU are negative.
        minimum: Lowest IoU at which the best candidates of an object are positive.
        plus_one: See `pairwise_iou`.
    """
    best = candidates.new_zeros(candidates.shape[:2])
    in_crowd = torch.zeros_like(best)
    matched, claimed = torch.zeros_like(best, dtype=torch.int64), torch.full_like(best, -1, dtype=torch.int64)
    row = torch.arange(objects.shape[1], device=objects.device)
    chunk = max(1, MAX_PAIRS_PER_CHUNK // max(1, best.numel()))
    for first in range(0, len(row), chunk):
        columns = slice(first, first + chunk)
        is_object = (valid_gt & ~crowd)[:, None, columns]
        overlap = pairwise_iou(candidates, objects[:, columns], plus_one, crowd=crowd[:, columns]) * usable[..., None]
        in_crowd = torch.maximum(in_crowd, (overlap * (valid_gt & crowd)[:, None, columns]).amax(-1))
        overlap = overlap * is_object
        highest_here, which = overlap.max(-1)
        matched = torch.where(highest_here > best, which + first, matched)
        best = torch.maximum(best, highest_here)
        highest = overlap.amax(1, keepdim=True)
        claims = (overlap == highest) & (highest >= max(minimum, 1e-9)) & is_object
        claimed = torch.maximum(claimed, torch.where(claims, row[columns], -1).amax(-1))
    is_claimed = claimed >= 0
    matched = torch.where(is_claimed, claimed, matched)
    is_positive = usable & (is_claimed | (best >= positive))
    is_negative = usable & ~is_positive & (best < negative) & (in_crowd < CROWD_IOF)
    return Matches(matched, is_positive, is_negative)


def sample(wanted: Tensor, priority: Tensor, count: int) -> Samples:
    """Sample up to `count` of the candidates in `wanted` (B, N) bool, by highest `priority` (B, N), which is >= 0."""
    ranked = torch.where(wanted, priority, -1.0)
    missing = count - ranked.shape[1]
    if missing > 0:
        ranked = torch.nn.functional.pad(ranked, (0, missing), value=-1.0)
    value, index = ranked.topk(count, dim=1)
    return Samples(torch.where(value >= 0, index, 0), value >= 0)


def sample_balanced(matches: Matches, priority: Tensor, samples: int, max_positives: int) -> tuple[Samples, Samples]:
    """Sample at most `max_positives` positives, and negatives for the rest of `samples`."""
    positives = sample(matches.positive, priority, max_positives)
    negatives = sample(matches.negative, priority, samples)
    left = samples - positives.sampled.sum(1, keepdim=True)
    rank = torch.arange(samples, device=left.device)
    return positives, Samples(negatives.idx, negatives.sampled & (rank < left))


def priorities(keys: Tensor, count: int) -> Tensor:
    """Pseudorandom numbers: keys (B,) int64 -> (B, count) float32 in [0, 1), a pure function of key and index.

    Stateless: an image gets the same numbers on every device (if two of the 2^24 values are equal, `topk` may differ),
    and in any batch or process. The hash is lowbias32 (C. Wellons, "Prospecting for hash functions", 2018), on
    integers.
    """
    mask = 0xFFFFFFFF
    x = _mix(keys[:, None] & mask)
    x = _mix((x + torch.arange(count, device=keys.device)) & mask)
    return (x >> 8).float() / 2**24  # the 24 bits that a float32 holds


def _mix(x: Tensor) -> Tensor:
    mask = 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
    x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
    return x ^ (x >> 16)
