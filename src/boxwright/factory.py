"""Shipped recipes and their networks by name."""

from pathlib import Path

from boxwright import models
from boxwright import recipe as recipes
from boxwright.config import Overrides
from boxwright.nn.network import Network
from boxwright.recipe import Recipe


def list_recipes() -> list[str]:
    """The names of the shipped recipes."""
    return recipes.names()


def create_model(recipe: str | Path | Recipe, classes: int | None = None, overrides: Overrides = ()) -> Network:
    """Create a network with random weights.

    Args:
        recipe: A shipped name, a YAML file or a Recipe.
        classes: Number of classes; None for the recipe's.
        overrides: Changes to the recipe by dotted key.

    Returns:
        A module that follows `types.Detector` or `types.Classifier`, in training mode, on the CPU.

    Raises:
        InputError: For an unknown name or key, or a value that does not fit.

    Example:
        >>> model = bw.create_model("yolov3_coco_416", classes=3)
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    if classes is not None:
        chosen = chosen.with_overrides({"model.classes": classes, "data.names": []})
    chosen = chosen.with_overrides(overrides)
    return models.build(chosen.model)
