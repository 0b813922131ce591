"""boxwright: convolutional object detectors and classifiers in PyTorch.

What users may lean on is listed here by hand; anything else may change. Names are loaded when first used, so that
`boxwright --help` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.engine.train import train
    from boxwright.errors import InputError
    from boxwright.evaluation.class_run import evaluate_classifier
    from boxwright.evaluation.run import evaluate
    from boxwright.export.run import export_model
    from boxwright.predict.class_predictor import ClassPredictor, load_classifier
    from boxwright.predict.predictor import Predictor, load
    from boxwright.recipe import Recipe
    from boxwright.types import Classes, Detections

__version__ = "0.1.0"
__all__ = [
    "ClassPredictor",
    "Classes",
    "Detections",
    "InputError",
    "Predictor",
    "Recipe",
    "__version__",
    "evaluate",
    "evaluate_classifier",
    "export_model",
    "load",
    "load_classifier",
    "train",
]

_HOMES = {
    "ClassPredictor": "boxwright.predict.class_predictor",
    "Classes": "boxwright.types",
    "Detections": "boxwright.types",
    "InputError": "boxwright.errors",
    "Predictor": "boxwright.predict.predictor",
    "Recipe": "boxwright.recipe",
    "evaluate": "boxwright.evaluation.run",
    "evaluate_classifier": "boxwright.evaluation.class_run",
    "export_model": "boxwright.export.run",
    "load": "boxwright.predict.predictor",
    "load_classifier": "boxwright.predict.class_predictor",
    "train": "boxwright.engine.train",
}


def __getattr__(name: str) -> Any:
    # `evaluate` and `train` are also names of rooms or modules; the function wins at this door.
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'boxwright' has no attribute '{name}'")
