"""boxwright: convolutional object detectors in PyTorch.

What users may lean on is listed here by hand; anything else may change. Names are loaded when first used, so that
`boxwright --help` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.engine.train import train
    from boxwright.errors import InputError
    from boxwright.evaluation.run import evaluate
    from boxwright.predict.predictor import Predictor, load
    from boxwright.recipe import Recipe
    from boxwright.types import Detections

__version__ = "0.1.0"
__all__ = ["Detections", "InputError", "Predictor", "Recipe", "__version__", "evaluate", "load", "train"]

_HOMES = {
    "Detections": "boxwright.types",
    "InputError": "boxwright.errors",
    "Predictor": "boxwright.predict.predictor",
    "Recipe": "boxwright.recipe",
    "evaluate": "boxwright.evaluation.run",
    "load": "boxwright.predict.predictor",
    "train": "boxwright.engine.train",
}


def __getattr__(name: str) -> Any:
    # `evaluate` and `train` are also names of rooms or modules; the function wins at this door.
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'boxwright' has no attribute '{name}'")
