"""A task is what a network answers: `detect` boxes, `classify` whole images. One object holds all that differs.

The `task` of a model's Config is the name of a file here, as `model.name` is one in `models/`.
"""

import importlib
import pkgutil
from functools import cache
from typing import Any

from boxwright.recipe import Recipe
from boxwright.tasks.base import PostprocessArgs, RawOutputs, Task

__all__ = ["PostprocessArgs", "RawOutputs", "Task", "of", "of_dataset"]


def of(recipe: Recipe) -> Task[Any, Any, Any, Any]:
    """The task of the recipe's model."""
    task: Task[Any, Any, Any, Any] = _task(recipe.model.task)
    return task


def of_dataset(dataset: object) -> Task[Any, Any, Any, Any]:
    """The task that learns from data sets of this class."""
    tasks: list[Task[Any, Any, Any, Any]] = [_task(module.name) for module in pkgutil.iter_modules(__path__)]
    return next(task for task in tasks if task is not None and isinstance(dataset, task.dataset_type))


@cache
def _task(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{name}"), "TASK", None)
