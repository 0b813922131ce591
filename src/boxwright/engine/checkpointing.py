"""Checkpoints that survive a kill at any moment, and the way back from them.

A checkpoint is a folder: model.safetensors, ema.safetensors (when an average is kept) and state.pt, which holds what
only training needs. A folder is replaced as a whole: it is written beside as NAME.boxwright-new, the old one steps
aside to NAME.boxwright-old, the new one takes its name.
"""

import io
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boxwright import weights
from boxwright.engine.ema import Average
from boxwright.errors import InputError
from boxwright.files import sync, told, whole
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint, torch_files
from boxwright.weights.files import OLD

logger = logging.getLogger(__name__)

NEW = ".boxwright-new"  # follows the name of a checkpoint folder while it is written; OLD: see weights/files.py
NUMBERED = r"epoch-\d{4,}"
MOMENTUM = "momentum_buffer"  # what PyTorch's SGD remembers of a parameter


@dataclass
class State:
    """Where training stands. Nothing random is in it: all draws are functions of (seed, step, rank).

    step: optimiser steps done. best: highest AP, of a classifier top-1, so far. data, validation: fingerprints of the
    pictures and labels. processes: how many train together. threads: of each, on a CPU.
    """

    step: int = 0
    best: float | None = None
    data: str = ""
    validation: str = ""
    processes: int = 1
    threads: int = 1


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
            stream = io.BytesIO()  # PyTorch does not say why a file that it writes cannot grow
            torch.save(values, stream)
            with whole(folder / "state.pt") as part:
                part.write_bytes(stream.getbuffer())

    def restore(self, fresh: State) -> State:
        """The state of `last`, with network, average and optimiser filled from it; `fresh` where nothing was saved.

        Another number of threads is told, since sums are then taken in another order. Raises InputError when other data
        or another number of processes began the run, or a file is damaged.
        """
        folder = self.run / "last"
        if not folder.exists():
            return fresh
        weights.load(self.network, folder / "model.safetensors", self.recipe)
        if self.average is not None:
            weights.load(self.average.network, folder / "ema.safetensors", self.recipe)
        values = _read(folder / "state.pt")
        self._fill_optimizer(values.pop("optimizer"), values.pop("scaler"), folder / "state.pt")
        state = State(**values)
        pairs = {"training": (state.data, fresh.data), "validation": (state.validation, fresh.validation)}
        for part, (then, now) in pairs.items():
            if then != now:
                raise InputError(
                    f"{folder}: the {part} pictures or labels have changed since; train into another folder"
                )
        if state.processes != fresh.processes:
            raise InputError(
                f"{folder}: made by {state.processes} processes, there are {fresh.processes} now; resume with as many"
            )
        if state.threads != fresh.threads and self.accelerator.device.type == "cpu":
            threads = f"made with {state.threads} threads, there are {fresh.threads} now: the last bits will differ"
            if self.accelerator.is_main_process:
                logger.warning("%s: %s; OMP_NUM_THREADS=%d avoids it", folder, threads, state.threads)
        state.threads = fresh.threads
        return state

    def _fill_optimizer(self, saved: Any, scaler: Any, file: Path) -> None:
        """What it remembers of each parameter; its settings are the recipe's.

        Raises InputError for the state of another optimiser or of another network.
        """
        own = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        try:
            for then, now in zip(saved["param_groups"], own, strict=True):
                if (then["name"], then["params"]) != (now["name"], now["params"]):
                    raise KeyError(now["name"])
            for number, memory in saved["state"].items():
                if {key: value.shape for key, value in memory.items()} != {MOMENTUM: parameters[number].shape}:
                    raise KeyError(number)
            self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(scaler)
        except Exception as error:  # whatever may be wrong with values of unknown types
            raise InputError(f"{file}: the state of another optimiser or network; train into another folder") from error

    def epoch(self, number: int, state: State) -> None:
        """Save at the end of an epoch, numbered from 1: `epoch-NNNN`, of which `train.keep_checkpoints` stay, and
        `last`.

        `last` comes last: a run that was killed before goes on before the end of this epoch, and does all of it again.
        """
        keep = self.recipe.train.keep_checkpoints
        if keep and self.accelerator.is_main_process:
            self.save(f"epoch-{number:04d}", state)
            numbered = [folder for folder in self.run.iterdir() if re.fullmatch(NUMBERED, folder.name)]
            for folder in sorted(numbered, key=lambda folder: int(folder.name[6:]))[:-keep]:
                shutil.rmtree(folder)
        self.save("last", state)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when the block ends well."""
    new, old = _beside(folder)
    try:
        with told(folder, new, what="the checkpoint cannot be written"):
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
    """Finish or undo the replacements that a kill interrupted."""
    for old in _left(run, OLD):
        # A checkpoint steps aside only when the new one is complete, so without it the new one is the one to take.
        new, folder = old.with_suffix(NEW), old.with_suffix("")
        if not folder.exists():
            (new if new.exists() else old).rename(folder)
    for rest in (*_left(run, OLD), *_left(run, NEW)):
        shutil.rmtree(rest)


def _left(run: Path, suffix: str) -> list[Path]:
    checkpoints = re.compile(rf"(last|best|{NUMBERED}){re.escape(suffix)}")
    return [path for path in run.iterdir() if checkpoints.fullmatch(path.name)]


def _read(file: Path) -> dict[str, Any]:
    """The values of a state.pt. Nothing in the file is executed."""
    try:
        values = torch_files.unpickled(file)
    except Exception as error:  # torch raises half a dozen kinds here, by what is wrong with the file
        raise InputError(f"{file}: not the state of a run; it is damaged, train into another folder") from error
    wanted = {each.name: type(each.default) for each in fields(State)} | {"optimizer": dict, "scaler": dict}
    if not isinstance(values, dict) or values.keys() != wanted.keys():
        raise InputError(f"{file}: not the state of a run of this version; train into another folder")
    for name, kind in wanted.items():
        allowed = (float, type(None)) if name == "best" else (kind,)
        if type(values[name]) not in allowed or (kind is int and values[name] < 0):
            found = type(values[name]).__name__
            raise InputError(
                f"{file}: not the state of a run ({name} is {found}); it is damaged, train into another folder"
            )
    return values


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(folder.name + NEW), folder.with_name(folder.name + OLD)
