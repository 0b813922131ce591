"""The .cfg that `export --to darknet` generates: read back, compared with published files, and rejected networks."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import boxwright as bw
from agreement import assert_same_detections
from boxwright import models, recipe, weights
from boxwright.darknet_cfg.layers import Layer
from boxwright.darknet_cfg.plan import plan
from boxwright.darknet_cfg.text import parse, read_cfg, written
from boxwright.darknet_cfg.training import training
from boxwright.export.run import export_model
from boxwright.models.darknet_cfg import CfgDetector
from boxwright.nn.network import Network
from boxwright.recipe import Recipe
from boxwright.runtimes import darknet as target
from boxwright.types import Detections
from boxwright.weights import checkpoint, darknet

PUBLISHED = Path(__file__).parents[2] / "shared" / "oracles" / "darknet" / "cfg"
TINY3, TINY4 = "yolov3_tiny_coco_416_darknet", "yolov4_tiny_coco_416_darknet"
CLASSIFIER = "tiny_darknet_imagenet_224_darknet"
SMALL = {"data.canvas.size": [64, 96], "data.names": []}
SIX = [[8.5, 9], [21, 13], [20, 40], [20, 40], [45.25, 31], [60, 70]]
NINE = [*SIX, [90, 50.125], [80, 120], [150, 140]]


def made(name: str, **changes: Any) -> tuple[Network, Recipe]:
    """A network on a small canvas, with random weights and random statistics of batch norm."""
    chosen = recipe.load(name, SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    torch.manual_seed(0)
    model = models.build(chosen.model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.002, 0.5)  # small ones, for which the epsilon counts
            nn.init.uniform_(norm.weight, 0.3, 0.6)
            nn.init.normal_(norm.bias, 0, 0.1)
    return model.eval(), chosen


def read_back(folder: Path, model: Network, chosen: Recipe) -> Network:
    """The network of the two files that are written."""
    target.write(folder / "net.weights", model, chosen)
    settings = recipe.of_cfg(folder / "net.cfg")
    assert settings.data.canvas.size == chosen.data.canvas.size
    return weights.build(folder / "net.weights", settings).eval()


def by_scale(model: Network, raw: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Boxes and scores of all cells, map by map, coarse first."""
    counts = [3 * level.shape[2] * level.shape[3] for level in raw]
    boxes, scores = model.decode_padded(raw)  # type: ignore[operator]
    maps = list(zip(boxes.split(counts, 1), scores.split(counts, 1), strict=True))
    return sorted(maps, key=lambda one: one[0].shape[1])


NETWORKS = [
    (TINY3, {"model__classes": 7, "model__anchors": SIX}),
    (TINY4, {"model__classes": 1, "model__anchors": SIX, "model__scale_xy": [1.5, 1.25]}),
    (
        "yolov4_coco_608_darknet",
        {"model__classes": 7, "model__anchors": NINE, "model__width": 0.125, "model__lateral_first": False},
    ),
    ("demo", {"model__multi_label": True}),
    (CLASSIFIER, {"model__norm_eps": 0.001, "model__negative_slope": 0.01, "data__canvas__size": [75, 50]}),
]
LARGE = [
    ("yolov3_coco_416_darknet", {"model__classes": 7, "model__anchors": NINE}),
    ("yolov3_640_coco", {"model__classes": 7, "model__anchors": NINE}),
]


@pytest.mark.parametrize(
    ("name", "changes"), [*NETWORKS, *(pytest.param(*each, marks=pytest.mark.slow) for each in LARGE)]
)
def test_written_cfg_and_weights_reproduce_the_network(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model, chosen = made(name, **changes)
    again = read_back(tmp_path, model, chosen)
    assert darknet.count(darknet.layers(again)) == darknet.count(darknet.layers(model))
    images = torch.rand(2, 3, *chosen.data.canvas.size)
    with torch.inference_mode():
        ours, theirs = model(images), again(images)
        if chosen.model.task == "classify":
            assert ours[0].std() > 1e-3
            torch.testing.assert_close(theirs[0], ours[0], rtol=1e-4, atol=1e-5)
            return
        assert isinstance(again, CfgDetector)
        assert again.config.classes == chosen.model.classes
        for wanted, found in zip(by_scale(model, ours), by_scale(again, theirs), strict=True):
            torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)
            assert wanted[1].std() > 1e-6


def layer_values(layer: Layer) -> tuple[Any, ...]:
    """A layer without its section's keys for training."""
    return layer.section.kind, *(getattr(layer, each.name) for each in fields(layer) if each.name != "section")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared/oracles is absent")
