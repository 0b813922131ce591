"""Training a detector or a classifier.

A step is an optimizer step, of `train.accumulate` batches. All random numbers are functions of (seed, step, rank), so a
run that is killed and resumed ends bit-identical on a CPU; on a GPU it uses the same images and random numbers, and is
identical up to the rounding of the GPU's kernels.
"""

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import distributed

from boxwright import interrupt, progress, tasks
from boxwright import recipe as recipes
from boxwright import weights as weight_files
from boxwright.batches.rng import step_seed
from boxwright.config import Overrides
from boxwright.data.sets import Root, stored
from boxwright.datatools.clean import Cleaning
from boxwright.datatools.report import pluralize
from boxwright.engine import auto_anchors, auto_batch, bands, optim, processes, run_folder, small_objects, time_budget
from boxwright.engine.checkpointing import Checkpointer, TrainState
from boxwright.engine.compiling import compiled_augmentation
from boxwright.engine.datasets import open_checked
from boxwright.engine.job import Job, build_job, build_network, initial_network
from boxwright.engine.log import TrainLogger
from boxwright.engine.processes import accelerator_session, on_main
from boxwright.engine.step import optimizer_step, prepare_batch, warm_up
from boxwright.engine.stopping import StopCheck, stoppable
from boxwright.engine.trackers import Trackers, check_installed
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate_dataset
from boxwright.files import check_outputs, check_outside
from boxwright.metrics import plots, run_log
from boxwright.nn.network import Network
from boxwright.predict.predictor import AnyPredictor
from boxwright.recipe import Recipe
from boxwright.tasks.base import Score
from boxwright.types import AnyBatch

logger = logging.getLogger(__name__)


def train(
    recipe: str | Path | Recipe,
    data: Root,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    transfer: bool = False,
    resume: bool | Literal["auto"] = False,
    skip_bad: bool = False,
    clip_boxes: bool = False,
    overrides: Overrides = (),
) -> Path:
    """Train a network. Under torchrun every process calls this.

    Args:
        recipe: A shipped name, the path of a YAML file, or a Recipe.
        data: The root of a data set, or a list of roots; the splits train and val are used. Without a split val, set
            `data.val_fraction`, or `train.evaluate_every` to 0, which trains without evaluation: `last/` is then the
            result.
        out: The run folder to create: `last/` and `best/`, the log, metrics and plots.
        weights: A file or run folder with initial weights; None for random weights.
        transfer: Load the tensors of `weights` whose shapes match; the rest stays random.
        resume: Continue the run in `out`; "auto": if there is one, else start it.
        skip_bad: Drop faulty labels and images, and log them; the area of a dropped label is ignored in the loss and
            in metrics.
        clip_boxes: Clip boxes that are partly outside their image, and log their number.
        overrides: Changes to the recipe by dotted key.

    Returns:
        The run folder.

    Raises:
        InputError: The recipe, the data set, a file or a folder is invalid; another process trains in `out`; a loss is
            not finite; or a loader process was killed.
        interrupt.Stopped: SIGTERM or SIGUSR1 has stopped the command line; `last/` was saved.

    Example:
        >>> bw.train("yolov3_tiny_coco_416_darknet", "data/mine", "runs/mine", overrides={"train.epochs": 3})
    """
    _check_arguments(out, weights, transfer, resume)
    if not resume:
        _check_not_read(recipe, Path(out))
    source = recipe
    recipe = recipe.with_overrides(overrides) if isinstance(recipe, Recipe) else recipes.load(recipe, overrides)
    recipe = recipe.with_overrides({"data.root": stored(data)})
    config, started = recipe.train, time.perf_counter()
    check_installed(config)
    with (
        accelerator_session(config) as accelerator,
        run_folder.local_run(out, resume, accelerator) as (run, send),
        run_folder.lock(run, resume, accelerator) as resume,
        ExitStack() as stack,
    ):
        if not resume:
            _check_not_read(source, run)
        if config.precision == "auto" and accelerator.device.type != "cpu" and accelerator.is_main_process:
            logger.info("train.precision: %s on %s", accelerator.mixed_precision, accelerator.device)
        recipe = recipe.with_overrides({"train.precision": accelerator.mixed_precision})
        task = tasks.of(recipe)
        training, validation, left_out = open_checked(task, recipe, Cleaning(skip_bad, clip_boxes), accelerator)
        for dataset in filter(None, (training, validation)):
            check_outside(run, dataset.folders())
        resumed = recipes.load(run / "recipe.yaml") if resume else None
        recipe, network = _resolve(recipe, training, weights, transfer, resumed, accelerator)
        job = build_job(recipe, training, validation, network, accelerator)
        with closing(job.loader), compiled_augmentation(job.compiled):
            recipe, job = time_budget.resolve(recipe, job, resumed, started, _evaluate)
            run_folder.prepare(run, recipe, resume, left_out, accelerator)
            checkpointer = Checkpointer(run, recipe, network, job.ema, job.optimizer, accelerator, send)
            state = checkpointer.restore(_initial_state(task, training, validation, recipe, accelerator))
            accelerator.wait_for_everyone()  # all have read `last` before the main process replaces it
            if not state.step:
                checkpointer.save("last", state)  # a run killed before its first checkpoint resumes from these weights
            trackers = stack.enter_context(closing(Trackers(run, recipe, state.step, accelerator)))
            with stoppable(checkpointer, state):
                _train_epochs(job, state, checkpointer, run, trackers)
        _evaluate_best(job, state, checkpointer, run)
        if accelerator.is_main_process:
            trackers.images(state.step, [run / name for name in task.report_files])
        accelerator.wait_for_everyone()
    return Path(out)


