"""The bands of training images: how many there are, and the range of their samples."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator

from boxwright.config import RGB
from boxwright.data.dataset import Dataset, evenly_spaced
from boxwright.engine.processes import on_main
from boxwright.errors import InputError
from boxwright.images.bands import Range, read_samples, valid
from boxwright.images.decode import all_bands, open_image
from boxwright.recipe import Recipe

logger = logging.getLogger(__name__)

MEASURED_IMAGES, MEASURED_PIXELS = 64, 1 << 14  # evenly spaced over the split, and over each image: 2^20 px in all


def resolve(recipe: Recipe, training: Any, stored: Recipe | None, accelerator: Accelerator) -> Recipe:
    """The recipe with the numbers of all bands, and the ranges of the training images by `data.percentiles`.

    Args:
        recipe: The recipe of the training.
        training: The training images.
        stored: The recipe of the run to resume, whose numbers are reused; None for a new run.
        accelerator: The accelerator of the training; the main process reads the images.

    Raises:
        InputError: An image cannot be read or lacks a band, or a band has no range.
    """
    data = recipe.data
    if data.bands is None:
        return recipe
    if data.bands == "all":
        bands = stored.data.bands if stored is not None and isinstance(stored.data.bands, tuple) else None
        bands = bands or on_main(lambda: all_bands(training.path(0)), accelerator)
        recipe = recipe.with_overrides({"data.bands": list(bands)})
    if data.range is None and data.percentiles is not None:
        ranges: Sequence[Range] | None = stored.data.range if stored is not None else None
        ranges = ranges or on_main(lambda: measure(training, recipe), accelerator)
        recipe = recipe.with_overrides({"data.range": [list(pair) for pair in ranges]})
    augment = recipe.train.augment
    if (
        recipe.model.input_channels != RGB
        and (augment.hue or augment.saturation != (1, 1))
        and accelerator.is_main_process
    ):
        logger.info(
            "train.augment: hue and saturation are not defined for %d bands, only value is used",
            recipe.model.input_channels,
        )
    return recipe


def measure(dataset: Dataset, recipe: Recipe) -> list[Range]:
    """The two `data.percentiles` of the samples of each band of `data.bands`, without NODATA samples."""
    numbers, percentiles = recipe.data.bands, recipe.data.percentiles
    assert isinstance(numbers, tuple)
    assert percentiles is not None
    values: list[list[object]] = [[] for _ in numbers]
    for index in evenly_spaced(len(dataset), MEASURED_IMAGES):
        path = dataset.path(index)
        source = open_image(path)
        samples, nodata = read_samples(path, source.data, source.orientation, numbers)
        for found, plane, missing in zip(values, samples, nodata, strict=True):
            found.append(valid(plane.ravel()[:: -(-plane.size // MEASURED_PIXELS)], missing))
    return [_range(number, found, percentiles) for number, found in zip(numbers, values, strict=True)]


def _range(number: int, values: Sequence[Any], percentiles: tuple[float, float]) -> Range:
    found = np.concatenate(values).astype(np.float64)
    low, high = np.percentile(found, percentiles).tolist() if found.size else (0.0, 0.0)
    if not low < high:
        raise InputError(
            f"data.percentiles: band {number} of the training images is {low:g} throughout, needed two values; leave "
            "it out of data.bands, or set data.range"
        )
    return float(low), float(high)
