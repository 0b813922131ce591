"""Training a detector, from a recipe and a data set to a run folder.

A step is one step of the optimiser. Everything random in it is a function of (seed, step, rank), so a run that is
killed and resumed ends with the same bits as one that was not.
"""

import copy
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from boxwright import models, progress
from boxwright import recipe as recipes
from boxwright import weights as weight_files
from boxwright.data import Dataset, open_dataset
from boxwright.data.check import check
from boxwright.data.check import skip_bad as without_bad
from boxwright.data.loader import Loader
from boxwright.data.transforms import augment, step_size
from boxwright.engine import checkpointing, optim
from boxwright.engine.checkpointing import State
from boxwright.engine.ema import Average
from boxwright.engine.log import Journal, profiled
from boxwright.engine.schedule import learning_rates
from boxwright.errors import InputError
from boxwright.evaluation.run import evaluate
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe, TrainConfig
from boxwright.types import Batch
from boxwright.weights.files import whole

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
    run = Path(out)
    accelerator = _accelerator(recipe.train)
    try:
        _refuse(run, resume)
        training, validation, left_out = _open(recipe, skip_bad)
        if training.names != recipe.data.names:
            recipe = recipe.with_names(training.names)
        network = _network(recipe, None if resume else weights, transfer)
        accelerator.wait_for_everyone()  # nobody looks whether the folder is free any more
        if accelerator.is_main_process:
            _prepare_folder(run, recipe, resume, left_out)
        accelerator.wait_for_everyone()
        _learn(recipe, training, validation, network, run, accelerator)
        accelerator.wait_for_everyone()
    finally:
        accelerator.end_training()
        # accelerate keeps precision and device for the life of the process; the next run may want others.
        AcceleratorState._reset_state(reset_partial_state=True)
    return run


