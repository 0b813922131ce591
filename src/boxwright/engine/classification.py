"""What training a classifier does in its own way: its pictures and labels, its random changes, its score."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from boxwright.data.class_dataset import ClassSet
from boxwright.data.class_loader import ClassLoader
from boxwright.data.class_transforms import augment
from boxwright.datatools.check import skip_bad
from boxwright.datatools.class_check import check, check_splits
from boxwright.datatools.report import Report
from boxwright.engine import fingerprint as fingerprints
from boxwright.engine.processes import on_main
from boxwright.errors import InputError
from boxwright.evaluation.class_run import evaluate_classifier
from boxwright.evaluation.topk import TopK
from boxwright.formats import open_classes
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.recipe import Recipe
from boxwright.types import ClassBatch


def open_checked(recipe: Recipe, skip: bool, accelerator: Any) -> tuple[ClassSet, ClassSet, list[str]]:
    """Training and validation pictures, and a line for each left out.

    Labels count in the recipe's order where its classes are those of the data, so that a network that knows them by
    their places goes on knowing them. Raises InputError, the same in every process, for faults; with `skip` only for
    those that skipping cannot mend.
    """
    data = recipe.data
    training, validation = (open_classes(data.root, split, data.kind) for split in ("train", "val"))

    def look() -> Report:
        return check(training) + check(validation) + check_splits(training, validation)

    report = on_main(look, accelerator)
    if not skip:
        report.raise_on_errors(data.root, skippable=True)
    learned, scored = skip_bad(training, report), skip_bad(validation, report)
    _nothing_lost(training, learned)
    names = data.names if set(data.names) == set(learned.names) else learned.names
    return learned.ordered(names), scored.ordered(names), report.left_out()


def _nothing_lost(training: ClassSet, learned: ClassSet) -> None:
    """InputError for a class whose pictures were all skipped."""
    lost = np.flatnonzero((training.counts() > 0) & (learned.counts() == 0)).tolist()
    if lost:
        raise InputError(
            f"{training.root}: class {training.names[lost[0]]} has no picture left in {training.split} when the faulty "
            f"ones are skipped ({len(lost)} such classes), needed some to learn from; mend its pictures, or remove the "
            "class from all splits"
        )


def fingerprint(dataset: ClassSet, recipe: Recipe) -> str:
    """Changes when pictures or labels do, so that a run is not resumed on other data."""
    if dataset.pixels is None:
        files = [dataset.path(index) for index in range(len(dataset))]
        return fingerprints.fingerprint([dataset.labels], dataset.names, files, recipe.data.fingerprint)
    # all pictures in one file, which has been read
    return fingerprints.fingerprint([dataset.labels, dataset.pixels], dataset.names, [], recipe.data.fingerprint)


def loader(dataset: ClassSet, recipe: Recipe, accelerator: Any) -> ClassLoader:
    """Batches for training. Raises InputError when the pictures do not fill one."""
    return ClassLoader(
        dataset,
        recipe.training_canvas,
        recipe.train.batch,
        changes=recipe.train.class_augment,
        seed=recipe.train.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=recipe.data.workers,
    )


def prepare(batch: ClassBatch, recipe: Recipe, epoch: int, number: int, accelerator: Any) -> ClassBatch:
    """A loaded batch on the device and randomly changed. `number` counts the batches of this process from 0."""
    return augment(
        batch.to(accelerator.device),
        recipe.train.class_augment,
        canvas=recipe.data.canvas,
        seed=recipe.train.seed,
        step=number,
        rank=accelerator.process_index,
    )


def score(network: nn.Module, recipe: Recipe, dataset: ClassSet, accelerator: Any, out: Path | None) -> TopK:
    """Top-1 and top-5 of the network on `dataset`; all processes call this, and the first writes to `out`."""
    predictor = ClassPredictor(network, recipe, accelerator.device)
    place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    return evaluate_classifier(predictor, dataset, out, **place)
