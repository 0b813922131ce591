"""Non-maximum suppression by score within each class of each image, exact, for a whole batch at once.

R rows: the candidates of all images together, K those of them that were kept. A group is one class of one image.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.boxes import relative
from boxwright.ops.iou import pairwise_distance, pairwise_iou
from boxwright.types import Detections

Function = TypeVar("Function", bound=Callable[..., Any])

# Rows settled at once, which bounds the memory. 128 is the fastest of 64 to 512 on a CPU; an accelerator takes hardly
# longer for many than for few.
BLOCK, BLOCK_ELSEWHERE = 128, 4096
LOOKS = 4  # rounds between two looks at whether anything changes, where looking means to wait for the accelerator


class Overlaps(Protocol):
    """When one box drops another."""

    @property
    def kind(self) -> str: ...
    @property
    def iou(self) -> float: ...
    @property
    def plus_one(self) -> bool: ...
    @property
    def keep(self) -> int: ...


class Settings(Overlaps, Protocol):
    """What a recipe's `suppression` holds."""

    @property
    def sigma(self) -> float: ...
    @property
    def candidates(self) -> int: ...


def suppress(
    detections: Sequence[Detections],
    settings: Settings,
    sizes: Sequence[tuple[int, int]] = (),
    lowest: float = 0.0,
) -> list[Detections]:
    """Drop each box that overlaps a better kept one of its class by more than `iou`; best score first.

    Of each image the `candidates` best boxes over all classes enter and the `keep` best leave. Equal scores keep
    the order they came in. The soft kinds lower scores instead, and drop what falls below `lowest`.
    sizes: (height, width) px of the images. Darknet's greedy kind takes distances in shares of them, as if each image
    were a square, which moves them where it is not; without sizes they are px.
    """
    if not detections:
        return []
    image = torch.cat([one.labels.new_full((len(one),), i) for i, one in enumerate(detections)])
    boxes = torch.cat([one.boxes for one in detections])
    scores = torch.cat([one.scores for one in detections])
    labels = torch.cat([one.labels for one in detections])
    measured = boxes
    if settings.kind == "greedy" and sizes:
        measured = torch.cat([relative(one.boxes, size) for one, size in zip(detections, sizes, strict=True)])

    order = _best_first(image, scores, settings.candidates, len(detections))
    group = (image * (labels.max() + 1) + labels)[order] if len(order) else order
    by_group = group.argsort(stable=True)
    rows = order[by_group]
    if settings.kind in {"soft", "soft_linear"}:
        scores = scores.index_copy(0, rows, soften(measured[rows], scores[rows], group[by_group], settings, lowest))
        kept = scores[order] >= lowest
    else:
        kept = torch.empty_like(group, dtype=torch.bool)
        kept[by_group] = keep_greedily(measured[rows], group[by_group], settings)

    order = order[kept]
    order = order[_best_first(image[order], scores[order], settings.keep, len(detections))]
    counts = image[order].bincount(minlength=len(detections)).tolist()
    parts = zip(*(torch.split(part[order], counts) for part in (boxes, scores, labels)), strict=True)
    return [replace(one, boxes=b, scores=s, labels=c) for one, (b, s, c) in zip(detections, parts, strict=True)]


def keep_greedily(boxes: Tensor, group: Tensor, settings: Overlaps) -> Tensor:
    """boxes (R, 4) xyxy and group (R,), sorted by group and within it best first -> (R,) bool: what stays.

    Of a group at least the `keep` best are right; after those, blocks of it are dropped unseen.

    Rows come in blocks. A block first loses what overlaps a kept box of the group that was running when it began;
    the rest it decides by itself, in `settle`.
    """
    kept = torch.zeros_like(group, dtype=torch.bool)
    better, owner = boxes[:0], group[:0]  # kept boxes of one group
    block = BLOCK if boxes.device.type == "cpu" else BLOCK_ELSEWHERE
    start = 0
    while start < len(boxes):
        here, groups, known = boxes[start : start + block], group[start : start + block], len(better)
        better, owner = torch.cat((better, here)), torch.cat((owner, groups))
        overlap = overlaps(here, better, settings.kind, settings.plus_one)
        alive = torch.ones_like(groups, dtype=torch.bool)
        if known:
            alive = ~((overlap[:, :known].amax(1) > settings.iou) & (groups == owner[0]))
        stays = settle(alive, (overlap[:, known:] > settings.iou) & (groups[:, None] == groups))
        kept[start : start + block] = stays
        running = owner == groups[-1]
        running[known:] &= stays
        better, owner = better[running], owner[running]
        start += block
        if len(better) >= settings.keep:  # on to the next group
            start = max(start, int(torch.searchsorted(group, groups[-1], right=True)))
    return kept


