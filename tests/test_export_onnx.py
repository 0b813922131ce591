"""ONNX files of the networks alone, in ONNX Runtime and OpenVINO, against PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright import models
from boxwright.errors import InputError
from boxwright.nn.deform import DeformConv2d
from boxwright.ops.nms import keep_each
from boxwright.ops.roi_align import roi_align
from boxwright.recipe import Recipe, from_tree
from boxwright.runtimes.base.graph import Graph, exported, raw_graph
from boxwright.runtimes.openvino import core
from boxwright.runtimes.serialization import onnx_file
from mmdet_oracle import ADAPTIVE, NORMS
from test_models import CASES, CLASSIFIERS, stir

checker = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

pytestmark = [pytest.mark.runtimes, pytest.mark.usefixtures("short_networks")]
SIZE = (64, 96)


def made(name: str, changes: dict[str, Any]) -> tuple[nn.Module, Recipe]:
    """A small network with random weights and statistics, whose outputs depend on all of them."""
    torch.manual_seed(7)
    tree = {"model": {"classes": 3, **changes, "name": name}, "data": {"canvas": {"size": SIZE}}, "name": "small"}
    recipe = from_tree(tree, "test")
    model = models.build(recipe.model).eval()
    stir(model)
    return model, recipe


def examples(graph: Graph, batch: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(batch)
    given = {"images": torch.rand(batch, 3, *SIZE, generator=draw)}
    given["extents"] = torch.tensor([[60.0, 70], [64, 96], [33, 20]])[:batch]
    return [given[name] for name in graph.inputs]


def in_onnxruntime(file: Path, inputs: list[Tensor]) -> list[Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    named = {one.name: given.numpy() for one, given in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, named))


def in_openvino(file: Path, inputs: list[Tensor]) -> list[Any]:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return list(core().compile_model(file, "CPU", options)([one.numpy() for one in inputs]).values())


def assert_equal(found: list[Any], wanted: tuple[Tensor, ...], within: float = 1e-4) -> None:
    """within: a share of each tensor's largest number."""
    for ours, theirs in zip(wanted, found, strict=True):
        assert ours.shape == theirs.shape
        far = within * ours.abs().max().item() if ours.is_floating_point() else 0
        torch.testing.assert_close(torch.as_tensor(theirs), ours, rtol=0, atol=far)


# Of Faster R-CNN one with standard sampling and all the layers that others have. test_export_complete.py has the zoo's,
# and the networks that are left out here.
TWO_STAGES = ADAPTIVE | NORMS | {"deform": "standard", "roi": ADAPTIVE["roi"] | NORMS["roi"]}
LEFT_OUT = ("faster_rcnn", "yolov3_640", "yolox")
MODELS = [case for case in CASES + CLASSIFIERS if case[0] not in LEFT_OUT and case[1].get("network") != "cspdarknet53"]


