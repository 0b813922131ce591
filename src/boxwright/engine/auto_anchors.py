"""`model.anchors: auto`: anchors for the boxes of the training images, chosen before the network is built."""

import logging
from typing import Any

from accelerate import Accelerator

from boxwright.config import AUTO
from boxwright.datatools.anchors import choose
from boxwright.engine.processes import on_main
from boxwright.recipe import Recipe

logger = logging.getLogger(__name__)


def resolve(recipe: Recipe, training: Any, stored: Recipe | None, accelerator: Accelerator) -> Recipe:
    """The recipe with numbers for `model.anchors`, the same in all processes; heads use them like given anchors.

    Args:
        recipe: The recipe of the training.
        training: The training images.
        stored: The recipe of the run to resume, whose numbers are reused; None for a new run.
        accelerator: The accelerator of the training; the main process computes.

    Raises:
        InputError: There are fewer boxes of different sizes than anchors.
    """
    if getattr(recipe.model, "anchors", None) != AUTO:
        return recipe

    def numbers() -> list[list[int]]:
        count = recipe.model.anchor_count
        remedy = "add images, or give model.anchors as numbers"
        found = choose(training, recipe.data.canvas, count, recipe.train.seed, remedy)
        pairs: list[list[int]] = found.anchors.astype(int).tolist()
        logger.info("model.anchors: %s, %s", str(pairs).replace(" ", ""), found.quality)
        return pairs

    if stored is not None:
        return recipe.with_overrides({"model.anchors": stored.tree()["model"]["anchors"]})
    return recipe.with_overrides({"model.anchors": on_main(numbers, accelerator)})
