"""The data of a training: opened, checked, and without faulty labels and images."""

import logging
from typing import Any

from accelerate import Accelerator

from boxwright.data.background import open_background, with_background
from boxwright.data.dataset import Dataset
from boxwright.data.sets import shown
from boxwright.datatools.check import skip_bad
from boxwright.datatools.clean import Cleaning, clip_boxes
from boxwright.datatools.report import pluralize
from boxwright.datatools.val_fraction import names_to_open
from boxwright.engine.processes import on_main
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.tasks import AnyTask

logger = logging.getLogger(__name__)


def open_checked(
    task: AnyTask, recipe: Recipe, cleaning: Cleaning, accelerator: Accelerator
) -> tuple[Any, Any, list[str]]:
    """Training and validation data, and a line for each label, image and class left out.

    Validation data is None if there is no split `val` and `train.evaluate_every` is 0.

    Raises InputError, the same in every process, for errors that `cleaning` does not handle.
    """
    data = recipe.data
    names = on_main(lambda: names_to_open(recipe), accelerator)

    def opened() -> list[Any]:
        return [None if name is None else task.open(data.root, name, data) for name in names]

    if accelerator.num_processes > 1:
        on_main(lambda: len(opened()), accelerator)  # one process parses a large JSON, the rest read its index
    training, validation = opened()
    present = [dataset for dataset in (training, validation) if dataset is not None]
    if data.background:
        present.append(open_background(data.background, present))
    report, clipped = on_main(lambda: task.check(*present, rgb=data.bands is None), accelerator), list[str]()
    if cleaning.clip_boxes and isinstance(training, Dataset):
        training, report, clipped = clip_boxes(training, report)
        if validation is not None:
            validation, report, more = clip_boxes(validation, report)
            clipped += more
    if not cleaning.skip_bad:
        report.raise_on_errors(shown(data.root), skippable=True)
    train, val, left_out = task.select(training, validation, report, recipe)
    shared = sum(finding.kind == "shared_image" for finding in report.findings)
    if val is not None and shared and accelerator.is_main_process:
        logger.warning(
            "%d of %d images of val are also in train, which makes results look better than they are", shared, len(val)
        )
    check_objects(train, "train on")
    if recipe.train.evaluate_every:
        check_objects(val, "choose the best network by; or set train.evaluate_every=0")
    if data.background:
        background = skip_bad(present[-1], report)
        train = with_background(train, background)
        if accelerator.is_main_process:
            logger.info(
                "%s without objects, from %s", pluralize(len(background), "image[s]"), ", ".join(data.background)
            )
    notes = [note for dataset in present for note in dataset.notes]
    return train, val, [*notes, *clipped, *left_out]


def check_objects(dataset: Any, purpose: str) -> None:
    """Raise InputError for a data set of boxes that has no object; `purpose` says what it needs some for."""
    if isinstance(dataset, Dataset) and (dataset.rows.crowd | dataset.rows.ignored).all():
        raise InputError(
            f"{dataset.root}: split {dataset.split} holds no object, needed some to {purpose}; are its labels where "
            "`boxwright data check` looks for them?"
        )
