"""MindIR files, which MindSpore writes and runs on the CPU (extra `mindspore`).

torch.export lists the network as operations; each becomes one or a few of MindSpore's primitives. MindSpore compiles a
network from the source text of its `construct`, so that is what is written here, a line for each primitive:

    v7 = self.p7(v6, self.w3)

    B images, c channels, h x w px
"""

import ctypes
import linecache
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from boxwright import files
from boxwright.errors import InputError
from boxwright.runtimes.base.checks import check_input
from boxwright.runtimes.base.extras import first_line, import_extra
from boxwright.runtimes.base.graph import Graph, exported
from boxwright.runtimes.base.metadata import KEY
from boxwright.runtimes.base.runtime import Inputs, Runtime, RuntimeOptions
from boxwright.runtimes.base.target import Target

# What our files are made of. A MindIR may name operators whose code lies in other files, so only these are run.
PRIMITIVES = frozenset({
    "Add", "BatchNorm", "BiasAdd", "Concat", "Constant", "Conv2D", "Depend", "Div", "Load", "MakeTuple", "MaxPool",
    "Maximum", "Minimum", "Mish", "Mul", "PadV3", "ReLU", "ReduceMean", "Reshape", "ResizeNearestNeighbor", "Sigmoid",
    "Split", "Sub", "TupleGetItem", "UpdateState",
})  # fmt: skip
AVX2 = 0x7  # dnnl_cpu_isa_avx2 in oneDNN's dnnl_types.h

Operation = Callable[..., Any]
Pair = Sequence[int]  # of height and width


def write(graph: Graph, path: Path, metadata: str) -> None:
    """Write `graph` as one MindIR that carries `metadata`, atomically.

    No axis may vary. Raises InputError where the extra is not installed, for an operation that has no counterpart here,
    and where the file cannot be written.
    """
    mindspore = _mindspore()
    construct = Construct(mindspore.ops, graph)
    inputs = [mindspore.Tensor(example.numpy()) for example in graph.inputs.values()]

    def add_metadata(message: Any) -> None:
        message.user_info[KEY] = metadata

    with tempfile.TemporaryDirectory() as folder, files.atomic_write(path) as tmp:
        written = Path(folder, "x.mindir")  # MindSpore adds this suffix to any other name
        cell = construct.cell(mindspore)
        with warnings.catch_warnings():
            # of MindSpore about Python's threads
            warnings.filterwarnings("ignore", "getName", DeprecationWarning)
            mindspore.export(cell, *inputs, file_name=str(written), file_format="MINDIR", custom_func=add_metadata)
        if not written.is_file():  # beyond 1 GB it makes a folder of several files
            raise InputError(f"{path}: MindSpore writes a model of this size as several files; needed less than 1 GB")
        tmp.write_bytes(written.read_bytes())


class Construct:
    """The lines of `construct`, and the primitives and weights that they use.

    Every `value` below is a name in those lines.
    """

    def __init__(self, ops: Any, graph: Graph) -> None:
        self.ops = ops
        self.lines: list[str] = []
        self.inputs: list[str] = []
        self.parts: dict[str, Any] = {}  # attribute -> primitive
        self.weights: dict[str, tuple[str, Tensor]] = {}  # attribute -> name in the network, value
        self.shapes: dict[str, tuple[int, ...]] = {}  # of values
        self.shape: tuple[int, ...] = ()  # of what is being made
        with warnings.catch_warnings():
            # of PyTorch about itself
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning)
            # {}: what works in place becomes what does not, and nothing is taken apart
            program = exported(graph).run_decompositions({})
        self._translate(program)

    def add(self, primitive: Any, *values: object) -> str:
        """A line that applies `primitive`, and the value that it makes."""
        number = len(self.lines)
        self.parts[f"p{number}"] = primitive
        self.lines.append(f"v{number} = self.p{number}({', '.join(map(str, values))})")
        return f"v{number}"

    def weight(self, name: str, tensor: Tensor) -> str:
        """A value that is stored in the file under `name`."""
        attribute = f"w{len(self.weights)}"
        self.weights[attribute] = name, tensor
        return f"self.{attribute}"

    def cell(self, mindspore: Any) -> Any:
        """The network for MindSpore."""
        name = f"<mindir {id(self)}>"
        source = f"def construct(self, {', '.join(self.inputs)}):\n" + "".join(f"    {line}\n" for line in self.lines)
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # where MindSpore looks
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
        nodes = list(program.graph.nodes)
        _refuse_unknown(nodes)
        stored = dict(program.named_parameters()) | dict(program.named_buffers()) | program.constants
        sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target}
        values: dict[fx.Node, Any] = {}
        for node in nodes:
            if node.op == "output":
                outputs = fx.node.map_arg(node.args[0], values.__getitem__)
                self.lines.append(f"return {', '.join(outputs)}")
                return
            self.shape = tuple(getattr(node.meta["val"], "shape", ()))
            if node.op == "call_function":
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = OPERATIONS[str(node.target)](self, *args, **kwargs)
            elif own := sources.get(node.name):
                values[node] = self.weight(own, stored[own])
            else:
                values[node] = node.name
                self.inputs.append(node.name)
            if isinstance(values[node], str):
                self.shapes[values[node]] = self.shape


