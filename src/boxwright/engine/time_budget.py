"""`train.minutes`: the number of epochs that fit into a time, chosen before the first step from timed steps.

The number is written into the run's recipe, so schedule, weights and resume do not depend on the clock afterwards.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from boxwright import recipe as recipes
from boxwright.data.dataset import evenly_spaced
from boxwright.engine.job import Job, with_epochs
from boxwright.engine.processes import on_main
from boxwright.engine.schedule import warmup_steps
from boxwright.engine.step import optimizer_step, prepare_batch, warm_up
from boxwright.errors import InputError
from boxwright.recipe import Recipe, TrainConfig
from boxwright.types import AnyBatch

logger = logging.getLogger(__name__)

PLANNED_FRACTION = 0.95  # share of the time that is planned; the rest is for checkpoints, plots and slower steps
UNTIMED_STEPS, TIMED_STEPS = 2, 20  # in the untimed ones loader processes start and kernels are selected
MAX_TIMING_FRACTION = 0.03  # share of the time that timed steps may take
TIMED_IMAGES = 64  # images per process in the timed evaluation, evenly spaced over the split

Evaluate = Callable[[Job], object]


def resolve(recipe: Recipe, job: Job, stored: Recipe | None, started: float, evaluate: Evaluate) -> tuple[Recipe, Job]:
    """Recipe and job with the number of epochs for `train.minutes`, if it is set.

    Args:
        recipe: The recipe of the run.
        job: The job before its first step, with its initial weights.
        stored: The recipe of the run to resume, whose number is reused; None for a new run.
        started: Start of the training, in seconds of `time.perf_counter`.
        evaluate: Evaluates a job's network on its validation images.

    Raises:
        InputError: Not even one epoch fits.
    """
    minutes, config = recipe.train.minutes, job.recipe.train
    if minutes is None:
        return recipe, job
    if stored is not None:
        epochs = stored.train.epoch_count
    else:
        step, evaluation = measure(job, minutes, evaluate)
        own = step * job.steps_per_epoch, evaluation, time.perf_counter() - started
        epoch, evaluation, passed = on_main(lambda: own, job.accelerator)
        epochs = fitting_epochs(config, minutes * 60 * PLANNED_FRACTION - passed, epoch, evaluation)
        if not epochs:
            needed = math.ceil((passed + epoch + 2 * evaluation) / 60 / PLANNED_FRACTION)
            raise InputError(
                f"train.minutes: found {minutes:g}, one epoch with its evaluation needs about {needed}; raise it, or "
                "train a smaller network or on fewer images"
            )
        if job.accelerator.is_main_process:
            logger.info(
                "train.minutes: %d epochs of %d steps fit (%.3g s per step, %.3g s per evaluation)",
                epochs, job.steps_per_epoch, epoch / job.steps_per_epoch, evaluation,
            )  # fmt: skip
            warmup, steps = warmup_steps(config.schedule, job.steps_per_epoch), epochs * job.steps_per_epoch
            if warmup > steps / 2:
                logger.warning("train.schedule: the warm-up takes %d of the %d steps; lower it", warmup, steps)
    return recipe.with_overrides({"train.epochs": epochs}), with_epochs(job, epochs)


def fitting_epochs(config: TrainConfig, seconds: float, epoch: float, evaluation: float) -> int:
    """The largest number of epochs that fit into `seconds`, with their evaluations and that of the best network.

    epoch, evaluation: duration of each in seconds.
    """
    total, epochs = evaluation, 0
    while epochs < recipes.MAX_EPOCHS:
        due = config.evaluation_due(epochs)
        total += epoch + evaluation * due
        if total + evaluation * (not due) > seconds:  # the last epoch is always evaluated
            break
        epochs += 1
    return epochs


def measure(job: Job, minutes: float, evaluate: Evaluate) -> tuple[float, float]:
    """Duration in seconds of a step, including the wait for its images, and of an evaluation. The job is unchanged."""
    with unchanged(job):
        batches: Iterator[AnyBatch] = job.loader.epochs(0, recipes.MAX_EPOCHS, steps=job.batches_per_epoch)
        if job.compiled:
            batches = warm_up(job, batches)
        _timed_steps(job, batches, UNTIMED_STEPS)
        seconds = _timed_steps(job, batches, 1)
        affordable = on_main(lambda: int(MAX_TIMING_FRACTION * minutes * 60 / seconds), job.accelerator)
        count = max(1, min(TIMED_STEPS, affordable))
        step = _timed_steps(job, batches, count) / count
        evaluation = 0.0
        if job.validation is not None:
            images, processes = len(job.validation), job.accelerator.num_processes
            subsets = [job.validation.subset(evenly_spaced(images, processes * each)) for each in (1, TIMED_IMAGES)]
            evaluate(replace(job, validation=subsets[0]))  # the first one loads libraries
            start = time.perf_counter()
            evaluate(replace(job, validation=subsets[1]))
            evaluation = (time.perf_counter() - start) * images / len(subsets[1])
    return step, evaluation


def _timed_steps(job: Job, batches: Iterator[AnyBatch], count: int) -> float:
    """Duration of `count` steps in seconds. The learning rate is still 0."""
    config, accelerator, start = job.recipe.train, job.accelerator, time.perf_counter()
    for number in range(count * config.accumulate):
        batch = prepare_batch(job.task, next(batches), job.recipe, accelerator, 0, number)
        with accelerator.accumulate(job.model):
            optimizer_step(job.model(batch), job.model, job.optimizer, config, accelerator)
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


@contextmanager
def unchanged(job: Job) -> Iterator[None]:
    """Undo the effects of steps in this block on weights, statistics and optimizer, which had no step before."""
    tensors: list[Any] = [*job.network.parameters(), *job.network.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    scaler = job.accelerator.scaler
    scale = None if scaler is None else scaler.state_dict()
    try:
        yield
    finally:
        job.optimizer.zero_grad()
        job.optimizer.state.clear()
        if scaler is not None:
            scaler.load_state_dict(scale)
        with torch.no_grad():
            for tensor, values in zip(tensors, before, strict=True):
                tensor.copy_(values)
