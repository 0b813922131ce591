"""Detectors and classifiers from files; the recipe says which."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from boxwright.predict import class_predictor, predictor
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.predict.loading import recipe_of
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.runtimes.base.runtime import RuntimeOptions

AnyPredictor = Predictor | ClassPredictor


def load(
    path: str | Path,
    recipe: str | Path | Recipe | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    backend: str = "auto",
    running: RuntimeOptions | None = None,
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
            `RuntimeOptions(fuse=True)` runs a faster copy.
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
        running = replace(running or RuntimeOptions(), trust=True)
    if chosen.model.task == "classify":
        return class_predictor.load_classifier(path, chosen, device, overrides, backend, running)
    return predictor.load(path, chosen, device, overrides, backend, running)
