"""MindIR and .ckpt files in MindSpore itself: `make test-mindspore`, for MindSpore is large and not in `make test`.

Truth: PyTorch on the same input, and numbers and names of the zoo's own networks (`oracles`).
"""

import gc
import gzip
import json
import re
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
from boxwright.darknet_cfg.layers import ACTIVATIONS
from boxwright.darknet_cfg.plan import plan, with_size
from boxwright.darknet_cfg.text import read_cfg
from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.export.run import export_model
from boxwright.models import darknet_cfg
from boxwright.nn.darknet_activations import activation
from boxwright.runtimes import mindir
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.base.metadata import KEY, Metadata
from boxwright.runtimes.base.open import open_runtime
from boxwright.runtimes.serialization.mindir_operations import OPERATIONS
from boxwright.types import Detections
from boxwright.weights import mindspore
from oracle_weights import ORACLES, Array, mindspore_recipe, sampled_pair
from test_export import files_beside_weights, saved
from test_models import CLASSIFIERS, SMALL
from test_weights_oracles import assert_close, undo_normalization

ms = pytest.importorskip("mindspore", reason="MindSpore is not installed: make test-mindspore")
from mindspore.train import mind_ir_pb2  # noqa: E402

pytestmark = pytest.mark.runtimes

SHARED = Path(__file__).parents[2] / "shared"
SIZE = (64, 96)
ODD = (51, 77)  # for networks whose pools round up
# two layers of YOLOv4 that the zoo's network holds and never runs (its NOTES)
NEVER_RUN = ("feature_map.backblock0.conv5.", "feature_map.backblock0.conv6.")
NETWORKS = [(name, changes) for name in ("yolov3", "yolov3_640", "yolov4") for changes in SMALL.get(name, [{}])]
NETWORKS += [("yolov3", {"padding": "same", "backbone_activation": "relu"})]
# a leaky slope above 1 takes another branch
NETWORKS += [*CLASSIFIERS, ("tiny_darknet", {"last": "block", "negative_slope": 1.5})]
CFGS = ("custom-parts", "custom-classifier-7c", "resnet18", "yolov2", "Gaussian_yolov3_BDD", "yolo-fastest-1.1")
OTHER_LAYERS = """[net]
width=48
height=32
channels=1
[convolutional]
filters=16
size=3
pad=1
activation=linear
[maxpool]
size=2
stride=2
antialiasing=1
[convolutional]
filters=24
size=1
activation=linear
[upsample]
stride=2
[shortcut]
from=2
[shortcut]
from=0
[upsample]
stride=-2
[softmax]
groups=2
[batchnorm]
[crop]
crop_height=8
crop_width=12
[convolutional]
filters=28
size=1
activation=linear
[yolo]
num=4
classes=2
anchors=9,8, 50,40, 5,5, 70,10
scale_x_y=1.1
[reorg]
stride=2
[convolutional]
filters=14
size=1
activation=linear
[yolo]
num=2
classes=2
anchors=9,8, 50,40
"""


def network(name: str, changes: dict[str, Any]) -> Any:
    """Random weights, of the size 1."""
    torch.manual_seed(0)
    module = models.module(name)
    return with_normalized_outputs(
        module.build(module.Config.model_validate({"name": name, "classes": 3} | changes)), SIZE
    )


