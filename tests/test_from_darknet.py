"""The way of a Darknet user, command by command as in docs/from_darknet.md: own .cfg, obj.data, .weights and back."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright import cli
from darknet_loop import CONV, NET, cfg

COLORS = ((220, 60, 40), (40, 90, 220), (60, 200, 60))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as for Darknet: own.cfg, data/obj.data, lists, names, and images with their labels beside them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "obj").mkdir(parents=True)
    draw = np.random.default_rng(5)
    for split, count in (("train", 20), ("valid", 4)):
        files = [f"data/obj/{split}{number}.png" for number in range(count)]
        for file in files:
            image, rows = draw.integers(90, 130, (80, 128, 3)).astype(np.uint8), []
            for label in draw.integers(3, size=draw.integers(1, 4)).tolist():
                w, h = draw.integers(16, 40, 2).tolist()
                x, y = int(draw.integers(0, 128 - w)), int(draw.integers(0, 80 - h))
                image[y : y + h, x : x + w] = COLORS[label]
                rows.append(f"{label} {(x + w / 2) / 128} {(y + h / 2) / 80} {w / 128} {h / 80}")
            cv2.imwrite(file, image)
            Path(file).with_suffix(".txt").write_text("\n".join(rows))
        Path(f"data/{split}.txt").write_text("\n".join(files) + "\n")
    Path("data/obj.names").write_text("blue box\nred\ngreen\n")
    Path("data/obj.data").write_text(
        "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    text = cfg().replace("batch=64\nsubdivisions=16", "batch=8\nsubdivisions=2").replace("classes=3", "classes=80")
    (tmp_path / "backup").mkdir()
    Path("own.cfg").write_text(text.replace("filters=24", "filters=255").replace("filters=16", "filters=170"))
    return tmp_path


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*words])
    assert stop.value.code == 0, words


def predicted(folder: str) -> list[Any]:
    (image,) = json.loads(Path(folder, "detections.json").read_text())["images"]
    found: list[Any] = image["detections"]
    return found


@pytest.mark.slow
def test_darknet_round_trip(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("data", "check", "data/obj.data")
    run("data", "anchors", "data/obj.data", "--count", "5", "--size", "64", "96", "-o", "anchors")
    assert "anchors = " in capsys.readouterr().out
    small = ("--set", "train.epochs=1", "--set", "data.workers=0", "--set", "train.schedule.warmup_min_steps=0")
    run("train", "own.cfg", "--data", "data/obj.data", "--out", "runs/own", *small)
    (first, *_) = [json.loads(line) for line in Path("runs/own/log.jsonl").read_text().splitlines()]
    assert first["step"] == 2  # 20 images, batch=8
    assert set(first["terms"]) == {"box", "objectness", "classes"}

    run("evaluate", "runs/own", "--data", "data/obj.data", "--out", "evaluation")
    metrics = json.loads(Path("evaluation/metrics.json").read_text())
    assert [each["name"] for each in metrics["classes"]] == ["blue box", "red", "green"]

    image = ("data/obj/valid0.png", "--threshold", "0.001", "--no-draw")
    run("predict", "runs/own", *image, "--out", "found")
    run("export", "runs/own", "--to", "darknet", "-o", "backup/own.weights")
    exported = Path("backup/own.cfg").read_text()
    assert exported.count("classes=3") == 2  # the filters before the heads follow the data's classes
    assert (exported.count("filters=24"), exported.count("filters=16")) == (1, 1)
    names = ("--cfg", "backup/own.cfg", "--names", "data/obj.names")
    run("predict", "backup/own.weights", *names, *image, "--out", "again")
    first_found, again = predicted("found"), predicted("again")
    assert first_found
    assert len(first_found) == len(again)
    for one, other in zip(
        *(sorted(found, key=lambda each: (each["name"], each["box"])) for found in (first_found, again)), strict=True
    ):
        assert one["name"] == other["name"]
        np.testing.assert_allclose(other["box"], one["box"], atol=0.01)
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)

    more = ("--weights", "backup/own.weights", "--transfer", *small)
    run("train", "backup/own.cfg", "--data", "data/obj.data", "--out", "runs/more", *more)
    assert "tensors loaded" in capsys.readouterr().err


@pytest.mark.slow
def test_darknet_to_onnx(home: Path) -> None:
    pytest.importorskip("onnxruntime")
    small = ("--set", "train.epochs=1", "--set", "data.workers=0", "--set", "train.evaluate_every=0")
    run("train", "own.cfg", "--data", "data/obj.data", "--out", "runs/own", *small)
    run("export", "runs/own", "--to", "onnx", "-o", "own.onnx")
    image = ("data/obj/valid0.png", "--threshold", "0.001", "--no-draw")
    run("predict", "runs/own", *image, "--out", "found")
    run("predict", "own.onnx", *image, "--out", "again")
    assert len(predicted("again")) == len(predicted("found")) > 0


@pytest.mark.slow
def test_training_of_a_classifier_from_a_cfg(home: Path) -> None:
    run("data", "convert", "data/obj.data", "--to", "folder", "-o", "crops")
    net = NET.replace("width=96", "width=32").replace("height=64", "height=32").replace("mosaic=1", "max_crop=40")
    Path("class.cfg").write_text("\n".join([net, CONV.format(8, 2), CONV.format(9, 2), "[avgpool]\n[softmax]\n"]))
    small = ("--set", "train.epochs=1", "--set", "data.workers=0", "--set", "train.accumulate=1")
    run("train", "class.cfg", "--data", "crops", "--out", "runs/class", *small)
    run("export", "runs/class", "--to", "darknet", "-o", "backup/class.weights")
    assert "filters=3" in Path("backup/class.cfg").read_text()  # of the data, in place of 9
