"""Files written whole or not at all: what is left of a killed process, names of any length, a disk that is full."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from boxwright import cli, files
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import report_folder
from boxwright.formats import open_dataset
from boxwright.runtimes import openvino, pt2, torchscript
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.serialization import onnx_file

KILLED = """
import os, signal
from pathlib import Path
from boxwright import files
parent = Path({target!r}).parent
with files.{writer}(parent if {writer!r} == "temporary_folder" else Path({target!r})) as tmp:
    (tmp / "a" if tmp.is_dir() else tmp).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def forget_checked_folders() -> Iterator[None]:
    files.remove_leftovers.cache_clear()
    yield
    files.remove_leftovers.cache_clear()


@pytest.mark.parametrize("writer", ["atomic_write", "new_folder", "atomic_write_group", "temporary_folder"])
def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, writer: str) -> None:
    code = KILLED.format(writer=writer, target=str(tmp_path / "killed"))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with files.atomic_write(tmp_path / "next") as tmp:
        tmp.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["next"]


def test_empty_output_folder_is_removed(tmp_path: Path) -> None:
    """Also its parents; but no folder that was there before, and none that holds something."""
    (tmp_path / "mine").mkdir()
    for name in ("new/a/b", "mine", "mine/c"):
        with suppress(InputError), files.output_folder(tmp_path / name) as folder:
            assert folder.is_dir()
            raise InputError("no image")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    with files.output_folder(tmp_path / "new" / "a") as folder:
        (folder / "x").write_text("")
    assert (tmp_path / "new" / "a" / "x").exists()


def test_files_of_other_processes_and_users_are_kept(tmp_path: Path) -> None:
    machine, dead = files._machine(), subprocess.Popen(["true"])
    dead.wait()
    kept = {
        f".boxwright-{machine}-{os.getpid()}-00000000.part",  # of a process that lives
        f".boxwright-00000000-{dead.pid}-00000000.part",  # of another machine
        f".boxwright-{machine}-{dead.pid}-mine.part",
        f"boxwright-{machine}-{dead.pid}-00000000.part",
        ".notes.abcdefgh.part",
    }
    old = tmp_path / f".boxwright-00000000-{dead.pid}-11111111.part"
    for name in kept | {old.name, f".boxwright-{machine}-{dead.pid}-00000000.part"}:
        (tmp_path / name).write_text("x")
    os.utime(old, (0, time.time() - 8 * 24 * 3600))
    files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("writer", [files.atomic_write, files.atomic_write_group])
