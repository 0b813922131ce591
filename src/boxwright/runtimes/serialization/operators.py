"""Allowlist of operators, by name, for programs from files: they only compute on tensors and numbers.

None of them reads or writes files, creates other objects than tensors and numbers, or executes code.
"""

import operator
from collections.abc import Callable
from functools import partial

import torch

# PyTorch's `aten` operators of our exports and similar ones, in all of their overloads (`add.Tensor`, `add.Scalar`).
# Excluded: operators that expose uninitialized memory (`empty`) or reinterpret memory (`as_strided`).
TENSORS = frozenset(
    """
    __and__ __or__ _assert_scalar _assert_tensor_metadata _convolution abs adaptive_avg_pool2d add add_ alias
    all amax amin any arange argmax argmin argsort atan avg_pool2d batch_norm bitwise_and bitwise_not bitwise_or
    bmm cat ceil chunk clamp clamp_ clone constant_pad_nd contiguous conv2d copy_ cos cumsum detach detach_ div
    div_ dropout elu embedding_bag eq equal erf exp exp_ expand expand_as eye fill_ flatten flip floor floor_divide fmod
    full full_like gather ge gelu grid_sampler gt hardswish hardtanh hardtanh_ index index_put index_put_
    index_select isfinite isin isnan le leaky_relu leaky_relu_ lerp lift_fresh lift_fresh_copy linear linspace
    log log1p log2 log_softmax logical_and logical_not logical_or logical_xor logit lt masked_fill masked_fill_ matmul
    max max_pool2d maximum mean meshgrid min minimum mish mish_ mm movedim mul mul_ narrow ne neg neg_ new_full
    new_ones new_zeros nonzero numel numpy_T ones ones_like pad permute pow pow_ prod promote_types reciprocal relu
    relu6 relu6_ relu_ remainder repeat repeat_interleave reshape reshape_as round rsqrt rsub scatter
    scatter_add searchsorted select sigmoid sigmoid_ sign silu silu_ sin size slice softmax softplus sort split
    split_with_sizes sqrt sqrt_ square squeeze squeeze_ stack sub sub_ sum sym_numel sym_size tanh to topk
    transpose tril triu trunc type_as unbind unflatten unsqueeze unsqueeze_ upsample_bilinear2d
    upsample_nearest2d view view_as where zeros zeros_like
    """.split()  # noqa: SIM905 (for readability)
)

# Functions that compute lengths of axes in a .pt2
NUMBERS: dict[str, Callable[..., object]] = {
    "_operator.add": operator.add, "_operator.sub": operator.sub, "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv, "_operator.mod": operator.mod, "_operator.eq": operator.eq,
    "_operator.ne": operator.ne, "_operator.lt": operator.lt, "_operator.le": operator.le, "_operator.gt": operator.gt,
    "_operator.ge": operator.ge, "torch.sym_max": max, "torch.sym_min": min,
}  # fmt: skip


def _of_numbers(function: Callable[..., object], *args: object) -> object:
    """Call a function with numbers only, since Python's operators also repeat and format text."""
    if not all(isinstance(value, int | float | torch.Tensor) for value in args):
        raise TypeError("a length that is computed with something else than numbers")
    return function(*args)


def resolve(target: str) -> Callable[..., object] | None:
    """The operator that a .pt2 calls `target`; None if it is not allowed."""
    if target in NUMBERS:
        return partial(_of_numbers, NUMBERS[target])
    *space, name, form = target.split(".")
    if space != ["torch", "ops", "aten"] or name not in TENSORS:
        return None
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, form) if packet is not None and form in packet.overloads() else None
