"""Broken input through the real command line: one clear line, a status, nothing half-written, no traceback."""

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from boxwright import cli, models, recipe
from boxwright.datatools import scenes
from boxwright.weights import checkpoint

SMALL = {
    "model.width": 0.0625,
    "data.canvas.size": [64, 64],
    "data.workers": 0,
    "data.names": list(scenes.NAMES),
    "train.epochs": 1,
    "train.batch": 2,
}
SETTINGS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/: four and two small scenes in COCO layout. w.safetensors: a small network with random weights."""
    folder = tmp_path_factory.mktemp("originals")
    scenes.write_dataset(folder / "data", train=4, val=2, size=64)
    small = recipe.load("demo", SMALL)
    checkpoint.save(folder / "w.safetensors", models.build(small.model), small)
    Image.fromarray(scenes.render(0, 9, 64).image).save(folder / "good.png")
    return folder


@pytest.fixture
def place(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the originals as the working folder."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(word) for word in words])
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def assert_rejected(capsys: pytest.CaptureFixture[str], *arguments: str, words: tuple[str, ...]) -> None:
    """The command fails with one line that has each of `words`, and makes and changes no file."""
    before = listing(Path.cwd())
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.strip()]
    messages = [line for line in lines if line.startswith("boxwright: ")]
    assert len(messages) == 1, error
    assert lines[-1] == messages[0], error
    assert all("left" in line or "checking" in line for line in lines[:-1]), error  # progress on slow machines
    for word in words:
        assert word in messages[0], messages[0]
    assert "Traceback" not in error
    assert listing(Path.cwd()) == before


def edit_json(change: Callable[[Tree], None], split: str = "train") -> None:
    file = Path("data/annotations") / f"{split}.json"
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


# --- labels


def test_truncated_json_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "data/annotations/train.json"
    file.write_text(file.read_text()[:500])
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("train.json",))
    assert_rejected(capsys, "data", "check", "data", words=("train.json",))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_missing_coco_section_is_rejected(key: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(lambda tree: tree.pop(key))
    assert_rejected(capsys, "data", "check", "data", words=("train.json", key))


@pytest.mark.parametrize(
    ("section", "key"),
    [("images", "file_name"), ("annotations", "bbox"), ("annotations", "image_id"), ("categories", "name")],
)
def test_missing_coco_key_is_rejected(section: str, key: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(lambda tree: tree[section][0].pop(key))
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("train.json", section, key))


@pytest.mark.parametrize(
    ("form", "value"),
    [("text", "here"), ("three numbers", [1, 2, 3]), ("strings", ["a", "b", "c", "d"]), ("null", None)],
)
def test_invalid_bbox_value_is_rejected(
    form: str, value: object, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(lambda tree: tree["annotations"][1].update(bbox=value))
    assert_rejected(
        capsys, "train", "demo", "--data", "data", *SETTINGS, words=("train.json", "annotations[1]", "bbox: found")
    )
    assert run("data", "check", "data") == 1
    assert "train.json annotations[1], image " in capsys.readouterr().out


WRONG_LABELS: dict[str, tuple[Callable[[Tree], None], str]] = {
    "nan box": (lambda tree: tree["annotations"][0].update(bbox=[float("nan"), 1, 5, 5]), "not finite"),
    "infinite box": (lambda tree: tree["annotations"][0].update(bbox=[1, 1, float("inf"), 5]), "not finite"),
    "negative box": (lambda tree: tree["annotations"][0].update(bbox=[9, 9, -5, 5]), "negative"),
    "box without area": (lambda tree: tree["annotations"][0].update(bbox=[9, 9, 0, 5]), "no area"),
    "box outside": (lambda tree: tree["annotations"][0].update(bbox=[200, 9, 10, 5]), "out of"),
    "unknown category": (lambda tree: tree["annotations"][0].update(category_id=99), "99"),
    "unknown image": (lambda tree: tree["annotations"][0].update(image_id=12345), "12345"),
    "duplicate box": (lambda tree: tree["annotations"].append(tree["annotations"][0] | {"id": 9999}), "annotations[0]"),
    "size unlike the file": (lambda tree: tree["images"][0].update(width=99), "99"),
    "missing image": (lambda tree: tree["images"][0].update(file_name="gone.jpg"), "gone.jpg"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_invalid_label_is_reported_and_rejected(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`data check` names it and ends with 1; training rejects it; with --skip-bad training logs and omits it."""
    change, expected = WRONG_LABELS[name]
    edit_json(change)
    assert run("data", "check", "data", "--report", "report.json") == 1
    assert expected in capsys.readouterr().out
    findings = json.loads(Path("report.json").read_text())
    assert findings["errors"] >= 1
    assert any(expected in json.dumps(found) for found in findings["findings"])
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("data", expected, "--skip-bad"))


