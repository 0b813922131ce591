"""What training a detector does in its own way: its pictures and labels, its random changes, its score."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from boxwright.data.dataset import Dataset
from boxwright.data.loader import Loader
from boxwright.data.transforms import augment, step_size
from boxwright.datatools.check import check, check_splits, skip_bad
from boxwright.datatools.report import Report
from boxwright.engine import fingerprint as fingerprints
from boxwright.engine.processes import on_main
from boxwright.evaluation.coco import Metrics
from boxwright.evaluation.run import evaluate
from boxwright.formats import open_boxes
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.types import Batch


def open_checked(recipe: Recipe, skip: bool, accelerator: Any) -> tuple[Dataset, Dataset, list[str]]:
    """Training and validation pictures, and a line for each label and picture left out.

    Raises InputError, the same in every process, for faults; with `skip` only for those that skipping cannot mend.
    """
    data = recipe.data

    def opened() -> list[Dataset]:
        return [open_boxes(data.root, split, data.kind, data.cache) for split in ("train", "val")]

    if accelerator.num_processes > 1:
        on_main(lambda: len(opened()), accelerator)  # a large JSON is parsed in one process, the others find its index
    training, validation = opened()

    def look() -> Report:
        return check(training) + check(validation) + check_splits(training, validation)

    report = on_main(look, accelerator)
    if not skip:
        report.raise_on_errors(data.root, skippable=True)
    learned, lines = capped(skip_bad(training, report), data.max_boxes)
    return learned, skip_bad(validation, report), report.left_out() + lines


def capped(dataset: Dataset, most: int | None) -> tuple[Dataset, list[str]]:
    """The data set with the first `most` labels of each picture in the file's order (None: with all of them).

    Also a line for each picture that has more.
    """
    if most is None:
        return dataset, []
    counts = np.diff(dataset.starts)
    places = np.arange(len(dataset.rows)) - dataset.starts[dataset.owners()]  # from 0 in each picture
    lines = [
        f"{dataset.label_file(index)}: picture {dataset.path(index)} has {counts[index]} boxes, "
        f"data.max_boxes is {most}: {counts[index] - most} left out"
        for index in np.flatnonzero(counts > most).tolist()
    ]
    return dataset.without_rows(places >= most), lines


def fingerprint(dataset: Dataset, recipe: Recipe) -> str:
    """Changes when pictures or labels do, so that a run is not resumed on other data."""
    rows = dataset.rows
    columns = (dataset.images.ids, dataset.starts, rows.xyxy, rows.labels, rows.crowd, rows.areas)
    paths = [dataset.path(index) for index in range(len(dataset))]
    return fingerprints.fingerprint(columns, dataset.names, paths, recipe.data.fingerprint)


def loader(dataset: Dataset, recipe: Recipe, accelerator: Any) -> Loader:
    """Batches for training. Raises InputError when the pictures do not fill one."""
    return Loader(
        dataset,
        recipe.training_canvas,
        recipe.train.batch,
        seed=recipe.train.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=recipe.data.workers,
    )


def prepare(batch: Batch, recipe: Recipe, epoch: int, number: int, accelerator: Any) -> Batch:
    """A loaded batch on the device and randomly changed. `number` counts the batches of this process from 0."""
    config = recipe.train
    return augment(
        batch.to(accelerator.device),
        config.augment,
        size=step_size(config.augment, recipe.data.canvas.size, config.seed, number // config.accumulate),
        seed=config.seed,
        step=number,
        rank=accelerator.process_index,
        mosaic=epoch < config.epochs - config.augment.close_mosaic,
        fill=recipe.data.canvas.fill,
    )


def score(network: nn.Module, recipe: Recipe, dataset: Dataset, accelerator: Any, out: Path | None) -> Metrics:
    """COCO's numbers of the network on `dataset`; all processes call this, and the first writes to `out`."""
    predictor = Predictor(network, recipe, accelerator.device)
    return evaluate(predictor, dataset, out, rank=accelerator.process_index, world=accelerator.num_processes)
