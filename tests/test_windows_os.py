"""Differences on Windows that can be tested on Linux: rules for files, paths with backslashes, spawned processes."""

import importlib.util
import json
import mmap
import multiprocessing
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import cv2
import numpy as np
import pytest

import boxwright as bw
import class_folder
import small_run
from boxwright import cli
from boxwright.batches.loader import EpochLoader
from boxwright.cache import VARIABLE
from boxwright.images.fetch import is_image_address
from boxwright.remote.address import is_remote, local_name, parse
from boxwright.video.sources import is_address, is_video
from windows_rules import windows_rules


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    with windows_rules(tmp_path, monkeypatch):
        yield tmp_path


@pytest.fixture
def spawn() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(list(map(str, words)))
    assert leaving.value.code == 0


def test_emulated_windows_rules(windows: Path) -> None:
    file, folder = windows / "a", windows / "b"
    file.write_bytes(b"1")
    folder.mkdir()
    with pytest.raises(PermissionError):
        os.open(folder, os.O_RDONLY)
    with pytest.raises(PermissionError):
        file.replace(folder)
    for name in ("a:b", "Aux.txt", "a ", "a?"):
        with pytest.raises(OSError, match="Windows"):
            (windows / name).write_bytes(b"")
    with file.open("rb") as stream:
        with pytest.raises(PermissionError, match="is open"):
            file.unlink()
        with pytest.raises(OSError, match="descriptor"):
            os.fsync(stream)
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ):
        stream.close()
        with pytest.raises(PermissionError, match="is open"):
            file.unlink()
    with pytest.raises(OSError, match="privilege"):
        (windows / "c").symlink_to(file)
    file.unlink()


@pytest.mark.slow
@pytest.mark.usefixtures("spawn")
def test_train_resume_evaluate_and_predict_under_windows_rules(windows: Path, tiny_coco: Path) -> None:
    """From an archive, whose tree is in the cache, into folders whose names have a space."""
    data, folder, changes = windows / "my set.zip", windows / "my run", {"data.canvas.size": [64, 64]}
    with zipfile.ZipFile(data, "w") as archive:
        for file in tiny_coco.rglob("*.*"):
            archive.write(file, file.relative_to(tiny_coco))
    changes |= {"data.workers": 1, "train.evaluate_every": 1, "train.keep_checkpoints": 1}
    small_run.run(data, folder, changes)
    bw.train("demo", data, folder, overrides=small_run.SMALL | changes, resume=True)
    run("evaluate", folder, "--data", data, "--out", windows / "ev", "--no-interval", "--set", "data.workers=1")
    run("predict", folder, tiny_coco / "val", "--out", windows / "boxes")
    if importlib.util.find_spec("pyarrow"):
        run("predict", folder, tiny_coco / "val", "--out", windows / "table", "--as", "parquet")
        assert [*(windows / "table").glob("*.parquet")]
    assert {file.name for file in (windows / "boxes").iterdir()} >= {"detections.json"}
    assert json.loads((windows / "ev" / "metrics.json").read_text())["summary"]


@pytest.mark.slow
def test_data_commands_under_windows_rules(windows: Path, tiny_coco: Path) -> None:
    run("data", "check", tiny_coco, "--report", windows / "report.json")
    run("data", "convert", tiny_coco, "--to", "yolo_txt", "--out", windows / "yolo")
    run(
        "data",
        "split",
        windows / "yolo",
        "--out",
        windows / "parts",
        "--parts",
        "train=0.5,test=0.5",
        "--split",
        "train",
    )
    run("data", "tile", windows / "parts", "--out", windows / "tiles", "--window", 48)
    (windows / "merged").mkdir()  # an empty folder may be there
    run("data", "merge", windows / "tiles", windows / "parts", "--to", "coco", "--out", windows / "merged")
    assert bw.open_dataset(windows / "merged", "train").names == ("blue", "red")


@pytest.mark.slow
def test_loaders_can_be_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_coco: Path) -> None:
    """As for spawned processes: of detectors with several sets, and of classifiers."""
    found: list[str] = []
    start = EpochLoader._start_workers

    def pickled(self: EpochLoader[Any]) -> Iterator[Any]:
        found.append(type(pickle.loads(pickle.dumps(self._loader.dataset))).__name__)
        return start(self)

    monkeypatch.setattr(EpochLoader, "_start_workers", pickled)
    changes: dict[str, Any] = {"data.canvas.size": [64, 64], "train.epochs": 1, "train.augment.mosaic": 0.5}
    (tmp_path / "both.yaml").write_text(json.dumps({"sets": [{"path": str(tiny_coco)}] * 2}))
    small_run.run(tmp_path / "both.yaml", tmp_path / "a", changes)
    classes = class_folder.write(tmp_path / "classes", {"train": 4, "val": 1})
    small_run.run(classes, tmp_path / "b", {"train.epochs": 1}, class_folder.RECIPE, class_folder.SMALL)
    assert set(found) == {"_DetectionBatchBuilder", "_ClassBatchBuilder"}


# --- paths


