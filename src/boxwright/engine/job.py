"""What a training works with, put together before its first step."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxwright import models
from boxwright import weights as weight_files
from boxwright.engine import optim
from boxwright.engine import task as tasks
from boxwright.engine.ema import Average
from boxwright.engine.schedule import Plan, learning_rates
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.types import Batch, ClassBatch

logger = logging.getLogger(__name__)


class WithLoss(nn.Module):
    """A network whose forward is its loss, for wrappers that know only forward. The bare network is what is saved."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch | ClassBatch) -> dict[str, Tensor]:
        return self.network.loss(batch)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Job:
    """model: the network with its loss, wrapped by accelerate; network: the bare one."""

    recipe: Recipe
    task: tasks.Task
    validation: Any  # data set of the task
    accelerator: Any
    network: nn.Module
    model: nn.Module
    optimizer: Any
    average: Average | None
    loader: Any  # of the task
    plan: Plan
    steps_per_epoch: int  # of the optimiser

    @property
    def scored(self) -> nn.Module:
        """The network that is evaluated: the average where one is kept."""
        return self.average.network if self.average else self.network


def assemble(recipe: Recipe, training: Any, validation: Any, network: nn.Module, accelerator: Any) -> Job:
    """All of it on its device. Raises InputError when the pictures do not fill one step."""
    config = recipe.train
    task = tasks.of(recipe)
    loader = task.loader(training, recipe, accelerator)
    steps_per_epoch = loader.steps_per_epoch // config.accumulate  # batches that fill no step are left out
    if not steps_per_epoch:
        raise InputError(
            f"train.accumulate: a step takes {config.accumulate} batches, an epoch has only {loader.steps_per_epoch}; "
            "lower it or train.batch"
        )
    plan = learning_rates(config.schedule, steps_per_epoch, config.epochs, config.optimizer.momentum)
    model, optimizer = accelerator.prepare(WithLoss(network), optim.build(network, config))
    average = Average(network, config.ema) if config.ema.decay else None  # after prepare: the network has moved
    return Job(recipe, task, validation, accelerator, network, model, optimizer, average, loader, plan, steps_per_epoch)


def blank_network(recipe: Recipe) -> nn.Module:
    """The network with the random numbers of the seed."""
    torch.manual_seed(recipe.train.seed)
    network: nn.Module = models.build(recipe.model)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def first_network(recipe: Recipe, file: str | Path | None, transfer: bool, accelerator: Any) -> nn.Module:
    """The network at its start, filled from `file` where one is given.

    Raises InputError for frozen layers that nothing fills: they would stay random for good.
    """
    network = blank_network(recipe)
    fresh = tuple(name for name, _ in network.named_parameters())
    if file is not None:
        report = weight_files.load(network, file, recipe, transfer=transfer)
        if accelerator.is_main_process:
            logger.info("%s", report)
        fresh = report.fresh
        stored = weight_files.stored_recipe(file)
        theirs, ours = stored.data.names if stored else (), recipe.data.names
        if theirs != ours and len(theirs) == len(ours) and accelerator.is_main_process:
            told = (
                f"its classes are {', '.join(theirs)}; since there are as many here, the last layers start from theirs"
            )
            logger.info("%s: %s", file, told)
    if frozen := [prefix for prefix in recipe.train.freeze if any(optim.is_under(name, prefix) for name in fresh)]:
        # what batch norm starts with is no statistic of anything either
        held = [name for name in ("freeze_norm", "freeze_statistics") if getattr(recipe.train, name)]
        free = " ".join(["--set train.freeze=[]", *(f"--set train.{name}=false" for name in held)])
        raise InputError(
            f"train.freeze: {', '.join(frozen)} would stay as random as they start, no file fills them; give --weights "
            f"with trained layers, or {free}"
        )
    return network
