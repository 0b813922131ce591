"""Training from Darknet's .cfg files: the recipe of a file."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import cli, models, recipe
from boxwright.darknet_cfg.plan import plan
from boxwright.darknet_cfg.training import not_taken_over
from boxwright.errors import InputError
from darknet_loop import CONV, LAST, NET, cfg

TRAINING = Path(__file__).parents[2] / "shared" / "oracles" / "darknet_cfg" / "TRAINING.md"


def load(text: str, folder: Path, *changes: str) -> recipe.Recipe:
    file = folder / "own net.cfg"
    file.write_text(text)
    return recipe.load(file, changes)


def test_recipe_of_a_detector(tmp_path: Path) -> None:
    """Each value by hand, from the table of Darknet's keys."""
    found = load(cfg(), tmp_path).tree()
    train, loss = found["train"], found["model"]["loss"]
    assert (train["batch"], train["accumulate"], train["epochs"], train["min_steps"]) == (4, 16, "auto", 2000)
    schedule = {
        "kind": "multistep", "lr": 0.00261, "lr_steps": [1600, 1800], "lr_gamma": 0.1, "warmup_min_steps": 100,
        "warmup_from": 0.0, "warmup_power": 4.0,
    }  # fmt: skip
    assert schedule.items() <= train["schedule"].items()
    assert {"momentum": 0.949, "weight_decay": 0.0005, "decay_all": False}.items() <= train["optimizer"].items()
    augment = train["augment"]
    assert (augment["flip"], augment["hue"], augment["mosaic"], augment["mixup"]) == (0.5, 0.1, 0.5, 0.0)
    assert augment["saturation"] == pytest.approx([1 / 1.5, 1.5], abs=1e-4)
    assert augment["value"] == [0.5, 2.0]  # written as .5, which is the same as 2
    assert augment["scale"] == pytest.approx([1 / (1.3 * 1.5), 1.5 / 0.7], abs=1e-4)
    assert augment["translate"] is None
    assert augment["resize_every"] == 10
    assert found["data"]["canvas"]["size"] == [64, 96]
    assert loss == {
        "box_loss": "mse", "box": [0.07, 0.09], "max_delta": [], "objectness": [2.0, 0.5], "classes": [1.0],
        "assign_iou": [0.6, 0.5], "assign_kind": "iou", "truth_iou": [1.0], "ignore_iou": [0.4, 0.6],
        "objectness_smooth": [False], "focal_loss": [False], "class_weights": [], "own_class": [1.0],
        "uncertainty": [1.0], "normalize": "images", "label_smoothing": 0.0,
    }  # fmt: skip
    assert found["model"]["classes"] == 3


def test_random_sizes_match_darknet_loop(tmp_path: Path) -> None:
    """The factor is drawn from 1 to 1.4 and inverted half of the time."""
    found = load(cfg(), tmp_path).train.augment.sizes
    draw, expected = np.random.default_rng(0), set()
    for _ in range(20_000):
        factor = draw.uniform(1, 1.4) ** draw.choice([-1, 1])
        expected.add(tuple(math.floor(side * factor / 32 + 1 + 0.5) * 32 for side in (64, 96)))
    assert set(found) == expected
    assert len(expected) > 2


