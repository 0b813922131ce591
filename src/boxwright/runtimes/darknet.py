"""Darknet's .weights, which hold weights without a graph, and the .cfg, which holds the graph."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright import models
from boxwright.config import RGB
from boxwright.darknet_cfg.plan import plan, with_size
from boxwright.darknet_cfg.text import written
from boxwright.errors import InputError
from boxwright.models import darknet_cfg, yolov3_640
from boxwright.nn.network import Network
from boxwright.nn.yolo import ANCHORS_PER_SCALE, AnchorDetector
from boxwright.recipe import Recipe
from boxwright.recipe.to_cfg import head_keys, net_keys
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.target import Target
from boxwright.runtimes.serialization.darknet_sections import Sections
from boxwright.weights import darknet
from boxwright.weights.cfg_report import TOLERANCE

logger = logging.getLogger(__name__)


def write(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the weights, and beside them the .cfg; if Darknet cannot run the network, a log line says why."""
    darknet.write(path, model)
    try:
        text = _cfg(path, model, recipe)
    except InputError as reason:
        logger.warning("%s: no .cfg is written beside it: %s", path.name, reason)
    else:
        path.with_suffix(".cfg").write_text(text, encoding="utf-8", newline="")


def _cfg(weights: Path, model: nn.Module, recipe: Recipe) -> str:
    """Text of the .cfg for the recipe's classes and canvas: as it was read, or generated from the network.

    Raises:
        InputError: Why Darknet cannot run the network.
    """
    if isinstance(recipe.model, darknet_cfg.Config):
        return with_size(recipe.model.text, *recipe.data.canvas.size)
    if not isinstance(model, Network):
        raise InputError("the network is neither a YOLO detector nor a classifier")
    text, order = cfg_of(model, recipe)
    _check_outputs(text, order, weights, model, recipe)
    return text


def cfg_of(model: Network, recipe: Recipe) -> tuple[str, list[int]]:
    """Generate the .cfg of a network that has none. Returns it, and the indices of the outputs in the order of heads.

    Raises:
        InputError: Why Darknet cannot run the network.
    """
    if (channels := recipe.model.input_channels) not in (1, RGB):
        raise InputError(f"its input has {channels} channels, Darknet's 1 or 3")
    heads = _heads(model, recipe)
    sections = Sections(raw_graph(model, recipe), heads)
    end = [] if heads else [("softmax", {"groups": 1})]
    return written([("net", net_keys(recipe)), *sections.found, *end]), sections.order or [0]


def _heads(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Keys of the [yolo] section of each raw output; empty for a classifier."""
    config = recipe.model
    if config.task == "classify":
        return []
    if isinstance(model, yolov3_640.YOLOv3At640):
        more = [{"scale_x_y": 2.0, "new_coords": 1}] * len(yolov3_640.STRIDES)
    elif isinstance(model, AnchorDetector):
        more = [{"scale_x_y": scale} for scale in model.scale_xy] or [{} for _ in model.strides]
    else:
        raise InputError("its outputs are not maps of cells with anchors")
    pairs: list[tuple[float, float]] = list(config.anchors)  # type: ignore[attr-defined]
    listed = list(dict.fromkeys(pairs))  # Darknet assigns objects to the first of equal anchors only
    found = []
    for scale, keys in enumerate(more):
        end = len(pairs) - ANCHORS_PER_SCALE * scale
        found.append({
            "mask": tuple(listed.index(pair) for pair in pairs[end - ANCHORS_PER_SCALE : end]),
            "anchors": tuple(side for pair in listed for side in pair),
            "classes": config.classes,
            "num": len(listed),
            **keys,
            **head_keys(recipe, scale),
        })  # fmt: skip
    return found


@torch.inference_mode()
def _check_outputs(text: str, order: list[int], weights: Path, model: Network, recipe: Recipe) -> None:
    """Raise InputError if the network of the text, with the weights of the file, has other outputs than `model`."""
    config = darknet_cfg.Config(cfg=text, classes=plan(text).classes)
    twin = models.build(config).eval()
    twin.load_state_dict(darknet.read(weights, twin, recipe.model_copy(update={"model": config})), strict=False)
    images = torch.rand(1, recipe.model.input_channels, *recipe.data.canvas.size)
    ours: tuple[Tensor, ...] = model.eval()(images)
    for number, theirs in zip(order, twin(images), strict=True):
        level = ours[number].sigmoid() if isinstance(model, yolov3_640.YOLOv3At640) else ours[number]
        if level.shape != theirs.shape or not (level - theirs).abs().max() <= TOLERANCE * level.abs().max():
            raise InputError("as Darknet reads it, the network would have other outputs")


TARGET = Target(suffix=".weights", checked_by="torch", write_weights=write, companion=".cfg")