def _check_arguments(
    out: str | Path, weights: str | Path | None, transfer: bool, resume: bool | Literal["auto"]
) -> None:
    """Raise InputError for arguments of `train` that exclude each other."""
    if resume is True and (weights is not None or transfer):
        raise InputError("--resume continues with the run's own weights; leave --weights and --transfer out")
    if transfer and weights is None:
        raise InputError(
            "--transfer: found without --weights, whose matching tensors it loads; name a file, or leave it out"
        )
    if not str(out):
        raise InputError("--out: found an empty name, needed a folder")


def _resolve(
    recipe: Recipe,
    training: Any,
    weights: str | Path | None,
    transfer: bool,
    resumed: Recipe | None,
    accelerator: Accelerator,
) -> tuple[Recipe, Network]:
    """The recipe with all values that depend on the data and the machine, and the initial network.

    resumed: The recipe of the run to resume, whose values are reused; None for a new one.
    """
    if training.names != recipe.data.names:
        recipe = recipe.with_names(training.names)
    recipe = bands.resolve(recipe, training, resumed, accelerator)
    recipe = auto_anchors.resolve(recipe, training, resumed, accelerator)
    network = initial_network(recipe, weights, transfer, accelerator) if resumed is None else build_network(recipe)
    if accelerator.is_main_process and resumed is None:
        small_objects.warn(recipe, training, network)
    recipe = auto_batch.resolve(recipe, training, network, resumed, accelerator)
    return processes.resolve(recipe, resumed, accelerator), network


def _evaluate_best(job: Job, state: TrainState, checkpointer: Checkpointer, run: Path) -> None:
    """Write metrics and plots of the best network; without validation data only the training curves."""
    if job.validation is not None:
        with stoppable(checkpointer, state, save=False):
            weight_files.load(job.eval_network, run / "best", checkpointer.recipe)
            _evaluate(job, run)
    elif job.accelerator.is_main_process:
        logger.info("%s: not evaluated, there is no split val; last/ is the result", run)
        plots.curves(run / run_log.FILE, run / "curves.png")


def _check_not_read(recipe: str | Path | Recipe, run: Path) -> None:
    """Raise InputError if the run's recipe would overwrite the file that it comes from."""
    if not isinstance(recipe, Recipe):
        check_outputs(run, ["recipe.yaml"], [recipe, os.path.realpath(recipe)])


def _train_epochs(job: Job, state: TrainState, checkpointer: Checkpointer, run: Path, trackers: Trackers) -> None:
    """Train and evaluate from `state` to the last epoch, or until `train.patience` ends the run."""
    config, accelerator = job.recipe.train, job.accelerator
    first, done = state.epochs, state.step - state.epochs * job.steps_per_epoch
    batches: Iterator[AnyBatch] = job.loader.epochs(
        first, config.epoch_count, done * config.accumulate, job.batches_per_epoch
    )
    if job.compiled and state.step < config.epoch_count * job.steps_per_epoch and not state.out_of_patience(config):
        batches = warm_up(job, batches)
    with closing(TrainLogger(run, accelerator, config, state.step, trackers)) as log:
        for epoch in range(first, config.epoch_count):
            if state.out_of_patience(config):
                if accelerator.is_main_process:
                    without = pluralize(state.since_best, "evaluation[s]")
                    logger.info("stopped after epoch %d: %s without a better network", epoch, without)
                break
            train_epoch(job, batches, epoch, state, log, checkpointer)
            evaluate_epoch(job, epoch, state, log, checkpointer)
            state.epochs = epoch + 1
            final = epoch + 1 == config.epoch_count or state.out_of_patience(config)
            checkpointer.save_epoch(epoch + 1, state, final=final)  # after the evaluation, not repeated on resume
            accelerator.wait_for_everyone()


