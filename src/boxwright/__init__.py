"""boxwright: convolutional object detectors and image classifiers in PyTorch.

`__all__` is the public API; everything else may change. Names are imported on first use, so that `boxwright --help`
does not import torch.
"""

import importlib
from typing import TYPE_CHECKING

from boxwright.version import __version__

if TYPE_CHECKING:
    from boxwright import interop
    from boxwright.engine.train import train
    from boxwright.errors import InputError
    from boxwright.evaluation.calibrate import calibrate
    from boxwright.evaluation.evaluate import evaluate
    from boxwright.export.run import export_model
    from boxwright.factory import create_model, list_recipes
    from boxwright.formats import open_dataset
    from boxwright.images.windows import open_scene
    from boxwright.predict.predictor import Predictor, load
    from boxwright.predict.tiled import Tiling, predict_scene
    from boxwright.recipe import Recipe
    from boxwright.remote.folders import local_path
    from boxwright.remote.outputs import local_output
    from boxwright.runtimes.base.runtime import RuntimeOptions
    from boxwright.tasks.classify import ClassPrediction
    from boxwright.tasks.detect import Prediction
    from boxwright.types import Batch, Classes, Detection, Detections

__all__ = [
    "Batch",
    "ClassPrediction",
    "Classes",
    "Detection",
    "Detections",
    "InputError",
    "Prediction",
    "Predictor",
    "Recipe",
    "RuntimeOptions",
    "Tiling",
    "__version__",
    "calibrate",
    "create_model",
    "evaluate",
    "export_model",
    "interop",
    "list_recipes",
    "load",
    "local_output",
    "local_path",
    "open_dataset",
    "open_scene",
    "predict_scene",
    "train",
]

# Public name -> its module
_MODULES = {
    "Batch": "types",
    "ClassPrediction": "tasks.classify",
    "Classes": "types",
    "Detection": "types",
    "Detections": "types",
    "InputError": "errors",
    "Prediction": "tasks.detect",
    "Predictor": "predict.predictor",
    "Recipe": "recipe",
    "RuntimeOptions": "runtimes.base.runtime",
    "Tiling": "predict.tiled",
    "calibrate": "evaluation.calibrate",
    "create_model": "factory",
    "evaluate": "evaluation.evaluate",
    "export_model": "export.run",
    "list_recipes": "factory",
    "load": "predict.predictor",
    "local_output": "remote.outputs",
    "local_path": "remote.folders",
    "open_dataset": "formats",
    "open_scene": "images.windows",
    "predict_scene": "predict.tiled",
    "train": "engine.train",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"boxwright.{_MODULES[name]}"), name)
    elif name == "interop":
        value = importlib.import_module("boxwright.interop")
    else:
        raise AttributeError(f"module 'boxwright' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
