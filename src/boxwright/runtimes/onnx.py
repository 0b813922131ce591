"""ONNX files (extra `onnx`), run by OpenVINO, ONNX Runtime or OpenCV."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra
from boxwright.runtimes import openvino
from boxwright.runtimes.base import opencv_runtime
from boxwright.runtimes.base.checks import wrong_input
from boxwright.runtimes.base.runtime import Inputs, Runtime, RuntimeOptions
from boxwright.runtimes.base.target import Target
from boxwright.runtimes.serialization import onnx_file
from boxwright.runtimes.serialization.onnx_file import OnnxFile

if TYPE_CHECKING:  # optional dependency, imported when it is needed
    from onnxruntime import InferenceSession

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}


class OnnxRuntime(Runtime):
    """A session on the CPU."""

    name = "onnxruntime"
    channels_last = False

    def __init__(self, session: "InferenceSession", streams: int) -> None:
        self.session = session
        self.inputs = [(entry.name, TYPES[entry.type]) for entry in session.get_inputs()]
        shape = session.get_inputs()[0].shape  # for an axis that varies, its name
        super().__init__(tuple(side if isinstance(side, int) else None for side in shape), streams)

    def run(self, inputs: Inputs) -> list[Tensor]:
        named = {
            name: tensor.to(dtype).contiguous().numpy()
            for (name, dtype), tensor in zip(self.inputs, inputs, strict=True)
        }
        return [torch.from_numpy(output) for output in self.session.run(None, named)]


def open_file(file: Path, options: RuntimeOptions) -> tuple[OnnxRuntime, str | None]:
    """Open a file. Returns the session, and the text of its metadata if it has any.

    Raises InputError for a file that is not an ONNX model, or has operators that ONNX Runtime does not support.
    """
    options.reject_unsupported("onnxruntime", "bfloat16", "compile")
    streams = options.streams()
    model = onnx_file.read(file)
    session = _session(model, streams)
    inputs = session.get_inputs()
    if not inputs or len(inputs[0].shape) != 4 or any(entry.type not in TYPES for entry in inputs):
        raise wrong_input(file)
    batch = inputs[0].shape[0]
    if isinstance(batch, int) and options.streams(batch) < streams:  # a file with a larger batch: fewer streams
        streams = options.streams(batch)
        session = _session(model, streams)
    return OnnxRuntime(session, streams), model.text


def _session(model: OnnxFile, streams: int) -> "InferenceSession":
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only; its warnings concern its own optimizations
    # Together with the calling threads, as many as torch has, so that OMP_NUM_THREADS applies to both.
    options.intra_op_num_threads = torch.get_num_threads() - streams + 1
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Threads would spin for a while after their work and occupy cores that other streams need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if streams > 1 else "1")
    try:
        # the fallback is the same provider, with an additional message on stdout
        return runtime.InferenceSession(model.content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its exceptions have no other common base class
        raise InputError(f"{model.file}: not a model that ONNX Runtime can run ({first_line(error)})") from error


TARGET = Target(
    suffix=".onnx",
    checked_by="onnxruntime",
    write={"float32": onnx_file.write, "float16": partial(onnx_file.write, half=True)},
    runtimes={"openvino": openvino.open_file, "onnxruntime": open_file},
    by_name={"opencv": opencv_runtime.open_file},
    read_metadata=lambda file: onnx_file.read(file).text,
    extra="onnx",
)
