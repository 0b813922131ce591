"""Training from Darknet's .cfg files: the recipe of a file, and the gradients of its loss against a loop over cells."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright import cli, models, recipe
from boxwright.darknet_cfg.plan import plan
from boxwright.darknet_cfg.training import not_taken_over, training
from boxwright.errors import InputError
from boxwright.models.darknet_cfg import CfgDetector
from boxwright.ops import iou
from boxwright.ops.boxes import cxcywh_to_xyxy
from zoo_loss import batch_of

NET = """[net]
batch=64
subdivisions=16
width=96
height=64
channels=3
momentum=0.949
decay=0.0005
angle=0
saturation=1.5
exposure=.5
hue=.1
learning_rate=0.00261
burn_in=100
max_batches=2000
policy=steps
steps=1600,1800
scales=.1,.1
mosaic=1
"""
CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n"
LAST = "[convolutional]\nfilters={}\nsize=1\nstride=1\npad=1\nactivation={}\n"
ANCHORS = "anchors=6,9, 14,12, 18,33, 30,20, 41,51"
HEADS = (
    f"[yolo]\nmask=4,1,3\n{ANCHORS}\nclasses=3\nnum=5\njitter=.3\nresize=1.5\nscale_x_y=1.1\nignore_thresh=.4\n"
    "iou_thresh=.6\niou_normalizer=.07\nobj_normalizer=2\ntruth_thresh=1\nrandom=1\n",
    f"[yolo]\nmask=0,2\n{ANCHORS}\nclasses=3\nnum=5\njitter=.3\nresize=1.5\nscale_x_y=1.1\nignore_thresh=.6\n"
    "iou_thresh=.5\niou_normalizer=.09\nobj_normalizer=.5\ntruth_thresh=1\nrandom=1\n",
)
PAIRS = ((6, 9), (14, 12), (18, 33), (30, 20), (41, 51))
MASKS = ((4, 1, 3), (0, 2))
KINDS = ("mse", "iou", "giou", "diou", "ciou")


def cfg(net: str = NET, extra: str = "", last: str = "linear") -> str:
    """A detector with a map of 4 x 6 cells and three anchors, then one of 8 x 12 cells and two."""
    coarse, fine = (LAST.format(len(mask) * 8, last) for mask in MASKS)
    body = "\n".join(CONV.format(8, 2) for _ in range(4))
    return "\n".join(
        [net, body, coarse, HEADS[0] + extra, "[route]\nlayers=-4\n", CONV.format(8, 1), fine, HEADS[1] + extra]
    )


def load(text: str, folder: Path, *changes: str) -> recipe.Recipe:
    file = folder / "own net.cfg"
    file.write_text(text)
    return recipe.load(file, changes)


def test_recipe_of_a_detector(tmp_path: Path) -> None:
    """Each value by hand, as the table of Darknet's keys says."""
    found = load(cfg(), tmp_path).tree()
    train, loss = found["train"], found["model"]["loss"]
    assert (train["batch"], train["accumulate"], train["max_steps"]) == (4, 16, 2000)
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
        "assign_iou": [0.6, 0.5], "ignore_iou": [0.4, 0.6], "normalize": "images", "label_smoothing": 0.0,
    }  # fmt: skip
    assert found["model"]["classes"] == 3


def test_sizes_of_random_are_those_of_its_loop(tmp_path: Path) -> None:
    """The factor is drawn from 1 to 1.4 and inverted half of the time."""
    found = load(cfg(), tmp_path).train.augment.sizes
    draw, expected = np.random.default_rng(0), set()
    for _ in range(20_000):
        factor = draw.uniform(1, 1.4) ** draw.choice([-1, 1])
        expected.add(tuple(math.floor(side * factor / 32 + 1 + 0.5) * 32 for side in (64, 96)))
    assert set(found) == expected
    assert len(expected) > 2


def test_sizes_follow_the_canvas(tmp_path: Path) -> None:
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
        ("policy=sgdr", {"kind": "cosine", "eta_min": 0.00001, "by_step": True}),
        ("policy=steps\nsteps=5,3,9\nscales=.1,10,.5", {"lr_steps": (5, 9), "lr_gamma": (1.0, 0.5)}),
    ],
)
def test_policies(tmp_path: Path, line: str, expected: dict[str, Any]) -> None:
    """The last: a fall at 3 that stands behind one at 5 comes at 5, too."""
    found = load(cfg(NET.partition("policy=")[0] + line), tmp_path).train.schedule
    assert {key: getattr(found, key) for key in expected} == expected


