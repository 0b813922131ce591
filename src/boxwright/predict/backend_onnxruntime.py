"""ONNX files in ONNX Runtime (extra `onnx`)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.predict import onnx_file
from boxwright.predict.backend import Backend, Inputs, Running, extra, first_line, no_picture
from boxwright.predict.onnx_file import OnnxFile

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}


class OnnxRuntime(Backend):
    """A session on the CPU."""

    name = "onnxruntime"
    channels_last = False

    def __init__(self, session: Any, lanes: int) -> None:
        self.session = session
        self.inputs = [(one.name, TYPES[one.type]) for one in session.get_inputs()]
        shape = session.get_inputs()[0].shape  # of an axis that varies: its name
        super().__init__(tuple(side if isinstance(side, int) else None for side in shape), lanes)

    def run(self, inputs: Inputs) -> list[Tensor]:
        named = {
            name: tensor.to(kind).contiguous().numpy() for (name, kind), tensor in zip(self.inputs, inputs, strict=True)
        }
        return [torch.from_numpy(one) for one in self.session.run(None, named)]


def open_file(file: Path, running: Running) -> tuple[OnnxRuntime, str | None]:
    """The session, and the card's text where the file has one.

    Raises InputError for a file that is no ONNX model and one with operators that ONNX Runtime does not know.
    """
    running.refuse("onnxruntime", "bfloat16", "compile")
    lanes = running.lanes()
    model = onnx_file.read(file)
    session = _session(model, lanes)
    inputs = session.get_inputs()
    if not inputs or len(inputs[0].shape) != 4 or any(one.type not in TYPES for one in inputs):
        raise no_picture(file)
    batch = inputs[0].shape[0]
    if isinstance(batch, int) and running.lanes(batch) < lanes:  # a file for several pictures: fewer threads that ask
        lanes = running.lanes(batch)
        session = _session(model, lanes)
    return OnnxRuntime(session, lanes), model.text


def read_text(file: Path) -> str | None:
    """The card's text where the file has one. Raises InputError for a file that is no ONNX model of ours."""
    return onnx_file.read(file).text


def _session(model: OnnxFile, lanes: int) -> Any:
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; what it warns of are its own optimisations
    # With the threads that ask, which help, as many as torch has: OMP_NUM_THREADS is heard by both.
    options.intra_op_num_threads = torch.get_num_threads() - lanes + 1
    # Done with a part, its threads keep their cores for a while; the other lanes want them.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if lanes > 1 else "1")
    try:
        # what it would fall back to is the same, with a word of its own on stdout
        return runtime.InferenceSession(model.content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # a dozen classes of its own, which have only this in common
        raise InputError(f"{model.file}: not a model that ONNX Runtime can run ({first_line(error)})") from error
