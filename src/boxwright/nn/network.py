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
    """What a model's `build` returns: a module that follows `types.Detector` or `types.Classifier` too.

    Attributes:
        config: What it was built from.
        inputs: What `forward` takes, in order: `images`, or `images` and `extents`.
        raw_names: The raw outputs, in order.
        mean: (C, 1, 1), of RGB in [0, 1]. In the state dict, so that weights carry their own normalization.
        std: (C, 1, 1), likewise.
        two_stage: Whether the raw outputs are of proposals, rows in no fixed order.
        strides: Of the maps in which objects are found, px, or x, y; of classifiers there are none.
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
        """images (B, C, H, W) in [0, 1] -> the same less the mean, divided by the std.

        Raises:
            InputError: For sides that are no multiples of the model's step.
        """
        (height, width), step = images.shape[-2:], self.config.size_step
        if height % step or width % step:
            raise InputError(f"data.canvas.size: found {height} x {width} px, the network needs multiples of {step}")
        return (images - self.mean) / self.std

    @property
    def finest_stride(self) -> float | None:
        """Of `strides`, px; None for a network without."""
        return min((float(side) for stride in self.strides for side in np.atleast_1d(stride)), default=None)

    def check_trainable(self) -> None:
        """Raise InputError for a network without a loss."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Named scalar terms, already weighted, for the `Batch` or `ClassBatch` of the task."""
        return self.loss_of_raw(self(batch.images), batch)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: Any) -> dict[str, Tensor]:
        """`loss` for raw outputs already computed."""
        raise NotImplementedError
