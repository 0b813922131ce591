"""A network whose parameters take no memory: to compare it with a file, or where a runtime computes its outputs."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from boxwright import models
from boxwright.config import ModelConfig
from boxwright.nn.network import Network


def without_memory(config: ModelConfig) -> Network:
    """The network of a model's `config` whose parameters have shapes and no memory; other buffers are as always.

    What PyTorch's own context `torch.device("meta")` does, too, but that empties the buffers of numbers, and takes two
    seconds for what it imports; accelerate's `init_empty_weights` allocates each parameter before it frees it.
    """
    with _Empty():
        return models.build(config)


class _Empty(TorchFunctionMode):
    """`torch.empty`, of which parameters are made, takes no memory, and nothing is written into tensors without."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        words = dict(kwargs or {})
        if func is torch.empty:
            words["device"] = "meta"
        first = args[0] if args else words.get("tensor")
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")  # `normal_`, but not `__get__`
        if in_place and isinstance(first, Tensor) and first.is_meta:
            return first
        return func(*args, **words)
