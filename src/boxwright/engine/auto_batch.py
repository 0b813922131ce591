"""`train.batch: auto`: the largest power of two of images per process for which a training step fits into memory."""

import copy
import gc
import logging
import os
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from boxwright import tasks
from boxwright.engine import optim
from boxwright.engine.ema import EMA
from boxwright.engine.step import per_input_size, prepare_batch
from boxwright.errors import InputError
from boxwright.memory import available_memory
from boxwright.nn.network import Network
from boxwright.recipe import Recipe

logger = logging.getLogger(__name__)

MAX_IMAGES = 64  # a larger one has fewer steps per epoch, and no higher throughput
FREE_ON_GPU = 0.1  # share of its memory that stays free: other batches have more boxes, several processes have buffers
# Share of the available memory that tensors of the backward pass may take on a CPU: gradients, temporary tensors and
# loader processes take as much again.
SHARE_ON_CPU = 0.5
GIB = 2**30


def resolve(recipe: Recipe, training: Any, network: Network, stored: Recipe | None, accelerator: Accelerator) -> Recipe:
    """The recipe with a number for `train.batch`, the same in all processes.

    Args:
        recipe: The recipe of the training.
        training: The training images.
        network: The network with its initial weights; steps are tried on a copy.
        stored: The recipe of the run to resume, whose number is reused; None for a new run.
        accelerator: The accelerator of the training.

    Raises:
        InputError: One image does not fit into memory, or cannot be read.
    """
    if recipe.train.batch != "auto":
        return recipe
    if stored is not None:
        return recipe.with_overrides({"train.batch": stored.train.batch})
    trial = Trial(recipe, training, network, accelerator)
    sizes = [1 << exponent for exponent in range(trial.limit.bit_length())]  # up to the limit
    fitting, taken, free = _on_cpu(trial, sizes) if accelerator.device.type == "cpu" else _on_cuda(trial, sizes)
    batch = int(accelerator.gather(torch.tensor([fitting], device=accelerator.device)).min())
    if not batch:
        height, width = (
            trial.recipe.train.augment.sizes[0] if trial.recipe.train.augment.sizes else recipe.data.canvas.size
        )
        raise InputError(
            f"train.batch: a step with one image of {width} x {height} px takes {taken / GIB:.3g} GiB, and "
            f"{free / GIB:.3g} GiB are there for it; lower data.canvas.size or train.augment.sizes"
        )
    if accelerator.is_main_process:
        logger.info("train.batch: %d, the largest that fits (at most %d)", batch, trial.limit)
    return recipe.with_overrides({"train.batch": batch})


class Trial:
    """Training steps of a copy of the network, with images of the largest size.

    Attributes:
        recipe: The recipe with that size only.
        limit: Largest number of images to try: `MAX_IMAGES`, or the size of the data set.
    """

    def __init__(self, recipe: Recipe, training: Any, network: Network, accelerator: Accelerator) -> None:
        self.recipe = max(per_input_size(recipe), key=lambda variant: [h * w for h, w in variant.train.augment.sizes])
        self._training, self._network, self.accelerator = training, network, accelerator
        self._task = tasks.of(recipe)
        self.limit = max(1, min(MAX_IMAGES, self._loader(1).steps_per_epoch // recipe.train.accumulate))

    def _loader(self, images: int) -> Any:
        recipe = self.recipe.with_overrides({"train.batch": images, "data.workers": 0})
        return self._task.loader(self._training, recipe, self.accelerator.process_index, self.accelerator.num_processes)

    def step(self, images: int, repeats: int = 2) -> None:
        """Run steps with this number of images; from the second on, memory holds all that a training needs."""
        config, device = self.recipe.train, self.accelerator.device
        network = copy.deepcopy(self._network).to(device)
        optimizer = optim.build(network, config)
        ema = EMA(network, config.ema) if config.ema.decay else None  # noqa: F841 (takes memory)
        optim.training_mode(network, config)
        loaded = next(self._loader(images).epoch(0))
        batch = prepare_batch(self._task, loaded, self.recipe, self.accelerator, 0, 0)
        for _ in range(repeats):
            with self.accelerator.autocast():
                terms = network.loss(batch)
            self.accelerator.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            optimizer.zero_grad()


def _on_cuda(trial: Trial, sizes: list[int]) -> tuple[int, float, float]:
    """The largest of `sizes` with which a step fits; 0 if none does, then with the bytes needed and available."""
    device = trial.accelerator.device
    if device.type != "cuda":
        raise InputError(
            f"train.batch: auto measures the memory of a CPU and of CUDA, not of {device.type}; give a number"
        )
    free, total = torch.cuda.mem_get_info(device)
    for images in reversed(sizes):
        torch.cuda.reset_peak_memory_stats(device)
        try:
            trial.step(images)
            fits = torch.cuda.mem_get_info(device)[0] >= FREE_ON_GPU * total  # PyTorch keeps its peak
        except torch.OutOfMemoryError:
            fits = False
        gc.collect()
        torch.cuda.empty_cache()
        if fits:
            return images, 0.0, 0.0
    return 0, float(torch.cuda.max_memory_allocated(device)), free - FREE_ON_GPU * total


def _on_cpu(trial: Trial, sizes: list[int]) -> tuple[int, float, float]:
    """`_on_cuda` for a CPU, estimated from the tensors that a step with two images keeps for its backward pass."""
    images = min(2, trial.limit)  # batch norm without a spatial extent needs two
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trial.step(images, repeats=1)
    taken = sum(kept.values()) / images
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", trial.accelerator.num_processes))
    free = SHARE_ON_CPU * available_memory() / processes
    return max((size for size in sizes if size * taken <= free), default=0), taken, free