def settle(alive: Tensor, drops: Tensor, rounds: int = 0) -> Tensor:
    """alive (..., n) bool; drops (..., n, n): box j would drop box i; only a better one, j < i, may -> (..., n) bool:
    what stays.

    The greedy choice is the only set with `kept = dropped by no better kept one`, found by repeating that rule from
    "all kept" until nothing changes: each round settles at least one more row of every chain of overlaps.
    Exported and traced it stays a loop.

    rounds: so many and no look at what came of them, for which one has to wait for an accelerator. An odd number keeps
    nothing that a better kept one drops; boxes at the end of a longer chain may be missing. 0: as many as it takes.
    """
    better = drops.tril(-1)
    # A product with 0 and 1 is the fastest way to ask for any; no sum of ones is rounded to 0.
    better = better.half() if better.is_cuda else better.float()
    if rounds:
        kept = alive
        for _ in range(rounds):
            kept = _round(alive, better, kept)
        return kept
    if exported.traced():
        looped: Tensor = scripted(_rounds)(alive, better)
        return looped
    if not torch.compiler.is_exporting():
        return _rounds(alive, better, 1 if better.device.type == "cpu" else LOOKS)

    def changed(kept: Tensor, after: Tensor) -> Tensor:
        return (kept != after).any()

    def once_more(kept: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return after.clone(), _round(alive, better, after)

    start = alive.clone(), _round(alive, better, alive)
    result: Tensor = torch.while_loop(changed, once_more, start)[0]  # type: ignore[no-untyped-call]
    return result


def _rounds(alive: Tensor, better: Tensor, looks: int = 1) -> Tensor:
    kept, after = alive, _round(alive, better, alive)
    while not torch.equal(kept, after):
        for _ in range(looks):
            kept, after = after, _round(alive, better, after)
    return kept


def _round(alive: Tensor, better: Tensor, kept: Tensor) -> Tensor:
    return alive & (torch.matmul(better, kept.type_as(better).unsqueeze(-1)).squeeze(-1) == 0)


@functools.cache
def scripted(function: Function) -> Function:
    """A trace follows one run; what was compiled from the source keeps its loop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        compiled: Function = torch.jit.script(function)
    return compiled


def keep_each(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    """boxes (G, N, 4) xyxy, scores (G, C, N) -> (G, C, N) bool: what stays in each class of each of G groups.

    Those with a score >= threshold that overlap no better kept one of their class by more than `iou`. The same as
    `keep_greedily` of kind plain in a form that can be exported; it compares all N boxes with all.
    """
    if exported.knows("nms"):
        known: Tensor = exported.nms(boxes, scores, iou, threshold)
        return known
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = boxes[:, None].expand(-1, scores.shape[1], -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 4))
    kept = settle(scores.gather(2, order) >= threshold, pairwise_iou(ranked, ranked) > iou)
    return torch.zeros_like(kept).scatter(2, order, kept)


def overlaps(a: Tensor, b: Tensor, kind: str, plus_one: bool) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M): what is compared with `iou`. The distance never counts with plus_one, as
    in the zoo; Darknet's greedynms takes its power of 0.6, whatever its beta_nms says."""
    iou = pairwise_iou(a, b, plus_one)
    if kind == "diou":
        return iou - pairwise_distance(a, b)
    if kind == "greedy":
        return iou - pairwise_distance(a, b) ** 0.6
    return iou


def soften(boxes: Tensor, scores: Tensor, group: Tensor, settings: Settings, lowest: float) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): boxes (R, 4), scores (R,), group (R,) sorted -> (R,) new scores, -1 where dropped.

    Again and again the best box of a group is taken, and those left in it lose score by how much they overlap it. All
    groups take theirs at once. Scores taken from a group never rise, so `keep` rounds are enough.
    """
    final = torch.full_like(scores, -1)
    group = (group.diff(prepend=group[:1]) != 0).cumsum(0)
    groups = int(group[-1]) + 1 if len(group) else 0
    rows, left = torch.arange(len(group), device=group.device), scores.clone()
    for _ in range(settings.keep):
        rows = rows[left[rows] >= lowest]
        if not len(rows):
            break
        mine, now = group[rows], left[rows]
        most = now.new_full((groups,), -torch.inf).scatter_reduce(0, mine, now, "amax")
        tops = rows[now == most[mine]]
        first = rows.new_full((groups,), len(group)).scatter_reduce(0, group[tops], tops, "amin")
        best = first[mine]
        final[best] = left[best]
        rows, best = rows[rows != best], best[rows != best]
        iou = pairwise_iou(boxes[rows, None], boxes[best, None], settings.plus_one)[:, 0, 0]
        if settings.kind == "soft_linear":
            left[rows] *= torch.where(iou > settings.iou, 1 - iou, 1)
        else:
            left[rows] *= torch.exp(-iou.square() / settings.sigma)
    return final


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
