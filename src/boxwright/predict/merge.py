"""Merging the detections of overlapping windows, so that each object is detected once.

    N detections of all windows, P pairs of them, G objects

Two boxes of different windows are the same object if they agree in the region that both windows show: both are clipped
to the intersection of the windows, and their IoU is compared there. For complete boxes this is the usual IoU. A box
that was truncated by its window is compared with the same part of the other box, so the halves of an object that is
longer than the overlap match, and a small object inside a large one matches neither half of it. Boxes of the same
window are not compared, since NMS has been applied to them.

In each other window a box matches at most one box: the one that it agrees with best, if that is mutual. Connected boxes
are one object. It is represented by its best-scoring complete box, or else by the enclosing box of its parts, with the
best score. An unmatched part is dropped if it is inside a complete box of its class that extends beyond the edge which
truncated the part: a rotated object leaves parts whose boxes match no part of the complete box.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from boxwright.images.windows import Window
from boxwright.ops.boxes import area
from boxwright.ops.pairs import connected, overlapping_pairs
from boxwright.types import Detections

# A box edge this close to its window's edge counts as truncated, since detectors localize edges to a few percent of the
# object. Too large a tolerance costs little: a complete box of another window takes precedence.
EDGE_TOLERANCE, MIN_EDGE_TOLERANCE = 0.05, 2.0  # fraction of the box's side; px
EXTENSION = 1.0  # px by which a truncated box is extended over its window's edge, so that halves meet without overlap
MIN_CONTAINED = 0.7  # fraction of a part's area inside a complete box
# Minimum intersection over the smaller area for two parts that both span the strip shared by their windows. The boxes
# of a straight rotated object share the strip's fraction of a part, which is at least the overlap of the windows.
MIN_SPANNING_OVERLAP = 0.2


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The boxes of all windows.

    Attributes:
        found: (N, 4) as detected.
        extended: (N, 4) with the truncated edges extended over those of their windows.
        window: (N, 4) of each box.
        index: (N,) of the window.
        truncated: (N, 4) bool, edges that are truncated by the window.
    """

    found: Tensor
    extended: Tensor
    window: Tensor
    index: Tensor
    truncated: Tensor


def merge(detections: Sequence[Detections], windows: Sequence[Window], size: tuple[int, int], iou: float) -> Detections:
    """Merge the detections of a scene's windows.

    Time grows with the number of boxes and of overlapping pairs; only pairs that may match are kept in memory.

    Args:
        detections: Detections of each window, in px of the scene.
        windows: The windows of the scene.
        size: (height, width) px of the scene.
        iou: Boxes with a larger IoU are the same object, in [0, 1].

    Returns:
        The detections of the scene, best score first.
    """
    if not detections:
        return Detections.empty()
    counts = torch.tensor([len(result) for result in detections])
    index = torch.arange(len(detections)).repeat_interleave(counts)
    found, scores, labels = (
        torch.cat([getattr(result, field).cpu() for result in detections]) for field in ("boxes", "scores", "labels")
    )
    candidates = Detections(found, scores, labels, detections[0].names)
    if not len(candidates):
        return candidates
    window = torch.tensor([window.xyxy for window in windows], dtype=candidates.boxes.dtype)[index]
    truncated = _truncated_edges(candidates.boxes, window, size)
    extended = torch.where(truncated, _expand(window, EXTENSION), candidates.boxes)
    boxes = _Boxes(candidates.boxes, extended, window, index, truncated)
    matching, contained = [], torch.zeros(len(candidates), dtype=torch.bool)
    for overlapping in overlapping_pairs(extended, candidates.labels):
        pairs = overlapping[index[overlapping[:, 0]] != index[overlapping[:, 1]]]
        contained[_contained_parts(pairs, boxes)] = True
        matching.append(pairs[_may_match(pairs, boxes, iou)])
    root = _connect(torch.cat(matching), boxes, iou)
    return _merge_objects(candidates, root, truncated.any(1), contained)


def _truncated_edges(boxes: Tensor, window: Tensor, size: tuple[int, int]) -> Tensor:
    """boxes (N, 4), window (N, 4) of each -> (N, 4) bool: edges that the window, not the scene, truncated."""
    height, width = size
    inner = window != window.new_tensor([0, 0, width, height])
    return inner & ((boxes - window).abs() <= _tolerance(boxes))


