"""Report of `import` about a .weights file and its .cfg."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from boxwright import models
from boxwright import recipe as recipes
from boxwright.config import ModelConfig
from boxwright.errors import InputError
from boxwright.models import darknet_cfg
from boxwright.nn.yolo import CellDetector
from boxwright.recipe import Recipe
from boxwright.weights import darknet
from boxwright.weights.fit import LoadReport
from boxwright.weights.shapes import without_memory

PROBE = 64  # px of the random image on which two networks are compared
TOLERANCE = 1e-4  # relative to the largest value; float32 sums in another order differ by less
Scale = tuple[tuple[float, ...], Tensor]  # (stride, scale_xy and anchors) of a map, and its values


def lines(file: str | Path, model: nn.Module, recipe: Recipe, report: LoadReport) -> list[str]:
    """Lines of the report about `model`, whose weights were loaded from `file`."""
    config = cast(darknet_cfg.Config, recipe.model)
    plan = config.plan
    state = model.state_dict()
    taken = sum(state[name].numel() for name in report.matched)
    found = [f"{Path(file).name}: {len(plan.layers)} layers, {taken:,} numbers taken, 0 left over"]
    if report.fresh:
        found.append(f"{len(report.fresh)} tensors stay fresh ({', '.join(report.fresh_parts())})")
    if plan.ignored:
        found.append(f"keys without effect on predictions: {', '.join(plan.ignored)}")
    if not report.fresh and (name := published(model, config)):
        found.append(f"the network is that of recipe {name}")
    return found


def published(model: nn.Module, config: ModelConfig) -> str:
    """Name of the shipped *_darknet recipe whose network gives the same outputs with these weights; "" for none."""
    own = [shape for layer in darknet.layers(model) for _, shape in layer]
    for name in recipes.names():
        other = recipes.load(name).model if name.endswith("_darknet") else None
        if other is None or (other.task, other.classes) != (config.task, config.classes):
            continue
        if [shape for layer in darknet.layers(without_memory(other)) for _, shape in layer] == own:
            twin = models.build(other)
            _copy(model, twin)
            try:
                if _same(_scales(model), _scales(twin)):
                    return name
            except InputError:  # only the shipped network accepts images of `PROBE` px
                continue
    return ""


def _copy(model: nn.Module, twin: nn.Module) -> None:
    """Copy the weights of `model` to `twin`, in the order of .weights files."""
    source, target = model.state_dict(), twin.state_dict()
    for layer, other in zip(darknet.layers(model), darknet.layers(twin), strict=True):
        for (name, _), (to, _) in zip(layer, other, strict=True):
            target[to].copy_(source[name])


@torch.inference_mode()
def _scales(model: nn.Module) -> list[Scale]:
    """Raw outputs for a random image, a detector's coarse scale first, with the parameters that decode them."""
    image = torch.rand((1, 3, PROBE, PROBE), generator=torch.Generator().manual_seed(0))
    was_training = model.training
    raw = model.eval()(image)
    model.train(was_training)
    if not isinstance(model, CellDetector):
        return [((), level) for level in raw]
    cells = model.cells(raw)
    pairs = torch.split(cells.anchors, list(model.counts))
    found = [
        ((*grid.stride, float(cells.scale_xy[grid.first]), *anchors.flatten().tolist()), level)
        for grid, anchors, level in zip(cells.grids, pairs, model.logits(raw), strict=True)
    ]
    return sorted(found, key=lambda scale: -scale[0][0])


def _same(ours: list[Scale], theirs: list[Scale]) -> bool:
    return len(ours) == len(theirs) and all(
        settings == others
        and level.shape == other.shape
        and bool((level - other).abs().max() <= TOLERANCE * other.abs().max())
        for (settings, level), (others, other) in zip(ours, theirs, strict=True)
    )
