"""Predictors in other processes: loaded anew where they are unpickled, refused where they were forked."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from boxwright.recipe import Recipe
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions

UNKNOWN = "a predictor around a backend cannot be pickled; make it with boxwright.load, which knows its file"


class Origin(NamedTuple):
    """The file that a predictor was loaded from, and what runs it."""

    path: str
    backend: str
    running: RuntimeOptions | None

    @classmethod
    def of(cls, path: str | Path, backend: Runtime, running: RuntimeOptions | None) -> Self:
        """With the path made absolute, for other processes may work in other folders."""
        return cls(str(Path(path).absolute()), backend.name, running)

    def arguments(self, recipe: Recipe, device: torch.device) -> tuple[Any, ...]:
        """What `load` takes to make the same one."""
        return self.path, recipe, str(device), (), self.backend, self.running


def refuse_fork(process: int) -> None:
    """RuntimeError in a process forked from `process`, where it would wait for ever: only one thread is forked, and the
    others, which PyTorch and the runtimes wait for, are not there. With a single thread nobody is waited for."""
    if os.getpid() != process and torch.get_num_threads() > 1:
        raise RuntimeError(
            "this predictor was made before the process was forked, and its threads are not here; start processes with "
            "multiprocessing.get_context('spawn'), or load a predictor in each"
        )