def test_training_sizes_follow_the_canvas(tmp_path: Path) -> None:
    """`data.canvas.size` in place of the file's, with filters for other classes, as people change files by hand."""
    wide = cfg(NET.replace("width=96", "width=160").replace("height=64", "height=128"))
    by_hand = load(wide.replace("classes=3", "classes=5").replace("filters=24", "filters=30")
                   .replace("filters=16", "filters=20"), tmp_path)  # fmt: skip
    found = load(cfg(), tmp_path, "data.canvas.size=[128, 160]", "model.classes=5")
    assert found.train.augment == by_hand.train.augment
    assert found.data.canvas.size == (128, 160)
    shapes = [
        {name: each.shape for name, each in models.build(one.model).state_dict().items()} for one in (found, by_hand)
    ]
    assert shapes[0] == shapes[1]
    with pytest.raises(InputError, match=r"data\.canvas\.size"):
        load(cfg(), tmp_path, "data.canvas.size=[128]")
    joined = cfg().replace("layers=-4\n", "layers=-3\n[upsample]\n[route]\nlayers=-1,2\n")
    for text in (cfg(), joined):  # the second's maps do not join at this size
        with pytest.raises(InputError, match="multiples of 16"):
            load(text, tmp_path, "data.canvas.size=[64, 88]")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("policy=constant", {"kind": "constant"}),
        ("policy=step\nstep=50\nscale=.3", {"kind": "step", "lr_steps": (50,), "lr_gamma": 0.3}),
        ("policy=poly\npower=2", {"kind": "linear", "linear_power": 2.0, "by_step": True}),
        ("policy=sgdr", {"kind": "cosine", "eta_min": 0.00001, "by_step": True, "cycle_steps": ()}),
        ("policy=sgdr\nsgdr_cycle=300", {"kind": "cosine", "cycle_steps": (300, 900, 2100)}),
        ("policy=sgdr\nsgdr_cycle=700\nsgdr_mult=1", {"cycle_steps": (700, 1400, 2100)}),
        ("policy=exp\ngamma=.999", {"kind": "exponential", "lr_gamma": 0.999}),
        ("policy=sigmoid\ngamma=.1\nstep=40", {"kind": "sigmoid", "lr_gamma": 0.1, "lr_steps": (40,)}),
        ("policy=steps\nsteps=5,3,9\nscales=.1,10,.5", {"lr_steps": (5, 9), "lr_gamma": (1.0, 0.5)}),
    ],
)
def test_learning_rate_policies(tmp_path: Path, line: str, expected: dict[str, Any]) -> None:
    """The last: a fall at 3 that stands behind one at 5 comes at 5, too."""
    found = load(cfg(NET.partition("policy=")[0] + line), tmp_path).train.schedule
    assert {key: getattr(found, key) for key in expected} == expected


def test_rare_keys(tmp_path: Path) -> None:
    net = NET.replace("mosaic=1", "mixup=1\nema_alpha=0.99\nflip=0\nloss_scale=8\nletter_box=1")
    text = cfg(net, "max=7\nlabel_smooth_eps=.1\nmax_delta=2\niou_loss=ciou\n").replace("random=1\n", "")
    found = load(text.replace("filters=8", "stopbackward=1\nfilters=8", 2), tmp_path)
    train, loss = found.train, found.tree()["model"]["loss"]
    assert (train.ema.decay, train.optimizer.loss_scale, train.augment.flip) == (0.99, 8.0, 0.0)
    assert (train.augment.mosaic, train.augment.mixup, train.augment.sizes) == (0.0, 0.5, ())
    assert train.freeze == ("layers.0", "layers.1")
    assert (found.data.max_boxes, found.data.canvas.fit) == (7, "letterbox")
    assert (loss["box_loss"], loss["max_delta"], loss["label_smoothing"]) == ("ciou", [2.0], 0.1)


