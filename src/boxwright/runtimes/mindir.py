"""MindIR files, which MindSpore writes and runs on the CPU (extra `mindspore`).

MindSpore compiles a network from the source text of its `construct`, which is generated here
(`serialization/mindir_operations.py`).
"""

import ctypes
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright import files
from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.runtimes.base.checks import check_input
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.base.metadata import KEY
from boxwright.runtimes.base.runtime import Inputs, Runtime, RuntimeOptions
from boxwright.runtimes.base.target import Target
from boxwright.runtimes.serialization.mindir_operations import PRIMITIVES, Construct

AVX2 = 0x7  # dnnl_cpu_isa_avx2 in oneDNN's dnnl_types.h


def write(graph: Graph, path: Path, metadata: str) -> None:
    """Write `graph` as one MindIR file with `metadata`, atomically.

    No axis may vary. Raises InputError if the extra is not installed, for an operation without a counterpart in MindIR,
    and if the file cannot be written.
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
            # MindSpore's warning about Python's threads
            warnings.filterwarnings("ignore", "getName", DeprecationWarning)
            mindspore.export(cell, *inputs, file_name=str(written), file_format="MINDIR", custom_func=add_metadata)
        if not written.is_file():  # above 1 GB MindSpore writes a folder of several files
            raise InputError(f"{path}: MindSpore writes a model of this size as several files; needed less than 1 GB")
        tmp.write_bytes(written.read_bytes())


class MindSpore(Runtime):
    """A loaded graph."""

    name = "mindspore"
    channels_last = False

    def __init__(self, cell: Any, shape: tuple[int, ...]) -> None:
        self.cell = cell
        super().__init__(shape)

    def run(self, inputs: Inputs) -> list[Tensor]:
        tensor = _mindspore().Tensor
        result = self.cell(*(tensor(tensor_in.contiguous().numpy()) for tensor_in in inputs))
        # a single output is not in a tuple; copied, since MindSpore may reuse the memory
        outputs = result if isinstance(result, tuple) else (result,)
        return [torch.from_numpy(output.asnumpy().copy()) for output in outputs]


def open_file(file: Path, options: RuntimeOptions) -> tuple[MindSpore, str | None]:
    """Open a file. Returns the loaded model, and the text of its metadata if it has any.

    Raises InputError for a file that is not a MindIR, or has operators that our exports do not use.
    """
    options.reject_unsupported("mindspore", "bfloat16", "compile")
    model, content = _read(file)
    _reject_others(model, file)
    shape = tuple(model.graph.input[0].tensor[0].dims)
    check_input(file, shape)
    mindspore = _mindspore()
    with tempfile.TemporaryDirectory() as folder:  # only the checked content, with no other files beside it
        copy = Path(folder) / "model.mindir"
        copy.write_bytes(content)
        try:
            cell = mindspore.nn.GraphCell(mindspore.load(str(copy)))
        except Exception as error:  # RuntimeError, ValueError, and errors from decoding their messages
            raise InputError(f"{file}: not a model that MindSpore can run ({first_line(error)})") from error
    return MindSpore(cell, shape), _text(model)


def _text(model: Any) -> str | None:
    text: str | None = model.user_info.get(KEY)
    return text


def _mindspore() -> Any:
    """Import MindSpore, without AVX-512, for which oneDNN uses reference code, about a hundred times slower (2.10)."""
    mindspore = import_extra("mindspore", "mindspore")
    library = Path(str(mindspore.__file__)).parent / "lib" / "libdnnl.so.3"
    if library.is_file():
        ctypes.CDLL(str(library)).dnnl_set_max_cpu_isa(AVX2)
    return mindspore


def _read(file: Path) -> tuple[Any, bytes]:
    """The file as a protobuf message, and its bytes."""
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


def _reject_others(model: Any, file: Path) -> None:
    """Raise InputError if the graph, or one that it calls, has an operator that is not in PRIMITIVES."""
    graphs = [model.graph, *model.functions]
    kinds = {primitive.op_type for primitive in model.primitives} | {
        node.op_type for graph in graphs for node in graph.node
    }
    others = {kind for kind in kinds if not kind.startswith("REF::")} - PRIMITIVES
    if others or model.functions or model.preprocessor.op:
        found = ", ".join(sorted(others)) or "a graph that calls others"
        raise InputError(f"{file}: holds {found}, which no export does, so it is not run; export it again")
    weights = (weight for graph in graphs for weight in graph.parameter)
    if any(field.name == "external_data" for weight in weights for field, _ in weight.ListFields()):
        raise InputError(f"{file}: has weights in other files, which no export has; export it again")


TARGET = Target(
    suffix=".mindir",
    checked_by="mindspore",
    write={"float32": write},
    runtimes={"mindspore": open_file},
    read_metadata=lambda file: _text(_read(file)[0]),
    extra="mindspore",
    fixed_shapes=True,
)
