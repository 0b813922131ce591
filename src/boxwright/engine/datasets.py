"""The data of a training: opened, checked, and without what is to be skipped."""

from typing import Any

from accelerate import Accelerator

from boxwright.data.dataset import Dataset
from boxwright.datatools.clean import Cleaning, clip_boxes
from boxwright.engine.processes import on_main
from boxwright.recipe import Recipe
from boxwright.tasks import AnyTask


def open_checked(
    task: AnyTask, recipe: Recipe, cleaning: Cleaning, accelerator: Accelerator
) -> tuple[Any, Any, list[str]]:
    """Training and validation data, and a line for each label and image left out.

    Raises InputError, the same in every process, for errors that `cleaning` does not handle.
    """
    data = recipe.data

    def opened() -> list[Any]:
        return [task.open(data.root, split, data) for split in ("train", "val")]

    if accelerator.num_processes > 1:
        on_main(lambda: len(opened()), accelerator)  # a large JSON is parsed in one process, the others find its index
    training, validation = opened()
    report, clipped = on_main(lambda: task.check(training, validation), accelerator), list[str]()
    if cleaning.clip_boxes and isinstance(training, Dataset):
        training, report, lines = clip_boxes(training, report)
        validation, report, more = clip_boxes(validation, report)
        clipped = lines + more
    if not cleaning.skip_bad:
        report.raise_on_errors(data.root, skippable=True)
    train, val, left_out = task.select(training, validation, report, recipe)
    return train, val, [*clipped, *left_out]
