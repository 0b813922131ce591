"""Boxes of overlapping windows: each object of the scene once, whatever the seams do to it."""

import time

import numpy as np
import pytest
import torch

from boxwright.images.windows import Window, grid
from boxwright.ops import pairs
from boxwright.ops.iou import pairwise_iou
from boxwright.ops.pairs import connected, overlapping_pairs
from boxwright.predict import merge as merging
from boxwright.predict.merge import merge
from boxwright.types import Detections

SIZE = (2000, 2600)  # px, height first
LEFT, RIGHT = Window(0, 0, 600, 600), Window(480, 0, 600, 600)
WIDE = (600, 1080)


def detections(*rows):
    """Rows of (x1, y1, x2, y2, score, label) as detections."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long(), ("car", "truck", "ship"))


def detect_in_windows(boxes, labels, windows, noise=0.0, seed=0):
    """Detections of a perfect detector in each window: everything in it, clipped to the window.

    noise: px by which its edges are off; it then finds nothing of objects that show less than twice as much.
    """
    draw = np.random.default_rng(seed)
    found = []
    for window in windows:
        x1, y1, x2, y2 = window.xyxy
        low, high = np.maximum(boxes[:, :2], [x1, y1]), np.minimum(boxes[:, 2:], [x2, y2])
        seen = (high - low > 2 * noise).all(1)
        cut = np.concatenate([low, high], 1)[seen] + draw.uniform(-noise, noise, (seen.sum(), 4))
        cut = np.stack([cut[:, 0::2].clip(x1, x2), cut[:, 1::2].clip(y1, y2)], -1).reshape(-1, 4)
        scores = torch.from_numpy(draw.uniform(0.5, 1, len(cut))).float()
        found.append(Detections(torch.from_numpy(cut).float(), scores, torch.from_numpy(labels[seen])))
    return found


def scattered(count, low, high, seed=1, size=SIZE, classes=3):
    draw = np.random.default_rng(seed)
    side = draw.uniform(low, high, (count, 2))
    corner = draw.uniform(0, 1, (count, 2)) * (np.array(size[::-1]) - side)
    return np.concatenate([corner, corner + side], 1), draw.integers(0, classes, count)


def same(merged, boxes, labels):
    """Equal as sets: every row has its nearest row within a tenth of a px, and no two have the same one."""
    wanted = torch.from_numpy(np.concatenate([boxes, labels[:, None] * 1e5], 1))
    far, place = torch.cdist(torch.cat([merged.boxes, merged.labels[:, None] * 1e5], 1).double(), wanted).min(1)
    assert sorted(place.tolist()) == list(range(len(boxes)))
    assert far.max() < 0.1


@pytest.mark.parametrize(("window", "overlap"), [(600, 0.2), (600, 0.0), (512, 0.5), (300, 0.25), (5000, 0.2)])
@pytest.mark.parametrize(("count", "low", "high"), [(400, 8, 60), (100, 60, 119), (12, 100, 500)])
def test_every_object_is_returned_exactly_once(window, overlap, count, low, high):
    """Also where objects overlap, lie in each other, and are longer than the overlap or the window."""
    boxes, labels = scattered(count, low, high)
    windows = grid(SIZE, window, overlap)
    same(merge(detect_in_windows(boxes, labels, windows), windows, SIZE, 0.45), boxes, labels)


@pytest.mark.parametrize(
    ("overlap", "objects"),
    [
        # Both end within the tolerance of the strip's edges, y 900 to 975, where their parts are shorter.
        (0.25, [[1875.25, 477.9, 2149.25, 967.6], [1821.9, 908.4, 2144.2, 1117]]),
        # Both cross or meet lines where windows touch, x 600 or x 450 and y 900; windows between show both sides.
        (0.5, [[460.8, 1499.2, 710.4, 1645.3], [600.1, 1493, 734.3, 1776.8]]),
        (0.5, [[225.6, 780.6, 445.7, 942.5], [298.4, 899.8, 562, 1136.8]]),
    ],
)
def test_overlapping_objects_are_not_merged(overlap, objects):
    boxes, labels, windows = np.array(objects), np.array([0, 0]), grid(SIZE, 300, overlap)
    same(merge(detect_in_windows(boxes, labels, windows), windows, SIZE, 0.45), boxes, labels)


def test_fewer_boxes_than_windows():
    """Each is complete in two windows: fewer boxes (4) than windows (16)."""
    size = (180, 660)
    boxes, labels = np.array([[20.0, 84, 50, 96], [324, 30, 336, 50]]), np.array([0, 0])
    windows = grid(size, 100, 0.2)
    found = detect_in_windows(boxes, labels, windows)
    complete = [detections(*[(*box, 0.9, 0) for box in each.boxes.tolist() if box in boxes.tolist()]) for each in found]
    assert sum(map(len, complete)) < len(windows)
    same(merge(complete, windows, size, 0.45), boxes, labels)


@pytest.mark.parametrize("overlap", [0.2, 0.5])
def test_noisy_boxes_give_one_box_per_object(overlap):
    boxes, labels = scattered(300, 20, 110)
    apart = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).fill_diagonal_(0).amax(1).numpy() < 0.1
    boxes, labels = boxes[apart], labels[apart]
    windows = grid(SIZE, 600, overlap)
    merged = merge(detect_in_windows(boxes, labels, windows, noise=1.5), windows, SIZE, 0.45)
    overlaps = pairwise_iou(merged.boxes.double(), torch.from_numpy(boxes))
    assert sorted(overlaps.argmax(1).tolist()) == list(range(len(boxes)))
    assert overlaps.amax(1).min() > 0.6
    assert (merged.scores.diff() <= 0).all()


def test_halves_across_a_seam_are_merged_with_the_higher_score():
    found = [detections((100, 50, 600, 150, 0.6, 2)), detections((480, 50, 900, 150, 0.8, 2))]
    merged = merge(found, [LEFT, RIGHT], WIDE, 0.5)
    assert merged.boxes.tolist() == [[100, 50, 900, 150]]
    assert merged.scores.tolist() == pytest.approx([0.8])
    assert merged.names == ("car", "truck", "ship")


def test_complete_box_wins_over_a_cut_box_of_higher_score():
    found = [detections((520, 50, 600, 150, 0.9, 0)), detections((520, 50, 640, 150, 0.4, 0))]
    merged = merge(found, [LEFT, RIGHT], WIDE, 0.5)
    assert merged.boxes.tolist() == [[520, 50, 640, 150]]
    assert merged.scores.tolist() == pytest.approx([0.4])


def test_rotated_object_across_a_seam_is_merged():
    """A long ship at 30 degrees: the boxes of its halves agree on half of the strip; a sliver agrees on nothing."""
    halves = [detections((260, 100, 600, 296, 0.9, 2)), detections((480, 227, 820, 423, 0.9, 2))]
    assert merge(halves, [LEFT, RIGHT], WIDE, 0.45).boxes.tolist() == [[260, 100, 820, 423]]
    tip = [detections((500, 100, 600, 130, 0.9, 2)), detections((500, 100, 680, 200, 0.9, 2))]
    assert merge(tip, [LEFT, RIGHT], WIDE, 0.45).boxes.tolist() == [[500, 100, 680, 200]]


@pytest.mark.parametrize("first", [0, 1])
def test_small_object_inside_a_large_object_is_kept(first):
    """Whole in both windows, cut by one, and seen by one window only; the big one cut by both."""
    big = [detections((100, 50, 600, 550, 0.6, 0)), detections((480, 50, 900, 550, 0.6, 0))]
    for small in ((500, 100, 560, 160), (560, 100, 640, 160), (300, 100, 360, 160)):
        boxes = np.array([[100, 50, 900, 550], small])[:: 1 - 2 * first].astype(float)
        windows = [LEFT, RIGHT]
        same(merge(detect_in_windows(boxes, np.zeros(2, int), windows), windows, WIDE, 0.45), boxes, np.zeros(2, int))
    unseen = [big[0], Detections.empty()]
    unseen[1] = detections((480, 50, 900, 550, 0.6, 0), (560, 100, 640, 160, 0.9, 0))
    assert len(merge(unseen, [LEFT, RIGHT], WIDE, 0.45)) == 2  # nor does it go when the other window misses it


def test_boxes_of_other_classes_places_or_same_window_are_kept():
    classes = [detections((500, 50, 560, 150, 0.9, 0)), detections((500, 50, 560, 150, 0.8, 1))]
    assert merge(classes, [LEFT, RIGHT], WIDE, 0.45).labels.tolist() == [0, 1]
    close = [detections((10, 50, 60, 150, 0.9, 0), (15, 50, 65, 150, 0.8, 0)), detections()]
    assert len(merge(close, [LEFT, RIGHT], WIDE, 0.45)) == 2
    edge = [
        detections((0, 50, 60, 150, 0.9, 0)),
        detections((1020, 50, 1080, 150, 0.8, 0)),
    ]  # at the scene's edges, not cut
    assert len(merge(edge, [LEFT, RIGHT], WIDE, 0.45)) == 2


def test_neighbors_at_the_line_between_touching_windows():
    """The window between saw both whole. Without one in between, their cross sections at the line decide."""
    windows = [Window(0, 0, 600, 600), Window(300, 0, 600, 600), Window(600, 0, 600, 600)]
    left, right = (560, 100, 599, 200, 0.9, 0), (601, 100, 640, 200, 0.8, 0)
    assert len(merge([detections(left), detections(left, right), detections(right)], windows, (600, 1200), 0.45)) == 2
    assert len(merge([detections(left), detections(right)], windows[::2], (600, 1200), 0.45)) == 1
    lower = (601, 170, 640, 270, 0.8, 0)
    assert len(merge([detections(left), detections(lower)], windows[::2], (600, 1200), 0.45)) == 2


def test_piece_is_replaced_only_by_a_box_across_its_cut_edge():
    """And slivers may be misplaced by some px."""
    piece = detections((530, 100, 600, 160, 0.9, 0))
    assert len(merge([piece, detections((490, 50, 598, 250, 0.9, 0))], [LEFT, RIGHT], WIDE, 0.45)) == 2
    assert len(merge([piece, detections((490, 50, 650, 250, 0.9, 0))], [LEFT, RIGHT], WIDE, 0.45)) == 1
    sliver = detections((593, 52, 600, 149, 0.9, 0))
    assert len(merge([sliver, detections((598, 50, 700, 150, 0.8, 0))], [LEFT, RIGHT], WIDE, 0.45)) == 1


def test_boxes_at_the_scene_border_are_not_cut():
    """Of two uncut boxes the better one is kept, not their enclosing box."""
    windows = [Window(0, 0, 600, 600), Window(0, 480, 600, 600)]
    merged = merge(
        [detections((0, 500, 60, 590, 0.9, 0)), detections((0, 502, 62, 592, 0.6, 0))], windows, (1080, 600), 0.45
    )
    assert merged.boxes.tolist() == [[0, 500, 60, 590]]


@pytest.mark.slow
@pytest.mark.parametrize(("window", "overlap"), [(600, 0.2), (300, 0.5), (600, 0.0)])
@pytest.mark.parametrize(("count", "low", "high"), [(1500, 5, 120), (150, 80, 700)])
@pytest.mark.parametrize("iou", [0.2, 0.45])
def test_early_pruning_of_pairs_does_not_change_the_result(monkeypatch, window, overlap, count, low, high, iou):
    """Piles of rough boxes, whose best counterpart in a window is often none, and few pairs at a time."""
    boxes, labels = scattered(count, low, high, classes=1)
    windows = grid(SIZE, window, overlap)
    found = detect_in_windows(boxes, labels, windows, noise=4)
    monkeypatch.setattr(pairs, "PAIRS", 5000)
    few, kept = merge(found, windows, SIZE, iou), []
    matters = merging._may_match
    monkeypatch.setattr(merging, "_may_match", lambda all_, *rest: kept.append(matters(all_, *rest)) or kept[-1] | True)
    monkeypatch.setattr(pairs, "PAIRS", 1 << 30)
    every = merge(found, windows, SIZE, iou)
    assert torch.cat(kept).float().mean() < 1
    for field in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(few, field), getattr(every, field))


def test_empty_input():
    assert len(merge([], [], (10, 10), 0.5)) == 0
    empty = merge([detections(), detections()], [LEFT, RIGHT], WIDE, 0.5)
    assert empty.boxes.shape == (0, 4)
    assert empty.names == ("car", "truck", "ship")
    assert len(merge([detections((1, 1, 5, 5, 0.5, 0))], [LEFT], (600, 600), 0.5)) == 1


def test_overlapping_pairs_match_brute_force():
    draw = torch.Generator().manual_seed(3)
    low, side = torch.rand(500, 2, generator=draw) * 900 - 50, (torch.rand(500, 2, generator=draw) * 6.5).exp()
    boxes, group = torch.cat([low, low + side], 1), torch.randint(0, 3, (500,), generator=draw)
    boxes[:50] = (boxes[:50] / 64).round() * 64  # on the cells' edges; some are empty
    shared = pairwise_iou(boxes, boxes) > 0
    wanted = (shared & (group[:, None] == group)).triu(1).nonzero()
    found = torch.cat(list(overlapping_pairs(boxes, group)))
    assert sorted(map(sorted, found.tolist())) == wanted.tolist()
    assert list(overlapping_pairs(boxes[:0], group[:0])) == []


def test_overlapping_pairs_are_unique_in_small_chunks(monkeypatch):
    boxes, labels = scattered(600, 5, 300, classes=1)
    boxes, labels = torch.from_numpy(boxes), torch.from_numpy(labels)
    whole = torch.cat(list(overlapping_pairs(boxes, labels)))
    monkeypatch.setattr(pairs, "PAIRS", 100)
    pieces = list(overlapping_pairs(boxes, labels))
    assert max(map(len, pieces)) < 500 < len(whole)
    assert torch.equal(torch.cat(pieces), whole)


def test_connected_components_of_chains_and_rings():
    chain = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    root = connected(torch.stack((chain[:-1], chain[1:]), 1), 203)
    assert root[:200].tolist() == [0] * 200
    assert root[200:].tolist() == [200, 201, 202]
    assert connected(torch.tensor([[1, 2], [2, 3], [3, 1]]), 4).tolist() == [0, 1, 1, 1]
    assert connected(torch.zeros(0, 2, dtype=torch.int64), 2).tolist() == [0, 1]


@pytest.mark.slow
def test_speed_with_100_000_boxes():
    size = (20_000, 20_000)
    boxes, labels = scattered(68_000, 10, 60, size=size, classes=5)
    windows = grid(size, 2000, 0.2)
    found = detect_in_windows(boxes, labels, windows)
    assert sum(map(len, found)) > 100_000
    begin = time.process_time()  # of all threads; other processes do not count
    merged = merge(found, windows, size, 0.45)
    assert time.process_time() - begin < 5
    assert len(merged) == 68_000
