"""Which candidates belong to which object, and which of them a step learns from.

B images, N candidates (anchors or proposals) an image, M objects an image after padding, K samples an image
"""

from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.ops.iou import pairwise_iou

AT_ONCE = 2**24  # overlaps; bounds the memory, 64 MiB for each intermediate tensor
HIDDEN = 0.5  # a candidate with this share of itself in a crowd region is no background


class Matches(NamedTuple):
    """owner (B, N) int64: the object a candidate must find, 0 where none. positive, negative (B, N) bool: it must find
    one, it must find none; neither of both: it teaches nothing."""

    owner: Tensor
    positive: Tensor
    negative: Tensor


class Samples(NamedTuple):
    """place (B, K) int64: the candidates drawn, most of all first. drawn (B, K) bool: rows that hold one."""

    place: Tensor
    drawn: Tensor


def match(
    candidates: Tensor,
    usable: Tensor,
    objects: Tensor,
    known: Tensor,
    crowd: Tensor,
    *,
    positive: float,
    negative: float,
    least: float,
    plus_one: bool = False,
) -> Matches:
    """candidates (B, N, 4) xyxy, of which `usable` (B, N) count; objects (B, M, 4); known, crowd (B, M) bool.

    A candidate is positive where its best IoU is at least `positive`, and belongs to that object; negative where it is
    below `negative`. Beside that, an object takes the candidates that overlap it best, should they do so by `least`;
    of several objects that claim one candidate so, the last has it (MindSpore zoo, bbox_assign_sample.py).
    plus_one: see `pairwise_iou`.
    """
    best = candidates.new_zeros(candidates.shape[:2])
    hidden = torch.zeros_like(best)
    owner, claimed = torch.zeros_like(best, dtype=torch.int64), torch.full_like(best, -1, dtype=torch.int64)
    row = torch.arange(objects.shape[1], device=objects.device)
    together = max(1, AT_ONCE // max(1, best.numel()))
    for first in range(0, len(row), together):
        part = slice(first, first + together)
        is_object = (known & ~crowd)[:, None, part]
        overlap = pairwise_iou(candidates, objects[:, part], plus_one, crowd=crowd[:, part]) * usable[..., None]
        hidden = torch.maximum(hidden, (overlap * (known & crowd)[:, None, part]).amax(-1))
        overlap = overlap * is_object
        found, which = overlap.max(-1)
        owner = torch.where(found > best, which + first, owner)
        best = torch.maximum(best, found)
        most = overlap.amax(1, keepdim=True)
        claims = (overlap == most) & (most >= max(least, 1e-9)) & is_object
        claimed = torch.maximum(claimed, torch.where(claims, row[part], -1).amax(-1))
    taken = claimed >= 0
    owner = torch.where(taken, claimed, owner)
    is_positive = usable & (taken | (best >= positive))
    is_negative = usable & ~is_positive & (best < negative) & (hidden < HIDDEN)
    return Matches(owner, is_positive, is_negative)


def draw(wanted: Tensor, priority: Tensor, count: int) -> Samples:
    """Up to `count` of the `wanted` (B, N) bool, those with the highest `priority` (B, N) of 0 or more."""
    ranked = torch.where(wanted, priority, -1.0)
    missing = count - ranked.shape[1]
    if missing > 0:
        ranked = torch.nn.functional.pad(ranked, (0, missing), value=-1.0)
    value, index = ranked.topk(count, dim=1)
    return Samples(torch.where(value >= 0, index, 0), value >= 0)


def draw_balanced(matches: Matches, priority: Tensor, samples: int, positives: int) -> tuple[Samples, Samples]:
    """At most `positives` positives, and negatives for what is left of `samples`."""
    chosen = draw(matches.positive, priority, positives)
    others = draw(matches.negative, priority, samples)
    room = samples - chosen.drawn.sum(1, keepdim=True)
    rank = torch.arange(samples, device=room.device)
    return chosen, Samples(others.place, others.drawn & (rank < room))


def priorities(keys: Tensor, count: int) -> Tensor:
    """keys (B,) int64 -> (B, count) float32 in [0, 1): numbers that look random, a pure function of key and place.

    No generator with a state: the same on every device (where two of 2^24 are equal, `topk` may differ), and for a
    picture whatever batch or process it is in. The mixing is lowbias32 (C. Wellons, "Prospecting for hash functions",
    2018), on whole numbers below 2^32.
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
