"""Suppression against a plain loop, and against the MindSpore zoo's own filtering and suppression."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.ops import nms
from boxwright.ops.nms import suppress
from boxwright.types import Detections
from oracle_weights import ORACLES


@dataclass(frozen=True)
class Settings:
    kind: str = "standard"
    iou: float = 0.5
    sigma: float = 0.5
    plus_one: bool = False
    pre_nms_top_k: int = 30000
    max_detections: int = 30000


def reference_nms(found: Detections, settings: Settings) -> list[int]:
    """The definition, box by box: rows of `found` that stay, best first."""
    boxes, scores, labels = found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: settings.pre_nms_top_k]
    kept: list[int] = []
    for i in order:
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j], settings) <= settings.iou for j in kept):
            kept.append(i)
    return kept[: settings.max_detections]


def overlap(a: list[float], b: list[float], settings: Settings) -> float:
    """What a kind compares with its threshold."""
    if settings.kind == "standard":
        return iou(a, b, settings.plus_one)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    centers = (a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2
    return iou(a, b, settings.plus_one) - (centers / 4 / hull) ** {"diou": 1.0, "greedy": 0.6}[settings.kind]


def iou(a: list[float], b: list[float], plus_one: bool) -> float:
    one = 1.0 if plus_one else 0.0
    w = min(a[2], b[2]) - max(a[0], b[0]) + one
    h = min(a[3], b[3]) - max(a[1], b[1]) + one
    shared = max(w, 0.0) * max(h, 0.0)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return shared / (sum(areas) - shared) if shared else 0.0


def made(count: int, classes: int, seed: int, *, size: float = 200.0, steps: int = 0) -> Detections:
    """Random boxes on whole pixels; `steps` > 0 draws scores from that many values, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = (torch.rand(count, 2, generator=generator) * size).round()
    side = (torch.rand(count, 2, generator=generator) * 60).round() + 1
    scores = torch.rand(count, generator=generator)
    scores = (scores * steps).round() / steps if steps else scores
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Detections(torch.cat((corner, corner + side), 1), scores, labels)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("kind", ["standard", "diou", "greedy"])
@pytest.mark.parametrize(
    ("counts", "classes", "steps", "threshold"),
    [
        ((300, 0, 1, 700), 3, 0, 0.45),
        ((600,), 1, 0, 0.5),  # one class over several blocks
        ((500,), 1, 7, 0.3),  # many equal scores
        ((1200, 400), 80, 5, 0.4),
        ((0, 40, 1, 0, 300, 60), 9, 5, 0.6),
        ((1,), 1, 0, 0.5),
        ((0, 0), 1, 0, 0.5),
    ],
)
def test_matches_reference_loop(
    counts: tuple[int, ...], classes: int, steps: int, threshold: float, plus_one: bool, kind: str
) -> None:
    settings = Settings(kind, iou=threshold, plus_one=plus_one)
    images = [made(count, classes, seed, steps=steps) for seed, count in enumerate(counts)]
    for found, ours in zip(images, suppress(images, settings), strict=True):  # px for all kinds
        rows = reference_nms(found, settings)
        assert len(found) < 400 or len(rows) < len(found)  # something was dropped
        assert_same(ours, found[torch.tensor(rows, dtype=torch.int64)])


