"""OpenVINO's .xml and .bin, made from the ONNX file of the same graph.

OpenVINO's PyTorch front end gives the same network (YOLOv3-tiny: the same differences from PyTorch to the last digit,
equally fast) in nine times the time, and would need every operator of ours told to it again.
"""

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.errors import InputError
from boxwright.export import onnx
from boxwright.export.graph import Graph
from boxwright.files import atomic_write_group
from boxwright.predict.backend_openvino import core, library
from boxwright.predict.card import KEY

if TYPE_CHECKING:
    import openvino


def write(graph: Graph, path: Path, card: str, *, half: bool = False) -> None:
    """Write `graph` with the metadata `card` to `path` (.xml) and its .bin; whole or not at all.

    half: weights as float16; a CPU still computes in float32. Raises InputError where OpenVINO or ONNX is not
    installed, or the files cannot be written.
    """
    library()  # before the work
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        onnx.write(graph, file, card, deform="plain")  # OpenVINO's reader refuses DeformConv
        save(read(file), path, card, half=half)


def read(file: Path) -> "openvino.Model":
    """The model in an ONNX file. What is constant is computed at once, so that tools find the biases of its layers.

    Not by `convert_model`, which reports its use to its makers.
    """
    model: openvino.Model = core().read_model(file)
    passes = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def save(model: "openvino.Model", path: Path, card: str, *, half: bool = False) -> None:
    """Write a model that is in memory to `path` (.xml) and its .bin; whole or not at all.

    Raises InputError where they cannot be written.
    """
    model.set_rt_info(card, [KEY])
    with atomic_write_group(path) as tmp:
        try:
            library().save_model(model, tmp, compress_to_fp16=half)
        except RuntimeError as error:  # OpenVINO's word for all that fails in writing; what was written it removes
            reason = str(error).partition("\n")[0]
            raise InputError(f"{tmp}: cannot be written by OpenVINO ({reason}); is the disk full?") from error
