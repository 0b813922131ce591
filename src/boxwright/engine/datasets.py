"""The data of a training: opened, checked, and without what is to be skipped."""

from typing import Any

from accelerate import Accelerator

from boxwright.datatools.val_fraction import names_to_open
from boxwright.engine.processes import on_main
from boxwright.recipe import Recipe
from boxwright.tasks import AnyTask


def open_checked(task: AnyTask, recipe: Recipe, skip: bool, accelerator: Accelerator) -> tuple[Any, Any, list[str]]:
    """Training and validation data, and a line for each label and image left out.

    Without a split `val`, `train.evaluate_every: 0` means that there is no validation data: it is None then.

    Raises InputError, the same in every process, for faults; with `skip` only for those that skipping cannot mend.
    """
    data = recipe.data
    names = on_main(lambda: names_to_open(recipe), accelerator)

    def opened() -> list[Any]:
        return [None if name is None else task.open(data.root, name, data) for name in names]

    if accelerator.num_processes > 1:
        on_main(lambda: len(opened()), accelerator)  # a large JSON is parsed in one process, the others find its index
    training, validation = opened()
    report = on_main(lambda: task.check(training, validation), accelerator)
    if not skip:
        report.raise_on_errors(data.root, skippable=True)
    return task.select(training, validation, report, recipe)