def _tolerance(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N, 4) px by which each edge may be inaccurate."""
    return ((boxes[:, 2:] - boxes[:, :2]) * EDGE_TOLERANCE).clamp(min=MIN_EDGE_TOLERANCE).repeat(1, 2)


def _connect(pairs: Tensor, boxes: _Boxes, iou: float) -> Tensor:
    """(P, 2) -> (N,) a box of the same object for each.

    Boxes of windows that only touch are joined at their common edge, unless another window that detected one of the two
    objects shows what is on both sides of it.
    """
    touching = _touching(pairs, boxes.window)
    match = _match(pairs, boxes, touching, iou)
    root = connected(pairs[match & ~touching], len(boxes.window))
    columns = root[:, None].expand(-1, 2)
    low = boxes.window[:, :2].scatter_reduce(0, columns, boxes.window[:, :2], "amin")
    high = boxes.window[:, 2:].scatter_reduce(0, columns, boxes.window[:, 2:], "amax")
    shown = torch.cat((low, high), 1)[root]  # (N, 4) what the windows show in which the object was detected
    return connected(pairs[match & (~touching | _touching(pairs, shown))], len(root))


def _touching(pairs: Tensor, regions: Tensor) -> Tensor:
    """(P, 2), regions (N, 4) -> (P,) bool: whether the two regions have no area in common."""
    shared = _intersection(regions[pairs[:, 0]], regions[pairs[:, 1]])
    return (shared[:, 2:] <= shared[:, :2]).any(1)


def _clip(pairs: Tensor, xyxy: Tensor, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(P, 2), xyxy (N, 4) -> both boxes clipped to `shared`, (P, 4) and (P, 4), and their IoU there, (P,)."""
    first, second = pairs.unbind(1)
    a, b = _intersection(xyxy[first], shared), _intersection(xyxy[second], shared)
    common = area(_intersection(a, b))
    return a, b, common / (area(a) + area(b) - common).clamp(min=torch.finfo(xyxy.dtype).tiny)


def _compare(pairs: Tensor, boxes: _Boxes) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(P, 2) -> the strip shared by the windows, both extended boxes clipped to it, their IoU there, and agreement.

    Shapes (P, 4), (P, 4), (P, 4), (P,), (P,). The agreement, which selects the best match of a box, is the sum of that
    IoU and the IoU of the boxes as detected. Only together they tell parts of one object from those of two: extension
    makes the ends of two objects equal if both are near the edges of the strip, and boxes of windows that only touch
    have nothing in common without it.
    """
    first, second = pairs.unbind(1)
    shared = _expand(_intersection(boxes.window[first], boxes.window[second]), EXTENSION)
    a, b, iou = _clip(pairs, boxes.extended, shared)
    return shared, a, b, iou, iou + _clip(pairs, boxes.found, shared)[2]


def _spans(clipped: Tensor, shared: Tensor) -> Tensor:
    """(P, 4), (P, 4) -> (P, 2) bool: whether a clipped box spans the strip along x and along y."""
    return clipped[:, 2:] - clipped[:, :2] >= shared[:, 2:] - shared[:, :2]


def _may_match(pairs: Tensor, boxes: _Boxes, iou: float) -> Tensor:
    """(P, 2) -> (P,) bool: False for pairs that `_match` rejects and that do not affect its result for others.

    A pair matches by its IoU, and then better partners of its boxes have an agreement above that; or because both boxes
    span their strip, and then a box that spans does so in all its pairs of the same two windows.
    """
    shared, a, b, _, agreement = _compare(pairs, boxes)
    return (agreement > iou) | _spans(a, shared).any(1) | _spans(b, shared).any(1)


def _match(pairs: Tensor, boxes: _Boxes, touching: Tensor, iou: float) -> Tensor:
    """(P, 2) -> (P,) bool: whether the two boxes are the same object.

    If both span the strip shared by their windows, `MIN_SPANNING_OVERLAP` is enough. Boxes that both fill the corner
    shared by diagonal neighbors are not compared there; the windows between them show more.
    """
    shared, a, b, overlap, agreement = _compare(pairs, boxes)
    common = _intersection(a, b)
    spans = _spans(common, shared)
    min_area = torch.minimum(area(a), area(b))
    spanning = spans.any(1) & ~touching & (area(common) > MIN_SPANNING_OVERLAP * min_area)
    shift = (boxes.window[pairs[:, 0]] - boxes.window[pairs[:, 1]]).sign()
    diagonal = (shift[:, :2] * shift[:, 2:] > 0).all(1)  # the windows are shifted along both axes
    return _mutual(pairs, boxes.index, agreement) & ((overlap > iou) | spanning) & ~(diagonal & spans.all(1))


def _expand(boxes: Tensor, by: Tensor | float) -> Tensor:
    """(N, 4) with every edge moved outward by that many px."""
    return boxes + boxes.new_tensor([-1, -1, 1, 1]) * by


def _intersection(boxes: Tensor, limits: Tensor) -> Tensor:
    """(P, 4), (P, 4) -> (P, 4), of zero area if they do not intersect."""
    low = torch.maximum(boxes[:, :2], limits[:, :2])
    return torch.cat((low, torch.minimum(boxes[:, 2:], limits[:, 2:]).maximum(low)), 1)


def _mutual(pairs: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """(P, 2), index (N,) of the windows, value (P,) -> (P,) bool: whether each is the other's best of its window."""
    box, window = pairs.T.flatten(), index[pairs.flip(1)].T.flatten()  # each pair in both directions
    key = box * (index.max() + 1) + window
    order = value.repeat(2).argsort(descending=True, stable=True)
    order = order[key[order].argsort(stable=True)]
    is_best = torch.zeros_like(box, dtype=torch.bool)
    is_best[order[_starts(key[order])]] = True
    return is_best.view(2, -1).all(0)


