"""What Python users call first: `import boxwright as bw`. Each function looks at the recipe for the task."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from boxwright import models
from boxwright import recipe as recipes
from boxwright.data import Dataset
from boxwright.data import open_dataset as open_boxes
from boxwright.data.class_dataset import ClassSet
from boxwright.data.classes import FINDERS, holds_classes, open_classes
from boxwright.errors import InputError
from boxwright.evaluation import class_run, run
from boxwright.evaluation.coco import Metrics
from boxwright.evaluation.topk import TopK
from boxwright.predict import class_predictor, predictor
from boxwright.predict.backends import Running
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.predict.loading import recipe_of
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe

AnyPredictor = Predictor | ClassPredictor
Overrides = Mapping[str, Any] | Sequence[str]


def load(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str = "auto",
    overrides: Overrides = (),
    backend: str = "auto",
    running: Running | None = None,
    trust: bool = False,
) -> AnyPredictor:
    """Load a detector or a classifier, ready to predict.

    Args:
        path: A run folder, its `best/` or `last/`, a file of weights, or an exported file.
        recipe: A shipped name, a YAML file or a Recipe; None for the one stored in our own files. `.weights`, `.ckpt`
            and `.pth` files of others store none.
        device: `cpu`, `cuda`, or `auto` for the accelerator where there is one.
        overrides: Changes to the recipe by dotted key.
        backend: `auto`, `torch`, `onnxruntime` or `openvino`. Weights run in torch; of the runtimes that can run an
            exported file `auto` takes the fastest that is installed.
        running: How to run it; by default `predictor.model` itself runs, so that hooks on it fire and edits count.
            `Running(fuse=True)` runs a faster copy.
        trust: Also open a `.torchscript` file, which is a program that may do anything that this process may.

    Returns:
        A `Predictor`, or for a classifier a `ClassPredictor`.

    Raises:
        InputError: When the file cannot be read or does not fit, or a recipe is needed.

    Example:
        >>> predictor = bw.load("runs/mine")
        >>> found = predictor("photo.jpg")
    """
    chosen = recipe_of(path, recipe)
    if trust:
        running = replace(running or Running(), trust=True)
    if chosen.model.task == "classify":
        return class_predictor.load_classifier(path, chosen, device, overrides, backend, running)
    return predictor.load(path, chosen, device, overrides, backend, running)


def list_recipes() -> list[str]:
    """The names of the shipped recipes."""
    return recipes.names()


def create_model(recipe: str | Path | Recipe, classes: int | None = None, overrides: Overrides = ()) -> nn.Module:
    """A network with random weights.

    Args:
        recipe: A shipped name, a YAML file or a Recipe.
        classes: How many classes; None for the recipe's.
        overrides: Changes to the recipe by dotted key.

    Returns:
        A module that follows `types.Detector` or `types.Classifier`, in training mode, on the CPU.

    Raises:
        InputError: For an unknown name or key and a value that does not fit.

    Example:
        >>> model = bw.create_model("yolov3_coco_416", classes=3)
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    if classes is not None:
        chosen = chosen.with_overrides({"model.classes": classes, "data.names": []})
    chosen = chosen.with_overrides(overrides)
    model: nn.Module = models.module(chosen.model.name).build(chosen.model)  # type: ignore[attr-defined]
    return model


def open_dataset(root: str | Path, split: str = "train", kind: str = "auto") -> Dataset | ClassSet:
    """Open one split of a data set.

    Args:
        root: A folder, a COCO JSON, or a YAML file that says what lies where (docs/data.md).
        split: `train`, `val`, `test`, or another that the folder holds.
        kind: The layout; `auto` finds it out.

    Returns:
        A `Dataset` of boxes, or a `ClassSet` where pictures lie in one folder a class.

    Raises:
        InputError: When nothing or more than one thing is found, and for files that cannot be read.
    """
    if kind in FINDERS or (kind == "auto" and holds_classes(root)):
        return open_classes(root, split, kind)
    return open_boxes(root, split, kind)


def evaluate(
    predictor: AnyPredictor | str | Path,
    data: Dataset | ClassSet | str | Path,
    split: str = "val",
    out: str | Path | None = None,
    threshold: float | None = None,
) -> Metrics | TopK:
    """Score a detector or a classifier on labelled pictures.

    Args:
        predictor: What `load` gives, or what it takes.
        data: What `open_dataset` gives, or the root of a data set.
        split: Which part of it, where `data` is its root.
        out: A folder for metrics, results and pictures; None to write nothing.
        threshold: Lowest score that counts, of detectors; None for the recipe's.

    Returns:
        COCO's numbers, or for a classifier top-1 and top-5.

    Raises:
        InputError: For classes that the model does not know, faulty labels, unreadable pictures, an unwritable folder.

    Example:
        >>> bw.evaluate("runs/mine", "data/mine", split="test").ap50
    """
    scored = load(predictor) if isinstance(predictor, str | Path) else predictor
    kind = scored.recipe.data.kind
    if isinstance(scored, ClassPredictor):
        if threshold is not None:
            raise InputError("threshold: found with a classifier, which has none; leave it out")
        pictures = open_classes(data, split, kind) if isinstance(data, str | Path) else data
        if not isinstance(pictures, ClassSet):
            raise InputError(f"{pictures.root}: holds boxes, the classifier needs one folder a class")
        return class_run.evaluate_classifier(scored, pictures, out)
    labelled = open_boxes(data, split, kind) if isinstance(data, str | Path) else data
    if not isinstance(labelled, Dataset):
        raise InputError(f"{labelled.root}: holds classes, the detector needs boxes")
    return run.evaluate(scored, labelled, out, threshold)
