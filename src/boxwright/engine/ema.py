"""The exponential moving average of a network's weights."""

import copy
import math

import torch
from torch import nn

from boxwright.recipe import EmaConfig


class EMA:
    """Averages every float parameter and buffer, batch-norm statistics included; integers are copied.

    The decay of update n (from 1) is decay * (1 - exp(-n / ramp)), as in MindYOLO.

    Attributes:
        network: The averaged copy of the network, in evaluation mode.
    """

    def __init__(self, network: nn.Module, config: EmaConfig) -> None:
        """network: must be on its device already, since EMA refers to its tensors."""
        self.config = config
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for _, value in pairs if value.is_floating_point()]
        self._counts = [(mean, value) for mean, value in pairs if not mean.is_floating_point()]

    def decay(self, n: int) -> float:
        """The decay of update n (from 1)."""
        ramp = 1 - math.exp(-n / self.config.ramp) if self.config.ramp else 1.0
        return self.config.decay * ramp

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Update the average after optimizer step n (from 1)."""
        torch._foreach_lerp_(self._means, self._values, 1 - self.decay(n))
        for mean, value in self._counts:
            mean.copy_(value)
