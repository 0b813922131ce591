"""Between the epochs of a training: loaders work on, no processes start for evaluations, and nothing is drawn."""

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
from boxwright.metrics import sheet
from small_run import SMALL, lines, run

EPOCHS = 3
EVALUATED = SMALL | {"train.epochs": EPOCHS, "train.evaluate_every": 1}


Seen = tuple[set[int | None], int, int, int]
Processes = set[multiprocessing.process.BaseProcess]


@pytest.fixture
def earlier() -> Processes:
    """Processes of earlier tests, which end when garbage is collected."""
    return set(multiprocessing.active_children())


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch, earlier: Processes) -> list[Seen]:
    """Of each evaluation: processes around it, how many started and panels drawn in it, batches asked for before it."""
    found: list[Seen] = []
    asked, started, drawn = [0], [0], [0]
    order, evaluate, fork = loader._BatchSampler.__iter__, train.evaluate_dataset, os.fork
    panel = sheet.truth_and_prediction

    def counted_order(sampler: Any) -> Iterator[BatchSpec]:
        for spec in order(sampler):
            asked[0] += 1
            yield spec

    def pids() -> set[int | None]:
        return {child.pid for child in set(multiprocessing.active_children()) - earlier}

    def watched(*args: Any, **words: Any) -> Any:
        before, started[0], drawn[0] = pids(), 0, 0
        ahead = asked[0]
        result = evaluate(*args, **words)
        after = pids()
        found.append((before | after, started[0], drawn[0], ahead))
        return result

    def counted_fork() -> int:
        started[0] += 1
        return fork()

    def counted_panel(*args: Any) -> Any:
        drawn[0] += 1
        return panel(*args)

    monkeypatch.setattr(loader._BatchSampler, "__iter__", counted_order)
    monkeypatch.setattr(train, "evaluate_dataset", watched)
    monkeypatch.setattr(os, "fork", counted_fork)
    monkeypatch.setattr(sheet, "truth_and_prediction", counted_panel)
    return found


@pytest.mark.slow
def test_loader_workers_stay_alive_during_evaluations(
    tiny_coco: Path, tmp_path: Path, evaluations: list[Seen], earlier: Processes
) -> None:
    """6 steps per epoch; PyTorch prefetches two batches in each of two processes, also beyond the end of the epoch."""
    run(tiny_coco, tmp_path / "two", EVALUATED | {"data.workers": 2})
    processes, started, drawn, asked = zip(*evaluations, strict=True)
    assert len(processes[0]) == 2
    assert processes == (processes[0],) * EPOCHS + (set(),), "they end before the evaluation of the best network"
    assert started == (0,) * (EPOCHS + 1)
    assert drawn == (0,) * EPOCHS + (4,), "4 images are drawn, once"
    assert asked == (6 + 4, 12 + 4, 18, 18), "the next epoch is asked for before the evaluation"
    assert set(multiprocessing.active_children()) <= earlier

    run(tiny_coco, tmp_path / "none", EVALUATED)
    assert lines(tmp_path / "two") == lines(tmp_path / "none")


@pytest.mark.slow
def test_loader_workers_end_with_a_failed_training(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: Processes
) -> None:
    alive: Processes = set()

    def fail(*args: Any, **words: Any) -> None:
        alive.update(set(multiprocessing.active_children()) - earlier)
        raise InputError("an image cannot be read")

    monkeypatch.setattr(train, "evaluate_dataset", fail)
    with pytest.raises(InputError, match="cannot be read"):
        run(tiny_coco, tmp_path / "run", EVALUATED | {"data.workers": 2})
    assert len(alive) == 2
    assert not any(child.is_alive() for child in alive)
