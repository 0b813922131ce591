"""The augmentation policies of torchvision.transforms.v2, per image.

    B images, h x w px

torchvision is optional: it is imported only if a recipe uses a policy.
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
    """Apply the policy `name` (as in recipes) with torchvision's defaults to (B, 3, h, w) float32 images in [0, 1].

    keys: (B,) seeds of the images; PyTorch's RNG state is restored. Raises InputError if torchvision is missing.
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
    with torch.random.fork_rng(devices=[]):  # the policy uses the CPU's RNG on any device
        results = [_apply_seeded(policy, image, int(key)) for image, key in zip(levels, keys, strict=True)]
    return torch.stack(results).float().div_(255)


def _apply_seeded(policy: torch.nn.Module, image: Tensor, key: int) -> Tensor:
    torch.default_generator.manual_seed(key)
    result: Tensor = policy(image)
    return result
