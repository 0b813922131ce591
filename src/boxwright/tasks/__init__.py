"""Tasks: `detect` predicts boxes, `classify` predicts one class per image.

`task` in a model's Config is the name of a module here, as `model.name` is in `models/`.
"""

import importlib
import pkgutil
from functools import cache

from boxwright.recipe import Recipe
from boxwright.tasks.base import AnyTask, PostprocessArgs, RawOutputs, Task

__all__ = ["AnyTask", "PostprocessArgs", "RawOutputs", "Task", "of", "of_dataset"]


def of(recipe: Recipe) -> AnyTask:
    """The task of the recipe's model."""
    task = _task(recipe.model.task)
    assert task is not None  # of a model's Config
    return task


def of_dataset(dataset: object) -> AnyTask:
    """The task that trains on data sets of this class."""
    tasks = (_task(module.name) for module in pkgutil.iter_modules(__path__))
    return next(task for task in tasks if task is not None and isinstance(dataset, task.dataset_type))


@cache
def _task(name: str) -> AnyTask | None:
    return getattr(importlib.import_module(f"{__name__}.{name}"), "TASK", None)