@pytest.mark.parametrize(
    ("name", "cfg"),
    [
        (TINY3, "yolov3-tiny-as-trained"), (TINY4, "yolov4-tiny"), (CLASSIFIER, "tiny"),
        pytest.param("yolov3_coco_416_darknet", "yolov3", marks=pytest.mark.slow),
        pytest.param("yolov4_coco_608_darknet", "yolov4", marks=pytest.mark.slow),
        pytest.param("darknet53_imagenet_256_darknet", "darknet53", marks=pytest.mark.slow),
        ("cspdarknet53_imagenet_256_darknet", "csdarknet53-omega"),
    ],
)  # fmt: skip
def test_layers_match_published_cfg(name: str, cfg: str) -> None:
    """Numbers, kinds, shapes, anchors: all of them, also which layers read which."""
    chosen = recipe.load(name)
    text, _ = target.cfg_of(models.build(chosen.model), chosen)
    ours, theirs = plan(text), plan(read_cfg(PUBLISHED / f"{cfg}.cfg"))
    assert ours.image == theirs.image
    layers = [layer_values(layer) for layer in theirs.layers if layer.section.kind != "cost"]
    for number, (layer, published) in enumerate(zip(map(layer_values, ours.layers), layers, strict=True)):
        assert layer == published, number


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        (TINY4, {"model__padding": "same"}, "pads maps on two of their sides"),
        (TINY3, {"model__mean": [0.5, 0.5, 0.5]}, "normalizes its input by model.mean and model.std"),
        (TINY3, {"model__std": [0.5, 0.5, 0.5]}, "normalizes its input by model.mean and model.std"),
        (CLASSIFIER, {"model__negative_slope": 0.2}, "LeakyReLU has the slope 0.2"),
        (TINY3, {"data__bands": [1, 2, 3, 4]}, "has 4 channels, Darknet's 1 or 3"),
    ],
)
def test_reason_for_not_writing_a_cfg_is_logged(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path, log: list[str]
) -> None:
    model, chosen = made(name, **changes)
    target.write(tmp_path / "net.weights", model, chosen)
    (line,) = log
    assert line.startswith("net.weights: no .cfg is written beside it: ")
    assert reason in line
    assert len(line) <= 200
    assert [file.name for file in tmp_path.iterdir()] == ["net.weights"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x * 2, "no layer for its operation mul"),
        (lambda x: x + 1, "other outputs"),
        (lambda x: x.add(x, alpha=2), "no layer for its operation add with these arguments"),
        (lambda x: x if x.sum() > 0 else -x, "torch.export cannot list its operations"),
    ],
)
def test_network_with_extra_operations_has_no_cfg(
    change: Any, reason: str, tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layer 1 is a pool, which `+ 1` must not be taken for."""
    model, chosen = made(TINY3)
    maps: Any = model.maps
    monkeypatch.setattr(model, "maps", lambda x: tuple(change(level) for level in maps(x)))
    target.write(tmp_path / "net.weights", model, chosen)
    assert reason in "\n".join(log)
    assert not (tmp_path / "net.cfg").exists()


def test_variances_are_adjusted_for_another_epsilon(tmp_path: Path) -> None:
    """The file's variances are those that give the same root with Darknet's 1e-5 under it."""
    model, chosen = made(CLASSIFIER, model__norm_eps=0.001)
    darknet.write(tmp_path / "a.weights", model)
    plain, of_darknet = made(CLASSIFIER)
    weights.load(plain, tmp_path / "a.weights", of_darknet)
    state, other = model.state_dict(), plain.state_dict()
    names = [name for name in state if name.endswith("running_var")]
    assert len(names) == 15
    for name in names:
        torch.testing.assert_close(other[name] + 1e-5, state[name] + 1e-3, rtol=1e-6, atol=0)
    again, _ = made(CLASSIFIER, model__norm_eps=0.001)
    weights.load(again, tmp_path / "a.weights", chosen)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_training_settings_round_trip_through_cfg() -> None:
    """The settings that `boxwright train net.cfg` reads from the text equal the recipe's."""
    model, chosen = made(
        TINY4, train__batch=4, train__accumulate=3, train__epochs="auto", train__min_steps=900, data__max_boxes=70,
        train__schedule={
            "kind": "multistep", "lr": 0.002, "lr_steps": [300, 600], "lr_gamma": [0.5, 0.1],
            "warmup_min_steps": 100, "warmup_power": 4, "warmup_from": 0, "by_step": True,
        },
        train__optimizer={"momentum": 0.8, "weight_decay": 0.003, "loss_scale": 1},
        train__augment={
            "flip": 0.5, "hue": 0.2, "saturation": [0.5, 2.0], "value": [0.8, 1.25], "mosaic": 0.5, "mixup": 0.5,
        },
        model__loss={
            "box_loss": "ciou", "box": 0.07, "objectness": 0.4, "assign_iou": 0.213, "ignore_iou": 0.6,
            "label_smoothing": 0.1, "scales": [1, 0.5],
        },
        data__canvas__fit="letterbox", predict__nms__kind="diou",
    )  # fmt: skip
    text, _ = target.cfg_of(model, chosen)
    network = plan(text)
    train, data, found = training(network)
    own = chosen.train.model_dump(mode="json")
    assert (train["batch"], train["accumulate"], train["min_steps"], data["max_boxes"]) == (4, 3, 900, 70)
    for section in ("schedule", "optimizer"):
        assert train[section] == {key: own[section][key] for key in train[section]}
    for key in ("flip", "hue", "saturation", "value", "mosaic", "mixup"):
        assert train["augment"][key] == own["augment"][key], key
    loss = {
        "box_loss": "ciou", "box": [0.035, 0.07], "objectness": [0.2, 0.4], "assign_iou": [0.213],
        "ignore_iou": [0.6], "label_smoothing": 0.1,
    }  # fmt: skip
    assert {key: found["loss"][key] for key in loss} == loss
    assert network.net.word("letter_box") == "1"
    # the recipe's third and fourth anchor are equal; Darknet's training would never choose the fourth
    masks = [(head.section.integers("mask"), head.section.integer("num")) for head in network.heads]
    assert masks == [((2, 3, 4), 5), ((0, 1, 2), 5)]
    assert [head.section.word("nms_kind") for head in network.heads] == ["diounms"] * 2
    assert [head.section.word("beta_nms") for head in network.heads] == ["1"] * 2


def test_classifier_settings_round_trip_through_cfg() -> None:
    augment = {"area": [0.25, 1.0], "aspect": [0.75, 4 / 3], "flip": 0.5, "hue": 0.1, "saturation": 0.4}
    model, chosen = made(
        CLASSIFIER, data__canvas__size=[64, 64], model__label_smoothing=0.1, train__epochs="auto",
        train__min_steps=50, train__ema__decay=0.9,
        train__schedule={"kind": "linear", "lr": 0.1, "linear_power": 4, "by_step": True, "warmup_min_steps": 0},
        train__class_augment=augment | {"brightness": 0.5, "mixup": 0.5, "cutmix": 0.0},
    )  # fmt: skip
    text, _ = target.cfg_of(model, chosen)
    train, _, found = training(plan(text))
    assert found == {"label_smoothing": 0.1}
    assert train["schedule"] == {"lr": 0.1, "kind": "linear", "by_step": True, "linear_power": 4.0}
    assert train["ema"]["decay"] == 0.9
    for key, value in (augment | {"brightness": 0.5, "mixup": 0.5, "cutmix": 0.0}).items():
        assert train["class_augment"][key] == pytest.approx(value, abs=1e-4), key


def test_sections_round_trip() -> None:
    sections: list[tuple[str, dict[str, object]]] = [
        ("net", {"width": 8.0, "decay": 1e-05}),
        ("route", {"layers": (-1, -3)}),
        ("avgpool", {}),
    ]
    text = written(sections)
    assert text == "[net]\nwidth=8\ndecay=1e-05\n\n[route]\nlayers=-1,-3\n\n[avgpool]\n"
    net, route, _ = parse(text)
    assert (net.integer("width"), net.number("decay"), route.integers("layers")) == (8, 1e-5, (-1, -3))


@pytest.mark.slow
def test_exported_cfg_and_weights_give_equal_detections(tmp_path: Path) -> None:
    model, chosen = made(TINY3, model__classes=2, data__names=["cat", "dog"], predict__threshold=0.01)
    checkpoint.save(tmp_path / "w.safetensors", model, chosen)
    export_model(tmp_path / "w.safetensors", "darknet", tmp_path / "x.weights", size=(96, 64))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    original = bw.load(tmp_path / "w.safetensors", overrides={"data.canvas.size": [96, 64]})
    wanted = original(image, threshold=0.01)
    (tmp_path / "x.weights.json").unlink()
    found = bw.load(tmp_path / "x.weights", cfg=tmp_path / "x.cfg", names=["cat", "dog"])(image, threshold=0.01)
    assert len(wanted) > 5
    one, other = (Detections(each.boxes, each.scores, each.labels) for each in (found, wanted))
    assert_same_detections(one, other, threshold=0.01, score=1e-4, box=0.05)


@pytest.mark.slow
def test_weights_are_not_written_beside_an_unrelated_cfg(tmp_path: Path) -> None:
    model, chosen = made(TINY3, model__mean=[0.5, 0.5, 0.5], predict__threshold=0.01)
    checkpoint.save(tmp_path / "w.safetensors", model, chosen)
    for name in ("x.weights", "x.cfg"):
        (tmp_path / name).write_text("of another export")
    with pytest.raises(bw.InputError, match=r"x\.cfg: is there, and is not that of x\.weights"):
        export_model(tmp_path / "w.safetensors", "darknet", tmp_path / "x.weights")
    assert {(tmp_path / name).read_text() for name in ("x.weights", "x.cfg")} == {"of another export"}
    (tmp_path / "x.cfg").unlink()
    export_model(tmp_path / "w.safetensors", "darknet", tmp_path / "x.weights")
    assert not (tmp_path / "x.cfg").exists()
