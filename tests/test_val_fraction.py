"""Training on a data set without a split `val`: a fraction held out in memory, or no evaluation."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import boxwright as bw
import class_folder
from boxwright import recipe as recipes
from boxwright import tasks
from boxwright.data.dataset import Dataset
from boxwright.datatools.check import check, skip_bad
from boxwright.datatools.tile import Cutting, tile
from boxwright.engine import train as training
from boxwright.errors import InputError
from boxwright.formats import open_boxes
from small_run import SMALL, lines, tensors

QUARTER = {"data.val_fraction": 0.25, "train.evaluate_every": 1}


@pytest.fixture(scope="module")
def only_train(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 12 training images of `tiny_coco` alone."""
    root = tmp_path_factory.mktemp("only_train")
    shutil.copytree(tiny_coco / "train", root / "train")
    (root / "annotations").mkdir()
    shutil.copy(tiny_coco / "annotations" / "train.json", root / "annotations")
    return root


def run(data: Path, out: Path, changes: dict[str, Any] | None = None, **words: Any) -> Path:
    return training.train("demo", data, out, overrides=SMALL | (changes or {}), **words)


def open_train_and_val(root: Path, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    recipe = recipes.load("demo", {"data.val_fraction": fraction, "train.seed": seed})
    task = tasks.of(recipe)
    train, val = (task.open(root, split, recipe.data) for split in ("train", "val"))
    return train, val


def test_train_and_val_are_disjoint_and_complete(only_train: Path) -> None:
    train, val = open_train_and_val(only_train, 0.25)
    assert (train.split, val.split, len(train), len(val)) == ("train", "val", 9, 3)
    everything = open_boxes(only_train, "train")
    assert sorted(train.images.ids.tolist() + val.images.ids.tolist()) == everything.images.ids.tolist()
    of_id = {sample.image_id: sample for sample in everything}
    for sample in [*train, *val]:
        assert sample.path == of_id[sample.image_id].path
        np.testing.assert_array_equal(sample.boxes, of_id[sample.image_id].boxes)
    assert [each.images.ids.tolist() for each in open_train_and_val(only_train, 0.25, seed=7)] == [
        each.images.ids.tolist() for each in (train, val)
    ]


def test_augmented_copies_stay_in_one_split(only_train: Path, tmp_path: Path) -> None:
    root = tmp_path / "copies"
    shutil.copytree(only_train, root)
    file = root / "annotations" / "train.json"
    tree = json.loads(file.read_text())
    for number, entry in enumerate(tree["images"]):
        name = f"photo{number % 4}_png.rf.{number:08x}.png"
        (root / "train" / entry["file_name"]).rename(root / "train" / name)
        entry["file_name"] = name
    file.write_text(json.dumps(tree))
    train, val = open_train_and_val(root, 0.25)
    names = [{Path(sample.path).name.split("_")[0] for sample in each} for each in (train, val)]
    assert [len(each) for each in names] == [3, 1]
    assert not names[0] & names[1]


def test_unreadable_label_is_an_error_of_its_split(tmp_path: Path) -> None:
    """As without a fraction: it is not left out in silence."""
    draw = np.random.default_rng(0)
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("car\n")
    for number in range(8):
        cv2.imwrite(str(tmp_path / "images" / "train" / f"{number}.png"), draw.integers(0, 255, (32, 32, 3)))
        fault = "0 0.5 0.5 word 0.1\n" if number == 5 else ""
        (tmp_path / "labels" / "train" / f"{number}.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{fault}")
    train, val = open_train_and_val(tmp_path, 0.25)
    assert (len(train), len(val)) == (6, 2)
    (error,) = [finding for each in (train, val) for finding in check(each).errors]
    part = {"train": train, "val": val}[error.split]
    assert error.index is not None
    assert Path(part.path(error.index)).name == Path(error.image).name == "5.png"
    clean = skip_bad(part, check(part))
    assert clean.rows.ignored.sum() == 1  # the image is an ignore region instead
    assert not check(clean).errors


def test_tiles_of_a_scene_stay_in_one_split_across_sets(only_train: Path, tmp_path: Path) -> None:
    """With the tiles of a scene, which overlap, in one part; `check` names each set."""
    roots = []
    for name in "ab":
        shutil.copytree(only_train, tmp_path / name)
        tile(tmp_path / name, tmp_path / f"tiles_{name}", Cutting(window=40, overlap=0.2))
        roots.append(tmp_path / f"tiles_{name}")
    dataset = open_boxes(roots, "train")
    recipe = recipes.load("demo", {"data.val_fraction": 0.25})
    train, val = (tasks.of(recipe).open(roots, split, recipe.data) for split in ("train", "val"))
    assert len(train) + len(val) == len(dataset)
    scenes = [{Path(path).name.split("__")[0] for path in each.paths()} for each in (train, val)]
    assert not scenes[0] & scenes[1]
    assert {*check(val).checked} == {"val", *(f"val of {root}" for root in roots)}


@pytest.mark.slow
def test_resume_and_evaluation_use_the_same_split(
    only_train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = run(only_train, tmp_path / "whole", QUARTER), tmp_path / "stopped"
    measured = json.loads((whole / "metrics.json").read_text())
    assert (measured["images"], measured["split"]) == (3, "val")
    evaluated = bw.evaluate(whole, only_train)
    assert evaluated.summary == measured["summary"]
    assert evaluated.info["split"] == "val"
    assert len(json.loads((whole / "detections.json").read_text())) > 0

    real = training.train_epoch

    def stop_at_the_second(job: Any, batches: Any, epoch: int, *words: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt
        real(job, batches, epoch, *words)

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_epoch", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            run(only_train, stopped, QUARTER)
    with pytest.raises(InputError, match=r"data\.val_fraction is 0\.25 there and 0\.5 now"):
        run(only_train, stopped, QUARTER | {"data.val_fraction": 0.5}, resume=True)
    run(only_train, stopped, QUARTER, resume=True)
    assert lines(stopped) == lines(whole)
    expected, found = tensors(whole / "last"), tensors(stopped / "last")
    assert all(expected[key].equal(found[key]) for key in expected)


@pytest.mark.slow
def test_training_without_val(only_train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network is that of a training with evaluation, which draws no random number; `last` is the result."""
    out = run(only_train, tmp_path / "out")
    assert not (out / "best").exists()
    assert not (out / "metrics.json").exists()
    assert (out / "curves.png").is_file()
    assert "not evaluated, there is no split val; last/ is the result" in capsys.readouterr().err
    assert all("AP" not in line for line in lines(out))
    assert bw.load(out).recipe.data.names == ("blue", "red")
    run(only_train, out, resume=True)  # complete already


@pytest.mark.slow
def test_weights_do_not_depend_on_evaluation(only_train: Path, tiny_coco: Path, tmp_path: Path) -> None:
    without, with_val = run(only_train, tmp_path / "without"), run(tiny_coco, tmp_path / "with")
    assert (with_val / "best").exists()
    expected, found = tensors(with_val / "last"), tensors(without / "last")
    assert expected.keys() == found.keys()
    assert all(expected[key].equal(found[key]) for key in expected)
    with pytest.raises(InputError, match="the val images or labels have changed since"):
        run(tiny_coco, without, resume=True)


def test_missing_val_error_suggests_val_fraction_and_data_split(only_train: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(only_train, tmp_path / "out", {"train.evaluate_every": 1})
    assert str(caught.value) == (
        f"{only_train}: holds only train, needed train and val; use --val-fraction 0.1, or "
        "`boxwright data split DIR -o NEW --parts train=0.8,val=0.2`"
    )
    assert not (tmp_path / "out").exists()


def test_val_fraction_with_existing_val_split_is_an_error(tiny_coco: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a split val, needed none with --val-fraction; leave one of them out"):
        run(tiny_coco, tmp_path / "out", {"data.val_fraction": 0.1})


def test_evaluation_prefers_an_existing_val_split(tiny_coco: Path) -> None:
    """A model that was trained with a fraction is evaluated on the `val` that there is."""
    assert (
        open_train_and_val(tiny_coco, 0.25)[1].images.ids.tolist() == open_boxes(tiny_coco, "val").images.ids.tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["all", "train"])
def test_val_fraction_of_label_studio_and_roboflow_exports(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label Studio's YOLO export is one flat folder; Roboflow's has only `train` if nothing else was chosen."""
    from boxwright import cli
    from test_split import yolo

    root = yolo(tmp_path / "data", {f"photo{n}_jpg.rf.0a1b2c3{n}.jpg": [0, 1] for n in range(4)})
    if layout == "all":
        for kind in ("images", "labels"):
            (root / "train" / kind).rename(root / kind)
        (root / "train").rmdir()
    settings = {"train.epochs": 1, "train.evaluate_every": 1, "data.canvas.size": [64, 64], "data.workers": 0}
    words = [f"{key}={json.dumps(value)}" for key, value in (SMALL | settings).items()]
    command = ["train", "demo", "--data", str(root), *(part for word in words for part in ("--set", word))]
    for out, more, status in (
        ("a", [], 2),
        ("b", ["--set", "train.evaluate_every=0"], 0),
        ("c", ["--val-fraction", "0.25"], 0),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, "--out", str(tmp_path / out), *more])
        assert caught.value.code == status, capsys.readouterr()
    message = capsys.readouterr().err
    assert f"holds only {layout}, needed train and val" in message
    assert f"val: 1 of the 4 images of {layout} (data.val_fraction 0.25)" in message
    assert (tmp_path / "c" / "best").exists()
    assert recipes.load(tmp_path / "c" / "recipe.yaml").data.val_fraction == 0.25


@pytest.mark.slow
def test_val_fraction_of_a_classifier(tmp_path: Path) -> None:
    root = class_folder.write(tmp_path / "data", {"train": 8})
    changes = class_folder.SMALL | {"train.epochs": 1, "data.val_fraction": 0.25}
    out = training.train(class_folder.RECIPE, root, tmp_path / "out", overrides=changes)
    measured = json.loads((out / "metrics.json").read_text())
    assert measured["images"] == 6
    assert bw.evaluate(out, root).summary == measured["summary"]
    recipe = recipes.load(class_folder.RECIPE, changes)
    assert tasks.of(recipe).open(root, "val", recipe.data).counts().tolist() == [2, 2, 2]


def test_too_few_images_to_split_is_an_error(tmp_path: Path) -> None:
    from test_split import yolo

    root = yolo(tmp_path / "data", {f"a_jpg.rf.{n:08x}.jpg": [0] for n in range(3)})
    with pytest.raises(InputError, match="3 images in 1 group whose images stay together"):
        open_train_and_val(root, 0.1)