@pytest.mark.parametrize(("name", "changes"), [*MODELS, ("faster_rcnn", TWO_STAGES)])
@torch.no_grad()
def test_every_model_matches_in_onnxruntime_and_openvino(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model, recipe = made(name, changes)
    dynamic = name != "faster_rcnn"  # whose export would take twice as long; test_export_complete.py has one
    graph, file = raw_graph(model, recipe, 3, dynamic), tmp_path / "a.onnx"
    onnx_file.write(graph, file, "metadata", deform="plain")
    for batch in (1, 3) if dynamic else (3,):
        inputs = examples(graph, batch)
        wanted = model(*inputs)
        assert_equal(in_onnxruntime(file, inputs), wanted)
        assert_equal(in_openvino(file, inputs), wanted)
    kinds = {node.op_type for node in checker.load(file).graph.node}
    assert ({"NonMaxSuppression", "RoiAlign"} < kinds) == (name == "faster_rcnn")


@pytest.mark.parametrize("sampling", ["standard", "zoo"])
@torch.no_grad()
def test_deformable_convolution_as_an_onnx_operator(sampling: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    layer, x = DeformConv2d(8, 6, 2, sampling, groups=2).eval(), torch.rand(2, 8, 20, 24)
    for parameter in layer.parameters():
        parameter.normal_(std=0.1)
    graph = Graph(layer, {"images": x}, ("map",), {"images": {0: "batch"}})
    onnx_file.write(graph, tmp_path / "a.onnx", "metadata", deform="operator")
    assert_equal(in_onnxruntime(tmp_path / "a.onnx", [x]), (layer(x),))
    kinds = [node.op_type for node in checker.load(tmp_path / "a.onnx").graph.node]
    assert kinds.count("DeformConv") == 2  # one for each group of offsets


def test_float16_is_half_the_size_with_close_outputs(tmp_path: Path) -> None:
    model, recipe = made("tiny_darknet", {"last": "block", "init_std": 0.3})
    graph = raw_graph(model, recipe)
    inputs = examples(graph, 1)
    for half, (dynamic, first) in ((False, (True, "batch")), (True, (False, 1))):
        file = tmp_path / f"{half}.onnx"
        onnx_file.write(raw_graph(model, recipe, 1, dynamic), file, '{"a": 1}', half=half)
        session = onnxruntime.InferenceSession(file)
        assert [(one.name, one.shape) for one in session.get_inputs()] == [("images", [first, 3, *SIZE])]
        assert [(one.name, one.shape) for one in session.get_outputs()] == [("logits", [first, 3])]
        assert json.loads(session.get_modelmeta().custom_metadata_map["boxwright"]) == {"a": 1}
        assert str(Path(onnx_file.__file__).parents[2]).encode() not in file.read_bytes()
    sizes = [(tmp_path / f"{half}.onnx").stat().st_size for half in (True, False)]
    assert 0.4 < sizes[0] / sizes[1] < 0.6
    with torch.no_grad():
        wanted = model(*inputs)
    assert_equal(in_onnxruntime(tmp_path / "True.onnx", inputs), wanted, within=0.01)
    assert_equal(in_openvino(tmp_path / "True.onnx", inputs), wanted, within=0.01)
    with pytest.raises(AssertionError):  # it is the numbers of 16 bits that ran
        assert_equal(in_onnxruntime(tmp_path / "True.onnx", inputs), wanted, within=1e-6)


def test_axis_that_cannot_be_dynamic_is_an_error() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (images + torch.ones(2, 1),)

    with pytest.raises(Exception, match="batch"):
        exported(Graph(Two(), {"images": torch.rand(2, 3)}, ("sum",), {"images": {0: "batch"}}))


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'boxwright\[onnx\]'"):
        onnx_file.write(raw_graph(*made("tiny_darknet", {})), tmp_path / "a.onnx", "metadata")
    assert not list(tmp_path.iterdir())


def written(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Path:
    names = {f"in{i}": one for i, one in enumerate(inputs)}
    onnx_file.write(Graph(module.eval(), names, ("out",), {}), folder / "part.onnx", "metadata")
    return folder / "part.onnx"


class KeepEach(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor]:
        return (keep_each(boxes, scores, 0.5, 0.3),)


def crowded() -> tuple[Tensor, Tensor]:
    """Chains of overlaps; the score of one box, which stands by itself, is the threshold."""
    draw = torch.Generator().manual_seed(3)
    corner, side = torch.rand(2, 40, 2, generator=draw) * 40, torch.rand(2, 40, 2, generator=draw) * 20 + 10
    scores = torch.rand(2, 3, 40, generator=draw)
    corner[0, 0], scores[0, 0, 0] = 200, 0.3
    return torch.cat((corner, corner + side), -1), scores


def test_nms_matches_torchvision_and_pytorch(tmp_path: Path, torchvision_ops: Any) -> None:
    boxes, scores = crowded()
    wanted = torch.zeros_like(scores, dtype=torch.bool)
    for group in range(2):
        for label in range(3):
            rows = (scores[group, label] >= 0.3).nonzero()[:, 0]
            kept = torchvision_ops.nms(boxes[group, rows], scores[group, label, rows], 0.5)
            wanted[group, label, rows[kept]] = True
    assert wanted[0, 0, 0]
    assert 10 < wanted.sum() < 200
    assert torch.equal(keep_each(boxes, scores, 0.5, 0.3), wanted)
    file = written(KeepEach(), (boxes, scores), tmp_path)
    for run in (in_onnxruntime, in_openvino):
        assert np.array_equal(run(file, [boxes, scores])[0], wanted)
        assert not np.any(run(file, [boxes, scores * 0.1])[0])


class Align(nn.Module):
    def __init__(self, aligned: bool, plus_one: bool) -> None:
        super().__init__()
        self.rules = {"aligned": aligned, "plus_one": plus_one}

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor, level: Tensor) -> tuple[Tensor]:
        return (roi_align((fine, coarse), boxes, level, (4, 8), **self.rules),)


@pytest.mark.parametrize(("aligned", "plus_one"), [(True, False), (False, False), (False, True), (True, True)])
def test_roi_align_on_several_levels_matches_pytorch(aligned: bool, plus_one: bool, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(5)
    maps = [torch.randn(2, 3, 64 // stride, 96 // stride, generator=draw) for stride in (4, 8)]
    corner, side = torch.rand(2, 9, 2, generator=draw) * 60 - 10, torch.rand(2, 9, 2, generator=draw) * 50
    boxes = torch.cat((corner, corner + side), -1)
    boxes[0, 0] = 0  # padding
    level = torch.randint(0, 2, (2, 9), generator=draw)
    file = written(Align(aligned, plus_one), (*maps, boxes, level), tmp_path)
    for levels in (level, torch.zeros_like(level), torch.ones_like(level)):  # a map that no box looks at
        inputs = [*maps, boxes, levels]
        wanted = Align(aligned, plus_one)(*inputs)
        for run in (in_onnxruntime, in_openvino):
            assert_equal(run(file, inputs), wanted)
