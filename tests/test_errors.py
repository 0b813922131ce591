"""Kinds of error: against TIDE's package (`tide_numbers.py`), hotcoco, and cases worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import error_cases
from boxwright.data.dataset import Sample
from boxwright.metrics import coco, error_split
from boxwright.metrics.error_split import split_errors
from boxwright.metrics.matching import ERRORS, match
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
def test_kinds_and_gains_are_those_of_the_package(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # its recalls are quotients, COCO's a line of 101 numbers: they differ in the last bit, on which an AP would hang
    monkeypatch.setattr(error_split, "RECALLS", np.arange(101) / 100)
    found, expected = split_errors(match(*made(seed)), 0.5), NUMBERS[str(seed)]
    assert {NAMES[kind]: count for kind, count in found.counts.items()} == expected["counts"]
    assert found.ap50 * 100 == pytest.approx(expected["ap50"], abs=1e-6)
    gains = {NAMES[kind]: gain * 100 for kind, gain in found.gains.items()}
    assert gains == pytest.approx(expected["gains"], abs=1e-6)


@pytest.mark.parametrize("seed", range(error_cases.CASES))
def test_ap50_is_that_of_the_metrics(seed: int) -> None:
    samples, found = made(seed)
    metrics = coco.score(samples, found, NAMED)
    assert split_errors(match(samples, found), 0.5).ap50 == pytest.approx(metrics.ap50, abs=1e-9)