@pytest.mark.slow
def test_skip_bad_logs_omitted_annotations(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(WRONG_LABELS["nan box"][0])
    assert run("train", "demo", "--data", "data", "--out", "out", "--skip-bad", *SETTINGS) == 0
    error = capsys.readouterr().err
    assert "left out" in error
    assert "annotations[0]" in error


def test_duplicate_image_id_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(lambda tree: tree["images"][1].update(id=tree["images"][0]["id"]))
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("train.json",))


def test_duplicate_category_id_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(lambda tree: tree["categories"][1].update(id=tree["categories"][0]["id"]))
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("train.json",))


def test_missing_data_set_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    assert_rejected(capsys, "train", "demo", "--data", "empty", words=("empty", "no data set"))
    assert_rejected(capsys, "train", "demo", "--data", "nowhere", words=("nowhere",))
    assert_rejected(capsys, "train", "demo", "--data", "empty", "--transfer", words=("--transfer", "without --weights"))
    assert_rejected(capsys, "data", "check", "good.png", words=("good.png",))
    assert_rejected(capsys, "data", "show", "empty", words=("empty",))


def test_unknown_split_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_rejected(
        capsys, "evaluate", "w.safetensors", "--data", "data", "--split", "test", words=("test", "train, val")
    )
    assert_rejected(capsys, "data", "check", "data", "--split", "tset", words=("tset",))


def test_fewer_images_than_batch_size_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "demo", "--data", "data", *SETTINGS, "--set", "train.batch=64"]
    before = listing(place)
    assert run(*words) == 2
    assert "train.batch" in capsys.readouterr().err
    made = {name for name in listing(place) if name not in before}
    assert {Path(name).name for name in made} <= {"recipe.yaml"}


# --- images


def _gray16(path: str) -> None:
    cv2.imwrite(path, (np.arange(48 * 64).reshape(48, 64) * 20).astype(np.uint16))


