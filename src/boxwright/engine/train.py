"""Training a detector, from a recipe and a data set to a run folder.

A step is one step of the optimiser. Everything random in it is a function of (seed, step, rank), so a run that is
killed and resumed ends with the same bits as one that was not.
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from boxwright import models, progress, weights
from boxwright import recipe as recipes
from boxwright.data import check, open_dataset
from boxwright.data.dataset import Dataset
from boxwright.data.loader import Loader
from boxwright.data.transforms import augment, step_size
from boxwright.engine import checkpointing, optim
from boxwright.engine.checkpointing import State
from boxwright.engine.ema import Average
from boxwright.engine.log import Journal
from boxwright.engine.schedule import learning_rates
from boxwright.errors import InputError
from boxwright.evaluation import pictures
from boxwright.evaluation.run import evaluate
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.types import Batch, Detector


class WithLoss(nn.Module):
    """A detector whose forward is its loss, for wrappers that know only forward. The bare network is what is saved."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.network.loss(batch)  # type: ignore[no-any-return]


def train(
    recipe: Recipe | str,
    data: str,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    transfer: bool = False,
    resume: bool = False,
    skip_bad: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Path:
    """Train `recipe` on the data set `data` (splits train and val) and return the run folder `out`.

    weights: a file or run folder to start from; transfer: load all of it that fits. resume: go on with the run in
    `out`. skip_bad: leave out faulty labels and pictures and say which. Under torchrun each process calls this.
    Raises InputError for a recipe, data set, file or folder that cannot be used, and for a loss that is not finite.
    """
    recipe = _resolve(recipe, data, overrides)
    config = recipe.train
    accelerator = _accelerator(recipe)
    try:
        training, validation, left_out = _open(recipe, skip_bad)
        recipe = _with_classes_of(training, validation, recipe)
        run = _check_folder(Path(out), recipe, resume)
        network = _network(recipe, weights, transfer, resume)
        optimizer = optim.build(network, config)
        model, optimizer = accelerator.prepare(WithLoss(network), optimizer)
        average = Average(network, config.ema) if config.ema.decay else None

        loader = _loader(training, recipe, accelerator)
        steps = loader.steps_per_epoch // config.accumulate
        plan = learning_rates(config.schedule, steps, config.epochs, config.optimizer.momentum)
        state = State(data=_fingerprint(training), processes=accelerator.num_processes)
        if resume:
            state = _resume(run, network, average, optimizer, accelerator, state)
        if accelerator.is_main_process:
            _start_folder(run, recipe, left_out)
        accelerator.wait_for_everyone()
        journal = Journal(run, accelerator, config.log_every, state.step)
        profiler = _Profiler(run, config.profile if accelerator.is_main_process else 0, accelerator.device)

        for epoch in range(state.step // steps, config.epochs):
            optim.training_mode(network, config)
            done = state.step - epoch * steps
            batches = loader.epoch(epoch, skip=done * config.accumulate)
            shown = progress.track(range(done, steps), steps, f"epoch {epoch + 1}/{config.epochs}", "steps", done)
            for _, group in zip(shown if accelerator.is_main_process else ...)
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)
