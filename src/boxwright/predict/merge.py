"""Detections of overlapping windows to detections of the whole scene: each object once.

    N detections of all windows together, P pairs of them, G objects

Two boxes of different windows are one object when they agree on what both windows saw: each is cut to the part of the
scene that the two windows share, and there the IoU decides. For boxes that both windows saw whole this is the usual
IoU; a box that a window cut is compared with the same part of its counterpart, so the halves of an object that is
longer than the overlap find each other, and a small object inside a big one is taken for neither half of it. Boxes of
one window are never compared: its own suppression has been through them.

A box has at most one counterpart in each other window: the one it overlaps most, if that is mutual. What hangs
together is one object. Of its boxes the best-scoring whole one counts; where no window saw it whole, the hull of its
pieces does, with the best score. A piece that found no counterpart goes when it lies inside a whole box of its class
that reaches over the edge which cut it: bodies lying askew leave pieces whose boxes agree with no part of the whole's.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from boxwright.images.windows import Window
from boxwright.ops.boxes import area
from boxwright.ops.pairs import connected, overlapping_pairs
from boxwright.types import Detections

# An edge this near to its window's edge was probably cut there; detectors place edges no better than by a few
# per cent of the object. Too large a number costs little, for a whole box of another window wins.
NEAR_SHARE, NEAR_PX = 0.05, 2.0  # of the box's side, but at least so many px
BEYOND = 1.0  # px that a cut box is thought to go on over its window's edge: with no overlap the halves still meet
INSIDE = 0.7  # share of a piece that lies inside a whole box for being a piece of it
# What two pieces that both reach through the strip shared by their windows must agree on, as a share of the smaller
# one. The boxes of a straight body lying askew agree on the strip's share of a piece: at least the windows' overlap.
THROUGH = 0.2


def merge(found: Sequence[Detections], windows: Sequence[Window], size: tuple[int, int], iou: float) -> Detections:
    """The detections of a scene of `size` (height, width) px, best score first.

    found: those of each of `windows`, in px of the scene. iou: boxes that overlap by more are one object, in [0, 1].
    Time grows with the number of boxes and of overlapping pairs; in memory stay only the pairs that may be one object.
    """
    if not found:
        return Detections.empty()
    counts = torch.tensor([len(one) for one in found])
    home = torch.arange(len(found)).repeat_interleave(counts)
    boxes, scores, labels = (
        torch.cat([getattr(one, field).cpu() for one in found]) for field in ("boxes", "scores", "labels")
    )
    every = Detections(boxes, scores, labels, found[0].names)
    if not len(every):
        return every
    seen = torch.tensor([window.xyxy for window in windows], dtype=every.boxes.dtype)[home]
    cut = _cut(every.boxes, seen, size)
    reach = torch.where(cut, _grown(seen, BEYOND), every.boxes)
    near, piece = [], torch.zeros(len(every), dtype=torch.bool)
    for overlapping in overlapping_pairs(reach, every.labels):
        pairs = overlapping[home[overlapping[:, 0]] != home[overlapping[:, 1]]]
        piece[_pieces(pairs, every.boxes, seen, cut)] = True
        near.append(pairs[_matters(pairs, reach, seen, iou)])
    root = _together(torch.cat(near), reach, seen, home, cut.any(1), iou)
    return _objects(every, root, cut.any(1), piece)


def _cut(boxes: Tensor, seen: Tensor, size: tuple[int, int]) -> Tensor:
    """boxes, seen (N, 4): each with its window -> (N, 4) bool: edges that the window cut.

    The scene's own edges cut nothing: no window sees what lies beyond.
    """
    height, width = size
    inner = seen != seen.new_tensor([0, 0, width, height])
    return inner & ((boxes - seen).abs() <= _near(boxes))


def _near(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N, 4) px by which each edge may be misplaced."""
    return ((boxes[:, 2:] - boxes[:, :2]) * NEAR_SHARE).clamp(min=NEAR_PX).repeat(1, 2)


def _together(pairs: Tensor, reach: Tensor, seen: Tensor, home: Tensor, cut: Tensor, iou: float) -> Tensor:
    """(P, 2) -> (N,) the object that each box belongs to, by the number of one of its boxes.

    Windows that only touch both see nothing, so there the cross sections decide, and only for what no window saw whole.
    """
    shared = _within(seen[pairs[:, 0]], seen[pairs[:, 1]])
    touching = (shared[:, 2:] <= shared[:, :2]).any(1)
    same = _same(pairs, reach, seen, home, touching, iou)
    root = connected(pairs[same & ~touching], len(cut))
    whole = torch.zeros_like(cut).index_put_((root[~cut],), torch.tensor(True))[root]
    return connected(pairs[same & ~(touching & whole[pairs].any(1))], len(cut))


