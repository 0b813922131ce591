"""YOLOv4's and YOLOv4-tiny's files, written from the reference engines' recipes of names, give those engines' numbers.

Bounds as in `test_weights_oracles.py`: raw maps to 1e-4 of their largest value.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle_weights
from boxwright import recipe, weights
from boxwright.errors import InputError
from boxwright.models.yolov4 import YOLOv4
from boxwright.ops.anchors import flatten
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.weights import darknet, mindspore
from oracle_weights import ORACLES, Array
from test_real_weights import DARKNET as SHARED
from test_real_weights import darknets_partners
from test_weights_oracles import assert_close, build, run, undo_normalization, write_ckpt

pytestmark = pytest.mark.slow

ZOO = ORACLES / "yolov4"
DARKNET = ORACLES / "darknet"
IMAGE = SHARED / "images" / "dog.png"
RECIPE = {"yolov4": "yolov4_coco_608_darknet", "yolov4-tiny": "yolov4_tiny_coco_416_darknet"}
HEADS = {"yolov4": (160, 149, 138), "yolov4-tiny": (29, 36)}  # Darknet's layer numbers, coarse first
UNUSED = tuple(f"feature_map.backblock0.{layer}." for layer in ("conv5", "conv6"))


def yolov4(settings: Recipe) -> YOLOv4:
    model = build(settings)
    assert isinstance(model, YOLOv4)
    return model


@pytest.fixture(scope="module", params=["yolov4-tiny", "yolov4"])
def from_darknet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, YOLOv4]:
    """(name of the network, the model filled from its .weights file)."""
    network: str = request.param
    settings = recipe.load(RECIPE[network])
    model = yolov4(settings)
    file = tmp_path_factory.mktemp("darknet") / f"{network}.weights"
    file.write_bytes(oracle_weights.darknet_recipe(DARKNET / f"{network}.cfg"))
    report = weights.load(model, file, settings)
    file.unlink()
    assert report.missing + report.unexpected + report.mismatched == ()
    return network, model


@pytest.mark.parametrize("size", [(224, 320), (416, 416)])
def test_raw_outputs_and_boxes_match_darknet(from_darknet: tuple[str, YOLOv4], size: tuple[int, int]) -> None:
    """The convolutions before [yolo], and [yolo] itself, which leaves w and h as logarithms."""
    network, model = from_darknet
    with torch.inference_mode():
        raw = model(torch.from_numpy(oracle_weights.darknet_input(*size, seed=0)))
    cells, rows = model.cells(raw), flatten(raw, 3)[0]
    places, sides = centers_and_sizes(cells.boxes(rows[:, :4]))
    ours = torch.cat(((places - cells.corner) / cells.stride, (sides / cells.anchor).log(), rows[:, 4:].sigmoid()), 1)
    with np.load(DARKNET / network / f"{size[0]}x{size[1]}_s0.npz") as oracle:
        for layer, one, part in zip(HEADS[network], raw, by_map(ours, raw), strict=True):
            assert_close(oracle_weights.darknet_pair(oracle, layer, one[0].numpy()))
            decoded = part.permute(0, 3, 1, 2).flatten(0, 1)
            assert_close(oracle_weights.darknet_pair(oracle, layer + 1, decoded.numpy()))
    assert cells.size == size


@pytest.mark.skipif(not IMAGE.is_file(), reason="needs shared/oracles/darknet/images")
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_detections_match_darknet(from_darknet: tuple[str, YOLOv4], fit: str) -> None:
    """From the image to suppressed boxes, at a threshold that lies in the middle of a gap between scores."""
    network, model = from_darknet
    canvas = {"data.canvas.size": [416, 416], "data.canvas.fit": fit}
    predictor = Predictor(model, recipe.load(RECIPE[network], canvas))
    variants = json.loads((SHARED / "real" / "nms_variants.json").read_text())
    ((key, reference),) = [(k, v) for k, v in variants.items() if k.startswith(f"{network} recipe 416x416 {fit} ")]
    threshold = float(key.split()[-2])
    darknets_partners(predictor(IMAGE, threshold=threshold), reference["detections"], threshold)


def centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4) xyxy -> centers (N, 2), widths and heights (N, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def by_map(rows: Tensor, raw: tuple[Tensor, ...]) -> list[Tensor]:
    """(N, 85) -> (3, h, w, 85) of each map."""
    shapes = [(3, *one.shape[2:], 85) for one in raw]
    parts = rows.split([3 * one.shape[2] * one.shape[3] for one in raw])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def test_written_files_match_darknet_byte_for_byte(from_darknet: tuple[str, YOLOv4], tmp_path: Path) -> None:
    """Through our reader and our writer: the complete file, and the start of it as Darknet's `partial` cuts it."""
    network, model = from_darknet
    known = json.loads((DARKNET / "weight_files.json").read_text())[network]
    layers = oracle_weights.darknet_layers(DARKNET / f"{network}.cfg")
    first = sum(layer.number < known["cutoff"] for layer in layers)
    for name, count in (("full", None), ("partial", first)):
        written = tmp_path / "x.weights"
        darknet.write(written, model, header=darknet.Header(0, 2, 0, 12800), convolutions=count)
        assert hashlib.sha256(written.read_bytes()).hexdigest() == known[f"{name}_sha256"]
        written.unlink()


