"""Non-maximum suppression: greedy by score within each class of each image, exact, for a whole batch at once.

R rows: the candidates of all images together. A group is one class of one image.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from boxwright.ops.iou import pairwise_iou
from boxwright.types import Detections

BLOCK = 128  # rows compared with each other at once; bounds the memory. Of 64 to 1024 the fastest on a CPU


class Settings(Protocol):
    """What a recipe's `suppression` holds."""

    @property
    def iou(self) -> float: ...
    @property
    def plus_one(self) -> bool: ...
    @property
    def candidates(self) -> int: ...
    @property
    def keep(self) -> int: ...


def suppress(detections: Sequence[Detections], settings: Settings) -> list[Detections]:
    """Drop each box that overlaps a better kept one of its class by more than `iou`; best score first.

    Of each image the `candidates` best boxes over all classes enter and the `keep` best leave. Equal scores keep
    the order they came in.
    """
    if not detections:
        return []
    image = torch.cat([one.labels.new_full((len(one),), i) for i, one in enumerate(detections)])
    boxes = torch.cat([one.boxes for one in detections])
    scores = torch.cat([one.scores for one in detections])
    labels = torch.cat([one.labels for one in detections])

    order = _best_first(image, scores, settings.candidates, len(detections))
    group = (image * (labels.max() + 1) + labels)[order] if len(order) else order
    by_group = group.argsort(stable=True)
    kept = torch.empty_like(group, dtype=torch.bool)
    kept[by_group] = keep_greedily(boxes[order[by_group]], group[by_group], settings)

    order = order[kept]
    order = order[_rank(image[order], len(detections)) < settings.keep]
    counts = image[order].bincount(minlength=len(detections)).tolist()
    parts = zip(*(torch.split(part[order], counts) for part in (boxes, scores, labels)), strict=True)
    return [replace(one, boxes=b, scores=s, labels=c) for one, (b, s, c) in zip(detections, parts, strict=True)]


def keep_greedily(boxes: Tensor, group: Tensor, settings: Settings) -> Tensor:
    """boxes (R, 4) xyxy and group (R,), sorted by group and within it best first -> (R,) bool: what stays.

    Of a group at least the `keep` best are right; after those, blocks of it are dropped unseen.

    Rows come in blocks. A block first loses what overlaps a kept box of the group that was running when it began; in
    it, the greedy choice is the only set with `kept = overlaps no better kept box`, found by repeating that rule from
    "all kept" until nothing changes: each round settles at least one more row of every chain of overlaps.
    """
    kept = torch.ones_like(group, dtype=torch.bool)
    for start in range(0, len(boxes), BLOCK):
        block = slice(start, start + BLOCK)
        here, groups = boxes[block], group[block]
        alive = torch.ones_like(groups, dtype=torch.bool)
        earlier = boxes[:start][kept[:start] & (group[:start] == groups[0])]
        if len(earlier) >= settings.keep:
            alive &= groups != groups[0]
        elif len(earlier):
            hit = (pairwise_iou(here, earlier, settings.plus_one) > settings.iou).any(1)
            alive &= ~(hit & (groups == groups[0]))
        beats = (pairwise_iou(here, here, settings.plus_one) > settings.iou) & (groups[:, None] == groups)
        kept[block] = _settle(alive, beats.triu(1))
    return kept


def _settle(alive: Tensor, beats: Tensor) -> Tensor:
    """beats (n, n): row i would drop column j > i."""
    kept = alive
    while True:
        after = alive & ~(beats & kept[:, None]).any(0)
        if torch.equal(after, kept):
            return kept
        kept = after


def _best_first(image: Tensor, scores: Tensor, most: int, images: int) -> Tensor:
    """(R,), (R,) -> the rows sorted by image and within it by score, at most `most` an image."""
    order = scores.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    return order[_rank(image[order], images) < most]


def _rank(image: Tensor, images: int) -> Tensor:
    """image (R,), sorted -> place of each row within its image, from 0."""
    start = image.bincount(minlength=images).cumsum(0).roll(1)
    start[0] = 0
    return torch.arange(len(image), device=image.device) - start[image]