def test_rarer_keys(tmp_path: Path) -> None:
    net = NET.replace("mosaic=1", "mixup=1\nema_alpha=0.99\nflip=0\nloss_scale=8\nletter_box=1")
    text = cfg(net, "max=7\nlabel_smooth_eps=.1\nmax_delta=2\niou_loss=ciou\n").replace("random=1\n", "")
    found = load(text.replace("filters=8", "stopbackward=1\nfilters=8", 2), tmp_path)
    train, loss = found.train, found.tree()["model"]["loss"]
    assert (train.ema.decay, train.optimizer.loss_scale, train.augment.flip) == (0.99, 8.0, 0.0)
    assert (train.augment.mosaic, train.augment.mixup, train.augment.sizes) == (0.0, 0.5, ())
    assert train.freeze == ("layers.0", "layers.1")
    assert (found.data.max_boxes, found.data.canvas.fit) == (7, "letterbox")
    assert (loss["box_loss"], loss["max_delta"], loss["label_smoothing"]) == ("ciou", [2.0], 0.1)


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
    extra = "objectness_smooth=1\ntruth_thresh=.9\ncounters_per_class=5,9,2\nfocal_loss=0\n"
    text = cfg(NET + "gaussian_noise=0\nblur=1\n", extra).replace("truth_thresh=1\n", "")
    load(text, tmp_path)
    (line,) = capsys.readouterr().err.strip().splitlines()
    keys = "blur, counters_per_class, objectness_smooth, truth_thresh"
    assert line.endswith(f"own net.cfg: not taken over for training: {keys}")
    assert not_taken_over(plan(cfg())) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cfg(NET.replace("policy=steps", "policy=sigmoid")), r"line 16, \[net\], policy=sigmoid: not supported"),
        (cfg(NET.replace("scales=.1,.1", "scales=.1")), r"\[net\], scales=.1: 1 scales for 2 steps"),
        (cfg(NET + "policy=sgdr").replace("policy=steps\n", "sgdr_cycle=9\n"), "restarts are not supported"),
        (cfg().replace("num=5", "iou_loss=ciou\nnum=5", 1), r"\[yolo\].*: training needs one for all heads"),
    ],
)
def test_what_cannot_be_trained_so(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(text, tmp_path)
    assert "\n" not in str(error.value)


def test_heads_of_two_kinds_are_not_trained(
    tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before a run folder exists."""
    monkeypatch.chdir(tmp_path)
    head = "[region]\nanchors=1,2\nclasses=3\nnum=1\n"
    second = "[route]\nlayers=-3\n" + LAST.format(8, "linear") + "[yolo]\nanchors=9,9\nclasses=3\nnum=1\n"
    Path("old.cfg").write_text("\n".join([NET, CONV.format(8, 2), LAST.format(8, "linear"), head, second]))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "old.cfg", "--data", str(tiny_coco), "--out", "run"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert error == "boxwright: the .cfg line 48, [yolo]: training needs heads of one kind, and one [region] at most"
    assert not Path("run").exists()


# The loss. A box is (center x, center y, width, height) in shares of the input.

Box = tuple[float, float, float, float]
TRUTHS: list[list[tuple[int, Box]]] = [
    [(2, (0.31, 0.42, 0.40, 0.75)), (0, (0.71, 0.30, 0.07, 0.15)), (1, (0.12, 0.81, 0.19, 0.50))],
    [(1, (0.55, 0.62, 32 / 96, 33 / 64))],  # IoU 0.57 with 30 x 20, and 0.56 with 18 x 33 of the other head
]


def overlap(kind: str, box: Box, other: Box, alpha: float | None = None) -> float:
    """Written out: IoU, and what the others subtract. alpha: the weight of ciou's aspect, which is held fixed."""
    (x, y, w, h), (u, v, p, q) = box, other
    across = max(0.0, min(x + w / 2, u + p / 2) - max(x - w / 2, u - p / 2))
    down = max(0.0, min(y + h / 2, v + q / 2) - max(y - h / 2, v - q / 2))
    union = w * h + p * q - across * down
    value = across * down / union
    hull_w = max(x + w / 2, u + p / 2) - min(x - w / 2, u - p / 2)
    hull_h = max(y + h / 2, v + q / 2) - min(y - h / 2, v - q / 2)
    if kind == "iou":
        return value
    if kind == "giou":
        return value - (hull_w * hull_h - union) / (hull_w * hull_h)
    result = value - ((x - u) ** 2 + (y - v) ** 2) / (hull_w**2 + hull_h**2)
    if kind == "ciou":
        aspect = 4 / math.pi**2 * (math.atan(p / q) - math.atan(w / h)) ** 2
        result -= (aspect / (1 - value + aspect) if alpha is None else alpha) * aspect
    return result


def aspect_weight(box: Box, other: Box) -> float:
    (_, _, w, h), (_, _, p, q) = box, other
    aspect = 4 / math.pi**2 * (math.atan(p / q) - math.atan(w / h)) ** 2
    return aspect / (1 - overlap("iou", box, other) + aspect)


def slope(kind: str, box: Box, other: Box) -> list[float]:
    """By finite differences."""
    alpha, step, result = aspect_weight(box, other), 1e-6, []
    for number in range(4):
        ends = []
        for sign in (1, -1):
            moved = list(box)
            moved[number] += sign * step
            ends.append(overlap(kind, (moved[0], moved[1], moved[2], moved[3]), other, alpha))
        result.append((ends[0] - ends[1]) / (2 * step))
    return result


def shape(side: tuple[float, float], anchor: tuple[float, float]) -> float:
    shared = min(side[0], anchor[0]) * min(side[1], anchor[1])
    return shared / (side[0] * side[1] + anchor[0] * anchor[1] - shared)


def places() -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """(head, rows, columns, place in its mask, anchor, row, column) of every cell and anchor."""
    for head, (mask, (rows, columns)) in enumerate(zip(MASKS, ((4, 6), (8, 12)), strict=True)):
        for place, anchor in enumerate(mask):
            for row in range(rows):
                for column in range(columns):
                    yield head, rows, columns, place, anchor, row, column


def deltas(maps: list[np.ndarray[Any, Any]], kind: str, new: bool, limit: float, smooth: float) -> list[Any]:
    """What Darknet adds to the numbers before each head, or with `new` before the logistic in front of it.

    maps: (B, A, 8, h, w) these numbers.
    """
    thresholds = {"ignore": (0.4, 0.6), "similar": (0.6, 0.5), "box": (0.07, 0.09), "objectness": (2.0, 0.5)}
    result = [np.zeros_like(level) for level in maps]
    for image, truths in enumerate(TRUTHS):
        for head, rows, columns, place, anchor, row, column in places():
            numbers = [float(number) for number in maps[head][image, place, :, row, column]]
            out = result[head][image, place, :, row, column]
            t = [1 / (1 + math.exp(-number)) for number in numbers]
            center = [(cell + 1.1 * part - 0.05) / count for cell, part, count in
                      zip((column, row), t[:2], (columns, rows), strict=True)]  # fmt: skip
            growth = [(2 * part) ** 2 for part in t[2:4]] if new else [math.exp(number) for number in numbers[2:4]]
            side = [factor * length / whole for factor, length, whole in
                    zip(growth, PAIRS[anchor], (96, 64), strict=True)]  # fmt: skip
            box = (center[0], center[1], side[0], side[1])
            chain = [part * (1 - part) if new else 1.0 for part in t]
            ignored = any(overlap("iou", box, truth) > thresholds["ignore"][head] for _, truth in truths)
            out[4] = 0.0 if ignored else -t[4] * thresholds["objectness"][head] * chain[4]
            for label, truth in truths:
                pixels = (truth[2] * 96, truth[3] * 64)
                fits = [shape(pixels, pair) for pair in PAIRS]
                here = int(truth[0] * columns) == column and int(truth[1] * rows) == row
                if not here or (fits.index(max(fits)) != anchor and fits[anchor] <= thresholds["similar"][head]):
                    continue
                out[4] = (1 - t[4]) * thresholds["objectness"][head] * chain[4]
                for number in range(3):
                    target = 1 - smooth / 2 if number == label else smooth / 2
                    out[5 + number] = (target - t[5 + number]) * chain[5 + number]
                weight = thresholds["box"][head]
                if kind == "mse":
                    scale = weight * (2 - truth[2] * truth[3])
                    position = [((share * count - cell) + 0.05) / 1.1 for share, count, cell in
                                zip(truth[:2], (columns, rows), (column, row), strict=True)]  # fmt: skip
                    out[:2] = [scale * (place - part) for place, part in zip(position, t[:2], strict=True)]
                    wanted = [math.log(length / pair) for length, pair in zip(pixels, PAIRS[anchor], strict=True)]
                    out[2:4] = [scale * (log - number) for log, number in zip(wanted, numbers[2:4], strict=True)]
                else:
                    factors = [1.0, 1.0, *([1.0, 1.0] if new else growth)]
                    steps = [weight * each * factor for each, factor in
                             zip(slope(kind, box, truth), factors, strict=True)]  # fmt: skip
                    cut = [max(-limit, min(limit, step)) for step in steps]
                    out[:4] = [step * factor for step, factor in zip(cut, chain[:4], strict=True)]
    return result


@pytest.mark.parametrize(
    ("kind", "new", "limit"),
    [
        ("mse", False, 1e9),
        *((kind, *rest) for kind in KINDS[1:] for rest in ((False, 1e9), (False, 0.05), (True, 0.05))),
    ],
)
def test_gradients_are_those_of_darknets_loop(kind: str, new: bool, limit: float) -> None:
    """Two heads of three and two anchors, with masks in no order and values of their own."""
    extra = f"iou_loss={kind}\nmax_delta={limit}\nlabel_smooth_eps=.1\n" + "new_coords=1\n" * new
    text = cfg(extra=extra, last="logistic" if new else "linear")
    tree = {"name": "darknet_cfg", "cfg": text, "loss": _loss_of(text)}
    model = models.build(models.module("darknet_cfg").Config.model_validate(tree))
    assert isinstance(model, CfgDetector)
    draw = torch.Generator().manual_seed(4)
    numbers = [torch.randn(2, len(mask), 8, h, w, generator=draw, dtype=torch.float64) * 0.7
               for mask, (h, w) in zip(MASKS, ((4, 6), (8, 12)), strict=True)]  # fmt: skip
    expected = deltas([each.numpy() for each in numbers], kind, new, limit, 0.1)
    leaves = [each.float().flatten(1, 2).requires_grad_() for each in numbers]
    raw = tuple(leaf.sigmoid() if new else leaf for leaf in leaves)
    terms = model.loss_of_raw(raw, _batch())
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)
    for gradient, level in zip(gradients, expected, strict=True):
        ours = -2 * gradient.view(level.shape).numpy()  # the mean of two images, and the way down
        np.testing.assert_allclose(ours, level, rtol=2e-3, atol=2e-5)
    largest = max(np.abs(level[:, :, :4]).max() for level in expected)
    assert largest <= limit
    assert largest == pytest.approx(limit) or new or limit > 1


def _loss_of(text: str) -> dict[str, Any]:
    loss: dict[str, Any] = training(plan(text))[2]["loss"]
    return loss


def _batch() -> Any:
    boxes = torch.zeros(2, 3, 4)
    labels = torch.full((2, 3), -1, dtype=torch.int64)
    for image, truths in enumerate(TRUTHS):
        for number, (label, (x, y, w, h)) in enumerate(truths):
            corners = [(x - w / 2) * 96, (y - h / 2) * 64, (x + w / 2) * 96, (y + h / 2) * 64]
            boxes[image, number], labels[image, number] = torch.tensor(corners), label
    return batch_of(boxes, labels, (64, 96))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_overlaps_of_pairs(kind: str) -> None:
    """Of boxes with all degrees of overlap, and apart."""
    draw = np.random.default_rng(2)
    boxes = draw.uniform([0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.5, 0.5], (2, 40, 4))
    boxes[1, :5, :2] += 0.6
    ours: Tensor = getattr(iou, kind)(*cxcywh_to_xyxy(torch.tensor(boxes)))
    expected = [overlap(kind, (*a,), (*b,)) for a, b in zip(*boxes.tolist(), strict=True)]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    assert max(expected) > 0.5
    assert min(expected) <= 0
