"""The objects of a training run: networks, optimizer, loader and schedule."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from boxwright import models, tasks
from boxwright import weights as weight_files
from boxwright.batches.class_loader import ClassLoader
from boxwright.batches.loader import Loader
from boxwright.engine import optim
from boxwright.engine.compiling import compiled_loss, compiler_works
from boxwright.engine.ema import EMA
from boxwright.engine.schedule import Schedule, learning_rates
from boxwright.errors import InputError
from boxwright.nn.network import Network
from boxwright.recipe import Recipe
from boxwright.tasks.base import class_weights
from boxwright.types import AnyBatch

logger = logging.getLogger(__name__)

ONE_VALUE = "Expected more than 1 value per channel when training"  # the start of PyTorch's message


class WithLoss(nn.Module):
    """A network whose forward is its loss, since wrappers such as DDP call only forward; not part of checkpoints."""

    def __init__(self, network: Network, compiled: bool = False) -> None:
        super().__init__()
        self.network = network
        self._loss = compiled_loss(network) if compiled else network.loss

    def forward(self, batch: AnyBatch) -> dict[str, Tensor]:
        try:
            return self._loss(batch)
        except ValueError as error:
            if not str(error).startswith(ONE_VALUE):
                raise
            height, width = batch.images.shape[-2:]
            raise InputError(
                f"train.batch: one image of {width} x {height} px gives a map of 1 x 1, of which batch norm has no "
                "statistics; raise train.batch, data.canvas.size or train.augment.sizes"
            ) from error


@dataclass(frozen=True)
class Job:
    """A training run.

    Attributes:
        recipe: The recipe, with `train` divided among the processes.
        task: The task of the model.
        validation: The validation data set, of the task's type; None if there is none.
        accelerator: The accelerator of the training.
        network: The bare network.
        model: The network with its loss, wrapped by accelerate.
        optimizer: The optimizer, wrapped by accelerate.
        ema: The EMA of the network; None without one.
        loader: Training batches.
        schedule: Learning rates and momentum by step.
        steps_per_epoch: Optimizer steps per epoch.
        compiled: Whether the loss is compiled.
    """

    recipe: Recipe
    task: tasks.AnyTask
    validation: Any
    accelerator: Accelerator
    network: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    loader: Loader | ClassLoader
    schedule: Schedule
    steps_per_epoch: int
    compiled: bool

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch in this process."""
        return self.steps_per_epoch * self.recipe.train.accumulate

    @property
    def eval_network(self) -> nn.Module:
        """The network to evaluate: the EMA if there is one."""
        return self.ema.network if self.ema else self.network


def build_job(recipe: Recipe, training: Any, validation: Any, network: Network, accelerator: Accelerator) -> Job:
    """Build the job and move it to its device. Raises InputError when an epoch has too few images for one step."""
    config = recipe.train.divided(accelerator.num_processes)
    accelerator.gradient_accumulation_steps = config.accumulate
    recipe = recipe.model_copy(update={"train": config})
    task = tasks.of(recipe)
    class_weights(recipe)  # an unknown class is an error before the first batch
    loader = task.loader(training, recipe, accelerator.process_index, accelerator.num_processes)
    if config.repeat_threshold and accelerator.is_main_process:
        logger.info("an epoch visits %d images (train.repeat_threshold)", loader.images_per_epoch)
    steps_per_epoch = loader.steps_per_epoch // config.accumulate  # leftover batches are dropped
    if not steps_per_epoch:
        raise InputError(
            f"train.accumulate: a step takes {config.accumulate} batches, an epoch has only {loader.steps_per_epoch}; "
            "lower it or train.batch"
        )
    config = config.in_epochs(steps_per_epoch)
    if recipe.train.epochs == "auto" and not recipe.train.minutes and accelerator.is_main_process:
        logger.info("train.epochs: %d of %d steps", config.epoch_count, steps_per_epoch)
    recipe = recipe.model_copy(update={"train": config})
    schedule = learning_rates(config.schedule, steps_per_epoch, config.epoch_count, config.optimizer.momentum)
    compiled = config.compile and compiler_works(accelerator.device)
    network = network.to(accelerator.device)
    model, optimizer = accelerator.prepare(WithLoss(network, compiled), optim.build(network, config))
    ema = EMA(network, config.ema) if config.ema.decay else None
    return Job(
        recipe,
        task,
        validation,
        accelerator,
        network,
        model,
        optimizer,
        ema,
        loader,
        schedule,
        steps_per_epoch,
        compiled,
    )


def with_epochs(job: Job, epochs: int) -> Job:
    """The job with another number of epochs, before its first step."""
    config = job.recipe.train.model_copy(update={"epochs": epochs})
    schedule = learning_rates(config.schedule, job.steps_per_epoch, epochs, config.optimizer.momentum)
    return replace(job, recipe=job.recipe.model_copy(update={"train": config}), schedule=schedule)


def build_network(recipe: Recipe) -> Network:
    """The network with random weights from the seed. Raises InputError for one that cannot be trained."""
    torch.manual_seed(recipe.train.seed)
    network = models.build(recipe.model)
    network.check_trainable()
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def initial_network(recipe: Recipe, file: str | Path | None, transfer: bool, accelerator: Accelerator) -> Network:
    """The network at the start of a run, with the weights of `file` if it is given.

    Raises InputError for frozen layers without weights in `file`: they would stay random.
    """
    network = build_network(recipe)
    fresh = tuple(name for name, _ in network.named_parameters())
    if file is not None:
        report = weight_files.load(network, file, recipe, transfer=transfer)
        if accelerator.is_main_process:
            logger.info("%s", report)
        fresh = report.fresh
        stored = weight_files.stored_recipe(file)
        theirs, ours = stored.data.names if stored else (), recipe.data.names
        if theirs != ours and len(theirs) == len(ours) and accelerator.is_main_process:
            used = "there are as many here, so its last layers are used"
            if set(theirs) == set(ours):
                used = "they have another order here, so that its last layers start with those of other classes"
            logger.info("%s: its classes are %s; %s", file, ", ".join(theirs), used)
    if frozen := [prefix for prefix in recipe.train.freeze if any(optim.has_prefix(name, prefix) for name in fresh)]:
        # batch norm's initial statistics are not those of the data either
        frozen_norms = [name for name in ("freeze_norm", "freeze_statistics") if getattr(recipe.train, name)]
        free = " ".join(["--set train.freeze=[]", *(f"--set train.{name}=false" for name in frozen_norms)])
        raise InputError(
            f"train.freeze: {', '.join(frozen)} would keep random weights, since no file has them; give --weights "
            f"with trained layers, or {free}"
        )
    return network
