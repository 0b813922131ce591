"""The base of all networks.

B images, C channels (3, RGB, or `data.bands`), H x W px
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from boxwright.config import ModelConfig
from boxwright.errors import InputError
from boxwright.nn.channels import spread
from boxwright.ops.anchors import Stride


class Network(nn.Module):
    """Base class of what a model's `build` returns; subclasses implement `types.Detector` or `types.Classifier`.

    Attributes:
        config: The config that it was built from.
        inputs: Names of the inputs of `forward`, in order: `images`, or `images` and `extents`.
        raw_names: Names of the raw outputs, in order.
        mean: (C, 1, 1), mean of pixels in [0, 1]. In the state dict, so that weights carry their own normalization.
        std: (C, 1, 1), standard deviation of pixels in [0, 1], also in the state dict.
        two_stage: Whether the raw outputs are proposals, in no fixed order.
        strides: Strides of the output maps, px, or (x, y) px; empty for classifiers.
    """

    inputs: tuple[str, ...]
    raw_names: tuple[str, ...]
    two_stage: bool = False
    strides: Sequence[Stride] = ()
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.inputs
        self.register_buffer("mean", spread(config.mean, config.input_channels))
        self.register_buffer("std", spread(config.std, config.input_channels))

    def normalize(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) in [0, 1] -> (images - mean) / std, of the same shape.

        Raises:
            InputError: A side is not a multiple of `config.size_step`.
        """
        (height, width), step = images.shape[-2:], self.config.size_step
        if height % step or width % step:
            raise InputError(f"data.canvas.size: found {height} x {width} px, the network needs multiples of {step}")
        return (images - self.mean) / self.std

    @property
    def finest_stride(self) -> float | None:
        """Finest stride in px; None if the network has none."""
        return min((float(side) for stride in self.strides for side in np.atleast_1d(stride)), default=None)

    def check_trainable(self) -> None:
        """Raise InputError if the network cannot be trained."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Loss terms by name, scalars, already weighted. batch: the `Batch` or `ClassBatch` of the task."""
        return self.loss_of_raw(self(batch.images), batch)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Any) -> dict[str, Tensor]:
        """`loss` for raw outputs already computed."""
        raise NotImplementedError


def is_two_stage(model: nn.Module | None) -> bool:
    """Whether the raw outputs are proposals (`Network.two_stage`); False without the attribute."""
    return bool(getattr(model, "two_stage", False))
