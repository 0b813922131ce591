"""Temperature scaling: `predict.temperatures` of a checkpoint, from its scores on labeled images.

N scores, C classes
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwright.arrays import Array
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.sets import Root
from boxwright.datatools.clean import Cleaning
from boxwright.errors import InputError, printable
from boxwright.evaluation.evaluate import cleaned, predict_dataset, to_score
from boxwright.metrics.calibration import calibration, class_temperatures, softmax_temperature
from boxwright.metrics.matching import Kind, match
from boxwright.ops.temperature import scale
from boxwright.predict.predictor import AnyPredictor, load
from boxwright.tasks.base import PostprocessArgs
from boxwright.weights import checkpoint, kind_of, stored_recipe
from boxwright.weights.files import locate

KEY = "temperatures"  # in the recipe's section predict


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The result of `calibrate`.

    Attributes:
        file: The checkpoint.
        names: The class of each temperature; `all` for a classifier.
        temperatures: One temperature per class; a single one for a classifier.
        images: Number of images.
        before: The expected calibration error (ECE) in [0, 1] with a temperature of 1.
        after: The ECE of each half of the images with temperatures fitted on the other half.
    """

    file: Path
    names: tuple[str, ...]
    temperatures: tuple[float, ...]
    images: int
    before: float
    after: float

    @property
    def stored(self) -> bool:
        """Whether the checkpoint has the temperatures: they lower the error."""
        return self.after < self.before

    def __str__(self) -> str:
        width = max(map(len, ["class", *self.names]))
        lines = [f"{'class':<{width}}  temperature"]
        lines += [f"{name:<{width}}  {value:>11.3f}" for name, value in zip(self.names, self.temperatures, strict=True)]
        lines.append(f"ECE {self.before:.4f}; {self.after:.4f} on halves of {self.images} images, ")
        lines[-1] += "each with temperatures of the other half"
        lines.append(str(self.file) if self.stored else f"{self.file}: unchanged, since they do not lower the error")
        return "\n".join(map(printable, lines))


def calibrate(
    weights: str | Path,
    data: Root,
    split: str = "val",
    *,
    device: str | torch.device = "auto",
    skip_bad: bool = False,
    clip_boxes: bool = False,
) -> Calibrated:
    """Find the temperatures of a network's scores, and write them into the recipe in its checkpoint if they help.

    Predictions, evaluations and later exports use them. Scores keep their order within each class, so average precision
    does not change. Temperatures that the checkpoint already has are replaced.

    Args:
        weights: A run folder, or a .safetensors file with a stored recipe.
        data: The root of a data set, or a list of roots; not the images that the network was trained on.
        split: The split.
        device: As in `load`.
        skip_bad: As in `train`.
        clip_boxes: As in `train`.

    Raises:
        InputError: The file stores no recipe, the scores are not probabilities, or as in `evaluate`.
    """
    file = locate(Path(weights))
    if kind_of(file) != "safetensors" or stored_recipe(file) is None:
        raise InputError(
            f"{file}: found no stored recipe, needed one for the temperatures; `boxwright import` stores it"
        )
    predictor = load(file, device=device, overrides={f"predict.{KEY}": []})
    task, recipe = predictor.task, predictor.recipe
    dataset: Any = task.open(data, split, recipe.data)
    dataset = cleaned(task, dataset, Cleaning(skip_bad, clip_boxes), rgb=recipe.data.bands is None)
    dataset = to_score(predictor, dataset)
    if isinstance(dataset, ClassSet):
        names: tuple[str, ...] = ("all",)
        found, before, after = _of_classifier(predictor, dataset)
    else:
        names = recipe.data.names
        found, before, after = _of_detector(predictor, dataset)
    result = Calibrated(file, names, tuple(found), len(dataset), before, after)
    if result.stored:
        tree = checkpoint.read_tree(file)
        tree["predict"] = {**tree.get("predict", {}), KEY: found}
        checkpoint.write(file, checkpoint.read_tensors(file), tree)
    return result


def _of_detector(predictor: AnyPredictor, dataset: Dataset) -> tuple[list[float], float, float]:
    """Temperatures, and ECE before and after. A detection is correct if it matches an object at IoU 0.5."""
    args = predictor.task.evaluation_args(dataset, predictor.recipe)
    results = predict_dataset(predictor, dataset, args)
    found = match([dataset[index] for index in range(len(dataset))], results).found
    number = {name: label for label, name in enumerate(predictor.recipe.data.names)}
    labels = np.array([number[name] for name in dataset.names])[found.labels]  # of the network
    counted, correct = found.counted, found.kinds == Kind.CORRECT
    scores, correct, labels, images = (x[counted] for x in (found.scores, correct, labels, found.images))
    if not len(scores):
        raise InputError(f"{dataset.root}: found no detection in split {dataset.split}, needed some to calibrate")
    temperatures = class_temperatures(scores, correct, labels, len(number))
    after = np.empty_like(scores)
    for half in (0, 1):
        here = images % 2 == half
        of_others = class_temperatures(scores[~here], correct[~here], labels[~here], len(number))
        after[here] = scale(scores[here], np.array(of_others)[labels[here]])
    return temperatures, calibration(scores, correct).ece, calibration(after, correct).ece


def _of_classifier(predictor: AnyPredictor, dataset: ClassSet) -> tuple[list[float], float, float]:
    """`_of_detector` for a classifier: one temperature, and ECE of the best class of each image."""
    classes = predictor.recipe.model.classes
    results = predict_dataset(predictor, dataset, PostprocessArgs(top_k=classes))
    scores = np.zeros((len(results), classes))
    for row, result in zip(scores, results, strict=True):
        row[result.labels.numpy()] = result.scores.numpy()
    if not np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        raise InputError(f"{predictor.recipe.name}: its scores are not probabilities, needed a classifier with softmax")
    truth = dataset.labels
    logits, odd = np.log(np.maximum(scores, np.finfo(np.float32).tiny)), np.arange(len(truth)) % 2 == 1
    correct = scores.argmax(axis=1) == truth
    after = np.empty(len(truth))
    for here in (odd, ~odd):
        after[here] = _best(logits[here] / softmax_temperature(logits[~here], truth[~here]))
    before = calibration(_best(logits), correct).ece
    return [softmax_temperature(logits, truth)], before, calibration(after, correct).ece


def _best(logits: Array) -> Array:
    """(N, C) -> (N,) the highest probability."""
    best: Array = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    return best