def test_file_names_of_maximum_length(tmp_path: Path, writer: type) -> None:
    target = tmp_path / ("n" * 255)
    with writer(target) as tmp:
        (tmp.parent / tmp.name).write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_new_files_and_folders_follow_the_umask(tmp_path: Path) -> None:
    code = f"""
import os
os.umask(0o027)
from boxwright import files
assert os.umask(0o027) == 0o027
with files.atomic_write({str(tmp_path / "whole")!r}) as tmp:
    tmp.unlink()  # as writers do that replace their file
    tmp.touch(0o600)
with files.atomic_write_group({str(tmp_path / "together")!r}) as tmp:
    tmp.touch(0o600)
with files.new_folder({str(tmp_path / "folder")!r}) as tmp:
    pass
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"whole": 0o640, "together": 0o640, "folder": 0o750}


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a disk that fills up: writing further fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("writer", [files.atomic_write, files.atomic_write_group, files.new_folder])
def test_full_disk_reported_by_an_exception_of_a_library(tmp_path: Path, writer: type) -> None:
    def fill(tmp: Path) -> None:
        with pytest.raises(OSError, match="File too large"):
            (tmp / "a" if tmp.is_dir() else tmp).write_bytes(bytes(2000))
        raise RuntimeError("enforce fail at inline_container.cc")

    with pytest.raises(InputError) as error, no_file_beyond(1000), writer(tmp_path / "a.bin") as tmp:
        fill(tmp)
    assert str(error.value) == f"{tmp_path / 'a.bin'}: cannot be written (File too large)"
    assert list(tmp_path.iterdir()) == []


def test_programming_errors_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.atomic_write(tmp_path / "a.bin") as tmp:
        tmp.write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def write_openvino(graph: Graph, path: Path, metadata: str) -> None:
    onnx_file.write(graph, path.with_suffix(".onnx"), metadata)
    model = openvino.read(path.with_suffix(".onnx"))
    path.with_suffix(".onnx").unlink()
    with no_file_beyond(3000):
        openvino.save(model, path, metadata)


@pytest.mark.parametrize(
    ("writer", "name"),
    [
        pytest.param(onnx_file.write, "a.onnx", marks=pytest.mark.runtimes),
        (torchscript.write, "a.torchscript"),
        (pt2.write, "a.pt2"),
        pytest.param(write_openvino, "a.xml", marks=pytest.mark.runtimes),
    ],
)
def test_full_disk_is_one_line_in_every_format(tmp_path: Path, writer: type, name: str) -> None:
    graph = Graph(nn.Conv2d(3, 64, 3).eval(), {"images": torch.zeros(1, 3, 8, 8)}, ("out",), {})
    limit = (1 << 20) if name == "a.xml" else 3000
    with pytest.raises(InputError, match=f"^{tmp_path / name}: cannot be written") as error, no_file_beyond(limit):
        writer(graph, tmp_path / name, "metadata")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    read = [tmp_path / "other" / "sheet.jpg", tmp_path / "linked" / "sheet.jpg"]
    files.check_outputs(tmp_path, ["metrics.json"], read)
    files.check_outputs(tmp_path / "new", ["sheet.jpg"], read)
    with pytest.raises(InputError, match=r"linked/sheet\.jpg: is an input, and would be overwritten"):
        files.check_outputs(tmp_path, ["sheet.jpg", "metrics.json"], read)


def test_unrelated_companion_file_is_not_overwritten(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        with files.atomic_write_group(tmp_path / name) as tmp:
            tmp.write_text(text)
            tmp.with_suffix(".bin").write_text(text)

    (tmp_path / "ww.bin").write_text("mine")
    with pytest.raises(InputError, match=rf"^{tmp_path}/ww\.bin: exists without ww\.xml, and would be overwritten"):
        write("ww.xml", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"ww.bin": "mine"}
    for text in ("first", "second"):  # an earlier one is replaced
        write("a.xml", text)
        assert [(tmp_path / f"a{suffix}").read_text() for suffix in (".xml", ".bin")] == [text, text]


def scenes_of(folder: Path) -> Path:
    """A COCO JSON of two images in folder/images/train and folder/images/more."""
    entries = []
    for number, name in enumerate(("train/a.png", "more/b.png"), 1):
        file = folder / "images" / name
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), np.zeros((20, 30, 3), np.uint8))
        entries.append({"id": number, "file_name": name, "width": 30, "height": 20})
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}]
    tree = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "ship"}]}
    (folder / "train.json").write_text(json.dumps(tree))
    (folder / "set.yaml").write_text("train: train.json\nimages: images\n")
    return folder / "set.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["show", "tile"])
def test_output_among_the_images_is_rejected(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = scenes_of(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data" / "images" / "more")
    before = sorted((tmp_path / "data").rglob("*"))
    for out in ("data/images/train", "data/images/train/new", "data/images/more/a/b", "link/new"):
        assert status("data", verb, str(source), "--out", str(tmp_path / out)) == 2
        assert "which holds images of the data set; choose another folder" in capsys.readouterr().err, out
        assert sorted((tmp_path / "data").rglob("*")) == before
    for out in ("data/new", "data/images/new", "new"):
        assert status("data", verb, str(source), "--out", str(tmp_path / out)) == 0, capsys.readouterr().err
        assert any((tmp_path / out).rglob("*.png"))


@pytest.mark.parametrize(
    "command",
    [
        "data split . --parts train=0.5,val=0.5 --out new",
        "data convert . --to voc --out new",
        "data convert . --to folder --out new",
        "data anchors . --split all --count 1 --out new",
        "train demo --data . --val-fraction 0.5 --out runs/new",
    ],
)
def test_output_below_images_of_a_flat_folder_is_rejected(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are found in all subfolders of such a data set, so those of the output would be in it."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(256, size=(20, 30, 3)))
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("ship\n")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert status(*command.split()) == 2
    assert "new: lies in ., which holds images of the data set; choose another folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    with (
        pytest.raises(InputError, match="evaluation: lies in"),
        report_folder("evaluation", [], [open_dataset(".", "all")]),
    ):
        pass


def test_output_among_class_folders_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder beside the class folders would be a class."""
    rng = np.random.default_rng(0)
    for name in ("cat/a", "cat/b", "dog/a", "dog/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(256, size=(20, 30, 3)))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert status("data", "split", ".", "--parts", "train=0.5,val=0.5", "--out", "new") == 2
    assert "new: lies in ., which holds images of the data set; choose another folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_tiles_among_the_scenes_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = scenes_of(tmp_path / "data")
    source = source.rename(tmp_path / "set.yaml")
    source.write_text("root: data\ntrain: train.json\nimages: images\n")
    before = sorted((tmp_path / "data").rglob("*"))
    assert status("data", "tile", str(source), "--out", str(tmp_path / "data")) == 2
    assert "holds images of the data set" in capsys.readouterr().err
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_drawings_in_a_folder_of_classes_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "set" / "train" / name / "a.png"), np.zeros((20, 30, 3), np.uint8))
    for out, ends in (("set/train/labels", 2), ("set/train/cat/labels", 2), ("labels", 0)):
        assert status("data", "show", str(tmp_path / "set"), "--out", str(tmp_path / out)) == ends, out
    assert not (tmp_path / "set" / "train" / "labels").exists()


def status(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    assert isinstance(end.value.code, int)
    return end.value.code
