"""Detection of conversions between Python numbers and tensors, each of which synchronizes with a GPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WAITING = {
    "tensor", "as_tensor", "from_numpy", "new_tensor", "to", "cuda", "cpu", "numpy", "item", "tolist", "nonzero",
    "__bool__", "__int__", "__float__", "__index__", "equal", "allclose", "argwhere", "masked_select", "unique",
    "unique_consecutive", "bincount",
}  # fmt: skip


class NoNumbersFromTheHost(TorchFunctionMode):
    """Make such calls fail within this context, and indexing by a list or a mask, whose result has a dynamic size."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in WAITING, f"{name} makes a GPU wait"
        learns = name == "prod" and torch.is_grad_enabled() and args[0].requires_grad
        assert not learns, "the gradient of prod looks for zeros and makes a GPU wait"
        if name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, list) for part in index), f"the index {index} makes a GPU wait"
            masks = [part for part in index if isinstance(part, Tensor) and part.dtype == torch.bool]
            filled = name == "__setitem__" and not isinstance(args[2], Tensor)  # with one number for all
            assert filled or not masks, "a mask for an index makes a GPU wait"
        return func(*args, **(kwargs or {}))
