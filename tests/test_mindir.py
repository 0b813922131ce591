"""MindIR and .ckpt files in MindSpore itself: `make test-mindspore`, for MindSpore is large and not in `make test`.

Truth: PyTorch on the same input, and numbers and names of the zoo's own networks (`oracles`).
"""

import gc
import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import boxwright as bw
from agreement import assert_same_detections
from boxwright import models, recipe, runtimes
from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.export.run import export_model
from boxwright.runtimes import mindir
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.base.metadata import KEY, Metadata
from boxwright.runtimes.base.open import open_runtime
from boxwright.types import Detections
from boxwright.weights import mindspore
from oracle_weights import ORACLES, Array, mindspore_recipe, sampled_pair
from test_export import left, saved
from test_models import CLASSIFIERS, SMALL
from test_weights_oracles import assert_close, undo_normalization

ms = pytest.importorskip("mindspore", reason="MindSpore is not installed: make test-mindspore")
from mindspore.train import mind_ir_pb2  # noqa: E402

pytestmark = pytest.mark.runtimes

SIZE = (64, 96)
ODD = (51, 77)  # for networks whose pools round up
# two layers of YOLOv4 that the zoo's network holds and never runs (its NOTES)
NEVER_RUN = ("feature_map.backblock0.conv5.", "feature_map.backblock0.conv6.")
NETWORKS = [(name, changes) for name in ("yolov3", "yolov3_640", "yolov4") for changes in SMALL.get(name, [{}])]
NETWORKS += [("yolov3", {"padding": "same", "backbone_activation": "relu"})]
# a leaky slope above 1 takes another branch
NETWORKS += [*CLASSIFIERS, ("tiny_darknet", {"last": "block", "negative_slope": 1.5})]


def network(name: str, changes: dict[str, Any]) -> Any:
    """Random weights, with batch norms that have seen images: so all outputs are of the size 1 and depend on them."""
    torch.manual_seed(0)
    module = models.module(name)
    model = module.build(module.Config.model_validate({"name": name, "classes": 3} | changes))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
            nn.init.uniform_(part.weight, 0.5, 1.5)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.normal_(part.bias)
    with torch.no_grad():
        model.train()(torch.rand(2, 3, *SIZE))
    return model.eval()


def card_text(outputs: tuple[str, ...] = ("a",), name: str = "demo") -> str:
    return Metadata(recipe.load(name), "raw", "float32", outputs, "0f", "0.1.0").to_text()


def in_mindspore(model: Any, images: Tensor, file: Path, batch: int) -> tuple[Tensor, ...]:
    """What MindSpore makes of the images, from a file that takes `batch` of them."""
    graph = Graph(model, {"images": torch.rand(batch, *images.shape[1:])}, tuple(model.raw_names), {})
    mindir.write(graph, file, card_text(graph.outputs))
    assert runtimes.target("mindir").read_metadata(file) == card_text(graph.outputs)
    backend, _ = open_runtime(file)
    assert backend.shape == (batch, *images.shape[1:])
    found = backend.forward(images)
    file.unlink()
    return found