def _refuse_unknown(nodes: list[fx.Node]) -> None:
    called = {str(node.target) for node in nodes if node.op == "call_function"}
    if unknown := sorted(called - OPERATIONS.keys()):
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise InputError(f"--to mindir: the network has {shown}, found no counterpart in MindIR; use --to onnx")


# Each takes the arguments of PyTorch's operation of that name.


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
) -> str:  # fmt: skip
    """MindSpore's pool does not pad on a CPU, so the map is padded before, with `ceil_mode` up to the last window."""
    stride = stride or kernel
    ends = []
    for side, pooled, k, step, pad in zip(c.shapes[x][2:], c.shape[2:], kernel, stride, padding, strict=True):
        ends.append((pad, max(0, (pooled - 1) * step + k - side - pad)))
    (top, bottom), (left, right) = ends
    x = _padded(c, x, [left, right, top, bottom], -math.inf)
    return c.add(c.ops.MaxPool(kernel_size=tuple(kernel), strides=tuple(stride), pad_mode="valid"), x)


def _pad(c: Construct, x: str, padding: Sequence[int], mode: str = "constant", value: float | None = None) -> str:
    if mode != "constant":
        raise InputError(f"--to mindir: the network pads by '{mode}', found no counterpart in MindIR; use --to onnx")
    return _padded(c, x, padding, value or 0.0)


def _padded(c: Construct, x: str, padding: Sequence[int], value: float) -> str:
    """padding: before and after, of the last axis first."""
    if not any(padding):
        return x
    places = c.weight(f"padding{len(c.weights)}", torch.tensor(padding))
    filling = c.weight(f"filling{len(c.weights)}", torch.tensor(value))
    return c.add(c.ops.PadV3(), x, places, filling)


def _leaky_relu(c: Construct, x: str, slope: float = 0.01) -> str:
    """Of x and slope * x the larger; where the slope is above 1 the smaller."""
    return c.add(c.ops.Maximum() if slope <= 1 else c.ops.Minimum(), x, c.add(c.ops.Mul(), x, slope))


def _split(c: Construct, x: str, size: int, axis: int = 0) -> list[str]:
    parts, rest = divmod(c.shapes[x][axis], size)
    if rest:
        raise InputError("--to mindir: the network has unequal parts, found no counterpart in MindIR; use --to onnx")
    y = c.add(c.ops.Split(axis, parts), x)
    return [f"{y}[{part}]" for part in range(parts)]


OPERATIONS: dict[str, Operation] = {
    "<built-in function getitem>": lambda _, values, place: values[place],
    "aten.add.Tensor": lambda c, x, y: c.add(c.ops.Add(), x, y),
    "aten.sub.Tensor": lambda c, x, y: c.add(c.ops.Sub(), x, y),
    "aten.mul.Tensor": lambda c, x, y: c.add(c.ops.Mul(), x, y),
    "aten.div.Tensor": lambda c, x, y: c.add(c.ops.Div(), x, y),
    "aten.relu.default": lambda c, x: c.add(c.ops.ReLU(), x),
    "aten.mish.default": lambda c, x: c.add(c.ops.Mish(), x),
    "aten.silu.default": lambda c, x: c.add(c.ops.Mul(), x, c.add(c.ops.Sigmoid(), x)),
    "aten.leaky_relu.default": _leaky_relu,
    "aten.conv2d.default": _conv2d,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.pad.default": _pad,
    "aten.upsample_nearest2d.vec": lambda c, x, size, factors: c.add(c.ops.ResizeNearestNeighbor(c.shape[2:]), x),
    "aten.cat.default": lambda c, values, axis=0: c.add(c.ops.Concat(axis), f"({', '.join(values)})"),
    "aten.split.Tensor": _split,
    "aten.mean.dim": lambda c, x, axes, keep=False: c.add(c.ops.ReduceMean(keep), x, tuple(axes)),
    "aten.view.default": lambda c, x, shape: c.add(c.ops.Reshape(), x, tuple(shape)),
}


