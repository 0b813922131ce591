"""Recipes stored in files of weights, in exported files, or beside them: only as trusted as their maker."""

from collections.abc import Mapping
from typing import TypeVar

from boxwright.config import RGB
from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.recipe import DataConfig, EvaluateConfig, PredictConfig, Recipe, from_tree

MAX_CANVAS_PIXELS = 1 << 24  # px: what the first layers make of so many takes some 2 GB
MAX_BATCH_PIXELS = 1 << 23  # px of all its canvases
BOUNDS = (("data", "workers", 0), ("evaluate", "batch", 1 << 16), ("predict", "batch", 1 << 16))

C = TypeVar("C", EvaluateConfig, PredictConfig)


def untrusted(tree: Mapping[str, object], source: str) -> Recipe:
    """What is taken of a stored recipe: its name, the model, the canvas, the bands and their ranges, the classes and
    how they are laid out, the share of validation images, thresholds, temperatures and NMS. Folders, processes and
    training settings are this machine's and keep their defaults; batches are cut to what `MAX_BATCH_PIXELS` holds,
    which changes no result.

    source: names where `tree` came from in an error. Raises InputError for what is no recipe, left out parts included,
    and for a canvas beyond `MAX_CANVAS_PIXELS`.
    """
    stored = from_tree(_bounded(tree) if isinstance(tree, Mapping) else tree, source)
    canvas = stored.data.canvas
    height, width = canvas.size
    layers = max(1, stored.model.input_channels / RGB)  # a px of other channels takes as much more
    for place, pixels in (("size", height * width), ("short_side", canvas.short_side**2)):
        if pixels * layers > MAX_CANVAS_PIXELS:
            raise InputError(
                f"{source}: data.canvas.{place}: found {getattr(canvas, place)}, at most "
                f"{MAX_CANVAS_PIXELS / layers:,.0f} px in all are taken from a file; name a recipe of your own by "
                "--recipe"
            )
    return Recipe(
        name=stored.name,
        model=stored.model,
        data=DataConfig(
            canvas=canvas,
            names=stored.data.names,
            kind=stored.data.kind,
            val_fraction=stored.data.val_fraction,
            bands=stored.data.bands,
            range=stored.data.range,
        ),
        evaluate=_limited(stored.evaluate, height * width * layers),
        predict=_limited(stored.predict, height * width * layers),
    )


def _bounded(tree: Mapping[str, object]) -> Mapping[str, object]:
    """tree with the numbers of somebody else's machine within the bounds of recipes: none of them is taken as it is."""
    found: JsonObject = dict(tree)
    for section, key, limit in BOUNDS:
        values = found.get(section)
        if isinstance(values, Mapping) and type(values.get(key)) is int and values[key] > limit:
            found[section] = {**values, key: limit}
    return found


def _limited(config: C, pixels: float) -> C:
    """config with batches of canvases of so many `pixels`."""
    return config.model_copy(update={"batch": min(config.batch, max(1, int(MAX_BATCH_PIXELS // pixels)))})
