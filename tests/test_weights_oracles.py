"""Files written from the reference engines' recipes of names are loaded, and the network gives those engines' numbers.

Each file is written to disk first, so that reader, names and network are tested together. The raw maps agree to 1e-4 of
their largest value (2e-4 for trained weights), the bounds that the makers of the numbers measured between engines.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.images.canvas import read_canvas
from boxwright.recipe import Recipe
from boxwright.weights import darknet, mindspore
from oracle_weights import (
    ORACLES,
    Array,
    darknet_input,
    darknet_layers,
    darknet_pair,
    darknet_recipe,
    mindspore_input,
    mindspore_recipe,
    sampled_pair,
)
from test_weights_mindspore import Checkpoint

pytestmark = pytest.mark.slow

DARKNET = ORACLES / "darknet"
CUT = 162482580  # bytes of darknet53.conv.74
SHARED = Path(__file__).parents[2] / "shared"
trained = pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no trained weights: ../shared is absent")
RECIPE = {"yolov3": "yolov3_coco_416_darknet", "yolov3-tiny": "yolov3_tiny_coco_416_darknet"}


def build(settings: Recipe) -> nn.Module:
    model = models.build(settings.model)
    assert isinstance(model, nn.Module)
    return model.eval()


def run(model: nn.Module, images: Array) -> list[Array]:
    with torch.inference_mode():
        maps: tuple[Tensor, ...] = model(torch.from_numpy(images))
    return [one.numpy() for one in maps]


def assert_close(pair: tuple[Array, Array], bound: float = 1e-4) -> None:
    expected, ours = pair
    assert np.abs(ours - expected).max() <= bound * np.abs(expected).max()


def undo_normalization(model: nn.Module, images: Array) -> Array:
    """Images in [0, 1] that the model's mean and std normalize to `images`."""
    state = model.state_dict()
    example_images: Array = images * state["std"].numpy() + state["mean"].numpy()
    return example_images


@pytest.fixture(scope="module")
def yolov3_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """248 MB, removed after the module."""
    file = tmp_path_factory.mktemp("darknet") / "yolov3.weights"
    file.write_bytes(darknet_recipe(DARKNET / "yolov3.cfg"))
    yield file
    file.unlink()


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("darknet") / "yolov3-tiny.weights"
    file.write_bytes(darknet_recipe(DARKNET / "yolov3-tiny.cfg"))
    return file


def check_darknet(network: str, size: tuple[int, int], file: Path, heads: tuple[int, ...]) -> None:
    settings = recipe.load(RECIPE[network])
    model = build(settings)
    report = weights.load(model, file, settings)
    assert report.missing + report.unexpected + report.mismatched == ()
    oracle = np.load(DARKNET / network / f"{size[0]}x{size[1]}_s0.npz")
    for layer, ours in zip(heads, run(model, darknet_input(*size, seed=0)), strict=True):
        assert_close(darknet_pair(oracle, layer, ours[0]))


@pytest.mark.parametrize("size", [(224, 320), (416, 416)])
def test_yolov3_tiny_matches_darknet(tiny_file: Path, size: tuple[int, int]) -> None:
    check_darknet("yolov3-tiny", size, tiny_file, (15, 22))


def test_yolov3_matches_darknet(yolov3_file: Path) -> None:
    check_darknet("yolov3", (224, 320), yolov3_file, (81, 93, 105))


@pytest.mark.parametrize("network", ["yolov3", "yolov3-tiny"])
def test_written_files_match_darknet_byte_for_byte(
    network: str, tmp_path: Path, tiny_file: Path, request: pytest.FixtureRequest
) -> None:
    """Also after our reader and our writer: the complete file, and its backbone as Darknet's `partial` cuts it."""
    file: Path = request.getfixturevalue("yolov3_file") if network == "yolov3" else tiny_file
    known = json.loads((DARKNET / "weight_files.json").read_text())[network]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == known["full_sha256"]
    settings = recipe.load(RECIPE[network])
    model = build(settings)
    weights.load(model, file, settings)
    header = darknet.Header(0, 2, 0, 12800)
    convolutions = sum(layer.number < known["cutoff"] for layer in darknet_layers(DARKNET / f"{network}.cfg"))
    for name, count in (("full", None), ("partial", convolutions)):
        written = tmp_path / "x.weights"
        darknet.write(written, model, header=header, convolutions=count)
        assert written.stat().st_size == known[f"{name}_bytes"]
        assert hashlib.sha256(written.read_bytes()).hexdigest() == known[f"{name}_sha256"]
        written.unlink()