class MindSpore(Runtime):
    """A loaded graph."""

    name = "mindspore"
    channels_last = False

    def __init__(self, cell: Any, shape: tuple[int, ...]) -> None:
        self.cell = cell
        super().__init__(shape)

    def run(self, inputs: Inputs) -> list[Tensor]:
        tensor = _mindspore().Tensor
        found = self.cell(*(tensor(given.contiguous().numpy()) for given in inputs))
        # one output comes without a tuple; copied, for MindSpore may use the memory again
        outputs = found if isinstance(found, tuple) else (found,)
        return [torch.from_numpy(output.asnumpy().copy()) for output in outputs]


def open_file(file: Path, options: RuntimeOptions) -> tuple[MindSpore, str | None]:
    """The loaded model, and the metadata's text where the file has any.

    Raises InputError for a file that is no MindIR, and one with other operators than our exports have.
    """
    options.refuse("mindspore", "bfloat16", "compile")
    model, content = _read(file)
    _refuse_others(model, file)
    shape = tuple(model.graph.input[0].tensor[0].dims)
    check_input(file, shape)
    mindspore = _mindspore()
    with tempfile.TemporaryDirectory() as folder:  # what was checked, with no other files beside it
        copy = Path(folder) / "model.mindir"
        copy.write_bytes(content)
        try:
            cell = mindspore.nn.GraphCell(mindspore.load(str(copy)))
        except Exception as error:  # RuntimeError, ValueError, and what comes of making text of their messages
            raise InputError(f"{file}: not a model that MindSpore can run ({first_line(error)})") from error
    return MindSpore(cell, shape), _text(model)


def _text(model: Any) -> str | None:
    text: str | None = model.user_info.get(KEY)
    return text


def _mindspore() -> Any:
    """MindSpore, without AVX-512, for which oneDNN falls back to reference code, some hundred times slower (2.10)."""
    mindspore = import_extra("mindspore", "mindspore")
    library = Path(str(mindspore.__file__)).parent / "lib" / "libdnnl.so.3"
    if library.is_file():
        ctypes.CDLL(str(library)).dnnl_set_max_cpu_isa(AVX2)
    return mindspore


def _read(file: Path) -> tuple[Any, bytes]:
    """The file as the protobuf message that it is, and its bytes."""
    _mindspore()
    messages = import_extra("mindspore.train.mind_ir_pb2", "mindspore")
    decode_error = import_extra("google.protobuf.message", "mindspore").DecodeError
    model = messages.ModelProto()
    content = files.read_input(file)
    try:
        model.ParseFromString(content)
    except (decode_error, RuntimeError) as error:
        raise InputError(f"{file}: not a MindIR; export it again") from error
    if not model.HasField("graph") or not model.graph.input or not model.graph.input[0].tensor:
        raise InputError(f"{file}: not a MindIR with an input; export it again")
    return model, content


def _refuse_others(model: Any, file: Path) -> None:
    """Raises InputError where the graph, or one that it calls, has an operator beyond PRIMITIVES."""
    graphs = [model.graph, *model.functions]
    kinds = {primitive.op_type for primitive in model.primitives} | {
        node.op_type for graph in graphs for node in graph.node
    }
    others = {kind for kind in kinds if not kind.startswith("REF::")} - PRIMITIVES
    if others or model.functions or model.preprocessor.op:
        found = ", ".join(sorted(others)) or "a graph that calls others"
        raise InputError(f"{file}: holds {found}, which no file of ours does, so it is not run; export it again")
    weights = (weight for graph in graphs for weight in graph.parameter)
    if any(field.name == "external_data" for weight in weights for field, _ in weight.ListFields()):
        raise InputError(f"{file}: has weights in other files, which no file of ours has; export it again")


TARGET = Target(
    suffix=".mindir",
    checked_by="mindspore",
    write={"float32": write},
    runtimes={"mindspore": open_file},
    read_metadata=lambda file: _text(_read(file)[0]),
    extra="mindspore",
    fixed_shapes=True,
)
