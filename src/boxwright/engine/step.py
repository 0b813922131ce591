"""Parts of a training step that trials of steps share with the training."""

from dataclasses import replace

import torch
from accelerate import Accelerator

from boxwright import tasks
from boxwright.recipe import Recipe
from boxwright.types import AnyBatch


def on_device(
    task: tasks.AnyTask, loaded: AnyBatch, recipe: Recipe, accelerator: Accelerator, epoch: int, number: int
) -> AnyBatch:
    """The batch with this number, augmented on the device of the training."""
    batch: AnyBatch = task.augment(loaded.to(accelerator.device), recipe, epoch, number, accelerator.process_index)
    if recipe.train.channels_last:
        batch = replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
    return batch


def in_each_size(recipe: Recipe) -> list[Recipe]:
    """The recipe once for each input size of its training, with that size only."""
    sizes = recipe.train.augment.sizes
    return [recipe.with_overrides({"train.augment.sizes": [size]}) for size in sizes] or [recipe]