def _learn(
    recipe: Recipe, training: Dataset, validation: Dataset, network: nn.Module, run: Path, accelerator: Any
) -> None:
    """The training itself: what happens in which order."""
    config = recipe.train
    model, optimizer = accelerator.prepare(WithLoss(network), optim.build(network, config))
    average = Average(network, config.ema) if config.ema.decay else None
    place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    loader = Loader(training, recipe.data.canvas, config.batch, seed=config.seed, workers=recipe.data.workers, **place)
    batches_per_epoch = loader.steps_per_epoch // config.accumulate * config.accumulate
    steps_per_epoch = batches_per_epoch // config.accumulate
    if not steps_per_epoch:
        raise InputError(f"train.accumulate: {config.accumulate} batches a step, an epoch has {loader.steps_per_epoch}")
    plan = learning_rates(config.schedule, steps_per_epoch, config.epochs, config.optimizer.momentum)
    keeper = checkpointing.Keeper(run, recipe, network, average, optimizer, accelerator)
    state = keeper.restore(State(data=_fingerprint(training), processes=accelerator.num_processes))

    profile = config.profile if accelerator.is_main_process else 0
    with (
        closing(Journal(run, accelerator, config.log_every, state.step)) as journal,
        profiled(run, profile) as next_step,
    ):
        for epoch in range(state.step // steps_per_epoch, config.epochs):
            optim.training_mode(network, config)
            first = state.step % steps_per_epoch * config.accumulate  # batches of this epoch done before
            batches = journal.timed(islice(loader.epoch(epoch, skip=first), batches_per_epoch - first))
            shown = _show(batches, batches_per_epoch, f"epoch {epoch + 1}/{config.epochs}", first, accelerator)
            for number, loaded in enumerate(shown, epoch * batches_per_epoch + first):
                batch = prepare(loaded, recipe, epoch, number, accelerator)
                optim.set_rates(optimizer, plan, state.step)
                with accelerator.accumulate(model):
                    terms = model(batch)
                    journal.record(state.step + 1, batch, terms)
                    descend(terms, model, optimizer, config, accelerator)
                if not accelerator.sync_gradients:
                    continue
                state.step += 1
                if average:
                    average.update(state.step)
                next_step()
                if state.step % config.log_every == 0:
                    journal.write(state.step, epoch, plan.weight_lr[state.step - 1])
                if config.save_every and state.step % config.save_every == 0 and state.step % steps_per_epoch:
                    journal.look()  # a loss that is not finite stops the run here, before anything is written
                    keeper.save("last", state)
            loss = journal.write(state.step, epoch, plan.weight_lr[state.step - 1])
            if accelerator.is_main_process:
                told = f"epoch {epoch + 1}/{config.epochs}: loss {loss:.4g}"
                if _due(epoch, config):
                    metrics = evaluate(_predictor(recipe, network, average, accelerator), validation)
                    journal.evaluated(state.step, epoch, metrics.summary)
                    told += f", AP {metrics.ap:.3f}, AP50 {metrics.ap50:.3f}"
                    if not (run / "best").exists() or metrics.ap > state.best:
                        state.best = metrics.ap
                        keeper.save("best", state)
                keeper.save("last", state)  # after the evaluation: a run that goes on from here has had it
                keeper.number(epoch + 1, state)
                print(told, file=sys.stderr, flush=True)
            accelerator.wait_for_everyone()


def prepare(batch: Batch, recipe: Recipe, epoch: int, number: int, accelerator: Any) -> Batch:
    """A loaded batch on the device and randomly changed. `number` counts the batches of this process from 0."""
    config = recipe.train
    size = step_size(config.augment, recipe.data.canvas.size, config.seed, number)
    mosaic = epoch < config.epochs - config.augment.close_mosaic
    changed = augment(
        batch.to(accelerator.device),
        config.augment,
        size=size,
        seed=config.seed,
        step=number,
        rank=accelerator.process_index,
        mosaic=mosaic,
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
    begun = (run / "recipe.yaml").exists()
    if resume and not begun:
        raise InputError(f"{run}: there is no run to resume (no recipe.yaml); train without --resume first")
    if begun and not resume:
        raise InputError(f"{run}: holds a run already; go on with it by --resume, or choose another --out")


def _open(recipe: Recipe, skip_bad: bool) -> tuple[Dataset, Dataset, list[str]]:
    """Training and validation pictures, checked, and a line for each thing left out."""
    data = recipe.data
    both, left_out = [], []
    for split in ("train", "val"):
        dataset = open_dataset(data.root, split, data.kind)
        report = check(dataset)
        if report.errors and not skip_bad:
            first = "; ".join(str(fault) for fault in report.errors[:SHOWN])
            raise InputError(
                f"{data.root}: {len(report.errors)} faults in the {split} labels ({first}); "
                f"see `boxwright data check {data.root}`, repair them or leave them out with --skip-bad"
            )
        both.append(without_bad(dataset, report))
        left_out += [f"{split}: {fault}" for fault in report.errors]
    training, validation = both
    if training.names != validation.names:
        raise InputError(
            f"{data.root}: train has the classes {', '.join(training.names)}, val {', '.join(validation.names)}; "
            "both need the same ones in the same order"
        )
    return training, validation, left_out


def _network(recipe: Recipe, file: str | Path | None, transfer: bool) -> nn.Module:
    """The network at its start: random from the seed, then filled from `file`."""
    torch.manual_seed(recipe.train.seed)
    network: nn.Module = models.module(recipe.model.name).build(recipe.model)  # type: ignore[attr-defined]
    if file is not None:
        print(weight_files.load(network, file, recipe, transfer=transfer), file=sys.stderr)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _prepare_folder(run: Path, recipe: Recipe, resume: bool, left_out: Sequence[str]) -> None:
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if resume:
        _compare(run / "recipe.yaml", recipe)
        checkpointing.recover(run)
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: the run folder cannot be made ({error.strerror})") from error
    if left_out:
        with whole(run / "left_out.txt") as file:
            file.write_text("\n".join(left_out) + "\n", encoding="utf-8")
    with whole(run / "recipe.yaml") as file:  # last: from here on the folder holds a run
        file.write_text(recipe.to_yaml(), encoding="utf-8")


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


def _due(epoch: int, config: TrainConfig) -> bool:
    """Whether the model is evaluated after this epoch (from 0); after the last it always is."""
    regular = config.evaluate_every and epoch >= config.evaluate_from and (epoch + 1) % config.evaluate_every == 0
    return bool(regular) or epoch + 1 == config.epochs


def _predictor(recipe: Recipe, network: nn.Module, average: Average | None, accelerator: Any) -> Predictor:
    """The average, or the network itself, ready to predict; training goes on undisturbed."""
    return Predictor(copy.deepcopy(average.network if average else network), recipe, accelerator.device)


def _show(batches: Iterable[Batch], total: int, what: str, start: int, accelerator: Any) -> Iterable[Batch]:
    return progress.track(batches, total, what, "batches", start) if accelerator.is_main_process else batches
