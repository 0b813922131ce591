"""Read and write ONNX files: one graph of ONNX's own operators, with its weights inside.

Files are checked before a runtime reads them.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from boxwright import files
from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.ops.exported import Operator, export_operators
from boxwright.runtimes.base.checks import check_input
from boxwright.runtimes.base.graph import Graph, exported
from boxwright.runtimes.base.metadata import KEY

if TYPE_CHECKING:  # optional dependencies, imported when they are needed
    from onnx import GraphProto, ModelProto, TensorProto
    from onnxscript import ir

OPSET = 20  # DeformConv since 19, GridSample with PyTorch's semantics since 20
LAYERS = ("Conv", "Gemm", "MatMul", "DeformConv")  # operators whose second input is the weights
DOMAINS = ("", "ai.onnx")  # ONNX's own; other operators may run code in libraries
Deform = Literal["operator", "plain"]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A checked file.

    Attributes:
        file: Path of the file.
        content: The checked model, serialized again without fields unknown to ONNX, which may hide another format.
        text: Text of the metadata; None without any.
        shapes: Shapes of the inputs; None: an axis of any length.
    """

    file: Path
    content: bytes
    text: str | None
    shapes: tuple[tuple[int | None, ...], ...]


def read(file: Path) -> OnnxFile:
    """Read and check a file.

    Raises InputError for a file that is not an ONNX model, or has operators of other domains, functions, weights in
    other files, or inputs that are too large.
    """
    onnx = import_extra("onnx", "onnx")
    decode_error = import_extra("google.protobuf.message", "onnx").DecodeError
    content = files.read_input(file)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (decode_error, RuntimeError) as error:
        raise InputError(f"{file}: not an ONNX model; truncated?") from error
    if not model.HasField("graph") or not model.ir_version:
        raise InputError(f"{file}: not an ONNX model, or one without a graph")
    if wrong := next(_wrong(model, onnx), ""):
        raise InputError(f"{file}: holds {wrong:.120}, which no export does; it is not loaded")
    shapes = tuple(_input_shapes(file, model.graph))
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(texts) > 1 or any(not isinstance(text, str) for text in texts):
        raise InputError(f"{file}: holds its '{KEY}' metadata {len(texts)} times or not as text, needed once")
    return OnnxFile(file, _content(file, model), texts[0] if texts else None, shapes)


def _content(file: Path, model: "ModelProto") -> bytes:
    model.DiscardUnknownFields()
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        model.ClearField(field)
    content: bytes = model.SerializeToString()
    # Readers recognize ONNX Runtime's own format and OpenVINO's by these bytes
    if content[4:8] == b"ORTM" or any(word in content[:4096] for word in (b"<net", b"<?xml")):
        raise InputError(f"{file}: is a file of two formats, which no export is; it is not loaded")
    return content


def _wrong(model: "ModelProto", onnx: ModuleType) -> Iterator[str]:
    yield from (f"operators of {opset.domain}" for opset in model.opset_import if opset.domain not in DOMAINS)
    if model.functions or model.training_info:
        yield "functions or a training"
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        if not all(isinstance(name, str) for name in _names(graph)):  # protobuf returns bytes if it is not UTF-8
            yield "names that are not UTF-8"
        yield from _external(graph.initializer, onnx)
        if graph.sparse_initializer:
            yield "sparse weights"
        for node in graph.node:
            if node.domain not in DOMAINS:
                yield f"the operator {node.domain}.{node.op_type}"
            for attribute in node.attribute:
                yield from _external([attribute.t, *attribute.tensors], onnx)
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    yield "sparse weights"
                pending += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _names(graph: "GraphProto") -> Iterator[object]:
    yield graph.name
    values = graph.input, graph.output, graph.initializer, graph.value_info
    yield from (value.name for group in values for value in group)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _external(tensors: Iterable["TensorProto"], onnx: ModuleType) -> Iterator[str]:
    for tensor in tensors:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield f"the weight {tensor.name[:60]}, which lies in another file"