def _contained_parts(pairs: Tensor, boxes: _Boxes) -> Tensor:
    """(P, 2) -> indices of truncated boxes inside the complete box of a pair that extends beyond the truncated edge."""
    directed, is_part = torch.cat((pairs, pairs.flip(1))), boxes.truncated.any(1)
    part, complete = directed[is_part[directed[:, 0]] & ~is_part[directed[:, 1]]].unbind(1)
    cut, uncut, window = boxes.found[part], boxes.found[complete], boxes.window[part]
    inside = area(_intersection(cut, _expand(uncut, _tolerance(uncut)))) > MIN_CONTAINED * area(cut)
    beyond = torch.cat((uncut[:, :2] < window[:, :2], uncut[:, 2:] > window[:, 2:]), 1)
    return part[inside & (beyond & boxes.truncated[part]).any(1)]


def _merge_objects(candidates: Detections, root: Tensor, truncated: Tensor, contained: Tensor) -> Detections:
    """One detection per root: its best complete box, or the enclosing box of its parts. The tensors are (N,)."""
    order = candidates.scores.argsort(descending=True, stable=True)
    order = order[truncated[order].byte().argsort(stable=True)]
    order = order[root[order].argsort(stable=True)]
    first = _starts(root[order])
    best, group = order[first], torch.empty_like(root)
    group[order] = first.cumsum(0) - 1  # (N,) index of the object, 0 .. G - 1
    columns = group[:, None].expand(-1, 2)
    low = candidates.boxes[best, :2].scatter_reduce(0, columns, candidates.boxes[:, :2], "amin")
    high = candidates.boxes[best, 2:].scatter_reduce(0, columns, candidates.boxes[:, 2:], "amax")
    all_contained = truncated[best].byte().scatter_reduce(0, group, contained.byte(), "amin").bool()
    boxes = torch.where(truncated[best, None], torch.cat((low, high), 1), candidates.boxes[best])
    objects = replace(candidates[best], boxes=boxes)[~all_contained]
    return objects[objects.scores.argsort(descending=True, stable=True)]


def _starts(sorted_: Tensor) -> Tensor:
    """(N,) sorted -> (N,) bool: where a new value begins."""
    result = torch.ones_like(sorted_, dtype=torch.bool)
    result[1:] = sorted_[1:] != sorted_[:-1]
    return result
