"""Saving and restoring checkpoints, crash-safe at any moment.

A checkpoint is a folder: model.safetensors, ema.safetensors (with EMA) and state.pt (optimizer and training state). It
is replaced atomically: the new folder is written as NAME.boxwright-new, the old one is renamed to NAME.boxwright-old,
the new one is renamed to NAME, and the old one is removed.
"""

import io
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from boxwright import weights
from boxwright.engine.ema import EMA
from boxwright.errors import InputError
from boxwright.files import sync, write_bytes, write_errors
from boxwright.recipe import Recipe, TrainConfig
from boxwright.weights import checkpoint, torch_files
from boxwright.weights.files import OLD

logger = logging.getLogger(__name__)

NEW = ".boxwright-new"  # suffix of a checkpoint folder while it is written; OLD: see weights/files.py
EPOCH_FOLDER = r"epoch-\d{4,}"
MAX_SAVE_FRACTION = 0.03  # share of the time
# What PyTorch's optimizers store for a parameter: tensors of its shape, and for AdamW the number of its steps
STATE_OF_OPTIMIZER = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq", "step")}


@dataclass
class TrainState:
    """Training progress. No RNG state: every random number is a function of (seed, step, rank).

    Attributes:
        step: Optimizer steps completed.
        best: Highest validation AP so far, or top-1 accuracy for a classifier.
        since_best: Evaluations since the one with `best`.
        train_fingerprint: Fingerprint of the training images and labels.
        val_fingerprint: Fingerprint of the validation images and labels; "" if there are none.
        epochs: Complete epochs, with their evaluation. After a stop, `step` may be at the end of the next epoch.
        threads: CPU threads of each process.
    """

    step: int = 0
    best: float | None = None
    since_best: int = 0
    train_fingerprint: str = ""
    val_fingerprint: str = ""
    epochs: int = 0
    threads: int = 1

    def out_of_patience(self, config: TrainConfig) -> bool:
        """Whether `train.patience` ends the run here."""
        return 0 < config.patience <= self.since_best


