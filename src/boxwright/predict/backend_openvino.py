"""OpenVINO's files, and ONNX files, in OpenVINO (extra `openvino`)."""

import functools
import importlib
import os
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright import files
from boxwright.errors import InputError
from boxwright.predict import onnx_file
from boxwright.predict.backend import Backend, Inputs, Running, check_input, extra, first_line, no_picture
from boxwright.predict.card import KEY

TYPES = {"f32", "f16", "u8"}
# With which OpenVINO's own begins. Anything else would be offered to the reader of TensorFlow's files as well, which
# prints by itself.
START = b"<"
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"  # of the environment: instructions that oneDNN may use


class OpenVino(Backend):
    """A compiled model on the CPU."""

    name = "openvino"
    channels_last = False

    def __init__(self, compiled: Any, lanes: int) -> None:
        self.kinds = [torch.from_numpy(np.zeros(0, one.element_type.to_dtype())).dtype for one in compiled.inputs]
        sides = compiled.inputs[0].partial_shape
        self.free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(lanes):
            self.free.put(compiled.create_infer_request())
        super().__init__(tuple(side.get_length() if side.is_static else None for side in sides), lanes)

    def run(self, inputs: Inputs) -> list[Tensor]:
        arrays = [one.to(kind).contiguous().numpy() for one, kind in zip(inputs, self.kinds, strict=True)]
        request = self.free.get()
        try:
            request.infer(dict(enumerate(arrays)), share_inputs=True)
            # copied: the request's memory is used again
            return [torch.from_numpy(one.data.copy()) for one in request.output_tensors]
        finally:
            self.free.put(request)


def open_file(file: Path, running: Running) -> tuple[OpenVino, str | None]:
    """The compiled model, and the card's text where the file has one.

    Raises InputError for a file that is no model and one with operators that OpenVINO does not know.
    """
    running.refuse("openvino", "compile")
    model, text = _read(file)
    first = [one.partial_shape.rank for one in model.inputs[:1]]
    kinds = {one.element_type.get_type_name() for one in model.inputs}
    if not first or first[0].is_dynamic or first[0].get_length() != 4 or kinds - TYPES:
        raise no_picture(file)
    for one in model.inputs:
        if one.partial_shape.rank.is_static:
            check_input(file, [side.get_length() if side.is_static else None for side in one.partial_shape])
    batch = model.inputs[0].partial_shape[0]
    lanes = running.lanes(batch.get_length() if batch.is_static else None)
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT" if lanes > 1 else "LATENCY",
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # as many as torch: OMP_NUM_THREADS is heard by both
        # on a processor with 16-bit arithmetic OpenVINO would use it unasked, and answer differently than elsewhere
        "INFERENCE_PRECISION_HINT": "bf16" if running.bfloat16 else "f32",
    }
    try:
        compiled = core().compile_model(model, "CPU", settings)
        return OpenVino(compiled, lanes), text
    except Exception as error:  # RuntimeError, or what comes of making text of its message
        raise InputError(f"{file}: not a model that OpenVINO can run ({first_line(error)})") from error


def read_text(file: Path) -> str | None:
    """The card's text where the file has one. What is raised: as in `open_file`."""
    return onnx_file.read(file).text if file.suffix == ".onnx" else _read(file)[1]


def core() -> Any:
    """OpenVINO's core: one for the process, never let go. Raises InputError where OpenVINO is not installed.

    Its CPU plugin gives the thread a stack for signals, and at its end puts back the one before. Of two cores that end
    in the order they began, the second puts back the first one's, which is unmapped by then: the next signal (a worker
    of a data loader ends) is written to that memory, whoever has it now.
    """
    return _core(library())


@functools.cache
def _core(runtime: ModuleType) -> Any:
    made = runtime.Core()
    if limit := os.environ.pop(ISA_LIMIT, None):
        # Of the plugin's kernels some heed it and others do not, and they do not go together ("bad combination"). It is
        # read with the first convolution, and so set again after one.
        try:
            made.compile_model(_convolution(), "CPU")
        finally:
            os.environ[ISA_LIMIT] = limit
    return made


def _convolution() -> Any:
    operators = importlib.import_module("openvino.opset13")
    x = operators.parameter([1, 1, 3, 3], np.float32)
    kernel = operators.constant(np.ones((1, 1, 3, 3), np.float32))
    return library().Model([operators.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1])], [x])


def library() -> ModuleType:
    """The package `openvino`. Raises InputError where it is not installed."""
    return extra("openvino", "openvino")


def _read(file: Path) -> tuple[Any, str | None]:
    """The model and its card's text. OpenVINO is given the bytes that were looked at, so that it opens no other file,
    whatever the model names."""
    runtime = core()
    if file.suffix == ".onnx":
        found = onnx_file.read(file)
        return _parsed(runtime, file, found.content), found.text
    content = _bytes(file)
    if content[:1] != START:
        raise InputError(f"{file}: not a model that OpenVINO can read (it begins as no {file.suffix} file does)")
    model = _parsed(runtime, file, content, _bytes(file.with_suffix(".bin")))
    return model, str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None


def _bytes(file: Path) -> bytes:
    try:
        return files.read_bytes(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def _parsed(runtime: Any, file: Path, *content: bytes) -> Any:
    try:
        return runtime.read_model(*content)
    except Exception as error:  # RuntimeError, or what comes of making text of its message
        raise InputError(f"{file}: not a model that OpenVINO can read ({first_line(error)})") from error
