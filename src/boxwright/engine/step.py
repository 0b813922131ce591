"""Parts of a training step, for training and for trial steps."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from boxwright import tasks
from boxwright.datatools.report import pluralize
from boxwright.engine import optim
from boxwright.engine.job import Job
from boxwright.recipe import Recipe, TrainConfig
from boxwright.types import AnyBatch

logger = logging.getLogger(__name__)


def prepare_batch(
    task: tasks.AnyTask, loaded: AnyBatch, recipe: Recipe, accelerator: Accelerator, epoch: int, number: int
) -> AnyBatch:
    """Move a loaded batch to the device and augment it. number: index of the batch in this process."""
    batch: AnyBatch = task.augment(loaded.to(accelerator.device), recipe, epoch, number, accelerator.process_index)
    if recipe.train.channels_last:
        batch = replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
    return batch


def per_input_size(recipe: Recipe) -> list[Recipe]:
    """The recipe once for each input size of its training, with that size only."""
    sizes = recipe.train.augment.sizes
    return [recipe.with_overrides({"train.augment.sizes": [size]}) for size in sizes] or [recipe]


def warm_up(job: Job, batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """Compile all graphs of a step, once for each input size, without changing weights and statistics.

    Returns the same batches: the first one is used here, and yielded again.
    """
    start, first = time.perf_counter(), next(batches)
    before = [buffer.clone() for buffer in job.network.buffers()]
    sizes = per_input_size(job.recipe)
    optim.training_mode(job.network, job.recipe.train)
    for recipe in sizes:
        terms = job.model(prepare_batch(job.task, first, recipe, job.accelerator, 0, 0))
        job.accelerator.backward(torch.stack(list(terms.values())).sum())
    job.optimizer.zero_grad()
    with torch.no_grad():
        for buffer, values in zip(job.network.buffers(), before, strict=True):
            buffer.copy_(values)
    if job.accelerator.is_main_process:
        logger.info("compiled for %s in %.0f s", pluralize(len(sizes), "input size[s]"), time.perf_counter() - start)
    return chain([first], batches)


def optimizer_step(
    terms: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    accelerator: Accelerator,
) -> None:
    """Backward pass, and an optimizer step after `train.accumulate` batches; accelerate divides the loss by them."""
    accelerator.backward(torch.stack(list(terms.values())).sum() * config.optimizer.loss_scale)
    if accelerator.sync_gradients:
        optim.unscale(model.parameters(), config.optimizer)
        if config.optimizer.clip:
            accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip)
    optimizer.step()
    optimizer.zero_grad()
