"""MindIR files in MindSpore on the CPU (extra `mindspore`)."""

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright import files
from boxwright.errors import InputError
from boxwright.predict.backend import Backend, Inputs, Running, check_input, extra, first_line
from boxwright.predict.card import KEY
from boxwright.weights.files import require

# What our files are made of (export/mindir.py). A MindIR may name operators whose code lies in other files, so nothing
# beyond these is run.
PRIMITIVES = frozenset({
    "Add", "BatchNorm", "BiasAdd", "Concat", "Constant", "Conv2D", "Depend", "Div", "Load", "MakeTuple", "MaxPool",
    "Maximum", "Minimum", "Mish", "Mul", "PadV3", "ReLU", "ReduceMean", "Reshape", "ResizeNearestNeighbor", "Sigmoid",
    "Split", "Sub", "TupleGetItem", "UpdateState",
})  # fmt: skip
AVX2 = 0x7  # dnnl_cpu_isa_avx2 in oneDNN's dnnl_types.h


class MindSpore(Backend):
    """A loaded graph."""

    name = "mindspore"
    channels_last = False

    def __init__(self, cell: Any, shape: tuple[int, ...]) -> None:
        self.cell = cell
        super().__init__(shape)

    def run(self, inputs: Inputs) -> list[Tensor]:
        tensor = _mindspore().Tensor
        found = self.cell(*(tensor(one.contiguous().numpy()) for one in inputs))
        # one output comes without a tuple; copied, for MindSpore may use the memory again
        outputs = found if isinstance(found, tuple) else (found,)
        return [torch.from_numpy(one.asnumpy().copy()) for one in outputs]


def open_file(file: Path, running: Running) -> tuple[MindSpore, str | None]:
    """The loaded model, and the card's text where the file has one.

    Raises InputError for a file that is no MindIR, and one with other operators than our exports have.
    """
    running.refuse("mindspore", "bfloat16", "compile")
    model, content = _read(file)
    _refuse_others(model, file)
    shape = tuple(model.graph.input[0].tensor[0].dims)
    check_input(file, shape)
    mindspore = _mindspore()
    with tempfile.TemporaryDirectory() as folder:  # what was looked at, with no other files beside it
        copy = Path(folder) / "model.mindir"
        copy.write_bytes(content)
        try:
            cell = mindspore.nn.GraphCell(mindspore.load(str(copy)))
        except Exception as error:  # RuntimeError, ValueError, and what comes of making text of their messages
            raise InputError(f"{file}: not a model that MindSpore can run ({first_line(error)})") from error
    return MindSpore(cell, shape), _text(model)


def read_text(file: Path) -> str | None:
    """The card's text where the file has one. Raises InputError for a file that is no MindIR."""
    return _text(_read(file)[0])


def _mindspore() -> Any:
    """MindSpore, told to leave AVX-512 alone.

    On processors that have it oneDNN, in MindSpore 2.10, has no compiled convolution for MindSpore's memory layout and
    takes its reference code, which was measured to be some hundred times as slow as its AVX2 code. The call only does
    something before MindSpore's first operation, and only to MindSpore's own copy of oneDNN.
    """
    mindspore: Any = extra("mindspore", "mindspore")
    library = Path(mindspore.__file__).parent / "lib" / "libdnnl.so.3"
    if library.is_file():
        ctypes.CDLL(str(library)).dnnl_set_max_cpu_isa(AVX2)
    return mindspore


def _read(file: Path) -> tuple[Any, bytes]:
    """The file as the protobuf message that it is, and its bytes."""
    _mindspore()
    messages: Any = extra("mindspore.train.mind_ir_pb2", "mindspore")
    decode_error = extra("google.protobuf.message", "mindspore").DecodeError
    model = messages.ModelProto()
    try:
        content = files.read_bytes(require(file))
        model.ParseFromString(content)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (decode_error, RuntimeError) as error:
        raise InputError(f"{file}: not a MindIR; export it again") from error
    if not model.HasField("graph") or not model.graph.input or not model.graph.input[0].tensor:
        raise InputError(f"{file}: not a MindIR with an input; export it again")
    return model, content


def _refuse_others(model: Any, file: Path) -> None:
    """Raises InputError where the graph, or one that it calls, has an operator beyond PRIMITIVES."""
    graphs = [model.graph, *model.functions]
    kinds = {one.op_type for one in model.primitives} | {node.op_type for graph in graphs for node in graph.node}
    others = {kind for kind in kinds if not kind.startswith("REF::")} - PRIMITIVES
    if others or model.functions or model.preprocessor.op:
        found = ", ".join(sorted(others)) or "a graph that calls others"
        raise InputError(f"{file}: holds {found}, which no file of ours does, so it is not run; export it again")
    weights = (one for graph in graphs for one in graph.parameter)
    if any(field.name == "external_data" for one in weights for field, _ in one.ListFields()):
        raise InputError(f"{file}: has weights in other files, which no file of ours has; export it again")


def _text(model: Any) -> str | None:
    text: str | None = model.user_info.get(KEY)
    return text
