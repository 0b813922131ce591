"""What Windows does otherwise, as far as Linux shows it: rules for files, paths with backslashes, spawned processes."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
import pytest

import boxwright as bw
import small_run
from boxwright.images.fetch import is_image_address
from boxwright.remote.address import is_remote, local_name, parse
from boxwright.video.sources import is_address, is_video
from windows_rules import windows_rules


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with windows_rules(tmp_path, monkeypatch):
        yield tmp_path


def test_the_rules_themselves(windows: Path) -> None:
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
    with pytest.raises(OSError, match="privilege"):
        (windows / "c").symlink_to(file)
    file.unlink()


def test_train_and_resume(windows: Path, tiny_coco: Path) -> None:
    run = windows / "my run"
    changes: dict[str, object] = {"train.keep_checkpoints": 1, "train.evaluate_every": 1, "data.canvas.size": [64, 64]}
    small_run.run(tiny_coco, run, changes)
    bw.train("demo", tiny_coco, run, overrides=small_run.SMALL | changes, resume=True)
    assert (run / "last" / "model.safetensors").is_file()


# --- paths


@pytest.mark.parametrize(
    "path", [r"C:\data\my set\images", r"data\mine", r"s3\set", r"\\server\share\set", "C:/data/a"]
)
def test_paths_of_windows_are_no_addresses(path: str) -> None:
    assert not is_remote(PureWindowsPath(path))
    assert not is_remote(path)
    assert not is_image_address(path + r"\a.jpg")
    assert not is_video(path + r"\a.jpg")
    assert not is_address(path)
    assert not is_address(path + r"\a.mp4")
    assert local_name(path) == Path(path)


@pytest.mark.parametrize("address", ["s3://bucket/set/a b", "obs://bucket/set", "https://host:80/a.jpg"])
def test_addresses_stay_addresses_in_paths_of_windows(address: str) -> None:
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
def test_sets_that_were_written_on_windows(write: Callable[[Path], Path], tmp_path: Path) -> None:
    place = write(tmp_path / "my set")
    for split in ("train", "val"):
        dataset = bw.open_dataset(place, split)
        assert [Path(dataset.path(index)).name for index in range(len(dataset))] == [f"{split} 1.png"]
        assert Path(dataset.path(0)).is_file()
        sample = dataset[0]
        assert [dataset.names[label] for label in sample.labels.tolist()] == ["b"]
        assert np.abs(sample.boxes - [[30, 10, 50, 30]]).max() <= 1  # VOC's pixels count from 1


def test_double_quotes_around_backslashes(tmp_path: Path) -> None:
    """In YAML they are escapes: a valid one would name another path."""
    image_set(tmp_path)
    for written in (r"C:\data\train", r"C:\new\train"):
        (tmp_path / "data.yaml").write_text(f'train: "{written}"\nnames: [a, b]\n')
        with pytest.raises(bw.InputError, match="in double quotes are escapes"):
            bw.open_dataset(tmp_path / "data.yaml", "train")
