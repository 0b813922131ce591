"""OpenVINO's files, .xml and .bin (extra `openvino`), and ONNX files in OpenVINO.

A file is converted from the ONNX file of the same graph: OpenVINO's PyTorch front end gives the same network
(YOLOv3-tiny: identical differences from PyTorch, equally fast) in nine times the time, and would need a separate
translation of each of our operators.
"""

import functools
import importlib
import os
import tempfile
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from boxwright import files
from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.runtimes.base.checks import check_input, wrong_input
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.base.metadata import KEY
from boxwright.runtimes.base.runtime import Inputs, Runtime, RuntimeOptions
from boxwright.runtimes.base.target import Target
from boxwright.runtimes.serialization import onnx_file

if TYPE_CHECKING:  # optional dependency, imported when it is needed
    from openvino import CompiledModel, Core, InferRequest, Model

TYPES = {"f32", "f16", "u8"}
# First byte of OpenVINO's own files. OpenVINO also tries its TensorFlow reader on other files, which prints messages.
START = b"<"
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"  # environment variable: instructions that oneDNN may use


class OpenVino(Runtime):
    """A compiled model on the CPU."""

    name = "openvino"
    channels_last = False

    def __init__(self, compiled: "CompiledModel", streams: int) -> None:
        self.dtypes = [torch.from_numpy(np.zeros(0, port.element_type.to_dtype())).dtype for port in compiled.inputs]
        sides = compiled.inputs[0].partial_shape
        self.free: SimpleQueue[InferRequest] = SimpleQueue()
        for _ in range(streams):
            self.free.put(compiled.create_infer_request())
        super().__init__(tuple(side.get_length() if side.is_static else None for side in sides), streams)

    def run(self, inputs: Inputs) -> list[Tensor]:
        arrays = [tensor.to(dtype).contiguous().numpy() for tensor, dtype in zip(inputs, self.dtypes, strict=True)]
        request = self.free.get()
        try:
            request.infer(dict(enumerate(arrays)), share_inputs=True)
            # copied, since the request's memory is reused
            return [torch.from_numpy(output.data.copy()) for output in request.output_tensors]
        finally:
            self.free.put(request)


def open_file(file: Path, options: RuntimeOptions) -> tuple[OpenVino, str | None]:
    """Open a file. Returns the compiled model, and the text of its metadata if it has any.

    Raises InputError for a file that is not a model, or has operators that OpenVINO does not support.
    """
    options.reject_unsupported("openvino", "compile")
    model, text = _read(file)
    first = [port.partial_shape.rank for port in model.inputs[:1]]
    types = {port.element_type.get_type_name() for port in model.inputs}
    if not first or first[0].is_dynamic or first[0].get_length() != 4 or types - TYPES:
        raise wrong_input(file)
    for port in model.inputs:
        if port.partial_shape.rank.is_static:
            check_input(file, [side.get_length() if side.is_static else None for side in port.partial_shape])
    batch = model.inputs[0].partial_shape[0]
    streams = options.streams(batch.get_length() if batch.is_static else None)
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # as many as torch, so that OMP_NUM_THREADS applies to both
        # OpenVINO would use 16-bit arithmetic by default on processors that have it, and results would differ
        "INFERENCE_PRECISION_HINT": "bf16" if options.bfloat16 else "f32",
    }
    try:
        compiled = core().compile_model(model, "CPU", settings)
        return OpenVino(compiled, streams), text
    except Exception as error:  # RuntimeError, or an error from decoding its message
        raise InputError(f"{file}: not a model that OpenVINO can run ({first_line(error)})") from error


def core() -> "Core":
    """OpenVINO's core: one per process, never released. Raises InputError if OpenVINO is not installed.

    Its CPU plugin sets a signal stack for the thread, and restores the previous one when it is destroyed. If two cores
    are destroyed in the order of their creation, the second restores the first one's stack, which is unmapped by then,
    and the next signal (such as from a data loader's worker) corrupts memory.
    """
    return _core(import_extra("openvino", "openvino"))


@functools.cache
def _core(runtime: ModuleType) -> "Core":
    made = runtime.Core()
    if limit := os.environ.pop(ISA_LIMIT, None):
        # Only some of the plugin's kernels respect the limit, and they cannot be combined with others ("bad
        # combination"). It is read at the first convolution, so it is set again after one.
        try:
            made.compile_model(_convolution(), "CPU")
        finally:
            os.environ[ISA_LIMIT] = limit
    return made


def _convolution() -> "Model":
    operators = importlib.import_module("openvino.opset13")
    x = operators.parameter([1, 1, 3, 3], np.float32)
    kernel = operators.constant(np.ones((1, 1, 3, 3), np.float32))
    y = operators.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    return importlib.import_module("openvino").Model([y], [x])


def _read(file: Path) -> tuple["Model", str | None]:
    """The model and its metadata. OpenVINO gets the checked bytes, so it opens no other files."""
    runtime = core()
    if file.suffix == ".onnx":
        found = onnx_file.read(file)
        return _parsed(runtime, file, found.content), found.text
    content = files.read_input(file)
    if content[:1] != START:
        raise InputError(f"{file}: not a model that OpenVINO can read (it begins as no {file.suffix} file does)")
    model = _parsed(runtime, file, content, files.read_input(file.with_suffix(".bin")))
    return model, str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None


def _parsed(runtime: "Core", file: Path, *content: bytes) -> "Model":
    try:
        return runtime.read_model(*content)
    except Exception as error:  # RuntimeError, or an error from decoding its message
        raise InputError(f"{file}: not a model that OpenVINO can read ({first_line(error)})") from error


def write(graph: Graph, path: Path, metadata: str, *, half: bool = False) -> None:
    """Write `graph` with `metadata` to `path` (.xml) and its .bin, atomically.

    half: weights as float16; a CPU still computes in float32. Raises InputError if OpenVINO or ONNX is not installed,
    or the files cannot be written.
    """
    import_extra("openvino", "openvino")  # before the work
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        onnx_file.write(graph, file, metadata, deform="plain")  # OpenVINO's reader rejects DeformConv
        save(read(file), path, metadata, half=half)


def read(file: Path) -> "Model":
    """Read the model in an ONNX file. Constants are folded, so that tools find the biases of its layers.

    Does not use `convert_model`, which sends telemetry.
    """
    model = core().read_model(file)
    passes = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def save(model: "Model", path: Path, metadata: str, *, half: bool = False) -> None:
    """Write a model to `path` (.xml) and its .bin, atomically.

    Raises InputError if they cannot be written.
    """
    model.set_rt_info(metadata, [KEY])
    with files.atomic_write_group(path) as tmp:
        try:
            importlib.import_module("openvino").save_model(model, tmp, compress_to_fp16=half)
        except RuntimeError as error:  # raised for all failures in writing; OpenVINO removes the files
            reason = str(error).partition("\n")[0]
            raise InputError(f"{tmp}: cannot be written by OpenVINO ({reason}); is the disk full?") from error


TARGET = Target(
    suffix=".xml",
    checked_by="openvino",
    write={"float32": write, "float16": functools.partial(write, half=True)},
    runtimes={"openvino": open_file},
    read_metadata=lambda file: _read(file)[1],
    extra="openvino",
    companion=".bin",
)
