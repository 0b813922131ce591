"""Generate the lines of a MindSpore `construct` from a network: torch.export lists its operations, and each becomes one
or a few of MindSpore's primitives.

    v7 = self.p7(v6, self.w3)

    B images, c channels, h x w px
"""

import inspect
import linecache
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from boxwright.errors import InputError
from boxwright.runtimes.base.graph import Graph, exported

# Primitives in our files. A MindIR may name operators whose code is in other files, so only these are run.
PRIMITIVES = frozenset({
    "Add", "AvgPool", "BatchNorm", "BiasAdd", "Concat", "Constant", "Conv2D", "Depend", "Div", "Equal", "Exp", "Floor",
    "FloorMod", "GeLU", "Greater", "Less", "Load", "MakeTuple", "MatMul", "MaxPool", "Maximum", "Minimum", "Mish",
    "Mul", "OnesLike", "PadV3", "ReLU", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "ResizeNearestNeighbor",
    "Select", "Sigmoid", "Softmax", "Split", "StridedSlice", "Sub", "Transpose", "TupleGetItem", "UpdateState",
    "ZerosLike",
})  # fmt: skip

Operation = Callable[..., Any]
Pair = Sequence[int]  # height and width
Number = float | int


class Construct:
    """Lines of `construct`, and the primitives and weights that they use.

    Every `value` below is a name in those lines. Raises InputError for an operation without a counterpart.
    """

    def __init__(self, ops: Any, graph: Graph) -> None:
        self.ops = ops
        self.lines: list[str] = []
        self.inputs: list[str] = []
        self.parts: dict[str, Any] = {}  # attribute -> primitive
        self.weights: dict[str, tuple[str, Tensor]] = {}  # attribute -> name in the network, value
        self.shapes: dict[str, tuple[int, ...]] = {}  # shapes of values
        self.shape: tuple[int, ...] = ()  # shape of the current output
        with warnings.catch_warnings():
            # PyTorch's warning about itself
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning)
            # {}: in-place operations become functional, and nothing is decomposed
            program = exported(graph).run_decompositions({})
        self._translate(program)

    def add(self, primitive: Any, *values: object) -> str:
        """Add a line that applies `primitive`, and return the name of its value."""
        number = len(self.lines)
        self.parts[f"p{number}"] = primitive
        self.lines.append(f"v{number} = self.p{number}({', '.join(map(str, values))})")
        return f"v{number}"

    def weight(self, name: str, tensor: Tensor) -> str:
        """Value that is stored in the file as `name`."""
        attribute = f"w{len(self.weights)}"
        self.weights[attribute] = name, tensor
        return f"self.{attribute}"

    def cell(self, mindspore: Any) -> Any:
        """The network for MindSpore."""
        name = f"<mindir {id(self)}>"
        source = f"def construct(self, {', '.join(self.inputs)}):\n" + "".join(f"    {line}\n" for line in self.lines)
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # MindSpore reads it
        space: dict[str, Any] = {"__name__": __name__}
        exec(compile(source, name, "exec"), space)
        cell = type("Network", (mindspore.nn.Cell,), {"construct": space["construct"]})()
        for attribute, primitive in self.parts.items():
            setattr(cell, attribute, primitive)
        for attribute, (own, tensor) in self.weights.items():
            array = mindspore.Tensor(tensor.detach().contiguous().numpy())
            setattr(cell, attribute, mindspore.Parameter(array, name=own, requires_grad=False))
        return cell.set_train(False)

    def _translate(self, program: torch.export.ExportedProgram) -> None:
        stored = dict(program.named_parameters()) | dict(program.named_buffers()) | program.constants
        sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target}
        values: dict[fx.Node, Any] = {}
        for node in program.graph.nodes:
            if node.op == "output":
                outputs = fx.node.map_arg(node.args[0], values.__getitem__)
                self.lines.append(f"return {', '.join(outputs)}")
                return
            self.shape = tuple(getattr(node.meta["val"], "shape", ()))
            if node.op == "call_function":
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = _operation(self, node, args, kwargs)
            elif own := sources.get(node.name):
                values[node] = self.weight(own, stored[own])
            else:
                values[node] = node.name
                self.inputs.append(node.name)
            if isinstance(values[node], str):
                self.shapes[values[node]] = self.shape