@pytest.mark.skipif(not TRAINING.exists(), reason="needs the shared folder")
def test_documentation_names_all_keys() -> None:
    """Those of AlexeyAB's program: all that its sections have for training."""
    docs = Path(__file__).parents[1] / "docs"
    page = "".join((docs / name).read_text(encoding="utf-8") for name in ("from_darknet.md", "darknet_training.md"))
    spans = re.findall(r"`[^`]+`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    named = set(re.findall(r"[A-Za-z_0-9]+", " ".join(spans)))
    tables = TRAINING.read_text(encoding="utf-8").partition("## .data")[0]
    cells = [line.split("|")[1] for line in tables.splitlines() if line.startswith("| `") or line.startswith("| [")]
    keys = {key for cell in cells for key in re.findall(r"`([A-Za-z_0-9]+)", cell)}
    assert len(keys) > 110
    assert keys - named == set()


def test_loss_keys_per_head(tmp_path: Path) -> None:
    """The cfg of CSP's YOLOv4 has objectness_smooth=0 in its first head, 1 in the others."""
    extra = "counters_per_class=100,0,20\nmax_delta=10\ncls_normalizer=.5\niou_thresh_kind=diou\ntruth_thresh=.7\n"
    loss = load(cfg(extra=extra, second="objectness_smooth=1\nfocal_loss=1\n"), tmp_path).tree()["model"]["loss"]
    assert (loss["objectness_smooth"], loss["focal_loss"]) == ([False, True], [False, True])
    assert (loss["class_weights"], loss["own_class"]) == ([1.0, 10.0, 5.0], [0.5])  # 100 / 1 is more than max_delta
    assert (loss["assign_kind"], loss["truth_iou"]) == ("diou", [0.7])
    with pytest.raises(InputError, match=r"loss\.class_weights holds 3 numbers, needed 4, one per class, or none"):
        load(cfg(extra=extra), tmp_path, "model.classes=4")
    gaussian = load(cfg(extra="uc_normalizer=2\n", kind="Gaussian_yolo"), tmp_path).tree()["model"]["loss"]
    assert (gaussian["uncertainty"], gaussian["box"]) == ([2.0], [0.07, 0.09])


def test_recipe_of_a_classifier(tmp_path: Path) -> None:
    net = NET.replace("mosaic=1", "min_crop=64\nmax_crop=128\naspect=.75\ncutmix=1\nlabel_smooth_eps=.1")
    net = net.replace("width=96", "width=64")
    found = load("\n".join([net, CONV.format(5, 2), "[avgpool]\n[softmax]\n"]), tmp_path)
    augment = found.train.class_augment
    assert augment.area == (0.25, 1.0)
    assert augment.aspect == pytest.approx((0.75, 4 / 3), abs=1e-4)
    assert (augment.saturation, augment.brightness, augment.hue) == (0.5, 1.0, 0.1)
    assert (augment.flip, augment.cutmix) == (0.5, 0.5)
    assert found.tree()["model"]["label_smoothing"] == 0.1


def test_keys_without_a_counterpart_are_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = "objectness_smooth=1\ntruth_thresh=.9\ncounters_per_class=5,9,2\nembedding_layer=3\nfocal_loss=0\n"
    text = cfg(NET + "gaussian_noise=0\nblur=1\ntime_steps=1\n", extra + "delta_normalizer=1\n")
    text = text.replace("filters=8", "cbn=1\nlearning_rate=1\nfilters=8", 1)
    load(text, tmp_path)
    (line,) = capsys.readouterr().err.strip().splitlines()
    keys = "blur, cbn, embedding_layer"
    assert line.endswith(f"own net.cfg: not taken over for training: {keys}")
    assert not_taken_over(plan(cfg())) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cfg(NET.replace("policy=steps", "policy=random")), r"line 16, \[net\], policy=random: not supported"),
        (cfg(NET.replace("scales=.1,.1", "scales=.1")), r"\[net\], scales=.1: 1 scales for 2 steps"),
        (cfg(NET.replace("policy=steps", "policy=sgdr\nsgdr_cycle=9\nsgdr_mult=0")), "sgdr_mult of 1 or more"),
        (cfg(NET.replace("policy=steps", "policy=sgdr\nsgdr_cycle=1\nsgdr_mult=1")), "more than 1,000 cycles in max_"),
        (cfg().replace("num=5", "iou_loss=ciou\nnum=5", 1), r"\[yolo\].*: training needs one for all heads"),
        (cfg(second="iou_thresh_kind=giou\n"), r"\[yolo\], iou_thresh_kind=giou: .* the first has iou_thresh_kind=iou"),
        (cfg(extra="counters_per_class=4,5\n"), r"counters_per_class=4,5: 2 counts for 3 classes; needed one per"),
    ],
)
def test_untrainable_settings_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(text, tmp_path)
    assert "\n" not in str(error.value)


def test_heads_of_two_kinds_are_rejected(
    tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected before a run folder exists."""
    monkeypatch.chdir(tmp_path)
    head = "[region]\nanchors=1,2\nclasses=3\nnum=1\n"
    second = "[route]\nlayers=-3\n" + LAST.format(8, "linear") + "[yolo]\nanchors=9,9\nclasses=3\nnum=1\n"
    text = "\n".join([NET, CONV.format(8, 2), LAST.format(8, "linear"), head, second])
    Path("old.cfg").write_text(text)
    line = text.split("\n").index("[yolo]") + 1
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "old.cfg", "--data", str(tiny_coco), "--out", "run"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert error == (
        f"boxwright: the .cfg line {line}, [yolo]: training needs heads of one kind, and one [region] at most"
    )
    assert not Path("run").exists()
