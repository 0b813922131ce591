"""What the engine adds to a bare training loop over the same network.

    python benchmarks/bench_train_step.py --data DIR [--recipe yolov3_tiny_coco_416_darknet] [--pairs 10]

A bare step is forward, loss, backward and SGD on one batch that never changes. An engine step is everything that
happens between two steps of `boxwright train`: loader, augmentation, checks, the same bare step, clipping, average,
log, progress. Turns of some steps of each kind alternate in one process, so that both meet the same moods of the
machine. The goal is a ratio of at most 1.10.
"""

import argparse
import contextlib
import datetime
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

import boxwright
from boxwright import models
from boxwright import recipe as recipes
from boxwright.datatools import scenes
from boxwright.engine import train as engine
from boxwright.engine.log import TrainLogger
from boxwright.formats import open_dataset
from boxwright.recipe import Recipe
from boxwright.types import Batch


class Done(Exception):  # noqa: N818 (no error)
    """All turns are taken."""


class BareLoop:
    """The network by itself."""

    def __init__(self, recipe: Recipe, batch: Batch) -> None:
        self.batch = batch
        self.network = models.build(recipe.model).train()
        if recipe.train.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9)

    def step(self) -> None:
        loss = torch.stack(list(self.network.loss(self.batch).values())).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def paired(recipe: Recipe, pairs: int, steps: int, bare: list[float], full: list[float]) -> type[TrainLogger]:
    """A logger that lets a bare loop take a turn after every `steps` steps of the engine; seconds per step are kept."""

    class Paired(TrainLogger):
        loop: BareLoop | None = None

        def record(self, step: int, batch: Batch, terms: Mapping[str, Tensor]) -> None:
            super().record(step, batch, terms)
            self.loop = self.loop or BareLoop(recipe, batch)

        def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
            inner = super().timed(batches)
            warm = False
            while True:
                begin = time.perf_counter()
                for _ in range(steps):
                    batch = next(inner, None)
                    if batch is None:
                        return
                    yield batch  # the engine takes its step and comes back for the next batch
                middle = time.perf_counter()
                for _ in range(steps):
                    assert self.loop is not None
                    self.loop.step()
                if warm:  # the first turns of an epoch start the loader and fill caches
                    full.append((middle - begin) / steps)
                    bare.append((time.perf_counter() - middle) / steps)
                warm = True
                if len(full) == pairs:
                    raise Done

    return Paired


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", help="a data set; rendered scenes where none is named")
    options.add_argument("--recipe", default="yolov3_tiny_coco_416_darknet")
    options.add_argument("--pairs", type=int, default=10, help="turns of each kind that count")
    options.add_argument("--steps", type=int, default=5, help="steps in a turn")
    options.add_argument("--set", action="append", default=[], help="changes to the recipe, key=value")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = given.data or str(scenes.write_dataset(folder / "scenes"))
        recipe = recipes.load(
            given.recipe, ["train.batch=8", *given.set, "train.epochs=1000", "train.evaluate_every=0"]
        )
        recipe = recipe.with_names(open_dataset(data, "train").names)
        bare: list[float] = []
        full: list[float] = []
        engine.TrainLogger = paired(recipe, given.pairs, given.steps, bare, full)  # type: ignore[misc]
        with contextlib.suppress(Done):
            engine.train(recipe, data, folder / "run")
    ratios = [f / b for f, b in zip(full, bare, strict=True)]
    middle = statistics.median
    print(f"{recipe.name}, {recipe.data.canvas.size}, batch {recipe.train.batch}, {data}")
    print(f"bare loop   {middle(bare) * 1000:8.1f} ms a step  ({min(bare) * 1000:.1f} to {max(bare) * 1000:.1f})")
    print(f"engine      {middle(full) * 1000:8.1f} ms a step  ({min(full) * 1000:.1f} to {max(full) * 1000:.1f})")
    print(f"ratio       {middle(ratios):8.3f}  ({min(ratios):.3f} to {max(ratios):.3f}), goal at most 1.10")
    print(
        f"{datetime.date.today()}, boxwright {boxwright.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {torch.get_num_threads()} threads, {processor()}"
    )


def processor() -> str:
    """The CPU's name."""
    file = Path("/proc/cpuinfo")
    rows = file.read_text().splitlines() if file.exists() else []
    names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
