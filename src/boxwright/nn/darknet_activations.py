"""The activations of Darknet's .cfg files, by their names there."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DARKNET_EPS = 1e-4  # added to divisors (Darknet's activations.c)


def activation(name: str) -> nn.Module:
    """Activation by its name in .cfg files. Those over channels take (B, C, H, W), all others any shape."""
    if name in MODULES:
        return MODULES[name]()
    return _Function(name)


class _Function(nn.Module):
    """Module of one of FUNCTIONS."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x)

    def extra_repr(self) -> str:
        return self.name


def _stair(x: Tensor) -> Tensor:
    lower = x.floor()
    half = (x / 2).floor()
    return torch.where(lower % 2 == 0, half, x - lower + half)


def _plse(x: Tensor) -> Tensor:
    middle = 0.125 * x + 0.5
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, middle))


def _lhtan(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))


def _hard_mish(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.where(x > -2, x * x / 2 + x, torch.zeros_like(x)))


def _over_channels(x: Tensor) -> Tensor:
    return x / (DARKNET_EPS + x.sum(1, keepdim=True))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "revleaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relie": lambda: nn.LeakyReLU(0.01, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),  # as on a GPU and in hank-ai's Darknet; AlexeyAB's CPU code returns 0
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": lambda: nn.GELU("tanh"),
    "hardtan": nn.Hardtanh,
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "loggy": lambda x: 2 * x.sigmoid() - 1,
    "ramp": lambda x: x.clamp(min=0) + 0.1 * x,
    "selu": lambda x: 1.0507 * F.elu(x, 1.6732),
    "plse": _plse,
    "stair": _stair,
    "lhtan": _lhtan,
    "hard_mish": _hard_mish,
    "normalize_channels": lambda x: _over_channels(x.clamp(min=0)),
    "normalize_channels_softmax": lambda x: _over_channels(x.exp()),
    "normalize_channels_softmax_maxval": lambda x: _over_channels((x - x.amax(1, keepdim=True)).exp()),
}