def _input_shapes(file: Path, graph: "GraphProto") -> Iterator[tuple[int | None, ...]]:
    """Shapes of the inputs, checked."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in weights:
            sides = value.type.tensor_type.shape.dim
            shape = tuple(side.dim_value if side.HasField("dim_value") else None for side in sides)
            check_input(file, shape)
            yield shape


def write(graph: Graph, path: str | Path, metadata: str, *, half: bool = False, deform: Deform = "operator") -> None:
    """Write `graph` as one ONNX file with `metadata`, checked by onnx, atomically.

    Args:
        graph: The network.
        path: The file.
        metadata: Metadata as text.
        half: Store weights of layers as float16, at half the size; computation stays in float32, because float16 cannot
            represent all integers beyond 2048.
        deform: Write deformable convolution as ONNX's operator, or as operators that every runtime has.

    Raises:
        InputError: The extra is not installed or the file cannot be written.
    """
    onnx, passes = import_extra("onnx", "onnx"), import_extra("onnxscript.ir.passes.common", "onnx")
    program = _program(graph, deform)
    # Every node stores a Python stack trace: paths of this machine, and half of a small file.
    passes.ClearMetadataAndDocStringPass()(program.model)
    if half:
        _halve(program.model)
    program.model.metadata_props[KEY] = metadata
    with files.atomic_write(path) as tmp:
        program.save(tmp, external_data=False)
        onnx.checker.check_model(tmp, full_check=True)


def _program(graph: Graph, deform: Deform) -> torch.onnx.ONNXProgram:
    sampling: Operator = "deform_conv" if deform == "operator" else "grid_sample"
    with export_operators("nms", "roi_align", sampling), warnings.catch_warnings():
        # PyTorch's warnings about itself, and about an axis that two inputs share, which is intended
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
        warnings.filterwarnings("ignore", message="# The axis name: .* will not be used, since it shares")
        program = torch.onnx.export(
            exported(graph),
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(graph.varying.get(name, {}) for name in graph.inputs),  # for the axis names
            opset_version=OPSET,
            custom_translation_table=import_extra("boxwright.runtimes.serialization.onnx_ops", "onnx").table(),
            optimize=False,
            verbose=False,
        )
    assert program is not None
    _optimize(program.model)
    return program


def _optimize(model: "ir.Model") -> None:
    """As `torch.onnx.export(optimize=True)`, with the same result in half the time: constants are folded first, which
    leaves a quarter of the nodes for onnxscript's rules."""
    optimizer = import_extra("onnxscript.optimizer", "onnx")
    passes = import_extra("onnxscript.ir.passes.common", "onnx")
    optimizer.fold_constants_ir(model)
    optimizer.remove_unused_nodes(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    optimizer.optimize_ir(model)


def _halve(model: "ir.Model") -> None:
    """Store the weights of layers as float16, each with a cast to float32, which runtimes execute once, at loading."""
    ir = import_extra("onnxscript.ir", "onnx")
    graph, first = model.graph, model.graph[0]
    weights = {node.inputs[1] for node in graph if node.op_type in LAYERS}
    for weight in sorted(weights & set(graph.initializers.values()), key=lambda value: str(value.name)):
        values = weight.const_value.numpy()
        if values.dtype != np.float32 or abs(values).max() > np.finfo(np.float16).max:
            continue
        name = f"{weight.name}.float16"
        stored = ir.Value(name=name, const_value=ir.tensor(values.astype(np.float16), name=name))
        cast = ir.node("Cast", inputs=[stored], attributes={"to": ir.DataType.FLOAT})
        graph.register_initializer(stored)
        graph.insert_before(first, cast)
        ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
        del graph.initializers[weight.name]


def layers(path: str | Path) -> dict[str, list[str]]:
    """Nodes with a layer's weights, by the layer's name in the network, of a file written by `write`."""
    found: dict[str, list[str]] = {}
    for node in import_extra("onnx", "onnx").load(path).graph.node:
        for name in node.input[1:2]:  # the weights
            found.setdefault(name.removesuffix(".weight"), []).append(node.name)
    return found
