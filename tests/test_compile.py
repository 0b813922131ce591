"""Compiled training: one graph, the same numbers as without, and what happens where there is no compiler.

The graphs run in PyTorch's own operators here: generating code for a network takes a CPU a minute. test_cuda.py does
that where there is a GPU.
"""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright import models
from boxwright.engine import compiling, job, train
from boxwright.engine.compiling import Loss, compiled_augmentation, compiled_loss, compiler_works
from boxwright.types import Batch, ClassBatch
from small_run import ROUNDING, SMALL, furthest, lines
from test_models import CASES, CLASSIFIERS, batch, example_images

STEPS = 20
COLUMNS = ("boxes", "labels", "ignore")
EVERY_MODEL = list({name: (name, changes) for name, changes in [*CASES, *CLASSIFIERS]}.values())


class Graphs(list[Any]):
    """A backend that keeps the graphs and runs them as they are."""

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        self.append(graph)
        return graph.forward


def after_steps(network: nn.Module, loss: Loss, given: Batch | ClassBatch) -> tuple[float, Tensor]:
    """The last loss, and all weights."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(STEPS):
        total = torch.stack(list(loss(given).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return float(total.detach()), torch.cat([each.detach().flatten() for each in network.parameters()])


@pytest.mark.slow
@pytest.mark.usefixtures("short_networks")
@pytest.mark.parametrize(("name", "changes"), EVERY_MODEL)
def test_compiled_steps_are_one_graph_and_match_eager(name: str, changes: dict[str, Any]) -> None:
    torch.manual_seed(7)
    module = models.module(name)
    eager = module.build(module.Config.model_validate({"name": name, "classes": 3} | changes)).train()
    network, graphs = copy.deepcopy(eager), Graphs()
    before = torch.cat([each.detach().flatten() for each in network.parameters()])
    given = batch(empty=False) if (name, changes) in CASES else example_images(blended=True)
    torch._dynamo.reset()
    loss, weights = after_steps(network, compiled_loss(network, graphs), given)
    wanted, eager_weights = after_steps(eager, eager.loss, given)
    assert len(graphs) == 1
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert float((weights - eager_weights).norm()) < 1e-3 * float((eager_weights - before).norm())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Trainings keep their graphs here."""
    found = Graphs()
    torch._dynamo.reset()
    monkeypatch.setattr(job, "compiled_loss", partial(compiled_loss, backend=found))
    monkeypatch.setattr(job, "compiler_works", lambda device: True)
    monkeypatch.setattr(train, "compiled_augmentation", partial(compiled_augmentation, backend="eager"))
    return found


@pytest.mark.slow
def test_compiled_training_equals_eager(tiny_coco: Any, tmp_path: Any, graphs: Graphs, log: list[str]) -> None:
    """With three sizes, each compiled before the first step, which leaves no trace in batch norm's statistics."""
    changes = {"train.augment.sizes": [[96, 96], [64, 64], [128, 128]], "train.augment.mosaic": 0.5}
    folders = []
    for compile_ in (False, True):
        overrides = SMALL | changes | {"train.compile": compile_}
        folders.append(train.train("demo", tiny_coco, tmp_path / str(compile_), overrides=overrides))
    assert len(graphs) == 3
    assert any(line.startswith("compiled for 3 input sizes in") for line in log)
    difference, where = furthest(*folders)
    assert difference < ROUNDING, where
    eager, compiled = map(lines, folders)
    assert [line["step"] for line in compiled] == [line["step"] for line in eager]


@pytest.mark.slow
def test_resumed_compiled_training_equals_uninterrupted(tiny_coco: Any, tmp_path: Any, graphs: Graphs) -> None:
    overrides = SMALL | {"train.compile": True, "train.save_every": 1}
    whole = train.train("demo", tiny_coco, tmp_path / "whole", overrides=overrides)
    real, steps = train.optimizer_step, []

    def interrupted(*args: Any) -> None:
        steps.append(len(steps))
        if len(steps) == 5:
            raise KeyboardInterrupt
        real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "optimizer_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.train("demo", tiny_coco, tmp_path / "cut", overrides=overrides)
    resumed = train.train("demo", tiny_coco, tmp_path / "cut", resume=True, overrides=overrides)
    assert furthest(whole, resumed)[0] == 0
    assert lines(whole) == lines(resumed)


def test_missing_compiler_is_logged_in_one_line(monkeypatch: pytest.MonkeyPatch, log: list[str], tmp_path: Any) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled before
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert not compiler_works(torch.device("cpu"))
    (line,) = log
    assert line.startswith("train.compile: no compiler works for cpu, so nothing is compiled: ")
    assert len(line) <= 200
    assert "\n" not in line


def test_boxes_are_padded_to_powers_of_two() -> None:
    given = batch(empty=False)
    padded = compiling.static(given)
    assert padded.labels.shape == (2, 32)
    assert padded.valid.sum() == given.valid.sum()
    many = compiling.static(replace(given, **{name: getattr(given, name).repeat_interleave(5, 1) for name in COLUMNS}))
    assert many.labels.shape == (2, 64)
    assert many.valid.sum() == 5 * given.valid.sum()
    assert padded.frames == ()