def test_backbone_from_partial_classifier_weights_matches_darknet(tmp_path: Path) -> None:
    """csdarknet53-omega.conv.105 fills the backbone; its end equals the classifier's in Darknet (layer 104)."""
    known = json.loads((DARKNET / "weight_files.json").read_text())["csdarknet53-omega"]
    content = oracle_weights.darknet_recipe(DARKNET / "csdarknet53-omega.cfg")[: known["partial_bytes"]]
    assert hashlib.sha256(content).hexdigest() == known["partial_sha256"]
    file = tmp_path / "csdarknet53-omega.conv.105"
    file.write_bytes(content)
    settings = recipe.load("yolov4_coco_608_darknet")
    model = yolov4(settings)
    with pytest.raises(InputError, match="a cut with 72 of 110 convolutions"):
        weights.load(model, file, settings)
    report = weights.load(model, file, settings, transfer=True)
    assert len(report.matched) == 72 * 5
    assert all(name.startswith("backbone.") for name in report.matched)
    assert not any(name.startswith("backbone.") for name in report.fresh)
    (*_, end) = run(model.backbone, oracle_weights.darknet_input(192, 288, seed=0))  # type: ignore[arg-type]
    with np.load(DARKNET / "csdarknet53-omega" / "192x288_s0.npz") as oracle:
        assert_close(oracle_weights.darknet_pair(oracle, 104, end[0]))


@pytest.fixture(scope="module")
def zoo_values() -> dict[str, Array]:
    return oracle_weights.mindspore_recipe(ZOO / "params_network.json")


