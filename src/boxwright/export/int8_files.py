"""Files with layers in 8 bits, by NNCF, which knows OpenVINO's models and ONNX's."""

import contextlib
import importlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from boxwright.errors import InputError
from boxwright.runtimes import onnx, openvino
from boxwright.runtimes.base.extras import silence_telemetry
from boxwright.runtimes.base.metadata import KEY

SUFFIXES = {"openvino": openvino.TARGET.suffix, "onnxruntime": onnx.TARGET.suffix}


class Images(Protocol):
    """Arrays by the names of the network's inputs, of each image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


def write_plain(backend: str, file: Path, target: Path, metadata: str) -> None:
    """The ONNX `file`, which has the same metadata, as it is."""
    if backend == "openvino":
        openvino.save(openvino.read(file), target, metadata)
    else:
        shutil.copy(file, target)


def write_int8(backend: str, file: Path, target: Path, metadata: str, images: Images, kept: Sequence[str]) -> None:
    """The ONNX `file` in 8 bits, with its nodes `kept` in float.

    Raises InputError where NNCF or the runtime is not installed.
    """
    nncf = library()
    model = openvino.read(file) if backend == "openvino" else importlib.import_module("onnx").load(file)
    # OpenVINO's reader makes two of a node with a bias: NODE/WithoutBiases and NODE
    nodes = [f"{re.escape(node)}(/.*)?$" for node in kept]
    with contextlib.redirect_stdout(sys.stderr):  # its progress
        small = nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            # inputs may lie unevenly about 0, as LeakyReLU leaves them: 0.005 AP of YOLOv3-tiny on BCCD
            preset=nncf.QuantizationPreset.MIXED,
            # layer by layer, in a minute instead of seconds: 0.006 AP there; NNCF cannot do it for ONNX
            fast_bias_correction=backend != "openvino",
            ignored_scope=nncf.IgnoredScope(patterns=nodes),
        )
    if backend == "openvino":
        openvino.save(small, target, metadata)
    else:
        del small.metadata_props[:]
        small.metadata_props.add(key=KEY, value=metadata)
        target.write_bytes(small.SerializeToString())


def library() -> Any:
    """NNCF, quiet. Raises InputError where it is not installed."""
    silence_telemetry()
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise InputError("quantize: nncf is not installed; pip install 'boxwright[openvino,onnx]'") from error
    nncf.set_log_level(40)  # errors
    return nncf
