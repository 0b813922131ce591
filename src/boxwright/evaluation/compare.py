"""Comparison of two models, or of the results that they wrote, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwright import json_text
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.sets import Root
from boxwright.datatools.clean import Cleaning
from boxwright.datatools.groups import of_evaluation
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import cleaned, predict_dataset, to_score
from boxwright.metrics.comparison import Comparison, class_differences, differences
from boxwright.metrics.resampling import draw_weights, resamples_for
from boxwright.predict.predictor import AnyPredictor, Predictor, load
from boxwright.recipe import DataConfig
from boxwright.tasks import AnyTask, PostprocessArgs, of_dataset
from boxwright.tasks.detect import TASK as DETECT
from boxwright.types import Detections

MIN_RESAMPLES = 400  # their fraction in which a model is better estimates the probability that it is


@dataclass(frozen=True, slots=True)
class Predicted:
    """The predictions of a model on a data set.

    Attributes:
        title: Title of the model.
        dataset: The data set, with the labels and names of the results.
        results: The result of each image.
    """

    title: str
    dataset: Any
    results: Sequence[Any]

    @property
    def task(self) -> AnyTask:
        return of_dataset(self.dataset)


def compare(
    a: str | Path,
    b: str | Path,
    data: Root,
    split: str = "val",
    *,
    skip_bad: bool = False,
    clip_boxes: bool = False,
    device: str = "auto",
    trust: bool = False,
) -> Comparison:
    """Compare two models on labeled images by a paired bootstrap.

    Args:
        a: A run folder, weights, an exported file, or the results of an evaluation as a COCO JSON (`detections.json`).
        b: The other model, in one of these forms.
        data: The root of a data set, or a list of roots.
        split: The split.
        skip_bad: As in `evaluate`.
        clip_boxes: As in `evaluate`.
        device: As in `load`.
        trust: As in `load`.

    Raises:
        InputError: A model or file cannot be read, the models are of different tasks or lack a class, the
            data set cannot be evaluated, or it is a single image or group of images.
    """
    sources: list[AnyPredictor | Path] = [
        Path(path) if Path(path).suffix == ".json" else load(path, device=device, trust=trust) for path in (a, b)
    ]
    models = [source for source in sources if isinstance(source, Predictor)]
    tasks = [model.task for model in models] or [DETECT]
    if len({task.title for task in tasks}) > 1 or (len(models) == 1 and tasks[0].title != DETECT.title):
        others = [*(task.title for task in tasks), *["detections"] * (2 - len(models))]
        raise InputError(f"{a} and {b}: found {' and '.join(others)}, needed two of the same task")
    config = models[0].recipe.data if models else DataConfig()
    dataset = cleaned(
        tasks[0], tasks[0].open(data, split, config), Cleaning(skip_bad, clip_boxes), rgb=config.bands is None
    )
    found = [
        predicted(source, dataset, title=str(path)) if isinstance(source, Predictor) else read(source, dataset)
        for source, path in zip(sources, (a, b), strict=True)
    ]
    comparison = compare_predicted(*found)
    if comparison.groups < 2:
        raise InputError(f"{dataset.root}: found one image or group of images, needed at least 2 to compare on")
    return comparison


def predicted(
    predictor: AnyPredictor, dataset: Dataset | ClassSet, args: PostprocessArgs | None = None, *, title: str
) -> Predicted:
    """Predict a data set. args: None for the recipe's. Raises InputError as `to_score` and `predict_dataset`."""
    dataset = to_score(predictor, dataset)
    args = args or predictor.task.evaluation_args(dataset, predictor.recipe)
    return Predicted(title, dataset, predict_dataset(predictor, dataset, args))


def compare_predicted(a: Predicted, b: Predicted) -> Comparison:
    """Compare the predictions of two models on the same images.

    There are no intervals if all images are one group. Raises InputError if there is no object to measure on.
    """
    groups = of_evaluation(a.dataset)
    number = int(groups.max(initial=-1)) + 1
    results = sum(len(result) for side in (a, b) for result in side.results)
    count = max(MIN_RESAMPLES, resamples_for(max(results // 2, len(groups)))) if number > 1 else 0
    as_it_is = np.ones((len(groups), 1), np.float32)
    weights = np.concatenate([as_it_is, draw_weights(groups, count)], axis=1)
    values = [side.task.resample(side.dataset, side.results, weights) for side in (a, b)]
    summary = differences(*values)
    if not summary:
        raise InputError(
            f"{a.dataset.root}: split {a.dataset.split} holds no object, needed some to measure {a.task.measure} on"
        )
    classes = class_differences((values[0], a.dataset.names), (values[1], b.dataset.names))
    return Comparison(a.title, b.title, len(groups), number, count, summary, classes)


def read(file: Path, dataset: Dataset) -> Predicted:
    """The detections of a results file in COCO's format. Raises InputError with the place of a faulty entry."""
    if dataset.members is not None:
        raise InputError(f"{file}: holds image ids of one data set, found several --data; needed one")
    dataset = dataset.without_group()
    rows = json_text.read(file)
    if not isinstance(rows, list):
        raise InputError(f"{file}: holds {type(rows).__name__}, needed a list of detections as in detections.json")
    images = {image_id: index for index, image_id in enumerate(dataset.images.ids.tolist())}
    labels = {category: label for label, category in enumerate(dataset.category_ids)}
    columns = np.array([_row(row, f"{file}[{place}]", images, labels) for place, row in enumerate(rows)])
    columns = columns.reshape(-1, 7)
    columns = columns[np.argsort(columns[:, 0], kind="stable")]
    ends = np.searchsorted(columns[:, 0], np.arange(len(dataset) + 1)).tolist()
    boxes, numbers = torch.from_numpy(columns[:, 2:6]).float(), torch.from_numpy(columns[:, 1]).long()
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.from_numpy(columns[:, 6]).float()
    parts = [slice(first, last) for first, last in pairwise(ends)]
    return Predicted(str(file), dataset, [Detections(boxes[part], scores[part], numbers[part]) for part in parts])


def _row(row: object, place: str, images: dict[Any, int], labels: dict[int, int]) -> list[float]:
    """The numbers of a row: image, label, x, y, width, height, score."""
    values = row if isinstance(row, dict) else {}
    box = values.get("bbox")
    numbers: list[Any] = [*box, values.get("score")] if isinstance(box, list) and len(box) == 4 else [None]
    if not all(map(json_text.is_number, numbers)):
        raise InputError(f"{place}: needed image_id, category_id, bbox of four numbers and a score")
    for key, indices in (("image_id", images), ("category_id", labels)):
        number = values.get(key)
        if not isinstance(number, int | str) or number not in indices:
            raise InputError(
                f"{place}.{key}: found {str(number)[:40]}, which the split does not have; name its --split"
            )
    return [images[values["image_id"]], labels[values["category_id"]], *map(float, numbers)]