@dataclass
class Checkpointer:
    """Saves and restores all that a run needs to resume exactly.

    Attributes:
        run: The run folder.
        recipe: The recipe of the run, embedded in its weights.
        network: The bare network.
        ema: The EMA of the network; None without one.
        optimizer: The optimizer, as accelerate has wrapped it.
        accelerator: The accelerator of the training.
        saved: Called after each save, by the main process.
        due: Time (`time.monotonic`) from which the end of an epoch is saved again: saving takes at most the fraction
            `MAX_SAVE_FRACTION` of the time.
    """

    run: Path
    recipe: Recipe
    network: nn.Module
    ema: EMA | None
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    saved: Callable[[], None] = lambda: None
    due: float = 0.0

    def save(self, name: str, state: TrainState) -> None:
        """Replace the checkpoint `name`. Only the main process writes.

        Raises:
            InputError: A weight is not finite (such a network is never saved), or the disk is full. The previous
                checkpoint stays.
        """
        if not self.accelerator.is_main_process:
            return
        for key, tensor in self.network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"step {state.step}: {key} is no longer finite; nothing was saved since, lower train.schedule.lr"
                )
        scaler = self.accelerator.scaler
        values = asdict(state) | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        with replace_folder(self.run / name) as folder:
            checkpoint.save(folder / "model.safetensors", self.network, self.recipe)
            if self.ema is not None:
                checkpoint.save(folder / "ema.safetensors", self.ema.network, self.recipe)
            stream = io.BytesIO()  # torch.save hides why a write failed; write_bytes does not
            torch.save(values, stream)
            write_bytes(folder / "state.pt", stream.getbuffer())
        self.saved()

    def restore(self, initial: TrainState) -> TrainState:
        """Load network, EMA and optimizer from the checkpoint `last`.

        A different number of threads logs a warning, since floating-point sums then run in another order.

        Returns:
            The state of `last`; `initial` if there is no checkpoint yet.

        Raises:
            InputError: The data changed since, or a file is damaged.
        """
        folder = self.run / "last"
        if not folder.exists():
            return initial
        weights.load(self.network, folder / "model.safetensors", self.recipe)
        if self.ema is not None:
            weights.load(self.ema.network, folder / "ema.safetensors", self.recipe)
        values = _read_state(folder / "state.pt")
        self._restore_optimizer(values.pop("optimizer"), values.pop("scaler"), folder / "state.pt")
        state = TrainState(**values)
        for split in ("train", "val"):
            if getattr(state, f"{split}_fingerprint") != getattr(initial, f"{split}_fingerprint"):
                raise InputError(
                    f"{folder}: the {split} images or labels have changed since; train into another folder"
                )
        if state.threads != initial.threads and self.accelerator.device.type == "cpu":
            threads = f"made with {state.threads} threads, there are {initial.threads} now: the last bits will differ"
            if self.accelerator.is_main_process:
                logger.warning("%s: %s; OMP_NUM_THREADS=%d avoids it", folder, threads, state.threads)
        state.threads = initial.threads
        return state

    def _restore_optimizer(self, saved: Any, scaler: Any, file: Path) -> None:
        """Load the state of each parameter. Raises InputError if it is from a different optimizer or network."""
        own = self.optimizer.state_dict()["param_groups"]
        names = STATE_OF_OPTIMIZER[self.recipe.train.optimizer.kind]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        try:
            for theirs, ours in zip(saved["param_groups"], own, strict=True):
                if (theirs["name"], theirs["params"]) != (ours["name"], ours["params"]):
                    raise KeyError(ours["name"])
            for index, buffers in saved["state"].items():
                shape = parameters[index].shape
                wanted = {name: torch.Size() if name == "step" else shape for name in names}
                if {key: value.shape for key, value in buffers.items()} != wanted:
                    raise KeyError(index)
            self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(scaler)
        except Exception as error:  # untrusted values of any type
            raise InputError(f"{file}: the state of another optimizer or network; train into another folder") from error

    def save_epoch(self, number: int, state: TrainState, *, final: bool) -> None:
        """Save `epoch-NNNN`, of which the newest `train.keep_checkpoints` are kept, and `last` after an epoch (from 1).

        `last` is written last, so a run that is killed in between repeats the end of this epoch on resume. It is not
        written after each of several short epochs, but always after the `final` one.
        """
        keep = self.recipe.train.keep_checkpoints
        if keep and self.accelerator.is_main_process:
            self.save(f"epoch-{number:04d}", state)
            numbered = [folder for folder in self.run.iterdir() if re.fullmatch(EPOCH_FOLDER, folder.name)]
            for folder in sorted(numbered, key=lambda folder: int(folder.name[6:]))[:-keep]:
                shutil.rmtree(folder)
        if final or time.monotonic() >= self.due:
            start = time.monotonic()
            self.save("last", state)
            end = time.monotonic()
            self.due = end + (end - start) / MAX_SAVE_FRACTION


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder that replaces `folder` when the block succeeds."""
    new, old = (folder.with_name(folder.name + suffix) for suffix in (NEW, OLD))
    try:
        with write_errors(folder, new, what="the checkpoint cannot be written"):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def recover(run: Path) -> None:
    """Complete or roll back replacements that were interrupted by a kill."""
    for old in _leftovers(run, OLD):
        # A checkpoint becomes OLD only when NEW is complete, so NEW is used if it exists.
        new, folder = old.with_suffix(NEW), old.with_suffix("")
        if not folder.exists():
            (new if new.exists() else old).rename(folder)
    for folder in (*_leftovers(run, OLD), *_leftovers(run, NEW)):
        shutil.rmtree(folder)


def _leftovers(run: Path, suffix: str) -> list[Path]:
    checkpoints = re.compile(rf"(last|best|{EPOCH_FOLDER}){re.escape(suffix)}")
    return [path for path in run.iterdir() if checkpoints.fullmatch(path.name)]


def _read_state(file: Path) -> dict[str, Any]:
    """The values of a state.pt. No code in the file is executed."""
    try:
        values = torch_files.unpickled(file)
    except Exception as error:  # torch raises half a dozen types here
        raise InputError(f"{file}: not the state of a run; it is damaged, train into another folder") from error
    expected = {field.name: type(field.default) for field in fields(TrainState)} | {"optimizer": dict, "scaler": dict}
    if not isinstance(values, dict) or values.keys() != expected.keys():
        raise InputError(f"{file}: not the state of a run of this version; train into another folder")
    for name, kind in expected.items():
        allowed = (float, type(None)) if name == "best" else (kind,)
        if type(values[name]) not in allowed or (kind is int and values[name] < 0):
            found = type(values[name]).__name__
            raise InputError(
                f"{file}: not the state of a run ({name} is {found}); it is damaged, train into another folder"
            )
    return values