def _operation(c: Construct, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Value or values of an operation. Raises InputError if it, or its form with these arguments, is not supported."""
    operation, name = OPERATIONS.get(str(node.target)), str(node.target)
    if operation is not None:
        name += str(node.args)
        try:
            inspect.signature(operation).bind(c, *args, **kwargs)
        except TypeError:
            operation = None
    made = NotImplemented if operation is None else operation(c, *args, **kwargs)
    if made is NotImplemented:
        layer = next((path for path, _ in reversed(node.meta.get("nn_module_stack", {}).values())), "")
        place = f"layer {layer}" if layer else "the network"
        raise InputError(f"--to mindir: {place} has {name}, found no counterpart in MindIR; use --to onnx")
    return made


# Each takes the arguments of PyTorch's operation of that name, and returns NotImplemented for unsupported arguments.


def _same(primitive: str) -> Operation:
    """Operation with the same arguments as a primitive."""
    return lambda c, *values: c.add(getattr(c.ops, primitive)(), *values)


def _like(primitive: str) -> Operation:
    return lambda c, x, pin_memory=None: c.add(getattr(c.ops, primitive)(), x)


def _reduced(primitive: str) -> Operation:
    return lambda c, x, axes, keep=False: c.add(getattr(c.ops, primitive)(keep), x, tuple(axes))


def _unchanged(c: Construct, x: str, *options: object, memory_format: object = None) -> str:
    return x


def _reshaped(c: Construct, x: str, *_: object) -> str:
    return c.add(c.ops.Reshape(), x, c.shape)


def _conv2d(
    c: Construct, x: str, weight: str, bias: str | None = None,
    stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1,
) -> str:  # fmt: skip
    outputs, _, *kernel = c.shapes[weight]
    (top, left), tuples = padding, (tuple(stride), tuple(dilation))
    primitive = c.ops.Conv2D(outputs, tuple(kernel), 1, "pad", (top, top, left, left), tuples[0], tuples[1], groups)
    y = c.add(primitive, x, weight)
    return y if bias is None else c.add(c.ops.BiasAdd(), y, bias)


def _batch_norm(
    c: Construct, x: str, weight: str, bias: str, mean: str, variance: str, momentum: float, eps: float
) -> tuple[str]:
    y = c.add(c.ops.BatchNorm(is_training=False, epsilon=eps), x, weight, bias, mean, variance)
    return (f"{y}[0]",)


def _max_pool2d(
    c: Construct, x: str, kernel: Pair, stride: Pair = (), padding: Pair = (0, 0), dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """MindSpore's pool does not pad on a CPU, so the map is padded first, with `ceil_mode` up to the last window."""
    if tuple(dilation) != (1, 1):
        return NotImplemented
    stride = stride or kernel
    ends = []
    for side, pooled, k, step, pad in zip(c.shapes[x][2:], c.shape[2:], kernel, stride, padding, strict=True):
        ends.append((pad, max(0, (pooled - 1) * step + k - side - pad)))
    (top, bottom), (left, right) = ends
    x = _padded(c, x, [left, right, top, bottom], -math.inf)
    return c.add(c.ops.MaxPool(kernel_size=tuple(kernel), strides=tuple(stride), pad_mode="valid"), x)


def _avg_pool2d(c: Construct, x: str, kernel: Pair, stride: Pair = ()) -> str:
    return c.add(c.ops.AvgPool(kernel_size=tuple(kernel), strides=tuple(stride or kernel), pad_mode="valid"), x)


def _pad(c: Construct, x: str, padding: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    return _padded(c, x, padding, value or 0.0) if mode == "constant" else NotImplemented


def _padded(c: Construct, x: str, padding: Sequence[int], value: float) -> str:
    """Pad with `value`. padding: (before, after) for each axis, last axis first."""
    if not any(padding):
        return x
    places = c.weight(f"padding{len(c.weights)}", torch.tensor(padding))
    filling = c.weight(f"filling{len(c.weights)}", torch.tensor(value))
    return c.add(c.ops.PadV3(), x, places, filling)


def _leaky_relu(c: Construct, x: str, slope: float = 0.01) -> str:
    """max(x, slope * x); min if slope > 1."""
    return c.add(c.ops.Maximum() if slope <= 1 else c.ops.Minimum(), x, c.add(c.ops.Mul(), x, slope))


def _mish(c: Construct, x: str) -> str:
    """mish(x), which is x in float32 from 20 on; MindSpore's primitive is not finite above 42 (2.10)."""
    return c.add(c.ops.Select(), c.add(c.ops.Greater(), x, 20.0), x, c.add(c.ops.Mish(), x))


def _tanh(c: Construct, x: str) -> str:
    """tanh by sigmoid; MindSpore's primitive differs by 1e-4 (2.10)."""
    share = c.add(c.ops.Sigmoid(), c.add(c.ops.Mul(), x, 2.0))
    return c.add(c.ops.Sub(), c.add(c.ops.Mul(), share, 2.0), 1.0)


def _elu(c: Construct, x: str, alpha: Number = 1) -> str:
    """elu for any alpha; MindSpore's primitive only has alpha 1."""
    below = c.add(c.ops.Sub(), c.add(c.ops.Exp(), c.add(c.ops.Minimum(), x, 0.0)), 1.0)
    return c.add(c.ops.Add(), c.add(c.ops.Maximum(), x, 0.0), c.add(c.ops.Mul(), below, float(alpha)))


def _gelu(c: Construct, x: str, approximate: str = "none") -> Any:
    return c.add(c.ops.GeLU(), x) if approximate == "tanh" else NotImplemented


def _clamp(c: Construct, x: str, low: Number | None = None, high: Number | None = None) -> str:
    if low is not None:
        x = c.add(c.ops.Maximum(), x, float(low))
    return x if high is None else c.add(c.ops.Minimum(), x, float(high))


def _linear(c: Construct, x: str, weight: str, bias: str | None = None) -> Any:
    if len(c.shape) != 2:
        return NotImplemented
    y = c.add(c.ops.MatMul(transpose_b=True), x, weight)
    return y if bias is None else c.add(c.ops.BiasAdd(), y, bias)


def _split(c: Construct, x: str, size: int, axis: int = 0) -> Any:
    parts, rest = divmod(c.shapes[x][axis], size)
    if rest:
        return NotImplemented
    y = c.add(c.ops.Split(axis, parts), x)
    return [f"{y}[{part}]" for part in range(parts)]


def _slice(c: Construct, x: str, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> str:
    shape = c.shapes[x]
    starts, ends, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[axis], ends[axis], steps[axis] = slice(start, end, step).indices(shape[axis])
    return c.add(c.ops.StridedSlice(), x, tuple(starts), tuple(ends), tuple(steps))


def _select(c: Construct, x: str, axis: int, place: int) -> str:
    place %= c.shapes[x][axis]
    return _reshaped(c, _slice(c, x, axis, place, place + 1))


OPERATIONS: dict[str, Operation] = {
    "<built-in function getitem>": lambda _, values, place: values[place],
    "aten.add.Tensor": _same("Add"),
    "aten.sub.Tensor": _same("Sub"),
    "aten.mul.Tensor": _same("Mul"),
    "aten.div.Tensor": _same("Div"),
    "aten.remainder.Scalar": _same("FloorMod"),
    "aten.floor.default": _same("Floor"),
    "aten.exp.default": _same("Exp"),
    "aten.eq.Scalar": _same("Equal"),
    "aten.gt.Scalar": _same("Greater"),
    "aten.lt.Scalar": _same("Less"),
    "aten.where.self": _same("Select"),
    "aten.zeros_like.default": _like("ZerosLike"),
    "aten.ones_like.default": _like("OnesLike"),
    "aten.amax.default": _reduced("ReduceMax"),
    "aten.mean.dim": _reduced("ReduceMean"),
    "aten.sum.dim_IntList": _reduced("ReduceSum"),
    "aten.relu.default": _same("ReLU"),
    "aten.sigmoid.default": _same("Sigmoid"),
    "aten.tanh.default": _tanh,
    "aten.mish.default": _mish,
    "aten.silu.default": lambda c, x: c.add(c.ops.Mul(), x, c.add(c.ops.Sigmoid(), x)),
    "aten.leaky_relu.default": _leaky_relu,
    "aten.elu.default": _elu,
    "aten.gelu.default": _gelu,
    "aten.clamp.default": _clamp,
    "aten.hardtanh.default": lambda c, x, low=-1, high=1: _clamp(c, x, low, high),
    "aten.softmax.int": lambda c, x, axis: c.add(c.ops.Softmax(axis), x),
    "aten.conv2d.default": _conv2d,
    "aten.linear.default": _linear,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.pad.default": _pad,
    "aten.upsample_nearest2d.vec": lambda c, x, size, factors: c.add(c.ops.ResizeNearestNeighbor(c.shape[2:]), x),
    "aten.cat.default": lambda c, values, axis=0: c.add(c.ops.Concat(axis), f"({', '.join(values)})"),
    "aten.split.Tensor": _split,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.permute.default": lambda c, x, axes: c.add(c.ops.Transpose(), x, tuple(axes)),
    "aten.view.default": _reshaped,
    "aten._unsafe_view.default": _reshaped,
    "aten.unsqueeze.default": _reshaped,
    "aten.alias.default": _unchanged,
    "aten.clone.default": _unchanged,
    "aten.detach.default": _unchanged,
    "aten.dropout.default": _unchanged,
}