UNUSUAL: dict[str, Callable[[str], object]] = {
    "one_pixel.png": lambda path: Image.new("RGB", (1, 1), (9, 99, 200)).save(path),
    "thin.png": lambda path: Image.new("RGB", (300, 1), (9, 99, 200)).save(path),
    "gray.jpg": lambda path: Image.new("L", (64, 48), 90).save(path),
    "gray.png": lambda path: Image.new("L", (64, 48), 90).save(path),
    "sixteen.png": _gray16,
    "sixteen_rgb.png": lambda path: cv2.imwrite(path, np.full((48, 64, 3), 30000, np.uint16)),
    "cmyk.jpg": lambda path: Image.new("CMYK", (64, 48), (10, 200, 30, 0)).save(path),
    "alpha.png": lambda path: Image.new("RGBA", (64, 48), (10, 200, 30, 128)).save(path),
    "gray_alpha.png": lambda path: Image.new("LA", (64, 48), (90, 128)).save(path),
    "palette.png": lambda path: Image.new("P", (64, 48), 3).save(path),
    "black_and_white.png": lambda path: Image.new("1", (64, 48), 1).save(path),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_image_modes_are_predicted(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    UNUSUAL[name](name)
    assert run("predict", "w.safetensors", name, "--out", "found") == 0
    assert capsys.readouterr().err == ""
    tree = json.loads(Path("found/detections.json").read_text())
    assert tree["failed"] == {}
    with Image.open(name) as image, Image.open(Path("found") / name) as drawn:
        assert drawn.size == image.size


def _cut(path: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    Path(path).write_bytes(Path(path).read_bytes()[:900])


def _bomb(path: str) -> None:
    """A PNG header that promises 60,000 x 60,000 px, and nothing after it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + b"\0\0\0\0")


BROKEN: dict[str, Callable[[str], object]] = {
    "text.jpg": lambda path: Path(path).write_text("dear image, " * 50),
    "zero.png": lambda path: Path(path).write_bytes(b""),
    "cut.jpg": _cut,
    "cut.png": _cut,
    "bomb.png": _bomb,
    "html.png": lambda path: Path(path).write_text("<html>404</html>"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_image_is_reported_and_others_are_predicted(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BROKEN[name](name)
    assert run("predict", "w.safetensors", name, "good.png", "--out", "found") == 1
    out, error = capsys.readouterr()
    assert error == ""
    (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert name in line
    assert sorted(file.name for file in Path("found").iterdir()) == ["detections.json", "good.png"]
    tree = json.loads(Path("found/detections.json").read_text())
    assert list(tree["failed"]) == [name]
    assert [row["file"] for row in tree["images"]] == ["good.png"]


@pytest.mark.parametrize("name", [name for name in BROKEN if name.endswith(".jpg")])
def test_unreadable_image_in_a_data_set_is_rejected(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BROKEN[name]("data/images/000001.jpg")
    assert run("data", "check", "data") == 1
    assert "000001.jpg" in capsys.readouterr().out
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("000001.jpg",))


def test_invalid_prediction_input_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    assert_rejected(capsys, "predict", "w.safetensors", "gone.jpg", words=("gone.jpg",))
    assert_rejected(capsys, "predict", "w.safetensors", "empty", words=("empty",))
    assert_rejected(capsys, "predict", "w.safetensors", "*.gif", words=("*.gif",))
    assert_rejected(
        capsys, "predict", "w.safetensors", "good.png", "--classes", "cat", words=("cat", "car, truck, tank")
    )
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--device", "abacus", words=("abacus",))


# --- weights


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _huge_ckpt(path: str) -> None:
    """One MindSpore checkpoint entry that declares 2**50 bytes."""
    Path(path).write_bytes(b"\x0a" + _varint(2**50) + b"\x0a\x04name")


def _huge_shape_ckpt(path: str) -> None:
    """An entry whose dimensions multiply to 2**60 numbers, over sixteen bytes of content."""
    dims = b"".join(b"\x08" + _varint(2**20) for _ in range(3))
    tensor = dims + b"\x12\x07Float32" + b"\x1a\x10" + bytes(16)
    entry = b"\x0a\x01w" + b"\x12" + _varint(len(tensor)) + tensor
    Path(path).write_bytes(b"\x0a" + _varint(len(entry)) + entry)


def _pickle(path: str) -> None:
    """A pickle that would leave a file behind if anything ran it."""
    Path(path).write_bytes(b"cos\nsystem\n(S'touch pickle_ran'\ntR.")


BAD_WEIGHTS: dict[str, Callable[[str], object]] = {
    "cut.weights": lambda path: Path(path).write_bytes(struct.pack("<iiiQ", 0, 2, 0, 0) + bytes(1002)),
    "header.weights": lambda path: Path(path).write_bytes(b"\0\0\0\0\x02\0"),
    "empty.weights": lambda path: Path(path).write_bytes(b""),
    "cut.safetensors": lambda path: Path(path).write_bytes(Path("w.safetensors").read_bytes()[:5000]),
    "huge.safetensors": lambda path: Path(path).write_bytes(struct.pack("<Q", 2**60) + b"{}"),
    "text.safetensors": lambda path: Path(path).write_text("not a checkpoint"),
    "pickle.pt": _pickle,
    "photo.png": lambda path: Image.new("RGB", (8, 8)).save(path),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_invalid_weights_are_rejected(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BAD_WEIGHTS[name](name)
    assert_rejected(capsys, "import", name, "--recipe", "demo", "-o", "o.safetensors", *SETTINGS, words=(name,))
    assert_rejected(capsys, "predict", name, "good.png", "--recipe", "demo", words=(name,))
    assert_rejected(capsys, "train", "demo", "--data", "data", "--weights", name, *SETTINGS, words=(name,))
    assert not Path("pickle_ran").exists()


BAD_CKPT: dict[str, Callable[[str], object]] = {
    "huge.ckpt": _huge_ckpt,
    "huge_shape.ckpt": _huge_shape_ckpt,
    "text.ckpt": lambda path: Path(path).write_text("not a checkpoint"),
    "empty.ckpt": lambda path: Path(path).write_bytes(b""),
}


@pytest.mark.parametrize("name", BAD_CKPT)
def test_invalid_mindspore_checkpoint_is_rejected(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BAD_CKPT[name](name)
    assert_rejected(capsys, "import", name, "--recipe", "yolov3_coco_416", "-o", "o.safetensors", words=(name,))


def test_mindspore_checkpoint_of_unsupported_network_is_rejected(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("some.ckpt").write_bytes(b"x" * 100)
    assert_rejected(capsys, "import", "some.ckpt", "--recipe", "demo", "-o", "o.safetensors", words=("MindSpore",))


def test_missing_weights_are_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "run").mkdir()
    assert_rejected(capsys, "predict", "gone.safetensors", "good.png", words=("gone.safetensors",))
    assert_rejected(capsys, "evaluate", "run", "--data", "data", words=("run", "no weights"))
    assert_rejected(
        capsys, "import", "gone.weights", "--recipe", "demo", "-o", "o.safetensors", words=("gone.weights",)
    )


def test_weights_without_a_recipe_are_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("some.weights").write_bytes(struct.pack("<iiiQ", 0, 2, 0, 0) + bytes(1000))
    assert_rejected(capsys, "predict", "some.weights", "good.png", words=("some.weights", "recipe"))


def test_wrong_number_of_classes_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [*SETTINGS, "--set", "model.classes=2", "--set", "data.names=[a, b]"]
    assert_rejected(capsys, "import", "w.safetensors", "--recipe", "demo", "-o", "o.safetensors", *other,
           words=("w.safetensors", "--transfer"))  # fmt: skip
    assert_rejected(capsys, "show", "demo", "--set", "data.names=[a, b]", words=("3", "2 names"))
    assert run("import", "w.safetensors", "--recipe", "demo", "-o", "o.safetensors", "--transfer", *other) == 0


def test_data_set_with_other_classes_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(lambda tree: tree["categories"][0].update(name="bicycle"), "val")
    assert_rejected(capsys, "evaluate", "w.safetensors", "--data", "data", words=("bicycle",))
    assert_rejected(capsys, "train", "demo", "--data", "data", *SETTINGS, words=("bicycle",))


# --- recipes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nmodel: {name: yolov3, clases: 3}\n", "did you mean 'classes'"),
        ("name: x\nmodel: {name: yolo3000}\n", "yolov3"),
        ("name: x\n", "model.name"),
        ("name: [x\n", "line 2"),
        ("- a\n- b\n", "list"),
        ("", "needed a mapping"),
        ("name: x\nmodel: {name: yolov3, classes: 3}\ntrain: {epochs: many}\n", "train.epochs"),
        ("name: x\nmodel: {name: yolov3, classes: 0}\n", "classes"),
        ("name: x\nmodel: {name: yolov3, classes: 3}\ndata: {canvas: {size: [100, 100]}}\n", "32"),
        ("name: x\nmodel: {name: yolov3, classes: 3}\ndata: {names: klingon}\n", "klingon"),
        ("!!python/object/apply:os.system ['touch yaml_ran']\n", "mine.yaml"),
    ],
)
def test_invalid_recipe_is_rejected(text: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(text)
    assert_rejected(capsys, "train", "mine.yaml", "--data", "data", words=("mine.yaml", expected))
    assert not Path("yaml_ran").exists()


# --- output


def test_unwritable_output_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("occupied").write_text("a file where a folder should be")
    data = ["--data", "data"]
    assert_rejected(capsys, "train", "demo", *data, "--out", "occupied/run", *SETTINGS, words=("occupied",))
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--out", "occupied", words=("occupied",))
    assert_rejected(capsys, "evaluate", "w.safetensors", *data, "--out", "occupied/x", words=("occupied",))
    assert_rejected(
        capsys, "import", "w.safetensors", "--recipe", "demo", "-o", "no/o.safetensors", *SETTINGS, words=("no/o",)
    )
    assert_rejected(capsys, "data", "check", "data", "--report", "no/report.json", words=("no/report.json",))
    assert_rejected(capsys, "data", "show", "data", "--out", "occupied", words=("occupied",))
    assert_rejected(capsys, "demo", "--out", "occupied", words=("occupied",))


def test_predict_does_not_overwrite_input_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_rejected(capsys, "predict", "w.safetensors", "good.png", "--out", ".", words=("good.png",))


@pytest.mark.parametrize(
    "words",
    [
        ["import", "w.safetensors", "--recipe", "demo", "-o", "o.safetensors", *SETTINGS],
        ["data", "check", "data", "--report", "report.json"],
        ["data", "show", "data", "--out", "labels"],
        ["predict", "w.safetensors", "good.png", "--out", "found"],
        ["evaluate", "w.safetensors", "--data", "data", "--out", "found"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_full_disk_leaves_no_output(
    words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fsync` fails: no new output file exists afterwards, and old files are complete."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_rejected(capsys, *words, words=("No space left on device",))


def test_full_disk_in_training_leaves_no_partial_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("boxwright.weights.checkpoint.atomic_write", full)
    assert run("train", "demo", "--data", "data", "--out", "out", *SETTINGS) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("boxwright: ")
    assert list(Path("out").rglob("*.safetensors")) == []
    assert not Path("out/best").exists()
    assert not Path("out/last").exists()


@pytest.mark.slow
def test_stdout_on_a_full_device(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "boxwright", "list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


# --- resuming


def test_resume_without_a_run_is_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "demo", "--data", "data", "--resume", *SETTINGS]
    assert_rejected(capsys, *words, "--out", "nothing", words=("nothing", "no run to resume"))


@pytest.mark.slow
def test_existing_run_folder_or_changed_settings_are_rejected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "demo", "--data", "data", "--out", "out", *SETTINGS]
    assert run(*words) == 0
    assert_rejected(capsys, *words, words=("out", "--resume"))
    assert_rejected(capsys, *words, "--resume", "--set", "train.schedule.lr=0.5", words=("train.schedule.lr", "0.5"))
    Path("out/last/state.pt").write_bytes(Path("out/last/state.pt").read_bytes()[:100])
    assert_rejected(capsys, *words, "--resume", words=("state.pt",))


# --- the whole program, once


@pytest.mark.slow
def test_errors_of_the_program_in_a_subprocess(place: Path) -> None:
    for words in (["predict", "gone.safetensors", "good.png"], ["train", "demo", "--data", "nowhere"]):
        done = subprocess.run([sys.executable, "-m", "boxwright", *words], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("boxwright: ")
        assert done.stderr.count("\n") == 1
