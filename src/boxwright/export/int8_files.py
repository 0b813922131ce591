"""INT8 files of OpenVINO and ONNX, quantized by NNCF."""

import contextlib
import importlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from boxwright.errors import InputError
from boxwright.extras import silence_telemetry
from boxwright.runtimes import onnx, openvino
from boxwright.runtimes.base.metadata import KEY

SUFFIXES = {"openvino": openvino.TARGET.suffix, "onnxruntime": onnx.TARGET.suffix}


class Images(Protocol):
    """For each image, arrays by the names of the network's inputs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, object]: ...


def write_float32(backend: str, file: Path, target: Path, metadata: str) -> None:
    """Convert the ONNX `file`, which has the same metadata, without quantization."""
    if backend == "openvino":
        openvino.save(openvino.read(file), target, metadata)
    else:
        shutil.copy(file, target)


def write_int8(backend: str, file: Path, target: Path, metadata: str, images: Images, ignored: Sequence[str]) -> None:
    """Quantize the ONNX `file`, except for its nodes `ignored`.

    Raises InputError if NNCF or the runtime is not installed.
    """
    nncf = import_nncf()
    model = openvino.read(file) if backend == "openvino" else importlib.import_module("onnx").load(file)
    # OpenVINO's reader splits a node with a bias into NODE/WithoutBiases and NODE
    nodes = [f"{re.escape(node)}(/.*)?$" for node in ignored]
    with contextlib.redirect_stdout(sys.stderr):  # progress bars
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            # asymmetric activations, for LeakyReLU: +0.005 AP with YOLOv3-tiny on BCCD
            preset=nncf.QuantizationPreset.MIXED,
            # the accurate bias correction takes a minute instead of seconds: +0.006 AP there; not available for ONNX
            fast_bias_correction=backend != "openvino",
            ignored_scope=nncf.IgnoredScope(patterns=nodes),
        )
    if backend == "openvino":
        openvino.save(quantized, target, metadata)
    else:
        del quantized.metadata_props[:]
        quantized.metadata_props.add(key=KEY, value=metadata)
        target.write_bytes(quantized.SerializeToString())


def import_nncf() -> ModuleType:
    """Import NNCF without its log and telemetry. Raises InputError if it is not installed."""
    silence_telemetry()
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise InputError("quantize: nncf is not installed; pip install 'boxwright[openvino,onnx]'") from error
    nncf.set_log_level(40)  # errors
    return nncf
