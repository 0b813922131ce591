"""Darknet's .weights, which hold numbers and no graph, and the .cfg of networks that came with one."""

from pathlib import Path

from torch import nn

from boxwright.darknet_cfg.plan import with_size
from boxwright.models import darknet_cfg
from boxwright.recipe import Recipe
from boxwright.runtimes.base.target import Target
from boxwright.weights import darknet


def write(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the numbers, and beside them the .cfg as it was read, for the recipe's classes and canvas."""
    darknet.write(path, model)
    if isinstance(recipe.model, darknet_cfg.Config):
        text = with_size(recipe.model.text, *recipe.data.canvas.size)
        path.with_suffix(".cfg").write_text(text, encoding="utf-8", newline="")


TARGET = Target(suffix=".weights", checked_by="torch", write_weights=write, companion=".cfg")
