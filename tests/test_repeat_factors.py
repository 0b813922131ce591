"""Repeat factor sampling: the factors of LVIS, how often an epoch visits images, and exact resume."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import recipe, tasks
from boxwright.batches.loader import Visits
from boxwright.batches.repeat_factors import repeat_factors, visit_weights
from boxwright.data.members import Member, Members
from boxwright.engine import train
from boxwright.formats import open_boxes
from class_folder import RECIPE, write
from small_run import SMALL, furthest, lines

# The classes of each of ten images. By hand, threshold 0.4: the fractions of the classes 0, 1 and 2 are 0.9, 0.4 and
# 0.1, their factors 1, 1 and sqrt(0.4 / 0.1) = 2; image 9 has none.
CLASSES = [[0], [0, 0, 0], [0, 1], [0, 1], [1, 0, 1], [0, 1], [0], [0], [2, 0, 2], []]


def pairs(classes: list[list[int]]) -> tuple[Any, Any]:
    found = [(image, label) for image, labels in enumerate(classes) for label in labels]
    return tuple(np.array(found, dtype=np.int64).reshape(-1, 2).T)


def test_repeat_factors_by_hand() -> None:
    assert repeat_factors(*pairs(CLASSES), 10, 0.4).tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 2, 1]
    factors = repeat_factors(*pairs(CLASSES), 10, 0.9)  # of the classes: 1, 1.5, 3
    assert factors == pytest.approx([1, 1, 1.5, 1.5, 1.5, 1.5, 1, 1, 3, 1], rel=1e-12)


def test_repeat_factors_match_the_formula_of_lvis() -> None:
    """The paper's, image by image: f(c), r(c) = max(1, sqrt(t / f(c))), r(i) = max of r(c) for c in i."""
    draw = np.random.default_rng(2)
    shares = draw.uniform(0.001, 0.3, 40)
    classes = [[label for label in range(40) if draw.random() < shares[label]] * 2 for _ in range(500)]
    threshold = 0.15
    f = {label: sum(label in image for image in classes) / 500 for label in range(40)}
    r = {label: max(1, math.sqrt(threshold / share)) for label, share in f.items() if share}
    wanted = [max((r[label] for label in image), default=1) for image in classes]
    assert len({*wanted}) > 5
    assert repeat_factors(*pairs(classes), 500, threshold) == pytest.approx(wanted, rel=1e-12)


def test_without_labels_or_threshold() -> None:
    assert repeat_factors(*pairs([[], []]), 2, 0.5).tolist() == [1, 1]
    assert visit_weights(*pairs(CLASSES), 10, 0, None) is None


def test_weights_of_sets_multiply_repeat_factors() -> None:
    sets = (Member("a", range(8), 2.0), Member("b", range(2), 0.5))
    weights = visit_weights(*pairs(CLASSES), 10, 0.4, Members(sets, np.arange(10)))
    assert weights is not None
    assert weights.tolist() == [2] * 8 + [1, 0.5]


def test_epoch_visits_match_repeat_factors() -> None:
    """By hand, threshold 0.9: four images of factor 1.5 are visited 6 times in all, and each epoch draws other two."""
    visits = Visits(repeat_factors(*pairs(CLASSES), 10, 0.9))
    assert len(visits) == 5 + 6 + 3
    epochs = [Counter(visits.order(np.random.default_rng([0, epoch])).tolist()) for epoch in range(40)]
    assert all([counts[image] for image in (0, 1, 6, 7, 9)] == [1] * 5 and counts[8] == 3 for counts in epochs)
    assert all(sum(counts[image] for image in (2, 3, 4, 5)) == 6 for counts in epochs)
    assert all(10 <= sum(counts[image] - 1 for counts in epochs) <= 30 for image in (2, 3, 4, 5))  # 20 +- 3 sigma


def test_loaders_of_detection_and_classification(tiny_coco: Path, tmp_path: Path) -> None:
    """Crowd regions are not objects; classifiers count the images of a class."""
    resolved = recipe.load("demo", SMALL | {"train.repeat_threshold": 1.0})
    task, dataset = tasks.of(resolved), open_boxes(tiny_coco, "train")
    red = [index for index in range(12) if 1 in dataset[index].labels]
    blue = [index for index in range(12) if 0 in dataset[index].labels]
    factors = [max(math.sqrt(12 / len(own)) for own in (red, blue) if index in own) for index in range(12)]
    assert task.loader(dataset, resolved, 0, 1).images_per_epoch == len(Visits(np.array(factors))) > 12
    dataset.rows.crowd[:] = True
    assert task.loader(dataset, resolved, 0, 1).images_per_epoch == 12

    classes = tasks.of(settings := recipe.load(RECIPE, {"data.workers": 0, "train.repeat_threshold": 0.4}))
    images = classes.open(str(write(tmp_path, {"train": 6, "val": 1})), "train", settings.data)
    chosen = images.subset([0, 1, 2, 3, 4, 5, 6, 7, 12])  # 6 blue, 2 green, 1 red: factors 1, sqrt(1.8), sqrt(3.6)
    settings = settings.with_overrides({"train.batch": 1})
    assert classes.loader(chosen, settings, 0, 1).images_per_epoch == 6 + 3 + 2


@pytest.mark.slow
def test_interrupted_training_ends_bit_identical(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = SMALL | {"train.repeat_threshold": 1.0, "train.save_every": 1, "train.epochs": 2}
    whole = train.train("demo", tiny_coco, tmp_path / "whole", overrides=overrides)
    assert lines(whole)[-1]["step"] > 2 * 12 // 2
    real, steps = train.optimizer_step, []

    def interrupted(*args: Any) -> None:
        steps.append(len(steps))
        if len(steps) in (4, 9):
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(train, "optimizer_step", interrupted)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train.train("demo", tiny_coco, tmp_path / "cut", resume=resume, overrides=overrides)
    resumed = train.train("demo", tiny_coco, tmp_path / "cut", resume=True, overrides=overrides)
    assert furthest(whole, resumed)[0] == 0
    assert lines(whole) == lines(resumed)