@pytest.fixture(scope="module")
def from_zoo(zoo_values: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> YOLOv4:
    """Filled from a training checkpoint: prefix yolo_network., moments, and the head that the zoo never uses."""
    settings = recipe.load("yolov4_coco_608")
    model = yolov4(settings)
    file = tmp_path_factory.mktemp("zoo") / "a.ckpt"
    write_ckpt(file, ZOO / "params_train_ckpt.json", zoo_values)
    report = weights.load(model, file, settings)
    file.unlink()
    assert len(zoo_values) == 548
    assert len(report.matched) == 541
    assert report.missing + report.unexpected + report.mismatched == ()
    return model


@pytest.mark.parametrize("size", [416, 608])
def test_raw_outputs_and_boxes_match_the_zoo(from_zoo: YOLOv4, size: int) -> None:
    with np.load(ZOO / f"forward_{size}x{size}.npz") as oracle:
        images = oracle_weights.mindspore_input(oracle)
        backbone = run(from_zoo.backbone, images)  # type: ignore[arg-type]
        for name, ours in zip(("c3", "c4", "c5"), backbone, strict=True):
            assert_close(oracle_weights.sampled_pair(oracle, f"backbone.{name}", ours))
        with torch.inference_mode():
            raw = from_zoo(torch.from_numpy(undo_normalization(from_zoo, images).astype(np.float32)))
        cells, rows = from_zoo.cells(raw), flatten(raw, 3)[0]
        decoded = torch.cat((*centers_and_sizes(cells.boxes(rows[:, :4]) / size), rows[:, 4:].sigmoid()), 1)
        for name, one, part in zip(("big", "medium", "small"), raw, by_map(decoded, raw), strict=True):
            assert_close(oracle_weights.sampled_pair(oracle, f"raw.{name}", one.numpy()))
            theirs = part.permute(1, 2, 0, 3)[None].numpy()  # by row, column, anchor
            assert_close(oracle_weights.sampled_pair(oracle, f"decoded.{name}", theirs))


def test_zoo_checkpoint_round_trip(from_zoo: YOLOv4, zoo_values: dict[str, Array], tmp_path: Path) -> None:
    mindspore.write(tmp_path / "b.ckpt", from_zoo, recipe.load("yolov4_coco_608"))
    written = dict(mindspore.entries(tmp_path / "b.ckpt"))
    (tmp_path / "b.ckpt").unlink()
    used = {name: value for name, value in zoo_values.items() if not name.startswith(UNUSED)}
    assert written.keys() == used.keys()
    assert all(np.array_equal(written[name].numpy(), used[name]) for name in used)


def test_names_and_shapes_match_the_zoo() -> None:
    rows = json.loads((ZOO / "params_network.json").read_text())["parameters"]
    settings = recipe.load("yolov4_coco_608")
    with torch.device("meta"):
        model = yolov4(settings)
    shapes = {theirs: list(model.state_dict()[own].shape) for theirs, own in mindspore.table(model, settings).items()}
    assert shapes == {row["name"]: row["shape"] for row in rows if not row["name"].startswith(UNUSED)}
    tiny = recipe.load("yolov4_tiny_coco_416_darknet")
    with pytest.raises(InputError, match="has no name in MindSpore"), torch.device("meta"):
        mindspore.table(yolov4(tiny), tiny)


@pytest.mark.parametrize(
    "prefix", ["feature_map.backbone.", "backbone.", "network.backbone.", "train.network.backbone."]
)
def test_zoo_backbone_checkpoint_loads_completely(prefix: str, zoo_values: dict[str, Array], tmp_path: Path) -> None:
    """`pretrained_backbone`: a detector's backbone, or the classifier's, whose last layers have no place here."""
    settings = recipe.load("yolov4_coco_608")
    with torch.device("meta"):
        model = yolov4(settings)
    backbone = {name: value for name, value in zoo_values.items() if ".backbone." in name}
    entries = {prefix + name.removeprefix("feature_map.backbone."): value for name, value in backbone.items()}
    entries["head.end_point.weight"] = np.ones((10, 1024), np.float32)
    rows = [{"name": name, "shape": list(value.shape), "dtype": "Float32"} for name, value in entries.items()]
    for name in ("params_network.json", "entries.json"):
        (tmp_path / name).write_text(json.dumps({"parameters": rows}))
    write_ckpt(tmp_path / "a.ckpt", tmp_path / "entries.json", entries)
    tensors, unexpected = mindspore.read(tmp_path / "a.ckpt", model, settings, transfer=True)
    (tmp_path / "a.ckpt").unlink()
    assert unexpected == ["head.end_point.weight"]
    expected = {own: theirs for theirs, own in mindspore.table(model, settings).items() if theirs in backbone}
    assert len(expected) == 72 * 5
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[own].numpy(), backbone[theirs]) for own, theirs in expected.items())


def test_transfer_to_other_classes_resets_only_the_output_layers(zoo_values: dict[str, Array], tmp_path: Path) -> None:
    """What `transfer_train` with `filter_weight` does in the zoo, by shape instead of by a list of names."""
    settings = recipe.load("yolov4_dota_608")
    model = yolov4(settings)
    write_ckpt(tmp_path / "a.ckpt", ZOO / "params_network.json", zoo_values)
    with pytest.raises(InputError, match="6 differ"):
        weights.load(model, tmp_path / "a.ckpt", settings)
    report = weights.load(model, tmp_path / "a.ckpt", settings, transfer=True)
    (tmp_path / "a.ckpt").unlink()
    heads = ("head8", "head16", "head32")
    assert set(report.fresh) == {f"{head}.out.{leaf}" for head in heads for leaf in ("weight", "bias")}
    assert report.unexpected == ()
