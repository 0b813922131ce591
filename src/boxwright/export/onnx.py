"""ONNX files."""

import importlib
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from boxwright import files
from boxwright.errors import InputError
from boxwright.export.graph import Graph, exported
from boxwright.ops.exported import Operator, written_with
from boxwright.predict.backend import silence_telemetry
from boxwright.predict.card import KEY

OPSET = 20  # of 19 and later DeformConv, of 20 GridSample as PyTorch has it
LAYERS = ("Conv", "Gemm", "MatMul", "DeformConv")  # whose second input are their weights
Deform = Literal["operator", "plain"]


def write(graph: Graph, path: str | Path, card_text: str, *, half: bool = False, deform: Deform = "operator") -> None:
    """`graph` as one ONNX file that carries `card_text` in its metadata, checked by onnx; whole or not at all.

    half: weights of layers in 16 bits, at half the size; what is computed stays in 32, because float16 has no whole
    pixels beyond 2048. deform: deformable convolution as ONNX's operator, or in operators that every runtime has.
    Raises InputError where the extra is not installed or the file cannot be written.
    """
    onnx, passes = _extra("onnx"), _extra("onnxscript.ir.passes.common")
    program = _program(graph, deform)
    # Every node carries the lines of Python that it came from: machine paths, and half of a small file.
    passes.ClearMetadataAndDocStringPass()(program.model)
    if half:
        _halve(program.model)
    program.model.metadata_props[KEY] = card_text
    with files.atomic_write(path) as tmp:
        program.save(tmp, external_data=False)
        onnx.checker.check_model(tmp, full_check=True)


def _program(graph: Graph, deform: Deform) -> torch.onnx.ONNXProgram:
    sampling: Operator = "deform_conv" if deform == "operator" else "grid_sample"
    with written_with("nms", "roi_align", sampling), warnings.catch_warnings():
        # of PyTorch about itself, and of an axis that two inputs share, as it should be
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
        warnings.filterwarnings("ignore", message="# The axis name: .* will not be used, since it shares")
        program = torch.onnx.export(
            exported(graph),
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(graph.varying.get(name, {}) for name in graph.inputs),  # for the names of the axes
            opset_version=OPSET,
            custom_translation_table=_extra("boxwright.export.onnx_ops").table(),
            verbose=False,
        )
    assert program is not None
    return program


def _halve(model: Any) -> None:
    """Store the weights of layers in 16 bits, each with a cast back, which runtimes carry out once, when they load."""
    ir = _extra("onnxscript.ir")
    graph, first = model.graph, model.graph[0]
    weights = {node.inputs[1] for node in graph if node.op_type in LAYERS}
    for weight in sorted(weights & set(graph.initializers.values()), key=lambda value: str(value.name)):
        numbers = weight.const_value.numpy()
        if numbers.dtype != np.float32 or abs(numbers).max() > np.finfo(np.float16).max:
            continue
        name = f"{weight.name}.float16"
        stored = ir.Value(name=name, const_value=ir.tensor(numbers.astype(np.float16), name=name))
        cast = ir.node("Cast", inputs=[stored], attributes={"to": ir.DataType.FLOAT})
        graph.register_initializer(stored)
        graph.insert_before(first, cast)
        ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
        del graph.initializers[weight.name]


def _extra(name: str) -> Any:
    """A module of the extra."""
    silence_telemetry()  # of ONNX Runtime, which both PyTorch's exporter and onnxscript import where they find it
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"--to onnx: needs {name}, which is not installed; pip install 'boxwright[onnx]'") from error


def layers(path: str | Path) -> dict[str, list[str]]:
    """The nodes of a file that `write` wrote which hold each layer's weights, by the layer's name in the network."""
    found: dict[str, list[str]] = {}
    for node in _extra("onnx").load(path).graph.node:
        for name in node.input[1:2]:  # after what enters
            found.setdefault(name.removesuffix(".weight"), []).append(node.name)
    return found