def assert_same(ours: Detections, theirs: Detections) -> None:
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("block", [1, 3, 64])
def test_block_size_does_not_change_the_result(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [made(200, 2, seed) for seed in range(2)]
    whole = suppress(found, Settings())
    monkeypatch.setattr(nms, "BLOCK", block)
    for ours, theirs in zip(suppress(found, Settings()), whole, strict=True):
        assert_same(ours, theirs)


def test_chain_of_overlapping_boxes() -> None:
    """Each box is dropped or kept because of the one before: the longest chain."""
    x = torch.arange(600.0)[:, None] * 10
    boxes = torch.cat((x, torch.zeros_like(x), x + 30, torch.full_like(x, 30)), 1)  # neighbors: 20/40, next: 10/50
    found = Detections(boxes, torch.linspace(1, 0.1, 600), torch.zeros(600, dtype=torch.int64))
    assert torch.equal(suppress([found], Settings(iou=0.45))[0].boxes, boxes[::2])


def test_check_interval_does_not_change_the_result() -> None:
    alive = torch.ones(50, dtype=torch.bool)
    better = torch.zeros(50, 50).fill_diagonal_(1).roll(-1, 1).tril(-1)  # each overlaps the next
    for every in (1, nms.CHECK_EVERY, 60):
        assert nms._rounds(alive, better, every).nonzero()[:, 0].tolist() == list(range(0, 50, 2))


def test_pre_nms_top_k_and_max_detections_are_across_classes() -> None:
    images = [made(300, 4, seed) for seed in (3, 4)]
    for settings in (
        Settings(pre_nms_top_k=50),
        Settings(max_detections=20),
        Settings(pre_nms_top_k=60, max_detections=59),
        Settings(iou=0.9, max_detections=3),
    ):
        for found, ours in zip(images, suppress(images, settings), strict=True):
            assert_same(ours, found[torch.tensor(reference_nms(found, settings))])


def test_max_detections_stops_a_large_class_early() -> None:
    found = made(700, 1, 5, size=2000)
    settings = Settings(max_detections=150)
    assert_same(suppress([found], settings)[0], found[torch.tensor(reference_nms(found, settings))])


@pytest.mark.parametrize("keep", [9, 10, 11])
def test_max_detections_at_a_block_boundary(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "BLOCK", 10)
    x = torch.arange(40.0)[:, None]
    found = Detections(torch.cat((x, x, x + 1, x + 1), 1), torch.linspace(1, 0.1, 40), torch.zeros(40).long())
    assert_same(suppress([found], Settings(max_detections=keep))[0], found[:keep])


def test_class_names_are_kept_and_empty_input_is_valid() -> None:
    named = Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.5]), torch.tensor([1]), ("cat", "dog"))
    assert suppress([named], Settings())[0].names == ("cat", "dog")
    assert suppress([], Settings()) == []


def test_iou_of_standard_diou_and_greedy_by_hand() -> None:
    """By hand. Boxes of 10 x 10, 3 px apart: IoU 70 / 130 = 0.538, distance 3^2 over the enclosing box's 13^2 + 10^2:
    9 / 269 = 0.0335, and 0.0335^0.6 = 0.130. So 0.538, 0.505 and 0.408 are what the kinds compare."""
    pair = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10]])
    found = Detections(pair, torch.tensor([0.9, 0.8]), torch.zeros(2).long())
    for kind, value in (("standard", 0.538), ("diou", 0.505), ("greedy", 0.408)):
        assert len(suppress([found], Settings(kind, iou=value + 0.001))[0]) == 2
        assert len(suppress([found], Settings(kind, iou=value - 0.001))[0]) == 1


def test_greedy_distance_is_relative_to_the_image_size() -> None:
    """The same in an image of 200 x 50: as shares, 0.015^2 over 0.065^2 + 0.2^2 = 0.00509, to the 0.6: 0.042."""
    pair = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10]])
    found = Detections(pair, torch.tensor([0.9, 0.8]), torch.zeros(2).long())
    for value, left in ((0.497, 2), (0.495, 1)):
        (ours,) = suppress([found], Settings("greedy", iou=value), [(50, 200)])
        assert len(ours) == left
        assert torch.equal(ours.boxes, pair[:left])


@pytest.mark.parametrize("kind", ["diou", "greedy"])
def test_boxes_without_area_are_kept(kind: str) -> None:
    found = Detections(torch.full((2, 4), 7.0), torch.tensor([0.9, 0.8]), torch.zeros(2).long())
    assert len(suppress([found], Settings(kind))[0]) == 2  # they share no area, as in the plain kind


def reference_soft_nms(found: Detections, settings: Settings, lowest: float) -> list[tuple[int, float]]:
    """Soft-NMS as its paper writes it, class by class: (row, new score), best first."""
    boxes, labels = found.boxes.tolist(), found.labels.tolist()
    result = []
    for label in set(labels):
        left = {i: score for i, score in enumerate(found.scores.tolist()) if labels[i] == label}
        while left:
            best = max(left, key=lambda i: (left[i], -i))
            score = left.pop(best)
            if score < lowest:
                break
            result.append((best, score))
            for i in left:
                shared = iou(boxes[best], boxes[i], settings.plus_one)
                if settings.kind == "soft":
                    left[i] *= math.exp(-shared * shared / settings.sigma)
                elif shared > settings.iou:
                    left[i] *= 1 - shared
    return sorted(result, key=lambda each: -each[1])[: settings.max_detections]


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("kind", ["soft", "soft_linear"])
@pytest.mark.parametrize(("keep", "lowest"), [(1000, 0.001), (1000, 0.3), (40, 0.0)])
def test_soft_nms_matches_the_paper(keep: int, lowest: float, kind: str, plus_one: bool) -> None:
    settings = Settings(kind, iou=0.3, sigma=0.4, plus_one=plus_one, max_detections=keep)
    images = [made(count, classes, seed) for seed, (count, classes) in enumerate([(150, 3), (0, 1), (1, 1), (90, 1)])]
    for found, ours in zip(images, suppress(images, settings, lowest=lowest), strict=True):
        expected = reference_soft_nms(found, settings, lowest)
        rows = torch.tensor([row for row, _ in expected], dtype=torch.int64)
        assert_same(replace(ours, scores=found.scores[rows]), found[rows])
        torch.testing.assert_close(ours.scores, torch.tensor([score for _, score in expected]), rtol=1e-4, atol=1e-6)
        assert keep < 1000 or len(found) < 90 or (ours.scores < found.scores[rows]).any()


