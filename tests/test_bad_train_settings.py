"""Invalid settings of a training: one line, exit status 2, and no run folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from boxwright import cli
from boxwright.engine import auto_batch
from boxwright.engine.train import train
from boxwright.errors import InputError

SMALL = {"model.width": 0.125, "data.canvas.size": [32, 32], "data.workers": 0, "train.epochs": 1}


@pytest.mark.parametrize("split", ["train", "val"])
def test_split_without_objects_is_rejected(tiny_coco: Path, tmp_path: Path, split: str) -> None:
    """Every evaluation would be undefined, and the first network the best."""
    copy = shutil.copytree(tiny_coco, tmp_path / "data")
    file = copy / "annotations" / f"{split}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(InputError, match=f"split {split} holds no object, needed some to"):
        train("demo", copy, tmp_path / "run", overrides=SMALL)
    assert not (tmp_path / "run").exists()


def test_images_shared_by_splits_are_logged(tiny_coco: Path, tmp_path: Path, log: list[str]) -> None:
    train("demo", tiny_coco / "annotations" / "val.json", tmp_path / "run", overrides=SMALL | {"train.batch": 2})
    assert any(line.startswith("4 of 4 images of val are also in train") for line in log)


def test_batch_of_one_image_with_1x1_feature_map_is_rejected(tiny_coco: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one image of 32 x 32 px gives a map of 1 x 1"):
        train("demo", tiny_coco, tmp_path / "run", overrides=SMALL | {"train.batch": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.optimizer.kind=adamx"], "train.optimizer.kind: input should be 'sgd' or 'adamw' (found 'adamx')"),
        (["train.patience=2", "train.evaluate_every=0"], "patience counts evaluations, and evaluate_every is 0; set"),
        (["train.minutes=0"], "train.minutes: input should be greater than 0 (found 0)"),
        (["train.class_weights={gren: 2}"], "train.class_weights: there is no class 'gren'; there are blue, red"),
        (["train.batch=auto"], "a step with one image of 96 x 96 px takes 0.0"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(
    tiny_coco: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, settings: Any, message: str
) -> None:
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 1000)
    out = tmp_path / "run"
    small = ["model.width=0.125", "data.canvas.size=[96,96]", "data.workers=0", "train.epochs=1"]
    words = [word for setting in small + settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "demo", "--data", str(tiny_coco), "--out", str(out), *words])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert line.startswith("boxwright: ")
    assert message in line
    assert len(line) <= 200 + len("boxwright: ")
    assert not out.exists()
