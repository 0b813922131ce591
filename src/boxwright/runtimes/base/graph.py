"""Graph: what is written into a file, a network with named inputs and outputs.

B images, C channels (3, RGB, or `data.bands`), H x W px of the canvas.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from boxwright.recipe import Recipe
from boxwright.types import Detector


@dataclass(frozen=True, slots=True)
class Graph:
    """A network with named inputs and outputs.

    Attributes:
        module: On the CPU, in evaluation mode; its forward takes the inputs in order and returns a tuple of tensors.
        inputs: An example of each by name.
        outputs: Names in order.
        varying: Of an input, the axes that may differ from the example, each with its name; inputs that name an axis
            alike share it.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    varying: dict[str, dict[int, str]]


def raw_graph(model: nn.Module, recipe: Recipe, batch: int = 1, dynamic_batch: bool = False) -> Graph:
    """The network alone: `images` (B, C, H, W) float in [0, 1], and what else the model's `inputs` name -> the raw
    tensors, as `model.forward` gives them.

    H and W are those of the recipe's canvas. dynamic_batch: B may be anything from 1 on.
    """
    if dynamic_batch:
        batch = 2  # an example of one image would make an export take the axis for one that never grows
    size = recipe.data.canvas.size
    examples = {
        "images": torch.rand(batch, recipe.model.input_channels, *size),
        "extents": torch.tensor([size] * batch, dtype=torch.float32),
    }
    inputs = {name: examples[name] for name in cast(Detector, model).inputs}
    varying = {name: {0: "batch"} for name in inputs} if dynamic_batch else {}
    return Graph(model.eval(), inputs, cast(Detector, model).raw_names, varying)


def exported(graph: Graph) -> torch.export.ExportedProgram:
    """The program that every format is written from. Fails where an axis cannot vary as the graph says."""
    axes = {name: torch.export.Dim(name) for named in graph.varying.values() for name in named.values()}
    shapes = tuple({i: axes[name] for i, name in graph.varying.get(key, {}).items()} for key in graph.inputs)
    with torch.no_grad():
        return torch.export.export(graph.module, tuple(graph.inputs.values()), dynamic_shapes=shapes, strict=False)
