"""Graphs of preprocessing, network and postprocessing, for export."""

import torch
from torch import nn

from boxwright import tasks
from boxwright.recipe import Recipe
from boxwright.runtimes.base.graph import Graph


def complete_graph(model: nn.Module, recipe: Recipe, batch: int = 1, dynamic_batch: bool = False) -> Graph:
    """`images` (B, h, w, C) uint8 of any size, RGB or stretched bands, -> `graph_outputs` of the recipe's task.

    dynamic_batch: any B >= 1, instead of B = `batch`.
    """
    task = tasks.of(recipe)
    # with an example of one image, torch.export would specialize the axis to 1
    count = max(batch, 2) if dynamic_batch else batch
    images = torch.randint(256, (count, 50, 70, recipe.model.input_channels), dtype=torch.uint8)
    dynamic_axes = ({0: "batch"} if dynamic_batch else {}) | {1: "height", 2: "width"}
    return Graph(task.graph(model, recipe).eval(), {"images": images}, task.graph_outputs, {"images": dynamic_axes})