def test_backbone_from_partial_weights_matches_darknet(tmp_path: Path) -> None:
    """darknet53.conv.74 fills YOLOv3's backbone; its end equals the classifier's in Darknet (layer 74)."""
    known = json.loads((DARKNET / "weight_files.json").read_text())["darknet53"]
    content = darknet_recipe(DARKNET / "darknet53.cfg")
    assert hashlib.sha256(content).hexdigest() == known["full_sha256"]
    file = tmp_path / "darknet53.conv.74"
    file.write_bytes(content[:CUT])
    assert hashlib.sha256(content[:CUT]).hexdigest() == known["partial_sha256"]
    del content
    settings = recipe.load("yolov3_coco_416_darknet")
    model = build(settings)
    with pytest.raises(InputError, match="a cut with 52 of 75 convolutions"):
        weights.load(model, file, settings)
    report = weights.load(model, file, settings, transfer=True)
    assert len(report.matched) == 52 * 5
    assert all(name.startswith("backbone.") for name in report.matched)
    assert not any(name.startswith("backbone.") for name in report.fresh)
    oracle = np.load(DARKNET / "darknet53" / "192x288_s0.npz")
    (*_, ours) = run(model.backbone, darknet_input(192, 288, seed=0))  # type: ignore[arg-type]
    # Darknet's layer 74 is the last residual sum with 0-based [net] not counted.
    assert_close(darknet_pair(oracle, 74, ours[0]))


@trained
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("image", ["dog.png", "eagle.png", "person.png"])
def test_published_yolov3_tiny_matches_darknet(image: str, fit: str) -> None:
    """Image to raw maps with the published file. Darknet letterboxes on a gray of 0.5."""
    changes = {"data.canvas.fit": fit, "data.canvas.fill": 127.5}
    settings = recipe.load("yolov3_tiny_coco_416_darknet", changes if fit == "letterbox" else {})
    model = build(settings)
    weights.load(model, SHARED / "weights" / "yolov3-tiny.weights", settings)
    file = SHARED / "oracles" / "darknet" / "images" / image
    canvas, _ = read_canvas(str(file), settings.data.canvas, 0)
    images = canvas.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    oracle = np.load(DARKNET / "real" / "raw.npz")
    key = f"{image}_{fit}"
    assert_close(every_nth(oracle[f"{key}_input"], images), 1e-6)
    for layer, ours in zip((15, 22), run(model, images), strict=True):
        assert_close(every_nth(oracle[f"{key}_layer_{layer}"], ours), 2e-4)


