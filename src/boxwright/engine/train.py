"""Training a detector or a classifier, from a recipe and a data set to a run folder.

A step is one step of the optimiser; it takes `train.accumulate` batches. Everything random in it is a function of
(seed, step, rank), so a run that is killed and resumed on a CPU ends with the same bits as one that was not; on a GPU
it sees the same pictures and draws, and is the same up to the rounding of the GPU's kernels.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from boxwright import progress
from boxwright import recipe as recipes
from boxwright import weights as weight_files
from boxwright.engine import optim, run_folder
from boxwright.engine import task as tasks
from boxwright.engine.checkpointing import Keeper, State
from boxwright.engine.job import Job, assemble, blank_network, first_network
from boxwright.engine.log import Journal
from boxwright.engine.processes import on_main, together
from boxwright.errors import InputError
from boxwright.evaluation.coco import Metrics
from boxwright.evaluation.topk import TopK
from boxwright.files import check_outputs
from boxwright.recipe import Recipe, TrainConfig
from boxwright.types import Batch, ClassBatch

logger = logging.getLogger(__name__)
B = TypeVar("B", Batch, ClassBatch)


def train(
    recipe: Recipe | str,
    data: str | Path,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    transfer: bool = False,
    resume: bool = False,
    skip_bad: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Path:
    """Train a network. Under torchrun each process calls this.

    Args:
        recipe: A shipped name, the path of a YAML file, or a Recipe.
        data: The root of a data set; its splits train and val are used.
        out: The run folder, which is made: `last/` and `best/`, the log, metrics and pictures.
        weights: A file or run folder to start from; None for random weights.
        transfer: Load all of `weights` that fits, and leave the rest as it is.
        resume: Continue the run in `out`.
        skip_bad: Leave out faulty labels and pictures, and log which.
        overrides: Changes to the recipe by dotted key.

    Returns:
        The run folder.

    Raises:
        InputError: For a recipe, data set, file or folder that cannot be used, for a run that another process trains,
            for a loss that is not finite, and for a loader process that was killed.

    Example:
        >>> bw.train("yolov3_tiny_coco_416_darknet", "data/mine", "runs/mine", overrides={"train.epochs": 3})
    """
    if resume and (weights is not None or transfer):
        raise InputError("--resume goes on with the run's own weights; leave --weights and --transfer out")
    if not str(out):
        raise InputError("--out: found an empty name, needed a folder")
    if isinstance(recipe, str) and not resume:
        check_outputs(Path(out), ["recipe.yaml"], [recipe, os.path.realpath(recipe)])
    recipe = recipes.load(recipe, overrides) if isinstance(recipe, str) else recipe.with_overrides(overrides)
    recipe = recipe.with_overrides({"data.root": str(data)})
    run, config = Path(out), recipe.train
    with together(config) as accelerator, run_folder.held(run, resume, accelerator):
        task = tasks.of(recipe)
        training, validation, left_out = task.open_checked(recipe, skip_bad, accelerator)
        if training.names != recipe.data.names:
            recipe = recipe.with_names(training.names)
        network = blank_network(recipe) if resume else first_network(recipe, weights, transfer, accelerator)
        job = assemble(recipe, training, validation, network, accelerator)
        run_folder.enter(run, recipe, resume, left_out, accelerator)
        keeper = Keeper(run, recipe, network, job.average, job.optimizer, accelerator)
        state = keeper.restore(_fresh(task, training, validation, recipe, accelerator))
        accelerator.wait_for_everyone()  # all have read `last` before the first process replaces it
        if not state.step:
            keeper.save("last", state)  # a run killed before its first checkpoint resumes from the given weights
        with closing(Journal(run, accelerator, config, state.step)) as journal:
            for epoch in range(state.step // job.steps_per_epoch, config.epochs):
                _learn(job, epoch, state, journal, keeper)
                _assess(job, epoch, state, journal, keeper)
                keeper.epoch(epoch + 1, state)  # after the evaluation: a run that goes on from here has had it
                accelerator.wait_for_everyone()
        weight_files.load(job.scored, run / "best", recipe)
        _evaluate(job, run)  # metrics.json and the pictures speak of the best network
        accelerator.wait_for_everyone()
    return run


def _fresh(task: tasks.Task, training: Any, validation: Any, recipe: Recipe, accelerator: Any) -> State:
    """The state of a run that begins now."""
    data, validated = on_main(lambda: [task.fingerprint(part, recipe) for part in (training, validation)], accelerator)
    return State(0, None, data, validated, accelerator.num_processes, torch.get_num_threads())


def _learn(job: Job, epoch: int, state: State, journal: Journal, keeper: Keeper) -> None:
    """One epoch, or what is left of it."""
    config, accelerator, rates = job.recipe.train, job.accelerator, job.plan.weight_lr
    optim.training_mode(job.network, config)
    total = job.steps_per_epoch * config.accumulate
    first = state.step % job.steps_per_epoch * config.accumulate  # batches of this epoch done before
    batches = journal.timed(islice(job.loader.epoch(epoch, skip=first), total - first))
    shown = _show(batches, total, f"epoch {epoch + 1}/{config.epochs}", first, accelerator)
    for number, loaded in enumerate(shown, epoch * total + first):
        batch = job.task.prepare(loaded, job.recipe, epoch, number, accelerator)
        if config.channels_last:
            batch = replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
        optim.set_rates(job.optimizer, job.plan, state.step)
        with accelerator.accumulate(job.model):
            terms = job.model(batch)
            journal.record(state.step + 1, batch, terms)
            descend(terms, job.model, job.optimizer, config, accelerator)
        if not accelerator.sync_gradients:
            continue
        state.step += 1
        if job.average:
            job.average.update(state.step)
        journal.stepped()
        if state.step % config.log_every == 0:
            journal.write(state.step, epoch, rates[state.step - 1])
        if config.save_every and state.step % config.save_every == 0 and state.step % job.steps_per_epoch:
            journal.look()  # a loss that is not finite stops the run here, before anything is written
            keeper.save("last", state)
    journal.write(state.step, epoch, rates[state.step - 1])


def _assess(job: Job, epoch: int, state: State, journal: Journal, keeper: Keeper) -> None:
    """Evaluate where it is due and keep the best network; say how the epoch went."""
    config = job.recipe.train
    told = f"epoch {epoch + 1}/{config.epochs}: loss {journal.last:.4g}"
    regular = config.evaluate_every and epoch >= config.evaluate_from and (epoch + 1) % config.evaluate_every == 0
    if regular or epoch + 1 == config.epochs:
        metrics = _evaluate(job)
        journal.evaluated(state.step, epoch, metrics.summary)
        told += f", {metrics.headline}"
        if state.best is None or metrics.quality > state.best:
            state.best = metrics.quality
            keeper.save("best", state)
    if job.accelerator.is_main_process:
        logger.info("%s", told)


def _evaluate(job: Job, out: Path | None = None) -> Metrics | TopK:
    """The metrics of the network as the first process has it: batch-norm statistics are each process's own."""
    if job.accelerator.num_processes > 1:
        for tensor in job.scored.state_dict().values():
            distributed.broadcast(tensor, 0)
    return job.task.score(job.scored, job.recipe, job.validation, job.accelerator, out)


def descend(
    terms: Mapping[str, Tensor], model: nn.Module, optimizer: Any, config: TrainConfig, accelerator: Any
) -> None:
    """Backward, and a step of the optimiser when enough batches are together; accelerate divides by their number."""
    accelerator.backward(torch.stack(list(terms.values())).sum() * config.optimizer.loss_scale)
    if accelerator.sync_gradients:
        optim.unscale(model.parameters(), config.optimizer)
        if config.optimizer.clip:
            accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip)
    optimizer.step()
    optimizer.zero_grad()


def _show(batches: Iterable[B], total: int, what: str, start: int, accelerator: Any) -> Iterable[B]:
    return progress.track(batches, total, what, "batches", start) if accelerator.is_main_process else batches
