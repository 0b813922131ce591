"""A warning if many objects are smaller than the finest stride of the network."""

import logging
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from boxwright.data.dataset import Dataset, evenly_spaced
from boxwright.datatools.anchors import resized
from boxwright.nn.network import Network
from boxwright.recipe import Recipe

logger = logging.getLogger(__name__)

SHARE = 0.25  # share of small boxes above which the warning is logged
# Evenly spaced over the split: their boxes are measured, and headers are read where no size is declared
MEASURED_IMAGES = 1000
MAX_INPUT_SIDE = 2048  # px, longest side that is suggested; beyond it, tiles are suggested
# Finest stride -> the recipe to suggest, coarse first
FINER = {8: "yolov4_coco_608_darknet", 4: "faster_rcnn_r50_dcn_coco_standard"}


def warn(recipe: Recipe, training: Any, network: Network) -> None:
    """Log a warning if more than `SHARE` of the training boxes have a shorter side, in canvas px, below the finest
    stride of the network. Decodes no image."""
    stride = network.finest_stride
    if stride is None or not isinstance(training, Dataset):
        return
    boxes, _ = resized(training.subset(evenly_spaced(len(training), MEASURED_IMAGES)), recipe.data.canvas)
    sides = boxes.min(axis=1)
    if not len(sides) or (share := float((sides < stride).mean())) <= SHARE:
        return
    (height, width), factor = recipe.data.canvas.size, stride / float(np.quantile(sides, SHARE))
    logger.warning(
        "%.0f %% of the boxes have a shorter side below %g px, the finest stride, at %d x %d px (median %.1f px): %s",
        100 * share, stride, width, height, np.median(sides), _advice(recipe, factor, stride),
    )  # fmt: skip


def _advice(recipe: Recipe, factor: float, stride: float) -> str:
    """A suggestion that enlarges objects by this factor, and the recipe with the next finer stride."""
    step, canvas = recipe.model.size_step, recipe.data.canvas
    size = [math.ceil(side * factor / step) * step for side in canvas.size]
    if max(size) > MAX_INPUT_SIDE:
        words = ["`boxwright data tile`"]
    else:
        limits: Iterable[tuple[str, int]] = [("short_side", canvas.short_side), ("long_side", canvas.long_side)]
        larger = {"size": str(size).replace(" ", "")}
        larger |= {key: str(math.ceil(side * factor)) for key, side in limits if side}
        words = [" ".join(f"--set data.canvas.{key}={value}" for key, value in larger.items())]
    words += [f"recipe {name}" for finer, name in FINER.items() if finer < stride][:1]
    return "try " + " or ".join(words)