@pytest.mark.parametrize(
    ("name", "changes"),
    NETWORKS,
    ids=lambda one: one if isinstance(one, str) else "-".join(map(str, one)),
)
def test_equal_to_pytorch(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    model, images = network(name, changes), torch.rand(3, 3, *(ODD if name == "tiny_darknet" else SIZE))
    with torch.no_grad():
        ours = model(images)
    theirs = in_mindspore(model, images, tmp_path / "x.mindir", batch=2)
    assert [one.shape for one in theirs] == [one.shape for one in ours]
    for one, other in zip(ours, theirs, strict=True):
        assert one.std() > 0.1
        assert float((one - other).abs().max()) <= 1e-4 * float(one.abs().max())
    gc.collect()


@pytest.mark.parametrize(
    ("folder", "name", "file", "keys"),
    [
        ("yolov3_darknet53", "yolov3_coco_416", "forward_320x320", ("raw.big", "raw.medium", "raw.small")),
        ("yolov4", "yolov4_coco_608", "forward_416x416", ("raw.big", "raw.medium", "raw.small")),
        ("tinydarknet", "tiny_darknet_imagenet_224", "forward_224x224", ("logits",)),
    ],
)
def test_numbers_of_the_zoo(tmp_path: Path, folder: str, name: str, file: str, keys: tuple[str, ...]) -> None:
    """The zoo's weights go through our network into a MindIR, and give what the zoo's network gave in MindSpore."""
    settings = recipe.load(name)
    model = zoo(settings, ORACLES / folder / "params_network.json")
    with np.load(ORACLES / folder / f"{file}.npz") as oracle:
        images = undo_normalization(model, zoo_input(oracle)).astype(np.float32)
        found = in_mindspore(model, torch.from_numpy(images), tmp_path / "x.mindir", batch=len(images))
        for key, one in zip(keys, found, strict=True):
            assert_close(sampled_pair(oracle, key, one.numpy()), 1e-3)


def zoo(settings: recipe.Recipe, entries: Path) -> Any:
    """The network with the zoo's parameters, each drawn from its name."""
    model = models.build(settings.model)
    state = model.state_dict()
    values = mindspore_recipe(entries)
    for foreign, own in mindspore.table(model, settings).items():
        state[own].copy_(torch.from_numpy(values[foreign]))
    return model.eval()


def zoo_input(oracle: Any) -> Array:
    draw = np.random.default_rng(int(oracle["input_seed"]))
    shape = oracle["input_shape"] if "input_shape" in oracle else (1, 3, *oracle["input_hw"])
    array: Array = draw.standard_normal(tuple(int(side) for side in shape)).astype(np.float32)
    return array


@pytest.mark.parametrize(
    ("folder", "name", "file"),
    [
        ("yolov3_darknet53", "yolov3_coco_416", "params_network.json"),
        ("yolov4", "yolov4_coco_608", "params_network.json"),
        ("tinydarknet", "tiny_darknet_imagenet_224", "params_network.json"),
        ("mindyolo_yolov3", "yolov3_640_coco", "params_network.json"),
        ("faster_rcnn_dcn", "faster_rcnn_r50_dcn_coco", "params_network_r50.json"),
        ("faster_rcnn_dcn", "faster_rcnn_r101_dcn_coco", "params_network_r101.json.gz"),
        ("faster_rcnn_dcn", "faster_rcnn_r152_dcn_coco", "params_network_r152.json.gz"),
    ],
)
def test_mindspore_loads_our_checkpoint(tmp_path: Path, folder: str, name: str, file: str) -> None:
    """All names and shapes of the zoo's network, but for what it computes itself or never uses."""
    settings = recipe.load(name)
    model = models.build(settings.model)
    mindspore.write(tmp_path / "x.ckpt", model, settings)
    loaded = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    (tmp_path / "x.ckpt").unlink()
    opened = gzip.open if file.endswith(".gz") else open
    with opened(ORACLES / folder / file, "rt") as stream:
        rows = json.load(stream)["parameters"]
    known = {row["name"]: tuple(row["shape"]) for row in rows if row.get("recipe")}
    if folder == "yolov4":
        known = {key: shape for key, shape in known.items() if not key.startswith(NEVER_RUN)}
    assert {key: tuple(value.shape) for key, value in loaded.items()} == known
    state = model.state_dict()
    for foreign, own in mindspore.table(model, settings).items():
        value, ours = loaded[foreign].asnumpy(), state[own].numpy()
        assert np.array_equal(value, ours.T if ours.ndim == 2 else ours)  # dense layers are (in, out) there


def test_the_verb(tmp_path: Path) -> None:
    """Through the gate, and back: the file alone predicts as the weights do."""
    weights = saved(tmp_path)
    report = export_model(weights, "mindir", tmp_path / "x.mindir")
    assert report.content["backend"] == "mindspore"
    assert report.content["raw"]
    image = scenes.render(3, 0).image
    cv2.imwrite(str(tmp_path / "x.png"), image[..., ::-1])
    ours, theirs = (bw.load(file)(tmp_path / "x.png", threshold=0.05) for file in (weights, tmp_path / "x.mindir"))
    assert isinstance(ours, Detections)
    assert len(ours) >= 1
    assert ours.names == theirs.names
    assert_same_detections(theirs, ours, threshold=0.05, score=1e-4, box=0.01)


def test_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A translation with another slope is seen, and leaves nothing but the report."""
    weights, before = saved(tmp_path), mindir.OPERATIONS["aten.leaky_relu.default"]
    monkeypatch.setitem(mindir.OPERATIONS, "aten.leaky_relu.default", lambda c, x, slope: before(c, x, slope + 0.05))
    with pytest.raises(InputError, match=r"x\.mindir: not written, for output stride32 differs from PyTorch's"):
        export_model(weights, "mindir", tmp_path / "x.mindir")
    assert left(tmp_path) == {"x.mindir.parity.json"}


def test_a_network_beyond_its_operators(tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Softmax(1), nn.Tanh())
    words = r"the network has aten.softmax.int, aten.tanh.default, found no counterpart in MindIR; use --to onnx$"
    with pytest.raises(InputError, match=words):
        mindir.write(Graph(layer, {"images": torch.rand(1, 3, 4, 4)}, ("a",), {}), tmp_path / "x.mindir", "")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A MindIR of one convolution."""
    file = tmp_path_factory.mktemp("small") / "x.mindir"
    layer = nn.Sequential(nn.Conv2d(3, 2, 1)).eval()
    mindir.write(Graph(layer, {"images": torch.rand(1, 3, 4, 4)}, ("a",), {}), file, card_text())
    return file.read_bytes()


@pytest.mark.parametrize("change", ["primitive", "node", "function", "input", "metadata", "cut", "text"])
def test_files_that_are_not_ours(tmp_path: Path, small: bytes, change: str) -> None:
    message = mind_ir_pb2.ModelProto.FromString(small)
    words = "holds Custom, which no file of ours does"
    if change == "primitive":
        message.primitives[0].op_type = "Custom"
    elif change == "node":
        message.graph.node[0].op_type = "Custom"
    elif change == "function":
        message.functions.append(message.graph)
        words = "holds a graph that calls others"
    elif change == "input":
        del message.graph.input[0].tensor[:]
        words = "not a MindIR with an input"
    elif change == "metadata":
        del message.user_info[KEY]
        words = "holds no 'boxwright' metadata"
    content = message.SerializeToString()
    if change in ("cut", "text"):
        content = {"cut": content[: len(content) // 2], "text": b"hello"}[change]
        words = "not a MindIR"
    (tmp_path / "x.mindir").write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_runtime(tmp_path / "x.mindir")