@pytest.mark.parametrize(
    "path", [r"C:\data\my set\images", r"data\mine", r"s3\set", r"\\server\share\set", "C:/data/a"]
)
def test_windows_paths_are_not_read_as_addresses(path: str) -> None:
    assert not is_remote(PureWindowsPath(path))
    assert not is_remote(path)
    assert not is_image_address(path + r"\a.jpg")
    assert not is_video(path + r"\a.jpg")
    assert not is_address(path)
    assert not is_address(path + r"\a.mp4")
    assert local_name(path) == Path(path)


@pytest.mark.parametrize("address", ["s3://bucket/set/a b", "obs://bucket/set", "https://host:80/a.jpg"])
def test_addresses_in_windows_paths_are_recognized(address: str) -> None:
    path = PureWindowsPath(address)
    assert is_remote(path)
    assert parse(path) == parse(str(path)) == parse(address)


def image_set(root: Path) -> None:
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        cv2.imwrite(str(root / "images" / split / f"{split} 1.png"), np.full((40, 80, 3), 90, np.uint8))
        (root / "labels" / split / f"{split} 1.txt").write_bytes("1 0.5 0.5 0.25 0.5\r\n".encode("utf-8-sig"))


def yolo(root: Path) -> Path:
    image_set(root)
    text = "path: C:\\data\\my set\r\ntrain: images\\train\r\nval: C:\\data\\my set\\images\\val\r\nnames: [a, b]\r\n"
    (root / "data.yaml").write_bytes(text.encode("utf-8-sig"))  # as Notepad writes it
    return root / "data.yaml"


def yolo_lists(root: Path) -> Path:
    image_set(root)
    for split, folder in (
        ("train", "C:\\data\\my set\\images"),
        ("val", "images"),
    ):
        (root / f"{split}.txt").write_bytes(f"{folder}\\{split}\\{split} 1.png\r\n".encode("utf-8-sig"))
    (root / "data.yaml").write_bytes(b"train: .\\train.txt\r\nval: 'C:\\old\\val.txt'\r\nnames: [a, b]\r\n")
    return root / "data.yaml"


def darknet(root: Path) -> Path:
    yolo_lists(root)
    (root / "data.yaml").unlink()
    (root / "obj.names").write_bytes(b"a\r\nb\r\n")
    lines = (
        "classes = 2\r\ntrain = data\\train.txt\r\nvalid = C:\\darknet\\data\\val.txt\r\nnames = data\\obj.names\r\n"
    )
    (root / "obj.data").write_bytes(f"{lines}backup = backup\\\r\n".encode("utf-8-sig"))
    return root / "obj.data"


def voc(root: Path) -> Path:
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        cv2.imwrite(str(root / split / f"{split} 1.png"), np.full((40, 80, 3), 90, np.uint8))
        text = f"<annotation><folder>{split}</folder><filename>{split} 1.png</filename>"
        text += f"<path>C:\\data\\my set\\{split}\\{split} 1.png</path><size><width>80</width><height>40</height>"
        text += "<depth>3</depth></size><object><name>b</name><bndbox><xmin>30</xmin><ymin>10</ymin><xmax>50</xmax>"
        text += "<ymax>30</ymax></bndbox></object></annotation>"
        (root / split / f"{split} 1.xml").write_bytes(text.replace("><", ">\r\n<").encode())
    return root


def coco(root: Path) -> Path:
    image_set(root)
    shutil.rmtree(root / "labels")
    (root / "annotations").mkdir()
    for split, folder in (("train", "images\\train"), ("val", "C:\\data\\my set\\images\\val")):
        images = [{"id": 1, "file_name": f"{folder}\\{split} 1.png", "width": 80, "height": 40}]
        boxes = [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [30, 10, 20, 20], "area": 400, "iscrowd": 0}]
        labels = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        (root / "annotations" / f"{split}.json").write_text(json.dumps(labels))
    return root


def table(root: Path) -> Path:
    image_set(root)
    shutil.rmtree(root / "labels")
    for split, folder in (("train", "images\\train"), ("val", "C:\\data\\my set\\images\\val")):
        line = f"{folder}\\{split} 1.png,80,40,b,30,10,50,30\r\n"
        (root / f"{split}.csv").write_bytes(f"filename,width,height,class,xmin,ymin,xmax,ymax\r\n{line}".encode())
    return root


@pytest.mark.parametrize("write", [yolo, yolo_lists, darknet, voc, coco, table])
def test_data_sets_written_on_windows_are_read(write: Callable[[Path], Path], tmp_path: Path) -> None:
    place = write(tmp_path / "my set")
    for split in ("train", "val"):
        dataset = bw.open_dataset(place, split)
        assert [Path(dataset.path(index)).name for index in range(len(dataset))] == [f"{split} 1.png"]
        assert Path(dataset.path(0)).is_file()
        sample = dataset[0]
        assert [dataset.names[label] for label in sample.labels.tolist()] == ["b"]
        assert np.abs(sample.boxes - [[30, 10, 50, 30]]).max() <= 1  # VOC's pixels count from 1


def test_double_quoted_backslashes_in_yaml_are_an_error(tmp_path: Path) -> None:
    """In YAML they are escapes: a valid one would name another path."""
    image_set(tmp_path)
    for written in (r"C:\data\train", r"C:\new\train"):
        (tmp_path / "data.yaml").write_text(f'train: "{written}"\nnames: [a, b]\n')
        with pytest.raises(bw.InputError, match="in double quotes are escapes"):
            bw.open_dataset(tmp_path / "data.yaml", "train")
