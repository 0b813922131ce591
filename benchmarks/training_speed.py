"""Speed of one training, in parts: the loop with its loader, the loader alone, the step alone, and memory."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench_faster_rcnn import made, seconds, torchvisions
from boxwright import tasks
from boxwright.datatools.clean import Cleaning
from boxwright.engine import job as jobs
from boxwright.engine import optim
from boxwright.engine.checkpointing import TrainState
from boxwright.engine.datasets import open_checked
from boxwright.engine.log import TrainLogger
from boxwright.engine.processes import accelerator_session
from boxwright.engine.step import optimizer_step, prepare_batch
from boxwright.engine.trackers import Trackers
from boxwright.engine.train import train_epoch
from boxwright.metrics import run_log
from boxwright.recipe import Recipe
from boxwright.types import AnyBatch


def measure(recipe: Recipe, spent: float, loader: float | None = None) -> dict[str, float]:
    """Train on `recipe.data.root` from random weights.

    Args:
        recipe: Recipe with a number for `train.batch` and enough epochs.
        spent: Approximate seconds for each part, after warm-up.
        loader: Images a second of the loader alone, if they are known.

    Returns:
        `training` and `loader`, images a second; `waiting`, the share of the training's time; `step`, images a second
        of a step on a batch that stays on the device, `ms`, its milliseconds, and `first`, the seconds of the first
        three; on CUDA `memory`, GiB, the most that tensors took at once.

    Raises:
        Whatever a training raises.
    """
    with ExitStack() as stack:
        accelerator = stack.enter_context(accelerator_session(recipe.train))
        run, task = Path(stack.enter_context(tempfile.TemporaryDirectory())), tasks.of(recipe)
        training: Any = open_checked(task, recipe, Cleaning(False, False), accelerator)[0]
        job = jobs.build_job(recipe, training, None, network_of(recipe), accelerator)
        optim.training_mode(job.network, recipe.train)
        loaded: Any = job.loader.epochs(0, recipe.train.epochs)
        batches = stack.enter_context(closing(loaded))
        first = next(batches)
        loader = loader or loader_alone(batches, recipe, spent)
        fixed = prepare_batch(task, first, recipe, accelerator, 0, 0)
        row, count = steps_alone(partial(engine_step, job, fixed), recipe, spent, accelerator.device)
        trackers = stack.enter_context(closing(Trackers(run, recipe, 0, accelerator)))
        log = stack.enter_context(closing(TrainLogger(run, accelerator, recipe.train, 0, trackers)))
        for steps in (2, count):  # the workers load some batches ahead meanwhile
            part = replace(job, steps_per_epoch=steps)
            train_epoch(part, batches, 0, TrainState(), log, None)  # type: ignore[arg-type]
        *_, (_, line) = run_log.read(run / run_log.FILE)
        return row | {"training": line["images_per_second"], "waiting": line["data_wait"], "loader": loader}


def measure_torchvision(recipe: Recipe, spent: float) -> dict[str, float]:
    """The step of torchvision's Faster R-CNN with the recipe's batch, canvas and precision, as in `measure`."""
    with accelerator_session(recipe.train) as accelerator:
        height, width = recipe.data.canvas.size
        images, batch = made(int(recipe.train.batch), height, width)
        train = torchvisions(images.to(accelerator.device), batch.to(accelerator.device))[0].train

        def step() -> None:
            with accelerator.autocast():
                train()

        return steps_alone(step, recipe, spent, accelerator.device)[0]


def network_of(recipe: Recipe) -> Any:
    """With random weights that are as large as trained ones where batch norm is frozen."""
    network = jobs.build_network(recipe)
    if recipe.train.freeze_statistics or recipe.train.freeze_norm:
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name.endswith("bn3.weight"):
                    weight.fill_(0.2)  # else every block of a ResNet doubles the numbers
    return network


def engine_step(job: jobs.Job, batch: AnyBatch) -> None:
    with job.accelerator.accumulate(job.model):
        optimizer_step(job.model(batch), job.model, job.optimizer, job.recipe.train, job.accelerator)


def steps_alone(
    step: Callable[[], None], recipe: Recipe, spent: float, device: torch.device
) -> tuple[dict[str, float], int]:
    """Milliseconds and memory of a step after warm-up, and the number of steps in the given time."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = seconds(device)
    for _ in range(3):
        step()
    warm = seconds(device)
    step()
    count = max(2, min(200, round(spent / (seconds(device) - warm))))
    start = seconds(device)
    for _ in range(count):
        step()
    each = (seconds(device) - start) / count
    row = {"ms": each * 1000, "step": int(recipe.train.batch) / each, "first": warm - begin}
    if device.type == "cuda":
        row["memory"] = torch.cuda.max_memory_allocated() / 2**30
    return row, count


def loader_alone(batches: Iterator[AnyBatch], recipe: Recipe, spent: float) -> float:
    """Images a second, once each worker has delivered a batch."""
    for _ in range(recipe.data.workers):
        next(batches)
    start, images = time.perf_counter(), 0
    while not images or time.perf_counter() - start < spent:
        images += len(next(batches).images)
    return images / (time.perf_counter() - start)
