"""Graph: a network with named inputs and outputs, which is written into a file.

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
        inputs: Example inputs by name.
        outputs: Names of the outputs in order.
        varying: Input -> axes whose length may differ from the example, each with a name; axes of the same name
            have the same length.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    varying: dict[str, dict[int, str]]


def raw_graph(model: nn.Module, recipe: Recipe, batch: int = 1, dynamic_batch: bool = False) -> Graph:
    """Graph of the network alone: `images` (B, C, H, W) float in [0, 1], and the model's other `inputs` -> the raw
    outputs of `model.forward`.

    H and W are those of the recipe's canvas. dynamic_batch: any B >= 1, instead of B = `batch`.
    """
    if dynamic_batch:
        batch = 2  # with an example of one image, torch.export would specialize the axis to 1
    size = recipe.data.canvas.size
    examples = {
        "images": torch.rand(batch, recipe.model.input_channels, *size),
        "extents": torch.tensor([size] * batch, dtype=torch.float32),
    }
    inputs = {name: examples[name] for name in cast(Detector, model).inputs}
    varying = {name: {0: "batch"} for name in inputs} if dynamic_batch else {}
    return Graph(model.eval(), inputs, cast(Detector, model).raw_names, varying)


def exported(graph: Graph) -> torch.export.ExportedProgram:
    """Exported program from which all formats are written. Raises an error if an axis cannot vary as the graph says."""
    axes = {name: torch.export.Dim(name) for named in graph.varying.values() for name in named.values()}
    shapes = tuple({i: axes[name] for i, name in graph.varying.get(key, {}).items()} for key in graph.inputs)
    with torch.no_grad():
        return torch.export.export(graph.module, tuple(graph.inputs.values()), dynamic_shapes=shapes, strict=False)
