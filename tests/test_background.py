"""Images without objects that are added to a training set."""

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from accelerate import Accelerator

from boxwright import cli, recipe, tasks
from boxwright.data.dataset import Dataset
from boxwright.datatools.clean import Cleaning
from boxwright.engine import train
from boxwright.engine.datasets import open_checked
from boxwright.errors import InputError
from class_folder import RECIPE, write
from small_run import SMALL, lines

ONE_EPOCH = SMALL | {"train.epochs": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`empty` with three images, one of them in a folder, and a text; it is in the working folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("b.png", "a/a.jpg", "c.png"):
        (tmp_path / "empty" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "empty" / name), draw.integers(0, 255, (80, 96, 3)))
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    return tmp_path / "empty"


def opened(data: Any, changes: dict[str, Any], skip_bad: bool = False) -> tuple[Dataset, Dataset, list[str]]:
    roots = [str(root) for root in data] if isinstance(data, list) else str(data)
    resolved = recipe.load("demo", SMALL | {"data.root": roots} | changes)
    return open_checked(tasks.of(resolved), resolved, Cleaning(skip_bad), Accelerator(cpu=True))


def test_background_images_are_added_to_the_training_set_only(tiny_coco: Path, folder: Path) -> None:
    plain, validation, _ = opened(tiny_coco, {})
    train_set, val, left_out = opened(tiny_coco, {"data.background": ["empty", "empty/a"]})
    assert (len(train_set), len(val), left_out) == (12 + 3, len(validation), [])
    assert [train_set.path(index) for index in range(12, 15)] == ["empty/a/a.jpg", "empty/b.png", "empty/c.png"]
    assert train_set.starts.tolist() == plain.starts.tolist() + [len(plain.rows)] * 3
    assert train_set.names == plain.names
    assert train_set.images.labeled is None  # nothing is there of any class
    assert train_set.images.ids[:12].tolist() == plain.images.ids.tolist()
    assert train_set.images.ids[12:].tolist() == [-1, -2, -3]
    settings = recipe.load("demo", SMALL | {"train.batch": 15})
    (batch,) = tasks.of(settings).loader(train_set, settings, 0, 1).epoch(0)  # each once
    of_background = [row for row, frame in enumerate(batch.frames) if frame.path.startswith("empty")]
    assert len(of_background) == 3
    assert (batch.labels[of_background] == -1).all()


def test_background_images_have_sampling_weight_1(tiny_coco: Path, folder: Path) -> None:
    Path("sets.yaml").write_text(f"sets: [{{path: {tiny_coco}, weight: 3}}]\n")
    train_set, *_ = opened("sets.yaml", {"data.background": ["empty"]})
    assert train_set.members is not None
    assert train_set.members.weights().tolist() == [3] * 12 + [1] * 3
    assert train_set.own_id(11) == 12
    assert train_set.location(0, 0).endswith("annotations[0]")


def test_unreadable_background_images_can_be_skipped(tiny_coco: Path, folder: Path) -> None:
    (folder / "d.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"1 error, the first: empty/d\.jpg: .*repair or --skip-bad"):
        opened(tiny_coco, {"data.background": ["empty"]})
    train_set, _, left_out = opened(tiny_coco, {"data.background": ["empty"]}, skip_bad=True)
    assert len(train_set) == 15
    (line,) = left_out
    assert line.startswith("left out the image: background, image empty/d.jpg, ")


@pytest.mark.slow
def test_train_command_with_background_and_resume(tiny_coco: Path, folder: Path, log: list[str]) -> None:
    """The run's recipe has the folder, which may be moved, but not other images or none."""
    words = ["train", "demo", "--data", str(tiny_coco), "--out", "run", "--background", "empty"]
    settings = [word for key, value in ONE_EPOCH.items() for word in ("--set", f"{key}={value}")]
    with pytest.raises(SystemExit) as leaving:
        cli.main([*words, *settings])
    assert leaving.value.code == 0
    assert "3 images without objects, from empty" in "\n".join(log)
    assert lines(Path("run"))[-1]["step"] == (12 + 3) // 2
    assert recipe.load("run/recipe.yaml").data.background == ("empty",)
    shutil.move("empty", "moved")
    overrides = ONE_EPOCH | {"data.background": ["moved"]}
    train.train("demo", tiny_coco, "run", resume=True, overrides=overrides)
    for changes in ({"data.background": []}, {"data.background": ["moved/a"]}):
        with pytest.raises(InputError, match="the train images or labels have changed since"):
            train.train("demo", tiny_coco, "run", resume=True, overrides=overrides | changes)
    (Path("moved") / "c.png").write_bytes((Path("moved") / "b.png").read_bytes())
    with pytest.raises(InputError, match="the train images or labels have changed since"):
        train.train("demo", tiny_coco, "run", resume=True, overrides=overrides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "--background nowhere: there is no such folder; needed one of images without objects"),
        ("empty/b.png", "--background empty/b.png: there is no such folder; needed one of images without objects"),
        ("text", "--background text: holds no image (.jpg, "),
        ("linked", "--background: holds "),
        ("", "recipe demo: data.background.1: string should have"),
    ],
)
def test_invalid_background_folders_are_reported_in_one_line(
    tiny_coco: Path, folder: Path, capsys: Any, name: str, message: str
) -> None:
    Path("text").mkdir()
    (Path("text") / "a.txt").write_text("")
    Path("linked").mkdir()
    os.link(tiny_coco / "val" / "2.png", "linked/same.png")
    with pytest.raises(SystemExit) as leaving:
        cli.main(
            ["train", "demo", "--data", str(tiny_coco), "--out", "run", "--background", "empty", "--background", name]
        )
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"boxwright: {message}")
    assert len(line) <= 200
    if name == "linked":
        assert line.endswith("2.png of val, needed images of no split; move it")
    assert not Path("run").exists()


def test_images_of_the_training_set_are_rejected_as_background(tiny_coco: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"^--background: holds \S*train/1\.png of train, needed images of no split"):
        opened(tiny_coco, {"data.background": [str(tiny_coco / "train")]})


def test_classifiers_reject_background_images(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^recipe tiny_darknet_cifar10: data\.background: tiny_darknet is a classifier"
    ):
        train.train(RECIPE, write(tmp_path / "data", {"train": 1, "val": 1}), tmp_path / "run",
                    overrides={"data.background": ["empty"]})  # fmt: skip
