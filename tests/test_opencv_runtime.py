"""Raw ONNX files in OpenCV's networks."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright import models, recipe
from boxwright.errors import InputError
from boxwright.weights import checkpoint
from test_darknet_cfg_commands import CFG

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
        reason="needs the extra onnx",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as raw.onnx, with a variable batch."""
    path = tmp_path_factory.mktemp("opencv")
    (path / "net.cfg").write_text(CFG)
    settings = recipe.load(path / "net.cfg", {"predict.threshold": 0.01})
    torch.manual_seed(0)
    model = models.build(settings.model)
    with torch.no_grad():  # scores far apart, and above those of a fresh head
        model.layers[2].conv.weight.mul_(20)
        model.layers[2].conv.bias.zero_()
    checkpoint.save(path / "net.safetensors", model, settings)
    bw.export_model(path / "net.safetensors", "onnx", path / "raw.onnx", dynamic_batch=True)
    return path


def test_raw_outputs_match_onnxruntime(folder: Path) -> None:
    images = torch.rand(3, 3, 64, 96)
    ours, theirs = (bw.load(folder / "raw.onnx", backend=backend).runtime for backend in ("opencv", "onnxruntime"))
    assert ours is not None
    assert theirs is not None
    assert ours.name == "opencv"
    for found, wanted in zip(ours.forward(images), theirs.forward(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_detections_match_pytorch(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = bw.load(folder / "raw.onnx", backend="opencv")(image)
    wanted = bw.load(folder / "net.safetensors")(image)
    assert len(found) == len(wanted) > 0
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-3, atol=1e-2)


def test_complete_files_are_rejected(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "raw.onnx")
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"raw"', '"complete"')
    onnx.save(model, folder / "complete.onnx")
    with pytest.raises(InputError, match="runs raw files only; take another backend"):
        bw.load(folder / "complete.onnx", backend="opencv")


def test_unsupported_operator_is_rejected(folder: Path) -> None:
    """ONNX has Det, the determinant; OpenCV does not."""
    import onnx
    from onnx import helper

    model = onnx.load(folder / "raw.onnx")
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
    model.graph.node.append(helper.make_node("Det", ["before"], [name]))
    onnx.save(model, folder / "det.onnx")
    with pytest.raises(InputError, match=r"OpenCV .* cannot run it") as error:
        bw.load(folder / "det.onnx", backend="opencv")
    assert "\n" not in str(error.value)
