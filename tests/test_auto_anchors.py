"""`model.anchors: auto`: the anchors of a run, where they are stored, and networks without anchors."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import boxwright
from boxwright import cli, models, recipe, weights
from boxwright.darknet_cfg.plan import plan, with_anchors
from boxwright.engine import auto_anchors
from boxwright.errors import InputError
from darknet_loop import cfg
from small_run import SMALL, run

SIZES = [(40, 8), (8, 20), (60, 60), (100, 40), (30, 30), (90, 88)]  # (width, height) px of an image of 192 x 96 px
HALVED = [[4, 10], [20, 4], [15, 15], [30, 30], [50, 20], [45, 44]]  # on an input of 96 x 96, by area: 40, 80, 225, ...


def data_set(root: Path, sizes: list[tuple[int, int]] = SIZES) -> Path:
    """Two images per split, 192 x 96 px, each with a box of each size."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        images, annotations = [], []
        for image in (1, 2):
            cv2.imwrite(str(root / split / f"{image}.png"), np.full((96, 192, 3), 90 + image, np.uint8))
            images.append({"id": image, "file_name": f"{image}.png"})
            for w, h in sizes:
                box = {"bbox": [image, image, w, h], "area": w * h, "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1} | box)
        labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(labels))
    return root


@pytest.mark.slow
def test_run_stores_anchors_and_computes_them_once(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """As many clusters as sizes of boxes: the anchors are these sizes, on the letterboxed input half as large."""
    data, out = data_set(tmp_path / "data"), tmp_path / "run"
    changes = SMALL | {"model.anchors": "auto", "train.epochs": 1}
    run(data, out, changes)
    output = [line for line in capsys.readouterr().err.splitlines() if "boxes" in line]
    pairs = str(HALVED).replace(" ", "")
    assert output == [
        f"model.anchors: {pairs}, mean IoU 1.0000, 100.0% of the boxes above 0.5",
        "50 % of the boxes have a shorter side below 16 px, the finest stride, at 96 x 96 px (median 17.5 px): "
        "try --set data.canvas.size=[384,384] or recipe yolov4_coco_608_darknet",
    ]
    numbers = tuple((float(w), float(h)) for w, h in HALVED)
    assert recipe.load(out / "recipe.yaml").model.anchors == numbers
    assert weights.stored_recipe(out).model.anchors == numbers

    monkeypatch.setattr(auto_anchors, "choose", lambda *words: pytest.fail("chosen again"))
    boxwright.train("demo", data, out, resume=True, overrides=changes)
    assert "boxes" not in capsys.readouterr().err
    network = boxwright.load(out).model
    assert network.anchors[:3].tolist() == HALVED[3:], "the coarse map has the largest"


@pytest.mark.slow
def test_cfg_heads_select_anchors_by_mask(tmp_path: Path) -> None:
    """One list of five for both heads, of which the masks take some, in any order."""
    data = data_set(tmp_path / "data", SIZES[1:])
    (tmp_path / "net.cfg").write_text(cfg().replace("random=1\n", ""))
    changes = {"model.anchors": "auto", "train.epochs": 1, "train.batch": 1, "train.accumulate": 1}
    small = {"data.workers": 0, "train.evaluate_every": 0, "data.canvas.size": [64, 96], "train.precision": "no"}
    run(data, tmp_path / "run", changes, recipe=str(tmp_path / "net.cfg"), small=small)
    stored = weights.stored_recipe(tmp_path / "run")
    wanted = [(4, 13), (15, 20), (30, 40), (50, 27), (45, 59)]  # stretched to 96 x 64 px: half, and two thirds
    coarse, fine = plan(stored.model.text).heads
    assert [head.section.word("mask") for head in (coarse, fine)] == ["4,1,3", "0,2"]
    assert (coarse.anchors, fine.anchors) == ((wanted[4], wanted[1], wanted[3]), (wanted[0], wanted[2]))
    assert boxwright.load(tmp_path / "run").model.anchors.tolist() == [[*wanted[k]] for k in (4, 1, 3, 0, 2)]


def test_region_anchors_are_in_cells(tmp_path: Path) -> None:
    body = "[net]\nwidth=96\nheight=64\nchannels=3\n[convolutional]\nsize=1\nstride=16\nfilters=14\nactivation=linear\n"
    text = body + "[region]\nnum=2\nclasses=2\nanchors=1,1, 2,3\n"
    changed = with_anchors(text, [(8, 24), (40.5, 32)])
    assert "anchors=0.5,1.5, 2.53125,2" in changed.splitlines()
    config = models.module("darknet_cfg").Config.model_validate(
        {"name": "darknet_cfg", "cfg": text, "anchors": [(8, 24), (40.5, 32)]}
    )
    assert models.build(config).anchors.tolist() == [[8, 24], [40.5, 32]]


def test_different_anchor_lists_in_cfg_heads_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text(cfg().replace("30,20", "30,21", 1))
    with pytest.raises(InputError, match=r"\[yolo\], anchors=.*needed the same as in the first head"):
        recipe.load(tmp_path / "net.cfg", {"model.anchors": "auto"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "demo"],
            "train has 2 boxes of different sizes, needed 6 at least; add images, or give model.anchors",
        ),
        (["train", "yolov3_640_modern"], "model.anchors: yolox has no list of anchors; leave it out"),
        (["train", "faster_rcnn_r50_dcn_modern"], "model.anchors: faster_rcnn has no list of anchors"),
        (["train", "tiny_darknet_imagenet_224"], "model.anchors: tiny_darknet has no list of anchors"),
        (["evaluate", "none.weights", "--recipe", "demo"], "model.anchors: found auto, which only training replaces"),
    ],
)
def test_errors_are_reported_in_one_line(tmp_path: Path, capsys: Any, words: list[str], message: str) -> None:
    data = data_set(tmp_path / "data", SIZES[:2])
    (tmp_path / "none.weights").write_bytes(bytes(20))
    words = [str(tmp_path / word) if word.endswith(".weights") else word for word in words]
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--data", str(data), "--out", str(out), "--set", "model.anchors=auto"])
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert message in error[-1]
    assert len(error[-1]) <= 200 + len("boxwright: ")
    assert not out.exists()


def test_show_prints_auto(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["show", "demo", "--set", "model.anchors=auto"])
    assert stop.value.code == 0
    assert "  anchors: auto\n" in capsys.readouterr().out
