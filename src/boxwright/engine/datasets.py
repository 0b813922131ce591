"""The data of a training: opened, checked, and without what is to be skipped."""

from typing import Any

from accelerate import Accelerator

from boxwright.data.sets import shown
from boxwright.engine.processes import on_main
from boxwright.recipe import Recipe
from boxwright.tasks import AnyTask


def open_checked(task: AnyTask, recipe: Recipe, skip: bool, accelerator: Accelerator) -> tuple[Any, Any, list[str]]:
    """Training and validation data, and a line for each label, image and class left out.

    Raises InputError, the same in every process, for faults; with `skip` only for those that skipping cannot mend.
    """
    data = recipe.data

    def opened() -> list[Any]:
        return [task.open(data.root, split, data) for split in ("train", "val")]

    if accelerator.num_processes > 1:
        on_main(lambda: len(opened()), accelerator)  # a large JSON is parsed in one process, the others find its index
    training, validation = opened()
    report = on_main(lambda: task.check(training, validation), accelerator)
    if not skip:
        report.raise_on_errors(shown(data.root), skippable=True)
    train, val, lines = task.select(training, validation, report, recipe)
    return train, val, [*training.notes, *validation.notes, *lines]
