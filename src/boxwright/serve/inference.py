"""The Open Inference Protocol, version 2, over REST, with its extension for binary tensor data.

A model has the tensors of a complete exported file, so that one client works with `boxwright serve` and with Triton:
`images` (N, h, w, C) UINT8 -> the task's `graph_outputs`, for a detector `boxes` (N, K, 4), `scores` (N, K), `labels`
(N, K). K is the largest number of results per image; padding rows have label -1 and zeros.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxwright.arrays import Array
from boxwright.json_text import JsonObject
from boxwright.serve.batcher import Answer
from boxwright.serve.models import Model
from boxwright.serve.request_error import RequestError
from boxwright.version import __version__

VERSION = "1"  # of each model
HEADER_LENGTH = "inference-header-content-length"
MAX_JSON = 8 << 20  # bytes; as JSON numbers, an image of 416 x 416 px takes 2 MB
INPUT = "images"
PARAMETERS = ("threshold", "iou", "top_k")  # parameters of a request, as in a predictor's call
TYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed request.

    Attributes:
        images: uint8 (h, w, C) each.
        args: The PARAMETERS of the request.
        outputs: Name -> whether it is binary, for the outputs in the order of the response.
        id: Id that is repeated in the response; None for none.
    """

    images: list[Array]
    args: dict[str, Any]
    outputs: dict[str, bool]
    id: str | None = None


def server_metadata() -> JsonObject:
    return {"name": "boxwright", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: Model) -> JsonObject:
    runtime = model.predictor.runtime
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"boxwright_{runtime.name if runtime else 'torch'}",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, model.channels]}],
        "outputs": [
            {
                "name": name,
                "datatype": "INT64" if name == "labels" else "FP32",
                "shape": [-1, -1, 4] if name == "boxes" else [-1, -1],
            }
            for name in model.predictor.task.graph_outputs
        ],
    }


def parse(body: bytearray, header_length: str | None, model: Model) -> InferRequest:
    """Parse the body of an infer request. Raises RequestError (400 or 413) if it is invalid or too large."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 20 or int(header_length) > length:
            raise _invalid(f"{HEADER_LENGTH}: found '{header_length[:20]}', needed at most {length}, the body's bytes")
        length = int(header_length)
    if length > MAX_JSON:
        raise RequestError(
            413, f"JSON: found {length} bytes, needed at most {MAX_JSON}; send the tensor as binary data"
        )
    tree = _object(_json(bytes(body[:length])), "request")
    parameters = _parameters(tree, "parameters")
    inputs = tree.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise _invalid(f"inputs: needed a list of one tensor, {INPUT}")
    images = _images(_object(inputs[0], "inputs[0]"), memoryview(body)[length:], model.channels)
    args = {name: parameters[name] for name in PARAMETERS if name in parameters}
    for name, value in args.items():
        wanted = int if name == "top_k" else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise _invalid(f"parameters.{name}: found {str(value)[:40]}, needed a number")
    outputs = _outputs(tree.get("outputs"), bool(parameters.get("binary_data_output")), model)
    number = tree.get("id")
    return InferRequest(list(images), args, outputs, None if number is None else str(number))


def response(model: Model, request: InferRequest, answers: Sequence[Answer]) -> tuple[bytes, dict[str, str]]:
    """The body of a response and its headers."""
    arrays = _padded(answers, model.predictor.task.graph_outputs)
    entries, chunks = [], []
    for name, binary in request.outputs.items():
        array = arrays[name]
        entry: JsonObject = {"name": name, "datatype": TYPES[array.dtype], "shape": list(array.shape)}
        if binary:
            chunks.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    tree: JsonObject = {"model_name": model.name, "model_version": VERSION, "outputs": entries}
    if request.id is not None:
        tree["id"] = request.id
    header = json.dumps(tree).encode()
    if not any(request.outputs.values()):
        return header, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *chunks]), headers


def _padded(answers: Sequence[Answer], names: Sequence[str]) -> dict[str, Array]:
    """Outputs by name, (N, K) or (N, K, 4), of N answers with up to K rows."""
    arrays: dict[str, Array] = {}
    for name in names:
        columns = [getattr(answer.result, name).numpy(force=True) for answer in answers]
        rows = max(len(column) for column in columns)
        fill = -1 if name == "labels" else 0
        arrays[name] = np.full((len(columns), rows, *columns[0].shape[1:]), fill, columns[0].dtype)
        for array, column in zip(arrays[name], columns, strict=True):
            array[: len(column)] = column
    return arrays


def _images(tensor: Mapping[str, Any], binary: memoryview, channels: int) -> Array:
    """The input tensor, uint8 (N, h, w, C)."""
    name, datatype, shape = (tensor.get(key) for key in ("name", "datatype", "shape"))
    if name != INPUT or datatype != "UINT8":
        raise _invalid(f"inputs[0]: found {str(name)[:40]} of {str(datatype)[:20]}, needed {INPUT} of UINT8")
    sides = shape if isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape) else []
    if len(sides) != 4 or sides[3] != channels:
        raise _invalid(f"{INPUT}: found the shape {str(shape)[:60]}, needed (images, height, width, {channels})")
    size = _parameters(tensor, f"{INPUT}.parameters").get("binary_data_size")
    if size is None:
        values = _numbers(tensor.get("data"))
    elif type(size) is not int or size != len(binary):
        raise _invalid(
            f"{INPUT}: found {str(size)[:20]} as binary_data_size, needed {len(binary)}, what follows the JSON"
        )
    else:
        values = np.frombuffer(binary, np.uint8)
    needed = sides[0] * sides[1] * sides[2] * sides[3]
    if values.size != needed:
        raise _invalid(f"{INPUT}: found {values.size} numbers, needed {needed} for the shape {sides}")
    return values.reshape(sides)


def _numbers(data: object) -> Array:
    """`data` of a JSON tensor, flat or nested, as uint8."""
    try:
        values = np.asarray(data if isinstance(data, list) else None)
    except ValueError:  # lists of unequal lengths
        values = np.asarray(None)
    if values.dtype.kind != "i" or (values.size and (values.min() < 0 or values.max() > 255)):
        raise _invalid(f"{INPUT}.data: needed a list of whole numbers from 0 to 255, as many as the shape says")
    return values.astype(np.uint8)


def _outputs(requested: object, binary: bool, model: Model) -> dict[str, bool]:
    names = model.predictor.task.graph_outputs
    if requested is None or requested == []:
        return dict.fromkeys(names, binary)
    if not isinstance(requested, list):
        raise _invalid("outputs: needed a list")
    outputs: dict[str, bool] = {}
    for entry in requested:
        name = _object(entry, "outputs").get("name")
        if name not in names:
            raise _invalid(f"outputs: found '{str(name)[:40]}', needed some of {', '.join(names)}")
        parameters = _parameters(entry, "outputs.parameters")
        if parameters.get("classification"):  # Triton's extension; its clients expect strings
            raise _invalid(f"outputs: found classification of {name}, which is not supported; leave it out")
        outputs[name] = bool(parameters.get("binary_data", binary))
    return outputs


def _json(text: bytes) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8, too many digits or levels
        raise _invalid(f"not JSON ({str(error)[:80]}); binary data needs the header {HEADER_LENGTH}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        raise _invalid("a key is repeated in one JSON object, needed once")
    return tree


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{name}: needed a JSON object")
    return value


def _parameters(owner: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Parameters of a request or tensor; some clients write null for none."""
    found = owner.get("parameters")
    return {} if found is None else _object(found, name)


def _invalid(line: str) -> RequestError:
    return RequestError(400, line)
