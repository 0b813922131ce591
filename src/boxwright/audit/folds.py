"""Out-of-fold predictions: a network for each fold, trained on the images of the other folds.

P images
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from boxwright import formats
from boxwright import recipe as recipes
from boxwright.audit.subject import Subject
from boxwright.config import Overrides
from boxwright.data.layout import Extras, Split
from boxwright.datatools.groups import group
from boxwright.datatools.split import assign
from boxwright.engine.train import train
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import predict_dataset, to_score
from boxwright.files import temporary_folder
from boxwright.images.header import read_headers
from boxwright.predict.predictor import AnyPredictor, load
from boxwright.recipe import Recipe
from boxwright.tasks.base import PostprocessArgs
from boxwright.tasks.detect import TASK as DETECT
from boxwright.tasks.detect import Prediction

logger = logging.getLogger(__name__)

MIN_SCORE = 0.01  # minimum score of detections: even low scores are evidence for an object
RECIPE = "yolov4_tiny_coco_416_darknet"
# Settings to train it from random weights in minutes on a CPU: a quarter of the channels, a smaller input, and for each
# object all anchors that are similar (assign_iou), with an IoU loss.
OWN: Mapping[str, object] = {
    "model.width": 0.25,
    "model.anchors": "auto",
    "model.loss": {"box_loss": "ciou", "box": 5, "assign_iou": 0.3, "normalize": "boxes"},
    "data.canvas": {"size": [256, 256], "fit": "letterbox", "fill": 128, "resize": "linear"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the networks of the folds are trained.

    Attributes:
        folds: Number of folds, at least 2.
        minutes: Time limit of all trainings together; 0 for the recipe's epochs.
        recipe: A shipped name, the path of a YAML or .cfg file, or a Recipe; None for `RECIPE`.
        start: Initial weights of each network, where they fit; None for random weights.
        overrides: Changes to the recipe by dotted key.
        seed: Random seed of the folds.
    """

    folds: int = 3
    minutes: float = 15
    recipe: Recipe | str | None = None
    start: str | Path | None = None
    overrides: Overrides = ()
    seed: int = 0


def predict_folds(subject: Subject, training: Training, folder: Path) -> list[Prediction]:
    """Predict each image with the network that was not trained on its fold.

    Args:
        subject: The images.
        training: The settings of the trainings.
        folder: Folder for temporary run folders.

    Raises:
        InputError: There are fewer groups of images than folds, or a training is not possible.
    """
    fold_of = divide(subject, training.folds, training.seed)
    sizes = np.array([header.size for header in read_headers(subject.paths(), decode=None)], dtype=np.int64)
    results: list[Prediction | None] = [None] * len(subject.dataset)
    for number in range(training.folds):
        logger.info("fold %d of %d: %d images are predicted", number + 1, training.folds, (fold_of == number).sum())
        own = np.flatnonzero(fold_of == number)
        with temporary_folder(folder) as work:
            run = _train(subject, np.flatnonzero(fold_of != number), sizes, training, work)
            found = predict_subject(load(run / "last"), replace(subject, dataset=subject.dataset.subset(own)))
        for index, result in zip(own.tolist(), found, strict=True):
            results[index] = result
    return [result for result in results if result is not None]


def divide(subject: Subject, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """(P,) the fold of each image, stratified by class; copies, tiles of a scene, frames of a video and near-duplicates
    stay together.

    Raises InputError if there are fewer groups of images than folds.
    """
    groups = group(subject.keys, subject.paths())
    parts = {f"fold {number}": 1 / folds for number in range(folds)}
    return assign(subject.dataset, groups, parts, seed)


def predict_subject(predictor: AnyPredictor, subject: Subject) -> list[Prediction]:
    """The detections of a network with scores of at least `MIN_SCORE`, with the labels of the data set.

    Raises InputError if it is not a detector or lacks a class, or an image cannot be read.
    """
    if predictor.task.title != DETECT.title:
        raise InputError(f"--weights: found {predictor.task.title}, needed {DETECT.title} for labels of boxes")
    dataset = to_score(predictor, subject.dataset)
    args: PostprocessArgs = predictor.task.evaluation_args(dataset, predictor.recipe, MIN_SCORE)
    return predict_dataset(predictor, dataset, args)


def _train(
    subject: Subject, chosen: NDArray[np.int64], sizes: NDArray[np.int64], training: Training, work: Path
) -> Path:
    """Train on the images `chosen`, and return the run folder. The labels are written to a COCO file."""
    writer = formats.layout("coco").writer
    assert writer is not None
    dataset = replace(subject.dataset.subset(chosen), split="train", kind="fold")
    names = [PurePosixPath(Path(os.path.abspath(dataset.path(index))).as_posix()) for index in range(len(dataset))]  # noqa: PTH100
    extras = Extras([{} for _ in range(len(dataset.rows))], [{} for _ in names])
    data = work / "data"
    (data / "annotations").mkdir(parents=True)
    writer.write(Split(dataset, extras, names, sizes[chosen]), data)
    return train(
        _recipe(training),
        data,
        work / "run",
        weights=training.start,
        transfer=training.start is not None,
        skip_bad=True,
        clip_boxes=True,
    )


def _recipe(training: Training) -> Recipe:
    """The recipe of each fold, without evaluation, so that `last` is the result."""
    if training.recipe is None:
        recipe = recipes.load(RECIPE, OWN).with_overrides(training.overrides)
    elif isinstance(training.recipe, Recipe):
        recipe = training.recipe.with_overrides(training.overrides)
    else:
        recipe = recipes.load(training.recipe, training.overrides)
    minutes = training.minutes / training.folds or None
    fixed = {"train.minutes": minutes, "train.evaluate_every": 0, "train.patience": 0, "data.kind": "coco"}
    return recipe.with_overrides(fixed)