def every_nth(stored: Array, ours: Array) -> tuple[Array, Array]:
    """(stored, the same places of ours): the step is the odd one that leaves as many values."""
    step = next(s for s in range(1, ours.size + 1, 2) if -(-ours.size // s) == stored.size)
    return stored, ours.reshape(-1)[::step]


def write_ckpt(file: Path, entries: Path, values: dict[str, Array]) -> None:
    """A .ckpt with all entries of a real one, in its order, by protobuf's encoder; what has no value is zero."""
    constants = json.loads((entries.parent / "params_network.json").read_text()).get("constants", {})
    with file.open("wb") as stream:
        for row in json.loads(entries.read_text())["parameters"]:
            bare = row["name"].removeprefix("ema.")
            array = values.get(row.get("recipe_name", bare))
            if array is None or row["name"].startswith("moments."):
                kind = np.int32 if row["dtype"] == "Int32" else np.float32
                array = np.array(constants.get(bare, np.zeros(row["shape"])), kind).reshape(row["shape"])
            message = Checkpoint()
            value = message.value.add(tag=row["name"])
            value.tensor.dims.extend(row["shape"])
            value.tensor.tensor_type, value.tensor.tensor_content = row["dtype"], array.tobytes()
            stream.write(message.SerializeToString())


def test_zoo_training_checkpoint_matches_the_zoo_and_round_trips(tmp_path: Path) -> None:
    """Prefix yolo_network., moments, momentum, global_step and learning_rate as train.py of the zoo leaves them."""
    folder, settings = ORACLES / "yolov3_darknet53", recipe.load("yolov3_coco_416")
    values = mindspore_recipe(folder / "params_network.json")
    write_ckpt(tmp_path / "a.ckpt", folder / "params_train_ckpt.json", values)
    model = build(settings)
    report = weights.load(model, tmp_path / "a.ckpt", settings)
    (tmp_path / "a.ckpt").unlink()
    assert len(report.matched) == len(values) == 366
    assert report.missing + report.unexpected + report.mismatched == ()
    oracle = np.load(folder / "forward_320x320.npz")
    maps = run(model, undo_normalization(model, mindspore_input(oracle)).astype(np.float32))
    for name, ours in zip(("big", "medium", "small"), maps, strict=True):
        assert_close(sampled_pair(oracle, f"raw.{name}", ours))
    # and out again: the same numbers under the zoo's names
    mindspore.write(tmp_path / "b.ckpt", model, settings)
    written = dict(mindspore.entries(tmp_path / "b.ckpt"))
    (tmp_path / "b.ckpt").unlink()
    assert written.keys() == values.keys()
    assert all(np.array_equal(written[name].numpy(), values[name]) for name in values)


def test_zoo_backbone_checkpoint_matches_the_zoo(tmp_path: Path) -> None:
    """What the zoo's convert_weight.py writes: names feature_map.backbone.*; loaded as `pretrained_backbone`."""
    folder, settings = ORACLES / "yolov3_darknet53", recipe.load("yolov3_coco_416")
    rows = json.loads((folder / "params_network.json").read_text())["parameters"]
    backbone = [row for row in rows if row["name"].startswith("feature_map.backbone.")]
    for name, text in (("params_network.json", {"parameters": backbone}), ("entries.json", {"parameters": backbone})):
        (tmp_path / name).write_text(json.dumps(text))
    write_ckpt(tmp_path / "a.ckpt", tmp_path / "entries.json", mindspore_recipe(tmp_path / "params_network.json"))
    model = build(settings)
    report = weights.load(model, tmp_path / "a.ckpt", settings, transfer=True)
    assert len(report.matched) == len(backbone) == 52 * 5
    assert len(report.missing) == 366 - 52 * 5
    oracle = np.load(folder / "forward_320x320.npz")
    maps = run(model.backbone, mindspore_input(oracle))  # type: ignore[arg-type]
    for name, ours in zip(("c3", "c4", "c5"), maps, strict=True):
        assert_close(sampled_pair(oracle, f"backbone.{name}", ours))


def test_mindyolo_ema_checkpoint_matches_mindyolo(tmp_path: Path) -> None:
    """Prefix ema. and the head's stored stride, anchors and anchor_grid."""
    folder, settings = ORACLES / "mindyolo_yolov3", recipe.load("yolov3_640_coco")
    values = mindspore_recipe(folder / "params_network.json")
    write_ckpt(tmp_path / "a.ckpt", folder / "params_ema_ckpt.json", values)
    model = build(settings)
    report = weights.load(model, tmp_path / "a.ckpt", settings)
    assert len(report.matched) == len(values) == 366
    assert report.missing + report.unexpected + report.mismatched == ()
    oracle = np.load(folder / "forward_320x320.npz")
    maps = run(model, mindspore_input(oracle))
    for name, ours in zip(("p5", "p4", "p3"), maps, strict=True):
        height, width = ours.shape[-2:]
        assert_close(
            sampled_pair(oracle, f"raw.{name}", ours.reshape(1, 3, 85, height, width).transpose(0, 1, 3, 4, 2))
        )
    anchors = [[w + 1, h] for w, h in settings.model.anchors]  # type: ignore[attr-defined]
    others = settings.with_overrides({"model.anchors": anchors})
    with pytest.raises(InputError, match="made with anchors"):
        weights.load(model, tmp_path / "a.ckpt", others)
    weights.load(model, tmp_path / "a.ckpt", others, transfer=True)
    (tmp_path / "a.ckpt").unlink()