def _agreement(pairs: Tensor, reach: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(P, 2) -> (P, 4) the strip that the windows share, (P, 4), (P, 4) the two boxes' parts of it, (P,) their IoU."""
    one, other = pairs.unbind(1)
    shared = _grown(_within(seen[one], seen[other]), BEYOND)
    a, b = _within(reach[one], shared), _within(reach[other], shared)
    common = area(_within(a, b))
    return shared, a, b, common / (area(a) + area(b) - common).clamp(min=torch.finfo(reach.dtype).tiny)


def _through(part: Tensor, shared: Tensor) -> Tensor:
    """(P, 4), (P, 4) -> (P, 2) bool: the part of a strip reaches from side to side of it, along x and along y."""
    return part[:, 2:] - part[:, :2] >= shared[:, 2:] - shared[:, :2]


def _matters(pairs: Tensor, reach: Tensor, seen: Tensor, iou: float) -> Tensor:
    """(P, 2) -> (P,) bool: False for pairs without which `_same` says the same of all others, and which it refuses.

    A pair is one object by its IoU, and better counterparts of its boxes have a larger IoU still; or because both
    reach through their strip, which in every other pair of these windows with one of the two that one does, too.
    """
    shared, a, b, overlap = _agreement(pairs, reach, seen)
    return (overlap > iou) | _through(a, shared).any(1) | _through(b, shared).any(1)


def _same(pairs: Tensor, reach: Tensor, seen: Tensor, home: Tensor, touching: Tensor, iou: float) -> Tensor:
    """(P, 2) -> (P,) bool: the two are one object.

    Where both reach through the whole strip that their windows share, `THROUGH` is enough. Boxes that both fill the
    corner which diagonal neighbors share have nothing there to agree on; the windows between see more.
    """
    one, other = pairs.unbind(1)
    shared, a, b, overlap = _agreement(pairs, reach, seen)
    both = _within(a, b)
    through = _through(both, shared)
    enough = through.any(1) & ~touching & (area(both) > THROUGH * torch.minimum(area(a), area(b)))
    ahead = (seen[one] - seen[other]).sign()
    corner = (ahead[:, :2] * ahead[:, 2:] > 0).all(1)  # the windows are shifted against each other both ways
    return _mutual(pairs, home, overlap) & ((overlap > iou) | enough) & ~(corner & through.all(1))


def _grown(boxes: Tensor, by: Tensor | float) -> Tensor:
    """(N, 4) with every edge moved outward by so many px."""
    return boxes + boxes.new_tensor([-1, -1, 1, 1]) * by


def _within(boxes: Tensor, limits: Tensor) -> Tensor:
    """(P, 4), (P, 4) -> (P, 4): their intersection, of no area where there is none."""
    low = torch.maximum(boxes[:, :2], limits[:, :2])
    return torch.cat((low, torch.minimum(boxes[:, 2:], limits[:, 2:]).maximum(low)), 1)


def _mutual(pairs: Tensor, home: Tensor, value: Tensor) -> Tensor:
    """(P, 2), home (N,), value (P,) -> (P,) bool: of all boxes in the other's window each has most with the other."""
    box, window = pairs.T.flatten(), home[pairs.flip(1)].T.flatten()  # each pair once from either side
    key = box * len(home) + window
    order = value.repeat(2).argsort(descending=True, stable=True)
    order = order[key[order].argsort(stable=True)]
    most = torch.zeros_like(box, dtype=torch.bool)
    most[order[_starts(key[order])]] = True
    return most.view(2, -1).all(0)


def _pieces(pairs: Tensor, boxes: Tensor, seen: Tensor, cut: Tensor) -> Tensor:
    """(P, 2) -> cut boxes that lie inside the whole box of a pair, which reaches over the edge that cut them."""
    either, some = torch.cat((pairs, pairs.flip(1))), cut.any(1)
    piece, whole = either[some[either[:, 0]] & ~some[either[:, 1]]].unbind(1)
    grown = _grown(boxes[whole], _near(boxes[whole]))
    inside = area(_within(boxes[piece], grown)) > INSIDE * area(boxes[piece])
    over = torch.cat((boxes[whole, :2] < seen[piece, :2], boxes[whole, 2:] > seen[piece, 2:]), 1) & cut[piece]
    return piece[inside & over.any(1)]


def _objects(every: Detections, root: Tensor, cut: Tensor, piece: Tensor) -> Detections:
    """One detection for each root: its best whole box, or the hull of its cut ones. root, cut, piece: (N,)."""
    order = every.scores.argsort(descending=True, stable=True)
    order = order[cut[order].byte().argsort(stable=True)]
    order = order[root[order].argsort(stable=True)]
    first = _starts(root[order])
    best, place = order[first], torch.empty_like(root)
    place[order] = first.cumsum(0) - 1  # (N,) which of the G objects
    where = place[:, None].expand(-1, 2)
    low = every.boxes[best, :2].scatter_reduce(0, where, every.boxes[:, :2], "amin")
    high = every.boxes[best, 2:].scatter_reduce(0, where, every.boxes[:, 2:], "amax")
    only_pieces = cut[best].byte().scatter_reduce(0, place, piece.byte(), "amin").bool()
    boxes = torch.where(cut[best, None], torch.cat((low, high), 1), every.boxes[best])
    objects = replace(every[best], boxes=boxes)[~only_pieces]
    return objects[objects.scores.argsort(descending=True, stable=True)]


def _starts(sorted_: Tensor) -> Tensor:
    """(N,) sorted -> (N,) bool: where a new value begins."""
    result = torch.ones_like(sorted_, dtype=torch.bool)
    result[1:] = sorted_[1:] != sorted_[:-1]
    return result
