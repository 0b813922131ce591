"""Checkpoints that survive a kill at any moment, and the way back from them.

A checkpoint is a folder: model.safetensors, ema.safetensors (when an average is kept) and state.pt, which holds what
only training needs. A folder is replaced as a whole: it is written beside as NAME.new, the old one steps aside to
NAME.old, the new one takes its name.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boxwright import weights
from boxwright.engine.ema import Average
from boxwright.errors import InputError
from boxwright.files import sync, whole
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint


@dataclass
class State:
    """Where training stands. Nothing random is in it: all draws are functions of (seed, step, rank).

    step: optimiser steps done. best: highest AP, of a classifier top-1, so far. data: fingerprint of the training
    pictures and labels. processes: how many train together.
    """

    step: int = 0
    best: float | None = None
    data: str = ""
    processes: int = 1


class Keeper:
    """Saves and restores everything that a run needs to go on as if nothing had happened."""

    def __init__(
        self, run: Path, recipe: Recipe, network: nn.Module, average: Average | None, optimizer: Any, accelerator: Any
    ) -> None:
        self.run, self.recipe, self.network, self.average = run, recipe, network, average
        self.optimizer, self.accelerator = optimizer, accelerator

    def save(self, name: str, state: State) -> None:
        """Write the checkpoint `name`, or leave the one that is there. Only the first process writes.

        Raises InputError when a weight is not finite (such a network is never saved) or the disk refuses.
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
        with replaced(self.run / name) as folder:
            checkpoint.save(folder / "model.safetensors", self.network, self.recipe)
            if self.average is not None:
                checkpoint.save(folder / "ema.safetensors", self.average.network, self.recipe)
            with whole(folder / "state.pt") as part:
                torch.save(values, part)

    def restore(self, fresh: State) -> State:
        """The state of `last`, with network, average and optimiser filled from it; `fresh` where nothing was saved.

        Raises InputError when other data or another number of processes began the run, or a file is damaged.
        """
        folder = self.run / "last"
        if not folder.exists():
            return fresh
        weights.load(self.network, folder / "model.safetensors", self.recipe)
        if self.average is not None:
            weights.load(self.average.network, folder / "ema.safetensors", self.recipe)
        values = _read(folder / "state.pt")
        self.optimizer.load_state_dict(values.pop("optimizer"))
        scaler = values.pop("scaler")
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        state = State(**values)
        if state.data != fresh.data:
            raise InputError(f"{folder}: the training pictures or labels have changed since; train into another folder")
        if state.processes != fresh.processes:
            raise InputError(
                f"{folder}: made by {state.processes} processes, there are {fresh.processes} now; resume with as many"
            )
        return state

    def number(self, epoch: int, state: State) -> None:
        """Save `epoch-NNNN` and delete all but the newest `train.keep` of these."""
        keep = self.recipe.train.keep
        if keep and self.accelerator.is_main_process:
            self.save(f"epoch-{epoch:04d}", state)
            for folder in sorted(self.run.glob("epoch-[0-9]*[0-9]"))[:-keep]:
                shutil.rmtree(folder)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when the block ends well."""
    new, old = _beside(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync(folder.parent)
    except OSError as error:
        raise InputError(f"{folder}: the checkpoint cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def recover(run: Path) -> None:
    """Finish or undo the replacements that a kill interrupted."""
    for old in _left(run, "old"):
        # A checkpoint steps aside only when the new one is complete, so without it the new one is the one to take.
        new, folder = old.with_suffix(".new"), old.with_suffix("")
        if not folder.exists():
            (new if new.exists() else old).rename(folder)
    for rest in (*_left(run, "old"), *_left(run, "new")):
        shutil.rmtree(rest)


def _left(run: Path, suffix: str) -> list[Path]:
    return [path for name in ("last", "best", "epoch-*") for path in run.glob(f"{name}.{suffix}")]


def _read(file: Path) -> dict[str, Any]:
    """The values of a state.pt. weights_only: nothing in the file is executed."""
    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
        State(**{key: value for key, value in values.items() if key not in {"optimizer", "scaler"}})
    except Exception as error:  # torch raises half a dozen kinds here, by what is wrong with the file
        raise InputError(f"{file}: not the state of a run; it is damaged, train into another folder") from error
    return values  # type: ignore[no-any-return]


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
