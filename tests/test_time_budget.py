"""`train.minutes`: the number of epochs, what measuring leaves behind, and where the number is written."""

import math
import time
from typing import Any

import pytest

from boxwright import recipe as recipes
from boxwright.engine import step, time_budget
from boxwright.engine.time_budget import fitting_epochs
from boxwright.engine.train import train
from boxwright.errors import InputError
from boxwright.recipe import TrainConfig
from small_run import SMALL, furthest, lines

MINUTES = {"train.minutes": 1}


def run(data: Any, out: Any, changes: Any, **words: Any) -> Any:
    return train("demo", data, out, overrides=SMALL | changes, **words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "start", "seconds", "epochs"),
    [
        (1, 0, 15.9, 0),  # an epoch 10, two evaluations 3 each: 16
        (1, 0, 16, 1),
        (1, 0, 28.9, 1),  # two epochs 20, three evaluations 9: 29
        (1, 0, 29, 2),
        (3, 0, 36, 3),  # three epochs, evaluated after the third, and the best
        (3, 0, 48.9, 3),  # the fourth epoch would be the last, and evaluated: 40 + 9
        (3, 0, 49, 4),
        (0, 0, 36, 3),
        (1, 2, 36, 3),  # the first two epochs are not evaluated
        (1, 0, math.inf, recipes.MAX_EPOCHS),
    ],
)
def test_epochs_by_hand(every: int, start: int, seconds: float, epochs: int) -> None:
    config = TrainConfig(evaluate_every=every, evaluate_from=start)
    assert fitting_epochs(config, seconds, 10, 3) == epochs


def test_without_evaluation_only_epochs_count() -> None:
    assert fitting_epochs(TrainConfig(), 35, 10, 0) == 3


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"data.workers": 1, "train.accumulate": 2, "train.optimizer.kind": "adamw"}])
def test_measuring_does_not_affect_training(
    tiny_coco: Any, tmp_path: Any, monkeypatch: Any, capsys: Any, more: Any
) -> None:
    """Weights, statistics, average, optimizer and log are those of a run with that number of epochs, bit for bit."""
    changes = more | {"train.schedule.kind": "cosine", "train.evaluate_every": 1, "train.ema.decay": 0.9}
    real, seen = step.optimizer_step, []
    monkeypatch.setattr(time_budget, "optimizer_step", lambda *args: (seen.append(1), real(*args)))
    monkeypatch.setattr(time_budget, "fitting_epochs", lambda *args: 2)
    measured = run(tiny_coco, tmp_path / "minutes", changes | MINUTES | {"train.epochs": 9})
    assert len(seen) >= (2 + 1 + 1) * changes.get("train.accumulate", 1)
    assert "train.minutes: 2 epochs of" in capsys.readouterr().err
    monkeypatch.undo()
    fixed = run(tiny_coco, tmp_path / "epochs", changes | {"train.epochs": 2})
    assert furthest(measured, fixed)[0] == 0
    assert lines(measured) == lines(fixed)


@pytest.mark.slow
def test_resume_keeps_the_number_of_epochs(tiny_coco: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(time_budget, "measure", lambda *_: (100.0, 200.0))  # two epochs need 1,600 s, three 2,200 s
    changes = {"train.minutes": 1900 / 60 / 0.95}
    folder = run(tiny_coco, tmp_path / "run", changes)
    assert recipes.load(folder / "recipe.yaml").train.epochs == 2
    monkeypatch.setattr(time_budget, "measure", None)
    before = lines(folder)
    run(tiny_coco, folder, changes, resume=True)
    assert lines(folder) == before
    with pytest.raises(InputError, match=r"train\.minutes is 33\.3.* there and 1\.0 now"):
        run(tiny_coco, folder, MINUTES, resume=True)


@pytest.mark.slow
def test_measured_time_includes_data_loading_and_evaluation(tiny_coco: Any, tmp_path: Any, monkeypatch: Any) -> None:
    """A batch is made to take 0.2 s, an evaluation of 4 images 0.5 s."""
    real, found = time_budget.prepare_batch, []

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return real(*args)

    def fitting(config: Any, seconds: float, epoch: float, evaluation: float) -> int:
        found.extend([epoch, evaluation, seconds])
        return 1

    monkeypatch.setattr(time_budget, "prepare_batch", slow)
    monkeypatch.setattr(time_budget, "fitting_epochs", fitting)
    real_measure = time_budget.measure
    monkeypatch.setattr(time_budget, "measure", lambda job, minutes, _: real_measure(job, minutes, evaluate))

    def evaluate(job: Any) -> None:
        time.sleep(0.125 * len(job.validation))

    run(tiny_coco, tmp_path / "run", MINUTES | {"train.accumulate": 2})
    epoch, evaluation, seconds = found
    assert 6 * 0.2 <= epoch < 6 * 1.5  # 3 steps of two batches; the machine may be busy
    assert 0.5 <= evaluation < 2
    assert seconds < 57


@pytest.mark.slow
def test_warmup_longer_than_half_of_training_is_logged(
    tiny_coco: Any, tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(time_budget, "measure", lambda *_: (5.0, 0.0))
    run(tiny_coco, tmp_path / "run", MINUTES | {"train.schedule.warmup_min_steps": 4})
    assert "the warm-up takes 4 of the 6 steps; lower it" in capsys.readouterr().err


def test_too_short_time_budget_is_an_error(tiny_coco: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(time_budget, "measure", lambda *_: (20.0, 30.0))
    with pytest.raises(InputError, match=r"train\.minutes: found 1, one epoch with its evaluation needs about 4"):
        run(tiny_coco, tmp_path / "run", MINUTES)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.minutes": 0}, "train.minutes: input should be greater than 0 (found 0)"),
        ({"train.minutes": -3}, "train.minutes: input should be greater than 0 (found -3)"),
        (MINUTES | {"train.schedule.T_max": 9}, "set schedule.kind to cosine"),
        (MINUTES | {"train.schedule.kind": "exponential"}, "set schedule.kind to cosine"),
        (MINUTES | {"train.schedule.cycle_steps": [10, 30]}, "schedule.cycle_steps to"),
        (MINUTES | {"train.schedule.kind": "step", "train.schedule.lr_epochs": [3]}, "set schedule.kind to cosine"),
    ],
)
def test_invalid_settings_are_rejected(changes: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        recipes.load("demo", changes)
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 200
