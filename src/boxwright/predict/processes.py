"""Predictors in other processes: unpickling loads the file again, forking is rejected."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from boxwright.recipe import Recipe
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions

UNKNOWN = "a predictor created from a runtime cannot be pickled; create it with boxwright.load, which stores its file"


class Origin(NamedTuple):
    """The file that a predictor was loaded from, and its runtime."""

    path: str
    backend: str
    runtime_options: RuntimeOptions | None

    @classmethod
    def of(cls, path: str | Path, runtime: Runtime, runtime_options: RuntimeOptions | None) -> Self:
        """Make the path absolute, since other processes may have other working directories."""
        return cls(str(Path(path).absolute()), runtime.name, runtime_options)

    def arguments(self, recipe: Recipe, device: torch.device) -> dict[str, Any]:
        """The arguments with which `load` creates the same predictor."""
        return {"recipe": recipe, "device": str(device)} | self._asdict()


def reject_fork(process: int, runtime: Runtime | None) -> None:
    """Raise RuntimeError in a process forked from `process`, in which `runtime` was made.

    Only the calling thread survives a fork, so PyTorch and the streams would wait forever for their other threads. With
    a single thread, as in the workers of a DataLoader, and no streams there is nothing to wait for.
    """
    streams = runtime is not None and runtime.pool is not None
    if os.getpid() != process and (streams or torch.get_num_threads() > 1):
        raise RuntimeError(
            "this predictor was created before the process was forked, and its threads do not exist here; start "
            "processes with multiprocessing.get_context('spawn'), or load a predictor in each"
        )
