"""Training a detector, from a recipe and a data set to a run folder.

A step is one step of the optimiser. Everything random in it is a function of (seed, step, rank), so a run that is
killed and resumed ends with the same bits as one that was not.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, distributed, nn

from boxwright import models, progress
from boxwright import recipe as recipes
from boxwright import weights as weight_files
from boxwright.data import Dataset, open_dataset
from boxwright.data.check import check, check_splits
from boxwright.data.check import skip_bad as without_bad
from boxwright.data.loader import Loader
from boxwright.data.transforms import augment, step_size
from boxwright.engine import optim
from boxwright.engine.checkpointing import Keeper, State, recover
from boxwright.engine.ema import Average
from boxwright.engine.log import Journal
from boxwright.engine.schedule import Plan, learning_rates
from boxwright.errors import InputError
from boxwright.evaluation.coco import Metrics
from boxwright.evaluation.run import evaluate
from boxwright.files import whole
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe, TrainConfig
from boxwright.types import Batch

SHOWN = 3  # faults named in a message
# What may differ when a run goes on: where things lie, how fast they are read, what is told.
FREE = ("summary", "data.root", "data.workers", "train.log_every", "train.save_every", "train.keep",
        "train.evaluate_every", "train.evaluate_from", "train.profile", "evaluate", "predict", "expect")  # fmt: skip


class WithLoss(nn.Module):
    """A detector whose forward is its loss, for wrappers that know only forward. The bare network is what is saved."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.network.loss(batch)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Job:
    """What a training works with. model: the network with its loss, wrapped by accelerate; network: the bare one."""

    recipe: Recipe
    validation: Dataset
    accelerator: Any
    network: nn.Module
    model: nn.Module
    optimizer: Any
    average: Average | None
    loader: Loader
    plan: Plan
    steps_per_epoch: int

    @property
    def scored(self) -> nn.Module:
        """The network that is evaluated: the average where one is kept."""
        return self.average.network if self.average else self.network


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
    """Train `recipe` on the data set `data` (its splits train and val) and return the run folder `out`.

    weights: a file or run folder to start from; transfer: load all of it that fits. resume: go on with the run in
    `out`. skip_bad: leave out faulty labels and pictures, and say which. Under torchrun each process calls this.
    Raises InputError for a recipe, data set, file or folder that cannot be used and for a loss that is not finite.
    """
    recipe = recipes.load(recipe, overrides) if isinstance(recipe, str) else recipe.with_overrides(overrides)
    recipe = recipe.with_overrides({"data.root": str(data)})
    run, config = Path(out), recipe.train
    accelerator = _accelerator(config)
    try:
        _refuse(run, resume)
        training, validation, left_out = _open(recipe, skip_bad)
        if training.names != recipe.data.names:
            recipe = recipe.with_names(training.names)
        network = _network(recipe, None if resume else weights, transfer, accelerator)
        job = _job(recipe, training, validation, network, accelerator)
        _enter(run, recipe, resume, left_out, accelerator)
        keeper = Keeper(run, recipe, network, job.average, job.optimizer, accelerator)
        state = keeper.restore(State(data=_fingerprint(training), processes=accelerator.num_processes))
        if not state.step:
            keeper.save("last", state)  # a run killed before its first checkpoint resumes from the given weights
        with closing(Journal(run, accelerator, config, state.step)) as journal:
            for epoch in range(state.step // job.steps_per_epoch, config.epochs):
                _learn(job, epoch, state, journal, keeper)
                _assess(job, epoch, state, journal, keeper)
                keeper.save("last", state)  # after the evaluation: a run that goes on from here has had it
                keeper.number(epoch + 1, state)
                accelerator.wait_for_everyone()
        weight_files.load(job.scored, run / "best", recipe)
        _evaluate(job, run)  # metrics.json and the pictures speak of the best network
        accelerator.wait_for_everyone()
    finally:
        accelerator.end_training()
        # accelerate keeps precision and device for the life of the process; the next run may want others.
        AcceleratorState._reset_state(reset_partial_state=True)
    return run


def _learn(job: Job, epoch: int, state: State, journal: Journal, keeper: Keeper) -> None:
    """One epoch, or what is left of it."""
    config, accelerator, rates = job.recipe.train, job.accelerator, job.plan.weight_lr
    optim.training_mode(job.network, config)
    total = job.steps_per_epoch * config.accumulate
    first = state.step % job.steps_per_epoch * config.accumulate  # batches of this epoch done before
    batches = journal.timed(islice(job.loader.epoch(epoch, skip=first), total - first))
    shown = _show(batches, total, f"epoch {epoch + 1}/{config.epochs}", first, accelerator)
    for number, loaded in enumerate(shown, epoch * total + first):
        batch = prepare(loaded, job.recipe, epoch, number, accelerator)
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
        told += f", AP {metrics.ap:.3f}, AP50 {metrics.ap50:.3f}"
        if state.best is None or metrics.ap > state.best:
            state.best = metrics.ap
            keeper.save("best", state)
    if job.accelerator.is_main_process:
        print(told, file=sys.stderr, flush=True)


def _evaluate(job: Job, out: Path | None = None) -> Metrics:
    """The metrics of the network as the first process has it: batch-norm statistics are each process's own."""
    accelerator = job.accelerator
    if accelerator.num_processes > 1:
        for tensor in job.scored.state_dict().values():
            distributed.broadcast(tensor, 0)
    predictor = Predictor(job.scored, job.recipe, accelerator.device)
    place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    return evaluate(predictor, job.validation, out, **place)


def prepare(batch: Batch, recipe: Recipe, epoch: int, number: int, accelerator: Any) -> Batch:
    """A loaded batch on the device and randomly changed. `number` counts the batches of this process from 0."""
    config = recipe.train
    size = step_size(config.augment, recipe.data.canvas.size, config.seed, number)
    changed = augment(
        batch.to(accelerator.device),
        config.augment,
        size=size,
        seed=config.seed,
        step=number,
        rank=accelerator.process_index,
        mosaic=epoch < config.epochs - config.augment.close_mosaic,
        fill=recipe.data.canvas.fill,
    )
    if not config.channels_last:
        return changed
    return replace(changed, images=changed.images.contiguous(memory_format=torch.channels_last))


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


def _accelerator(config: TrainConfig) -> Any:
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and config.precision == "fp16":
        raise InputError("train.precision: fp16 needs a GPU and there is none here; use bf16 or no")
    return Accelerator(cpu=on_cpu, mixed_precision=config.precision, gradient_accumulation_steps=config.accumulate)


def _refuse(run: Path, resume: bool) -> None:
    """InputError when the folder does not suit: a run is there, or none is."""
    begun = (run / "last").exists() or (run / "last.old").exists()
    if resume and not begun:
        raise InputError(f"{run}: there is no run to resume (no checkpoint `last`); train without --resume first")
    if begun and not resume:
        raise InputError(f"{run}: holds a run already; go on with it by --resume, or choose another --out")


def _open(recipe: Recipe, skip_bad: bool) -> tuple[Dataset, Dataset, list[str]]:
    """Training and validation pictures, checked, and a line for each thing left out."""
    data = recipe.data
    training, validation = (open_dataset(data.root, split, data.kind) for split in ("train", "val"))
    report = check(training) + check(validation) + check_splits(training, validation)
    if report.errors and not skip_bad:
        first = "; ".join(str(fault) for fault in report.errors[:SHOWN])
        raise InputError(
            f"{data.root}: {len(report.errors)} faults in the labels and pictures ({first}); see them all with "
            f"`boxwright data check {data.root}`, then repair them, or leave them out with --skip-bad"
        )
    return without_bad(training, report), without_bad(validation, report), report.left_out()


def _network(recipe: Recipe, file: str | Path | None, transfer: bool, accelerator: Any) -> nn.Module:
    """The network at its start: random from the seed, then filled from `file`."""
    torch.manual_seed(recipe.train.seed)
    network: nn.Module = models.module(recipe.model.name).build(recipe.model)  # type: ignore[attr-defined]
    if file is not None:
        accelerator.print(weight_files.load(network, file, recipe, transfer=transfer), file=sys.stderr)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _job(recipe: Recipe, training: Dataset, validation: Dataset, network: nn.Module, accelerator: Any) -> Job:
    config = recipe.train
    loader = Loader(
        training,
        recipe.data.canvas,
        config.batch,
        seed=config.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=recipe.data.workers,
    )
    steps_per_epoch = loader.steps_per_epoch // config.accumulate  # batches that fill no step are left out
    if not steps_per_epoch:
        raise InputError(
            f"train.accumulate: a step takes {config.accumulate} batches, an epoch has only {loader.steps_per_epoch}; "
            "lower it or train.batch"
        )
    plan = learning_rates(config.schedule, steps_per_epoch, config.epochs, config.optimizer.momentum)
    model, optimizer = accelerator.prepare(WithLoss(network), optim.build(network, config))
    average = Average(network, config.ema) if config.ema.decay else None  # after prepare: the network has moved
    return Job(recipe, validation, accelerator, network, model, optimizer, average, loader, plan, steps_per_epoch)


def _enter(run: Path, recipe: Recipe, resume: bool, left_out: Sequence[str], accelerator: Any) -> None:
    """Make the run folder, or make ready the one that is there."""
    accelerator.wait_for_everyone()  # nobody looks whether the folder is free any more
    if accelerator.is_main_process:
        for line in left_out:
            print(line, file=sys.stderr)
        if resume:
            _compare(run / "recipe.yaml", recipe)
            recover(run)
        else:
            try:
                run.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{run}: the run folder cannot be made ({error.strerror})") from error
            if left_out:
                with whole(run / "left_out.txt") as file:
                    file.write_text("\n".join(left_out) + "\n", encoding="utf-8")
            with whole(run / "recipe.yaml") as file:
                file.write_text(recipe.to_yaml(), encoding="utf-8")
    accelerator.wait_for_everyone()


def _compare(file: Path, recipe: Recipe) -> None:
    """InputError when the run was begun with another recipe."""
    then, now = _flat(recipes.load(file).tree()), _flat(recipe.tree())
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key) and not f"{key}.".startswith(tuple(f"{free}." for free in FREE)):
            raise InputError(
                f"{file}: {key} is {then.get(key)!r} there and {now.get(key)!r} now; "
                "resume with the run's own settings, or train into another folder"
            )


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _fingerprint(dataset: Dataset) -> str:
    """Changes when pictures or labels do, so that a run is not resumed on other data."""
    rows = dataset.rows
    digest = hashlib.sha256()
    for column in (dataset.images.ids, dataset.starts, rows.xyxy, rows.labels, rows.crowd):
        digest.update(column.tobytes())
    return digest.hexdigest()


def _show(batches: Iterable[Batch], total: int, what: str, start: int, accelerator: Any) -> Iterable[Batch]:
    return progress.track(batches, total, what, "batches", start) if accelerator.is_main_process else batches
