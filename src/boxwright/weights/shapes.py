"""Networks whose parameters take no memory: to compare them with a file, or if a runtime computes their outputs."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from boxwright import models
from boxwright.config import ModelConfig
from boxwright.nn.network import Network


def without_memory(config: ModelConfig) -> Network:
    """Build the network of a model's `config` with parameters that have shapes but no memory; buffers are as usual.

    PyTorch's `torch.device("meta")` also drops the values of buffers, and takes two seconds for its imports;
    accelerate's `init_empty_weights` allocates each parameter before it frees it.
    """
    with _Empty():
        return models.build(config)


class _Empty(TorchFunctionMode):
    """Make `torch.empty`, which creates parameters, take no memory, and skip in-place operations on such tensors."""

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
