"""Recipes stored in weights, in exported files, or beside them, which are only as trusted as their author."""

from collections.abc import Mapping
from typing import TypeVar

from boxwright.config import RGB
from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.recipe import DataConfig, EvaluateConfig, PredictConfig, Recipe, from_tree

MAX_CANVAS_PIXELS = 1 << 24  # px; activations of the first layers then take about 2 GB
MAX_BATCH_PIXELS = 1 << 23  # px of all canvases of a batch
BOUNDS = (("data", "workers", 0), ("evaluate", "batch", 1 << 16), ("predict", "batch", 1 << 16))

C = TypeVar("C", EvaluateConfig, PredictConfig)


def untrusted(tree: Mapping[str, object], source: str) -> Recipe:
    """Recipe with the settings that are taken from a stored one: name, model, canvas, bands and their ranges, classes,
    kind of data set, fraction of validation images, thresholds, temperatures and NMS. Folders, processes and training
    settings depend on the machine and keep their defaults; batches are limited to `MAX_BATCH_PIXELS`, which does not
    change results.

    source: origin of `tree`, for messages. Raises InputError if any part of `tree` is invalid, also a part that is not
    used, and for a canvas beyond `MAX_CANVAS_PIXELS`.
    """
    stored = from_tree(_bounded(tree) if isinstance(tree, Mapping) else tree, source)
    canvas = stored.data.canvas
    height, width = canvas.size
    layers = max(1, stored.model.input_channels / RGB)  # pixels with more channels take more memory
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
    """Clamp untrusted settings to `BOUNDS`."""
    found: JsonObject = dict(tree)
    for section, key, limit in BOUNDS:
        values = found.get(section)
        if isinstance(values, Mapping) and type(values.get(key)) is int and values[key] > limit:
            found[section] = {**values, key: limit}
    return found


def _limited(config: C, pixels: float) -> C:
    """config with the batch limited for canvases of `pixels` px."""
    return config.model_copy(update={"batch": min(config.batch, max(1, int(MAX_BATCH_PIXELS // pixels)))})
