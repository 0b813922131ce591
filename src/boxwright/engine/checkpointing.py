"""Checkpoints that survive a kill at any moment, and the way back from them.

A checkpoint is a folder: model.safetensors, ema.safetensors (when an average is kept) and state.pt, which holds what
only training needs. A folder is replaced as a whole: it is written beside as NAME.new, the old one steps aside to
NAME.old, the new one takes its name.
"""

import os
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boxwright.engine.ema import Average
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint


@dataclass
class State:
    """Where training stands. Nothing random is in it: all draws are functions of (seed, step, rank).

    step: optimiser steps done. best: highest AP so far. data: fingerprint of the training pictures and labels.
    processes: how many trained together. optimizer, scaler: their state dicts.
    """

    step: int = 0
    best: float = -1.0
    data: str = ""
    processes: int = 1
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, network: nn.Module, average: Average | None, state: State, recipe: Recipe) -> None:
    """Write the checkpoint `folder`, or leave the one that is there.

    Raises InputError when a weight is not finite (such a network is never saved) or the disk refuses.
    """
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{folder}: not saved at step {state.step}, {name} is no longer finite; lower the learning rate")
    new, old = _beside(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        checkpoint.save(new / "model.safetensors", network, recipe)
        if average is not None:
            checkpoint.save(new / "ema.safetensors", average.network, recipe)
        with open(new / "state.pt", "wb") as file:
            torch.save(asdict(state), file)
            file.flush()
            os.fsync(file.fileno())
        _sync(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise InputError(f"{folder}: the checkpoint cannot be written ({error.strerror or error})") from error
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish or undo the replacement that a kill interrupted."""
    new, old = _beside(folder)
    # The old checkpoint steps aside only when the new one is complete, so `old` without `folder` means: take the new.
    if old.exists() and not folder.exists():
        (new if new.exists() else old).rename(folder)
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, network: nn.Module, average: Average | None) -> State:
    """Fill `network` and `average` from a checkpoint of the same recipe and return the rest of its state."""
    _fill(network, folder / "model.safetensors")
    if average is not None:
        _fill(average.network, folder / "ema.safetensors")
    file = folder / "state.pt"
    try:
        return State(**torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"{file}: not a training state of this program; train anew into another folder") from error


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` numbered checkpoints."""
    numbered = sorted(run.glob("epoch-*"))
    for folder in numbered[: len(numbered) - keep]:
        shutil.rmtree(folder)


def _fill(network: nn.Module, file: Path) -> None:
    tensors, _ = checkpoint.read(file)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{file}: does not hold the network of this recipe; resume with the run's own recipe") from error


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")


def _sync(folder: Path) -> None:
    """Make renames in `folder` lasting."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
