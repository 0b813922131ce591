"""Boxes labeled twice: the search against all pairs, and its time where boxes are stacked."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.datatools import duplicates
from boxwright.datatools.duplicates import EQUAL, MIN_IOU, same_object

Boxes = NDArray[np.float64]


def all_pairs(boxes: Boxes, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The definition, with IoU written out once more."""
    partner, best = np.full(len(boxes), -1), np.zeros(len(boxes))
    for late in range(len(boxes)):
        for early in range(late):
            (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes[early], boxes[late]
            common = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            ratio = common / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common)
            overlap = EQUAL if (boxes[early] == boxes[late]).all() else ratio
            if groups[early] == groups[late] and overlap >= MIN_IOU and overlap > best[late]:
                partner[late], best[late] = early, overlap
    return partner, best


def random_boxes(draw: np.random.Generator, count: int, spread: float) -> Boxes:
    """Boxes whose edges are scattered by `spread` px around a few places, on a lattice so that some are equal."""
    low = draw.integers(0, 3, (count, 2)) * 30.0
    side = draw.choice([12.0, 40.0, 100.0], (count, 2))
    boxes = np.concatenate([low, low + side], axis=1) + draw.normal(0, spread, (count, 4))
    return np.asarray((boxes * 2).round() / 2)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.3, 1.5, 4.0])
def test_matches_comparison_of_all_pairs(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(int(spread * 10))
    for steps in (24, 2):  # 2: most boxes are resolved by the grid
        monkeypatch.setattr(duplicates, "MAX_STEPS", steps)
        for _ in range(8):
            boxes = random_boxes(draw, 40, spread)
            boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)]
            groups = draw.integers(0, 3, len(boxes))
            partner, best = same_object(boxes, groups)
            expected, overlap = all_pairs(boxes, groups)
            np.testing.assert_array_equal(partner, expected)
            np.testing.assert_allclose(best, overlap, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.5, 3.0, 6.0])
def test_stacked_boxes_match_comparison_of_all_pairs(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where crowds are not compared pair by pair, too; the partner is then one of several."""
    monkeypatch.setattr(duplicates, "MAX_STEPS", 1)
    monkeypatch.setattr(duplicates, "MAX_ALL_PAIRS", 2)
    draw = np.random.default_rng(int(spread * 10))
    for scale in (1.0, 1e-3, 1e6):
        boxes = (np.array([20.0, 30.0, 120.0, 100.0]) + draw.normal(0, spread, (120, 4))) * scale
        groups = draw.integers(0, 2, len(boxes)) * 7
        partner, best = same_object(boxes, groups)
        expected, overlap = all_pairs(boxes, groups)
        np.testing.assert_array_equal(partner >= 0, expected >= 0)
        has = np.flatnonzero(partner >= 0)
        assert len(has) > 10
        assert (partner[has] < has).all()
        assert (groups[partner[has]] == groups[has]).all()
        assert (best[has] <= overlap[has] + 1e-12).all()
        for late in has[:20]:
            pair = all_pairs(boxes[[partner[late], late]], np.zeros(2, np.int64))[1][1]
            assert best[late] == pytest.approx(pair, rel=1e-12)


def test_empty_input_and_single_box() -> None:
    for count in (0, 1):
        partner, best = same_object(np.tile([0.0, 0, 5, 5], (count, 1)), np.zeros(count, np.int64))
        assert partner.tolist() == [-1] * count
        assert best.tolist() == [0] * count


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_speed_with_40_000_overlapping_boxes(spread: float) -> None:
    """All pairs are 800 million: minutes. This takes a second or two; the limit is for slow machines."""
    boxes = np.array([100.0, 100.0, 300.0, 200.0]) + np.random.default_rng(0).normal(0, spread, (40_000, 4))
    begin = time.process_time()
    partner, _ = same_object(boxes, np.zeros(40_000, np.int64))
    assert time.process_time() - begin < 20
    assert (partner >= 0).sum() > 39_000