def with_normalized_outputs(model: Any, size: tuple[int, int]) -> Any:
    """`model` with batch norms that have seen images: so all outputs are of the size 1 and depend on them."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = 1.0
            nn.init.uniform_(part.weight, 0.5, 1.5)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.normal_(part.bias)
    with torch.no_grad():
        model.train()(torch.rand(4, 3, *size))
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
def test_networks_match_pytorch(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    check_equal(network(name, changes), ODD if name == "tiny_darknet" else SIZE, tmp_path / "x.mindir")


def check_equal(model: Any, size: tuple[int, int], file: Path) -> None:
    """Three images, in MindSpore in batches of two."""
    images = torch.rand(3, 3, *size)
    with torch.no_grad():
        ours = model(images)
    theirs = in_mindspore(model, images, file, batch=2)
    assert [one.shape for one in theirs] == [one.shape for one in ours]
    for one, other in zip(ours, theirs, strict=True):
        assert one.std() > 0.1
        assert float((one - other).abs().max()) <= 1e-4 * float(one.abs().max())
    gc.collect()


@pytest.mark.parametrize("name", CFGS)
def test_cfg_networks_match_pytorch(tmp_path: Path, name: str) -> None:
    """Layers of all kinds, shortcuts between maps of other sizes, [reorg], [region], [Gaussian_yolo]."""
    folder = SHARED / "weights" / "extra" if name.startswith("yolo-fastest") else SHARED / "oracles/darknet_cfg/cfg"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    text = re.sub(r"filters=(\d+)", narrower, read_cfg(folder / f"{name}.cfg"))
    size = plan(text).image[1:] if name.startswith("custom") else SIZE
    torch.manual_seed(0)
    model = darknet_cfg.build(darknet_cfg.Config(cfg=with_size(text, *size)))
    check_equal(with_normalized_outputs(model, size), size, tmp_path / "x.mindir")


def narrower(filters: re.Match[str]) -> str:
    """An eighth of the filters, but for those before heads."""
    count = int(filters[1])
    return f"filters={count if count % 64 else count // 8}"


def test_remaining_cfg_layers_match_pytorch(tmp_path: Path) -> None:
    """Those that the networks above lack, with the sum of gray values before, and a head whose output is read."""
    model = with_normalized_outputs(darknet_cfg.build(darknet_cfg.Config(cfg=OTHER_LAYERS)), (32, 48))
    check_equal(model, (32, 48), tmp_path / "x.mindir")


def test_cfg_activations_match_pytorch(tmp_path: Path) -> None:
    class Side(nn.Module):  # one beside the other
        raw_names = sorted(ACTIVATIONS)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(activation(name)(x.clone()) for name in self.raw_names)

    model, images = Side(), (85 * torch.linspace(-1, 1, 1200) ** 3).view(1, 3, 20, 20)  # most are small
    found = in_mindspore(model, images, tmp_path / "x.mindir", batch=1)
    for name, one, other in zip(model.raw_names, found, model(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("folder", "name", "file", "keys"),
    [
        ("yolov3_darknet53", "yolov3_coco_416", "forward_320x320", ("raw.big", "raw.medium", "raw.small")),
        ("yolov4", "yolov4_coco_608", "forward_416x416", ("raw.big", "raw.medium", "raw.small")),
        ("tinydarknet", "tiny_darknet_imagenet_224", "forward_224x224", ("logits",)),
    ],
)
def test_outputs_match_the_zoo(tmp_path: Path, folder: str, name: str, file: str, keys: tuple[str, ...]) -> None:
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


def test_exported_file_predicts_like_the_weights(tmp_path: Path) -> None:
    """The parity check passes, and the file alone predicts like the weights."""
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


def test_wrong_translation_fails_the_parity_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A translation with another slope is seen, and leaves nothing but the report."""
    weights, before = saved(tmp_path), OPERATIONS["aten.leaky_relu.default"]
    monkeypatch.setitem(OPERATIONS, "aten.leaky_relu.default", lambda c, x, slope: before(c, x, slope + 0.05))
    with pytest.raises(InputError, match=r"x\.mindir: not written, for output stride32 differs from PyTorch's"):
        export_model(weights, "mindir", tmp_path / "x.mindir")
    assert files_beside_weights(tmp_path) == {"x.mindir.parity.json"}


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.LogSoftmax(1), r"layer 1 has aten.log_softmax.int, found no counterpart in MindIR; use --to onnx$"),
        (nn.GELU(), r"layer 1 has aten.gelu.default\(conv2d,\), found no"),
        (nn.ReflectionPad2d(1), r"layer 1 has aten.pad.default\(conv2d, \[1, 1, 1, 1\], 'reflect'\), found no"),
        (nn.AvgPool2d(2, ceil_mode=True), r"layer 1 has aten.avg_pool2d.default\(conv2d, .*True\), found no"),
    ],
)
def test_unsupported_operators_are_rejected(tmp_path: Path, layer: nn.Module, words: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), layer).eval()
    with pytest.raises(InputError, match=words):
        mindir.write(Graph(network, {"images": torch.rand(1, 3, 4, 4)}, ("a",), {}), tmp_path / "x.mindir", "")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A MindIR of one convolution."""
    file = tmp_path_factory.mktemp("small") / "x.mindir"
    layer = nn.Sequential(nn.Conv2d(3, 2, 1)).eval()
    mindir.write(Graph(layer, {"images": torch.rand(1, 3, 4, 4)}, ("a",), {}), file, card_text())
    return file.read_bytes()


@pytest.mark.parametrize("change", ["primitive", "node", "function", "input", "metadata", "cut", "text"])
def test_foreign_or_damaged_files_are_rejected(tmp_path: Path, small: bytes, change: str) -> None:
    message = mind_ir_pb2.ModelProto.FromString(small)
    words = "holds Custom, which no export does"
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
