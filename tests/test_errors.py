"""Kinds of error: against TIDE's package (`tide_numbers.py`), hotcoco, and cases worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import error_cases
from boxwright.data.dataset import ANY_CLASS, Sample
from boxwright.metrics import coco, error_split
from boxwright.metrics.error_split import split_errors
from boxwright.metrics.matching import ERRORS, Kind, Matches, match
from boxwright.types import Detections

NUMBERS = json.loads((Path(__file__).parent / "oracles" / "errors" / "numbers.json").read_text())
NAMES = dict(zip(ERRORS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))
NAMED = [str(label) for label in range(error_cases.CLASSES)]


def sample(boxes: object, labels: object, crowd: object = None, labeled: object = None, path: str = "") -> Sample:
    xyxy, classes = np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
    flags = np.zeros(len(xyxy), bool)
    regions = flags if crowd is None else np.array(crowd, bool)
    areas = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1).astype(float)
    looked = None if labeled is None else np.array(labeled, bool)
    return Sample(0, path, None, xyxy, classes, regions, areas, np.arange(len(xyxy)), flags, looked)


def detections(boxes: object, labels: object, scores: object) -> Detections:
    found = torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))
    return Detections(found, torch.tensor(np.array(scores, np.float32)), torch.tensor(np.array(labels, np.int64)))


def made(seed: int) -> tuple[list[Sample], list[Detections]]:
    images = error_cases.made(seed)
    return (
        [sample(image.boxes, image.labels) for image in images],
        [detections(image.found, image.guesses, image.scores) for image in images],
    )


@pytest.mark.parametrize("seed", range(error_cases.CASES))
def test_counts_and_gains_match_tide(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # its recalls are quotients, COCO's a line of 101 numbers: they differ in the last bit, on which an AP would hang
    monkeypatch.setattr(error_split, "RECALLS", np.arange(101) / 100)
    found, expected = split_errors(match(*made(seed)), 0.5), NUMBERS[str(seed)]
    assert {NAMES[kind]: count for kind, count in found.counts.items()} == expected["counts"]
    assert found.ap50 * 100 == pytest.approx(expected["ap50"], abs=1e-6)
    gains = {NAMES[kind]: gain * 100 for kind, gain in found.gains.items()}
    assert gains == pytest.approx(expected["gains"], abs=1e-6)


@pytest.mark.parametrize("seed", range(error_cases.CASES))
def test_ap50_matches_coco_metrics(seed: int) -> None:
    samples, found = made(seed)
    metrics = coco.score(samples, found, NAMED)
    assert split_errors(match(samples, found), 0.5).ap50 == pytest.approx(metrics.ap50, abs=1e-9)


def statuses(matches: Matches) -> tuple[list[Kind], list[Kind]]:
    return [Kind(kind) for kind in matches.found.kinds], [Kind(kind) for kind in matches.objects.kinds]


OBJECT, FAR = [0, 0, 100, 100], [500, 500, 600, 600]


def test_one_error_of_each_kind_by_hand() -> None:
    """In a row of IoUs with the object: 1, 1 (second), 0.4, 1 of another class, 0.4 of another class, 0."""
    part = [0, 0, 40, 100]
    found = detections(
        [OBJECT, OBJECT, part, OBJECT, part, [300, 300, 400, 400]], [0, 0, 0, 1, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    )
    matches = match([sample([OBJECT, FAR], [0, 1])], [found])
    kinds, objects = statuses(matches)
    assert kinds == [
        Kind.CORRECT, Kind.DUPLICATE, Kind.LOCALIZATION, Kind.CLASSIFICATION, Kind.BOTH, Kind.BACKGROUND,
    ]  # fmt: skip
    assert objects == [Kind.CORRECT, Kind.MISSED]
    assert matches.found.objects.tolist() == [0, 0, 0, 0, 0, -1]
    assert matches.found.ious.tolist() == pytest.approx([1, 1, 0.4, 1, 0.4, 0])
    assert matches.objects.detections.tolist() == [0, -1]
    split = split_errors(matches, 0.55)
    assert split.shown == {**dict.fromkeys(ERRORS, 1), Kind.BOTH: 0, Kind.BACKGROUND: 0}
    # class 0 has a perfect AP; of class 1 the only object is missed, and without it there is only what is wrong
    assert (split.ap50, split.gains[Kind.MISSED]) == (0.5, 0)


def test_highest_scoring_error_on_an_object_is_the_one_fixed() -> None:
    """Two badly placed and one of another class on the same object: the best of the three would find it."""
    half = [0, 0, 100, 45]
    for scores, best in (([0.9, 0.8, 0.7], Kind.LOCALIZATION), ([0.6, 0.7, 0.8], Kind.CLASSIFICATION)):
        found = detections([half, half, OBJECT], [0, 0, 1], scores)
        matches = match([sample([OBJECT], [0])], [found])
        assert statuses(matches)[1] == [best]
        assert matches.found.scores[matches.objects.detections[0]] == pytest.approx(max(scores))
        gains = split_errors(matches, 0.5).gains
        assert gains[best] > 0
        assert gains[Kind.MISSED] == 0


def test_regions_and_unlabeled_classes_are_ignored() -> None:
    """As in `coco.score`, in which no detection of them counts."""
    inside = [0, 0, 50, 50]
    cases = {
        "crowd of the class": sample([OBJECT, FAR], [0, 0], [True, False]),
        "ignore region": sample([OBJECT, FAR], [ANY_CLASS, 0], [True, False]),
        "not looked for": sample([FAR], [1], labeled=[False, True]),
    }
    for name, truth in cases.items():
        kinds, objects = statuses(match([truth], [detections([inside], [0], [0.9])]))
        assert kinds == [Kind.IGNORED], name
        assert objects[-1] == Kind.MISSED
        assert Kind.IGNORED in objects or name == "not looked for"
    kinds, _ = statuses(match([cases["crowd of the class"]], [detections([inside, OBJECT], [1, 1], [0.9, 0.8])]))
    assert kinds == [Kind.BACKGROUND] * 2, "the crowd is of another class, and a region is no object"
    kinds, _ = statuses(match([sample([OBJECT], [0], labeled=[False, True])], [detections([OBJECT], [0], [0.9])]))
    assert kinds == [Kind.CORRECT], "what is labeled counts although nobody looked for all of it"


@pytest.mark.parametrize("seed", range(4))
def test_ap50_matches_coco_metrics_with_ignore_regions(seed: int) -> None:
    """Some objects are crowds, some regions are of all classes, and some images lack a class."""
    rng = np.random.default_rng(seed)
    samples, found = made(seed)
    for index, one in enumerate(samples):
        crowd = rng.random(len(one)) < 0.2
        labels = np.where(crowd & (rng.random(len(one)) < 0.5), ANY_CLASS, one.labels)
        looked = rng.random(error_cases.CLASSES) < 0.8 if index % 2 else None
        samples[index] = sample(one.boxes, labels, crowd, looked)
    metrics = coco.score(samples, found, NAMED)
    matches = match(samples, found)
    assert (matches.found.kinds == Kind.IGNORED).any()
    assert split_errors(matches, 0.5).ap50 == pytest.approx(metrics.ap50, abs=1e-9)


def test_detections_beyond_100_per_class_are_not_counted() -> None:
    scores = np.linspace(0.9, 0.1, 150)
    found = detections([OBJECT] + [FAR] * 149, [0] * 120 + [1] * 30, scores)
    kinds, _ = statuses(match([sample([OBJECT], [0])], [found]))
    assert [kinds.index(Kind.NOT_COUNTED), kinds.count(Kind.NOT_COUNTED)] == [100, 20]


def test_without_objects_or_detections() -> None:
    nothing = detections([], [], [])
    empty = split_errors(match([sample([], [])], [nothing]), 0.5)
    assert (empty.ap50, sum(empty.counts.values()), sum(empty.gains.values())) == (-1, 0, 0)
    missed = split_errors(match([sample([OBJECT], [0])], [nothing]), 0.5)
    assert (missed.ap50, missed.counts[Kind.MISSED]) == (0, 1)
    wrong = split_errors(match([sample([], [])], [detections([OBJECT], [2], [0.9])]), 0.5)
    assert (wrong.ap50, wrong.counts[Kind.BACKGROUND]) == (-1, 1)