def _initial_state(
    task: tasks.AnyTask, training: Any, validation: Any, recipe: Recipe, accelerator: Accelerator
) -> TrainState:
    def fingerprints() -> list[str]:
        return ["" if split is None else task.fingerprint(split, recipe) for split in (training, validation)]

    train, val = on_main(fingerprints, accelerator)
    return TrainState(train_fingerprint=train, val_fingerprint=val, threads=torch.get_num_threads())


def train_epoch(
    job: Job, batches: Iterator[AnyBatch], epoch: int, state: TrainState, log: TrainLogger, checkpointer: Checkpointer
) -> None:
    """Train one epoch, or the rest of it after a resume. batches: all remaining batches of the training."""
    config, accelerator, rates = job.recipe.train, job.accelerator, job.schedule.weight_lr
    optim.training_mode(job.network, config)
    total = job.batches_per_epoch
    first = (state.step - epoch * job.steps_per_epoch) * config.accumulate  # batches of this epoch already done
    here: Iterable[AnyBatch] = log.timed(islice(batches, total - first))
    if accelerator.is_main_process:
        here = progress.track(here, total, f"epoch {epoch + 1}/{config.epoch_count}", "batches", first)
    for number, loaded in enumerate(here, epoch * total + first):
        batch = prepare_batch(job.task, loaded, job.recipe, accelerator, epoch, number)
        torch.manual_seed(step_seed(config.seed, *config.place(number, accelerator.process_index)))  # of dropout
        optim.set_rates(job.optimizer, job.schedule, state.step)
        with accelerator.accumulate(job.model):
            terms = job.model(batch)
            log.record(state.step + 1, batch, terms)
            optimizer_step(terms, job.model, job.optimizer, config, accelerator)
        if not accelerator.sync_gradients:
            continue
        state.step += 1
        if job.ema:
            job.ema.update(state.step)
        log.step()
        if state.step % config.log_every == 0:
            log.write(state.step, epoch, rates[state.step - 1])
        if config.save_every and state.step % config.save_every == 0 and state.step % job.steps_per_epoch:
            log.check_finite()  # before anything is written
            checkpointer.save("last", state)
        if log.stop:
            log.write(state.step, epoch, rates[state.step - 1])
            raise interrupt.Stopped
    log.write(state.step, epoch, rates[state.step - 1])


def evaluate_epoch(job: Job, epoch: int, state: TrainState, log: TrainLogger, checkpointer: Checkpointer) -> None:
    """Evaluate if it is due, save the best network, and log a summary of the epoch."""
    config = job.recipe.train
    summary = f"epoch {epoch + 1}/{config.epoch_count}: "
    summary += "resumed at its end" if math.isnan(log.last_loss) else f"loss {log.last_loss:.4g}"
    if job.validation is not None and (config.evaluation_due(epoch) or epoch + 1 == config.epoch_count):
        metrics = _evaluate(job)
        log.evaluated(state.step, epoch, metrics.summary)
        summary += f", {metrics.headline}"
        if state.best is None or metrics.quality > state.best:
            state.best, state.since_best = metrics.quality, 0
            checkpointer.save("best", state)
        else:
            state.since_best += 1
    if job.accelerator.is_main_process:
        logger.info("%s", summary)


def _evaluate(job: Job, out: Path | None = None) -> Score:
    """Evaluate the main process's network in all processes, whose batch-norm statistics differ."""
    if job.accelerator.num_processes > 1:
        for tensor in job.eval_network.state_dict().values():
            distributed.broadcast(tensor, 0)
    predictor = AnyPredictor(job.eval_network, job.recipe, job.accelerator.device)
    group = {"rank": job.accelerator.process_index, "world": job.accelerator.num_processes}
    check, final = StopCheck(job.accelerator), out is not None
    metrics: Score = evaluate_dataset(predictor, job.validation, out, check=check, intervals=final, **group)
    return metrics