def zoo_decoded(oracle: dict[str, np.ndarray]) -> Tensor:
    """(N, 85) small, medium, big: the order in which the zoo hands its maps to the suppression."""
    generator = np.random.default_rng(int(oracle["decoded_seed"]))
    maps = []
    for grid in (4, 8, 16):
        shape = (1, grid, grid, 3)
        xy = generator.uniform(0, 1, (*shape, 2))
        wh = np.exp(generator.normal(-1.6, 0.6, (*shape, 2)))
        rest = 1 / (1 + np.exp(-(2.5 * generator.standard_normal((*shape, 81)) - 5)))
        maps.append(np.concatenate((xy, wh, rest), -1).astype(np.float32))
    np.testing.assert_array_equal(maps[0], oracle["decoded.big"])
    return torch.from_numpy(np.concatenate([one.reshape(-1, 85) for one in reversed(maps)]))


@pytest.mark.parametrize(
    ("system", "answer", "settings"),
    [
        ("yolov3_darknet53", "detections", Settings("standard", iou=0.5, plus_one=True)),
        ("yolov4", "detections", Settings("diou", iou=0.6, plus_one=True)),
        ("yolov4", "detections_multi_label", Settings("diou", iou=0.6, plus_one=True)),
    ],
)
def test_detections_match_the_zoo(system: str, answer: str, settings: Settings) -> None:
    """Its own filtering is done here; what is tested is the suppression with whole-pixel widths."""
    with np.load(ORACLES / system / "post.npz") as stored:
        oracle = dict(stored)
    rows = zoo_decoded(oracle).double()
    width, height = oracle["ori_wh"].tolist()
    score = rows[:, 5:] * rows[:, 4:5]
    wanted = rows[:, 5:] > 0.2 if answer.endswith("multi_label") else rows[:, 5:] == rows[:, 5:].amax(1, keepdim=True)
    row, label = ((score >= 0.001) & wanted).nonzero(as_tuple=True)
    rows, score = rows[row], score[row, label]
    size = torch.tensor([width, height], dtype=torch.float64)
    corner = ((rows[:, :2] - rows[:, 2:4] / 2) * size).clamp(min=0)
    side = torch.minimum(rows[:, 2:4] * size, size)
    found = Detections(torch.cat((corner, corner + side), 1), score, label)
    (ours,) = suppress([found], settings)
    ids = oracle[answer][:, 0].astype(int)
    assert len(ours) == len(oracle[answer]) < len(found)

    # the zoo's numbers for classes are COCO's, in the order of our labels
    labels = {int(category): k for k, category in enumerate(coco_ids())}
    theirs = np.column_stack(([labels[i] for i in ids], oracle[answer][:, 1:]))
    same = np.column_stack((ours.labels, ours.boxes[:, :2], ours.boxes[:, 2:] - ours.boxes[:, :2], ours.scores))
    theirs, same = (array[np.lexsort((array[:, 5], array[:, 0]))] for array in (theirs, same))
    np.testing.assert_allclose(same, theirs, rtol=1e-6, atol=1e-4)


def coco_ids() -> list[int]:
    """COCO's 80 category numbers: 1 to 90 without ten that no image has."""
    return [i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


def test_faster_than_the_reference_loop() -> None:
    images = [made(1000, 80, seed, size=400) for seed in range(8)]
    suppress(images, Settings())
    ours = min(timed(lambda: suppress(images, Settings())) for _ in range(3))
    theirs = timed(lambda: [reference_nms(found, Settings()) for found in images])
    assert ours < theirs


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
