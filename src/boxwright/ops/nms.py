"""Non-maximum suppression (NMS) by score within each class of each image, exact, for a batch at once.

R rows: the candidates of all images together. A group is one class of one image.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from boxwright.ops import exported
from boxwright.ops.boxes import relative
from boxwright.ops.iou import pairwise_distance, pairwise_iou
from boxwright.types import Detections

Function = TypeVar("Function", bound=Callable[..., object])

# Rows per block, which bounds the memory. 128 is the fastest of 64 to 512 on a CPU; on an accelerator larger blocks
# take hardly longer.
BLOCK, BLOCK_ELSEWHERE = 128, 4096
CHECK_EVERY = 4  # rounds between checks for changes, which synchronize with the accelerator


class OverlapSettings(Protocol):
    """Settings that determine whether a box suppresses another."""

    @property
    def kind(self) -> str: ...
    @property
    def iou(self) -> float: ...
    @property
    def plus_one(self) -> bool: ...
    @property
    def max_detections(self) -> int: ...


class Settings(OverlapSettings, Protocol):
    """Settings of NMS, as in a recipe's `nms`."""

    @property
    def sigma(self) -> float: ...
    @property
    def pre_nms_top_k(self) -> int: ...


def suppress(
    detections: Sequence[Detections], settings: Settings, sizes: Sequence[tuple[int, int]] = (), lowest: float = 0.0
) -> list[Detections]:
    """NMS: drop each box that overlaps a better kept box of its class by more than `iou`; best score first.

    The `pre_nms_top_k` best boxes of each image over all classes enter NMS, and the `max_detections` best of the kept
    ones are returned. Equal scores keep their order. Soft-NMS lowers scores instead, and drops boxes below `lowest`.

    Args:
        detections: One entry per image.
        settings: Kind of NMS, and its thresholds and limits.
        sizes: (height, width) px of the images. Darknet's greedy kind measures distances in coordinates relative to the
            image, which differ from px unless it is a square; without sizes in px.
        lowest: Lowest score that soft-NMS keeps.
    """
    if not detections:
        return []
    image = torch.cat([entry.labels.new_full((len(entry),), i) for i, entry in enumerate(detections)])
    boxes = torch.cat([entry.boxes for entry in detections])
    scores = torch.cat([entry.scores for entry in detections])
    labels = torch.cat([entry.labels for entry in detections])
    measured = boxes
    if settings.kind == "greedy" and sizes:
        measured = torch.cat([relative(entry.boxes, size) for entry, size in zip(detections, sizes, strict=True)])

    order = _best_first(image, scores, settings.pre_nms_top_k, len(detections))
    group = (image * (labels.max() + 1) + labels)[order] if len(order) else order
    by_group = group.argsort(stable=True)
    rows = order[by_group]
    if settings.kind in {"soft", "soft_linear"}:
        scores = scores.index_copy(0, rows, soft_nms(measured[rows], scores[rows], group[by_group], settings, lowest))
        kept = scores[order] >= lowest
    else:
        kept = torch.empty_like(group, dtype=torch.bool)
        kept[by_group] = keep_greedily(measured[rows], group[by_group], settings)

    order = order[kept]
    order = order[_best_first(image[order], scores[order], settings.max_detections, len(detections))]
    counts = image[order].bincount(minlength=len(detections)).tolist()
    columns = zip(*(torch.split(column[order], counts) for column in (boxes, scores, labels)), strict=True)
    return [replace(entry, boxes=b, scores=s, labels=c) for entry, (b, s, c) in zip(detections, columns, strict=True)]


def keep_greedily(boxes: Tensor, group: Tensor, settings: OverlapSettings) -> Tensor:
    """boxes (R, 4) xyxy and group (R,), sorted by group and within it best first -> (R,) bool: boxes that are kept.

    At least the `max_detections` best of a group are exact; later blocks of the group are dropped without comparison.

    Rows are processed in blocks: first, boxes are dropped that overlap a kept box of the same group in an earlier
    block; `greedy_fixed_point` decides on the rest.
    """
    kept = torch.zeros_like(group, dtype=torch.bool)
    better, better_group = boxes[:0], group[:0]  # kept boxes of one group
    block = BLOCK if boxes.device.type == "cpu" else BLOCK_ELSEWHERE
    start = 0
    while start < len(boxes):
        here, groups, earlier = boxes[start : start + block], group[start : start + block], len(better)
        better, better_group = torch.cat((better, here)), torch.cat((better_group, groups))
        overlap = overlaps(here, better, settings.kind, settings.plus_one)
        alive = torch.ones_like(groups, dtype=torch.bool)
        if earlier:
            alive = ~((overlap[:, :earlier].amax(1) > settings.iou) & (groups == better_group[0]))
        kept_here = greedy_fixed_point(alive, (overlap[:, earlier:] > settings.iou) & (groups[:, None] == groups))
        kept[start : start + block] = kept_here
        last_group = better_group == groups[-1]
        last_group[earlier:] &= kept_here
        better, better_group = better[last_group], better_group[last_group]
        start += block
        if len(better) >= settings.max_detections:  # continue with the next group
            start = max(start, int(torch.searchsorted(group, groups[-1], right=True)))
    return kept


