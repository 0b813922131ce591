"""Between the epochs of a training: loaders work on, no processes start for evaluations, pictures are drawn at the end."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxwright.batches import loader
from boxwright.batches.loader import BatchSpec
from boxwright.engine import train
from boxwright.errors import InputError
from boxwright.metrics import plots
from small_run import SMALL, lines, run

EPOCHS = 3
EVALUATED = SMALL | {"train.epochs": EPOCHS, "train.evaluate_every": 1}


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[int], int, int]]:
    """Of each evaluation: the processes around it, how many started, and the panels drawn in it."""
    found, started, drawn = [], [0], [0]
    evaluate, fork, panel = train.evaluate_dataset, os.fork, plots.panel

    def watched(*args: Any, **words: Any) -> Any:
        before, started[0], drawn[0] = {child.pid for child in multiprocessing.active_children()}, 0, 0
        result = evaluate(*args, **words)
        after = {child.pid for child in multiprocessing.active_children()}
        found.append((before | after, started[0], drawn[0]))
        return result

    def counted_fork() -> int:
        started[0] += 1
        return fork()

    def counted_panel(*args: Any) -> Any:
        drawn[0] += 1
        return panel(*args)

    monkeypatch.setattr(train, "evaluate_dataset", watched)
    monkeypatch.setattr(os, "fork", counted_fork)
    monkeypatch.setattr(plots, "panel", counted_panel)
    return found


def test_the_loaders_processes_live_through_evaluations(
    tiny_coco: Path, tmp_path: Path, evaluations: list[tuple[set[int], int, int]]
) -> None:
    run(tiny_coco, tmp_path / "two", EVALUATED | {"data.workers": 2})
    processes, started, drawn = zip(*evaluations, strict=True)
    assert len(processes[0]) == 2
    assert processes == (processes[0],) * EPOCHS + (set(),), "they end before the evaluation of the best network"
    assert started == (0,) * (EPOCHS + 1)
    assert drawn == (0,) * EPOCHS + (4,), "4 images are drawn, once"
    assert not multiprocessing.active_children()

    run(tiny_coco, tmp_path / "none", EVALUATED)
    assert lines(tmp_path / "two") == lines(tmp_path / "none")


def test_the_next_epoch_is_asked_for_before_an_evaluation(tiny_coco: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Of 6 steps an epoch; PyTorch lets each of the two processes be two batches ahead."""
    order, evaluate = loader._BatchSampler.__iter__, train.evaluate_dataset
    asked: list[int] = []
    at_evaluations: list[int] = []

    def watched(sampler: Any) -> Iterator[BatchSpec]:
        for spec in order(sampler):
            asked.append(spec.step)
            yield spec

    def counted(*args: Any, **words: Any) -> Any:
        at_evaluations.append(len(asked))
        return evaluate(*args, **words)

    monkeypatch.setattr(loader._BatchSampler, "__iter__", watched)
    monkeypatch.setattr(train, "evaluate_dataset", counted)
    run(tiny_coco, tmp_path / "run", EVALUATED | {"data.workers": 2})
    assert at_evaluations == [6 + 4, 12 + 4, 18, 18]
    assert asked == list(range(18))


def test_they_end_with_a_training_that_fails(tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []

    def fail(*args: Any, **words: Any) -> None:
        alive.extend(multiprocessing.active_children())
        raise InputError("an image cannot be read")

    monkeypatch.setattr(train, "evaluate_dataset", fail)
    with pytest.raises(InputError, match="cannot be read"):
        run(tiny_coco, tmp_path / "run", EVALUATED | {"data.workers": 2})
    assert len(alive) == 2
    assert not any(child.is_alive() for child in alive)
