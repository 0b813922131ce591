"""Policies of several image operations, as torchvision.transforms.v2 has them, image by image.

    B images, h x w px

They are an option: torchvision is imported when a recipe asks for one.
"""

import importlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.errors import InputError

NAMES = {
    "rand_augment": "RandAugment", "trivial_augment": "TrivialAugmentWide", "auto_augment": "AutoAugment",
    "augmix": "AugMix",
}  # fmt: skip


def apply(name: str, images: Tensor, keys: NDArray[np.int64]) -> Tensor:
    """The policy called `name` in recipes on each of (B, 3, h, w) float32 in [0, 1], with torchvision's defaults.

    keys (B,): what each image's random numbers start from; those of PyTorch itself go on as if nothing had been
    drawn. Raises InputError where torchvision cannot be imported.
    """
    try:
        v2 = importlib.import_module("torchvision.transforms.v2")
    except (ImportError, RuntimeError, OSError) as error:
        raise InputError(
            f"train.class_augment.policy: {name} needs torchvision, which cannot be imported here "
            f"({str(error).splitlines()[0][:80]}); pip install 'boxwright[train]', or set it to no"
        ) from error
    policy = getattr(v2, NAMES[name])()
    levels = images.mul(255).round_().to(torch.uint8)
    with torch.random.fork_rng(devices=[]):  # its draws are made on the CPU wherever the images are
        changed = [_seeded(policy, image, int(key)) for image, key in zip(levels, keys, strict=True)]
    return torch.stack(changed).float().div_(255)


def _seeded(policy: torch.nn.Module, image: Tensor, key: int) -> Tensor:
    torch.default_generator.manual_seed(key)
    result: Tensor = policy(image)
    return result
