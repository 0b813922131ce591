"""ONNX files in ONNX Runtime (extra `onnx`)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.predict.backend import Backend, Inputs, Running, extra, first_line, no_picture
from boxwright.predict.card import KEY

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
    session = _session(file, lanes, optimise=True)
    inputs = session.get_inputs()
    if not inputs or len(inputs[0].shape) != 4 or any(one.type not in TYPES for one in inputs):
        raise no_picture(file)
    batch = inputs[0].shape[0]
    if isinstance(batch, int) and running.lanes(batch) < lanes:  # a file for several pictures: fewer threads that ask
        lanes = running.lanes(batch)
        session = _session(file, lanes, optimise=True)
    return OnnxRuntime(session, lanes), _text(session)


def read_text(file: Path) -> str | None:
    """The card's text where the file has one. What is raised: as in `open_file`."""
    return _text(_session(file, 1, optimise=False))


def _session(file: Path, lanes: int, *, optimise: bool) -> Any:
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; what it warns of are its own optimisations
    # With the threads that ask, which help, as many as torch has: OMP_NUM_THREADS is heard by both.
    options.intra_op_num_threads = torch.get_num_threads() - lanes + 1
    # Done with a part, its threads keep their cores for a while; the other lanes want them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if lanes > 1 else "1")
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a dozen classes of its own, which have only this in common
        raise InputError(f"{file}: not a model that ONNX Runtime can run ({first_line(error)})") from error


def _text(session: Any) -> str | None:
    found: str | None = session.get_modelmeta().custom_metadata_map.get(KEY)
    return found
