"""What the programs that we run may call, by name: operators that compute on tensors and numbers, and nothing else.

None of them reads or writes a file, makes other objects than tensors and numbers, or takes code.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch

# Of PyTorch's `aten`: what our exports are made of, in all of their forms (`add.Tensor`, `add.Scalar`)
TENSORS = frozenset(
    """
    __and__ __or__ _assert_tensor_metadata _convolution add add_ all amax any arange argmax argsort batch_norm
    bitwise_and bitwise_not bitwise_or cat chunk clamp clamp_ clone contiguous conv2d copy_ detach div div_
    embedding_bag eq equal exp expand flatten flip floor floor_divide full gather ge gt index index_select le
    leaky_relu leaky_relu_ linear log2 logical_and logical_not logical_or lt masked_fill matmul max max_pool2d maximum
    mean meshgrid minimum mish mul mul_ ne neg new_full new_ones new_zeros numel ones pad permute pow promote_types
    relu relu_ repeat repeat_interleave reshape round rsub scatter select sigmoid silu size slice softmax
    split_with_sizes sqrt squeeze stack sub sub_ sum sym_numel sym_size to topk transpose tril type_as unbind unflatten
    unsqueeze upsample_nearest2d view where zeros zeros_like
    """.split()  # noqa: SIM905 (to be read, a word each)
)

# Of a .pt2, what lengths of axes are computed with
NUMBERS: dict[str, Callable[..., Any]] = {
    "_operator.add": operator.add, "_operator.sub": operator.sub, "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv, "_operator.mod": operator.mod, "_operator.eq": operator.eq,
    "_operator.ne": operator.ne, "_operator.lt": operator.lt, "_operator.le": operator.le, "_operator.gt": operator.gt,
    "_operator.ge": operator.ge, "torch.sym_max": max, "torch.sym_min": min,
}  # fmt: skip


def resolve(target: str) -> Callable[..., Any] | None:
    """What a .pt2 calls `target`; None where that is nothing that a program may call."""
    if target in NUMBERS:
        return NUMBERS[target]
    *space, name, form = target.split(".")
    if space != ["torch", "ops", "aten"] or name not in TENSORS:
        return None
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, form) if packet is not None and form in packet.overloads() else None
