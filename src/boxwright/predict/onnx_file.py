"""ONNX files, looked through before a runtime sees them: one graph of ONNX's own operators, with its weights inside."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright import files
from boxwright.errors import InputError
from boxwright.predict.backend import check_input, extra
from boxwright.predict.card import KEY

DOMAINS = ("", "ai.onnx")  # ONNX's own; operators of others may be code in libraries


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """content: the model that was looked through, written anew: fields that ONNX does not know, and in which another
    format may lie, are not in it. text: the card's, None without one."""

    file: Path
    content: bytes
    text: str | None


def read(file: Path) -> OnnxFile:
    """The file's content.

    Raises InputError for what is no ONNX model, one with operators of others, with functions or with weights in other
    files, and one whose inputs no machine could hold.
    """
    onnx = extra("onnx", "onnx")
    decode_error = extra("google.protobuf.message", "onnx").DecodeError
    try:
        content = files.read_bytes(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    model: Any = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (decode_error, RuntimeError) as error:
        raise InputError(f"{file}: not an ONNX model; truncated?") from error
    if not model.HasField("graph") or not model.ir_version:
        raise InputError(f"{file}: not an ONNX model, or one without a graph")
    if wrong := next(_wrong(model, onnx), ""):
        raise InputError(f"{file}: holds {wrong:.120}, which no export does; it is not loaded")
    _check_inputs(file, model.graph)
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(texts) > 1 or any(not isinstance(text, str) for text in texts):
        raise InputError(f"{file}: holds its '{KEY}' metadata {len(texts)} times or not as text, needed once")
    return OnnxFile(file, _content(file, model), texts[0] if texts else None)


def _content(file: Path, model: Any) -> bytes:
    model.DiscardUnknownFields()
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        model.ClearField(field)
    content: bytes = model.SerializeToString()
    # How ONNX Runtime's own format and OpenVINO's are told from ONNX by their readers
    if content[4:8] == b"ORTM" or any(word in content[:4096] for word in (b"<net", b"<?xml")):
        raise InputError(f"{file}: is a file of two formats, which no export is; it is not loaded")
    return content


def _wrong(model: Any, onnx: Any) -> Iterator[str]:
    yield from (f"operators of {one.domain}" for one in model.opset_import if one.domain not in DOMAINS)
    if model.functions or model.training_info:
        yield "functions or a training"
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        if not all(isinstance(name, str) for name in _names(graph)):  # protobuf gives bytes of what is no UTF-8
            yield "names that are no text"
        yield from _outside(graph.initializer, onnx)
        if graph.sparse_initializer:
            yield "sparse weights"
        for node in graph.node:
            if node.domain not in DOMAINS:
                yield f"the operator {node.domain}.{node.op_type}"
            for attribute in node.attribute:
                yield from _outside([attribute.t, *attribute.tensors], onnx)
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    yield "sparse weights"
                waiting += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _names(graph: Any) -> Iterator[Any]:
    yield graph.name
    yield from (one.name for part in (graph.input, graph.output, graph.initializer, graph.value_info) for one in part)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (one.name for one in node.attribute)


def _outside(tensors: Any, onnx: Any) -> Iterator[str]:
    for one in tensors:
        if one.external_data or one.data_location == onnx.TensorProto.EXTERNAL:
            yield f"the weight {one.name[:60]}, which lies in another file"


def _check_inputs(file: Path, graph: Any) -> None:
    weights = {one.name for one in graph.initializer}
    for one in graph.input:
        if one.name not in weights:
            sides = one.type.tensor_type.shape.dim
            check_input(file, [side.dim_value if side.HasField("dim_value") else None for side in sides])