def greedy_fixed_point(alive: Tensor, drops: Tensor, rounds: int = 0) -> Tensor:
    """Greedy NMS as the fixed point of one rule.

    The greedy result is the only set with `kept = not suppressed by a better kept box`. It is found by repeating that
    rule from "all kept" until nothing changes: each round decides at least one more row of every chain of overlaps. It
    remains a loop when exported and traced.

    Args:
        alive: (..., n) bool, boxes that may be kept.
        drops: (..., n, n) bool, element (i, j): box j would suppress box i; only used for j < i, better boxes.
        rounds: A fixed number of rounds without checks for convergence, which would synchronize with an accelerator.
            With an odd number no kept box suppresses another; the ends of longer chains may be missing. 0: unlimited.

    Returns:
        (..., n) bool, boxes that are kept.
    """
    better = drops.tril(-1)
    # A matrix product of 0 and 1 is the fastest form of `any`; sums of ones are never rounded to 0.
    better = better.half() if better.is_cuda else better.float()
    if rounds:
        kept = alive
        for _ in range(rounds):
            kept = _round(alive, better, kept)
        return kept
    if exported.is_tracing():
        looped: Tensor = scripted(_rounds)(alive, better)
        return looped
    if not torch.compiler.is_exporting():
        return _rounds(alive, better, 1 if better.device.type == "cpu" else CHECK_EVERY)

    def changed(kept: Tensor, after: Tensor) -> Tensor:
        return (kept != after).any()

    def once_more(kept: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return after.clone(), _round(alive, better, after)

    start = alive.clone(), _round(alive, better, alive)
    result: Tensor = torch.while_loop(changed, once_more, start)[0]  # type: ignore[no-untyped-call]
    return result


def _rounds(alive: Tensor, better: Tensor, check_every: int = 1) -> Tensor:
    kept, after = alive, _round(alive, better, alive)
    while not torch.equal(kept, after):
        for _ in range(check_every):
            kept, after = after, _round(alive, better, after)
    return kept


def _round(alive: Tensor, better: Tensor, kept: Tensor) -> Tensor:
    return alive & (torch.matmul(better, kept.type_as(better).unsqueeze(-1)).squeeze(-1) == 0)


@functools.cache
def scripted(function: Function) -> Function:
    """Compile by TorchScript: a trace unrolls loops, but compiled functions keep them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        compiled: Function = torch.jit.script(function)
    return compiled


def keep_each(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    """boxes (G, N, 4) xyxy, scores (G, C, N) -> (G, C, N) bool: boxes that are kept in each class of each of G groups.

    A box is kept if its score is >= threshold and it overlaps no better kept box of its class by more than `iou`. Same
    result as `keep_greedily` with kind standard, in a form that can be exported; it compares all pairs of N boxes.
    """
    if exported.exporting_with("nms"):
        kept: Tensor = exported.nms(boxes, scores, iou, threshold)
        return kept
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = boxes[:, None].expand(-1, scores.shape[1], -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 4))
    kept = greedy_fixed_point(scores.gather(2, order) >= threshold, pairwise_iou(ranked, ranked) > iou)
    return torch.zeros_like(kept).scatter(2, order, kept)


def overlaps(a: Tensor, b: Tensor, kind: str, plus_one: bool) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M): the overlap that is compared with `iou`. The distance never uses
    plus_one, as in the zoo; Darknet's greedynms raises it to the power of 0.6, whatever beta_nms."""
    iou = pairwise_iou(a, b, plus_one)
    if kind == "diou":
        return iou - pairwise_distance(a, b)
    if kind == "greedy":
        return iou - pairwise_distance(a, b) ** 0.6
    return iou


def soft_nms(boxes: Tensor, scores: Tensor, group: Tensor, settings: Settings, lowest: float) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): boxes (R, 4), scores (R,), group (R,) sorted -> (R,) new scores, -1 where dropped.

    Each round selects the best remaining box of every group and lowers the scores of the other boxes by their overlap
    with it. Selected scores of a group never increase, so `max_detections` rounds are enough.
    """
    final = torch.full_like(scores, -1)
    group = (group.diff(prepend=group[:1]) != 0).cumsum(0)
    groups = int(group[-1]) + 1 if len(group) else 0
    rows, left = torch.arange(len(group), device=group.device), scores.clone()
    for _ in range(settings.max_detections):
        rows = rows[left[rows] >= lowest]
        if not len(rows):
            break
        row_group, score = group[rows], left[rows]
        highest = score.new_full((groups,), -torch.inf).scatter_reduce(0, row_group, score, "amax")
        tops = rows[score == highest[row_group]]
        first = rows.new_full((groups,), len(group)).scatter_reduce(0, group[tops], tops, "amin")
        best = first[row_group]
        final[best] = left[best]
        rows, best = rows[rows != best], best[rows != best]
        iou = pairwise_iou(boxes[rows, None], boxes[best, None], settings.plus_one)[:, 0, 0]
        if settings.kind == "soft_linear":
            left[rows] *= torch.where(iou > settings.iou, 1 - iou, 1)
        else:
            left[rows] *= torch.exp(-iou.square() / settings.sigma)
    return final


def _best_first(image: Tensor, scores: Tensor, k: int, images: int) -> Tensor:
    """image (R,), scores (R,) -> indices of rows sorted by image and within it by score, at most `k` per image."""
    order = scores.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    return order[_rank(image[order], images) < k]


def _rank(image: Tensor, images: int) -> Tensor:
    """image (R,), sorted -> index of each row within its image, from 0."""
    start = image.bincount(minlength=images).cumsum(0).roll(1)
    start[0] = 0
    return torch.arange(len(image), device=image.device) - start[image]
