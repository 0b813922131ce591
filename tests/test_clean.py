"""--skip-bad and --clip-boxes, in every command that reads labels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import boxwright as bw
from boxwright import cli
from boxwright.datatools.check import check
from boxwright.datatools.clean import Cleaning, clip_boxes
from boxwright.errors import InputError
from boxwright.formats import open_boxes

Run = Callable[..., tuple[int, str, str]]
SMALL = ["--set", "model.width=0.0625", "--set", "data.canvas.size=[64,64]", "--set", "train.epochs=1",
         "--set", "train.batch=2", "--set", "data.workers=0"]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


def yolo(root: Path, lines: dict[str, str]) -> Path:
    """A set of 100 x 50 px images with these label files, the same in both splits."""
    for split in ("train", "val"):
        for stem, content in lines.items():
            for folder in ("images", "labels"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 50)).save(root / "images" / split / f"{stem}.png")
            (root / "labels" / split / f"{stem}.txt").write_text(content)
    (root / "classes.txt").write_text("car\n")
    return root


@pytest.fixture
def over_the_edge(tmp_path: Path) -> Path:
    """Boxes 80..120 x 10..30 and 120..140 x 10..30 in an image 100 px wide."""
    return yolo(tmp_path / "set", {"a": "0 1.0 0.4 0.4 0.4\n", "b": "0 0.5 0.5 0.2 0.4\n"})


def test_box_over_the_edge_is_clipped_and_counted(over_the_edge: Path) -> None:
    dataset = open_boxes(over_the_edge, "train")
    clipped, report, lines = clip_boxes(dataset, check(dataset))
    np.testing.assert_allclose(clipped[0].boxes, [[80, 10, 100, 30]], atol=1e-4)
    assert clipped[0].areas == pytest.approx([400])
    assert clipped[1].boxes.tolist() == dataset[1].boxes.tolist()
    assert not report.errors
    assert lines == ["train: 1 box clipped to the image"]
    with pytest.raises(InputError, match=r"1 error, the first: labels/train/a\.txt line 1: .*--skip-bad"):
        Cleaning().apply(dataset, check(dataset))


def test_box_outside_the_image_cannot_be_clipped(tmp_path: Path) -> None:
    dataset = open_boxes(yolo(tmp_path, {"a": "0 1.3 0.4 0.2 0.4\n"}), "train")
    with pytest.raises(InputError, match="1 error"):
        Cleaning(clip_boxes=True).apply(dataset, check(dataset))


@pytest.mark.slow
def test_train_and_convert_clip_boxes(over_the_edge: Path, run: Run) -> None:
    status, _, err = run("train", "demo", "--data", str(over_the_edge), "--out", "r", *SMALL)
    assert (status, "2 errors" in err) == (2, True)
    status, _, err = run("train", "demo", "--data", str(over_the_edge), "--out", "r", "--clip-boxes", *SMALL)
    assert status == 0, err
    assert "train: 1 box clipped to the image" in Path("r/left_out.txt").read_text()
    status, out, _ = run("data", "convert", str(over_the_edge), "--to", "coco", "-o", "coco", "--clip-boxes")
    assert status == 0
    assert "1 box clipped to the image" in out
    tree = json.loads(Path("coco/annotations/train.json").read_text())
    assert tree["annotations"][0]["bbox"] == pytest.approx([80, 10, 20, 20], abs=1e-4)


@pytest.mark.slow
def test_evaluate_and_convert_skip_bad(tmp_path: Path, run: Run) -> None:
    """An undefined class, and an image cut off, which would end an evaluation in its middle."""
    data = yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.4\n", "b": "5 0.5 0.5 0.2 0.4\n", "c": "0 0.5 0.5 0.2 0.4\n"})
    for split in ("train", "val"):
        file = data / "images" / split / "c.png"
        file.write_bytes(file.read_bytes()[:-20])
    weights = tmp_path / "r"
    assert run("train", "demo", "--data", str(data), "--out", str(weights), "--skip-bad", *SMALL)[0] == 0
    for words in (["evaluate", "r", "--data", "set"], ["data", "convert", "set", "--to", "coco", "-o", "coco"]):
        status, _, err = run(*words)
        assert (status, "2 errors" in err) == (2, True), err
        status, out, err = run(*words, "--skip-bad")
        assert status == 0
        assert "b.txt line 1" in out + err
        assert "c.png" in out + err
    images = json.loads(Path("coco/annotations/val.json").read_text())["images"]
    assert [Path(image["file_name"]).stem for image in images] == ["a", "b"]
    assert sum(each.objects for each in bw.evaluate("r", "set", skip_bad=True).classes) == 1


@pytest.mark.parametrize("by_class", [False, True])
def test_split_skips_bad(by_class: bool, tmp_path: Path, run: Run) -> None:
    """By image and for folders of classes; a list cannot leave out a line of a label file."""
    lines = dict.fromkeys("abcd", "0 0.5 0.5 0.2 0.4\n") | {"e": "5 0.5 0.5 0.2 0.4\n"}
    if by_class:
        (tmp_path / "set").mkdir()
        for letter in "abcde":
            (tmp_path / "set" / letter).mkdir()
            for number in range(2):
                Image.new("RGB", (100, 50)).save(tmp_path / "set" / letter / f"{number}.png")
        file = tmp_path / "set/e/1.png"
    else:
        yolo(tmp_path / "set", lines)
        file = tmp_path / "set/images/train/d.png"
    file.write_bytes(file.read_bytes()[:-20])
    parts = ["--parts", "train=0.5,val=0.5", "--no-near-duplicates"]
    words = ["data", "split", "set", "-o", "new", *parts, *([] if by_class else ["--split", "train", "--split", "val"])]
    if not by_class:
        status, _, err = run(*words)
        assert (status, "--skip-bad" in err) == (2, True), err
        status, _, err = run(*words, "--skip-bad", "--lists")
        assert (status, "labels stay as they are" in err) == (2, True), err
        assert not Path("new").exists()
    status, out, err = run(*words, "--skip-bad")
    assert status == 0, err
    assert "left out the image" in out
    names = sorted(path.name for path in Path("new").rglob("*.png"))
    if by_class:
        assert len(names) == 9
        return
    assert "e.txt line 1" in out
    assert names == sorted([f"{letter}.png" for letter in "abce" * 2] + ["d.png"])
    boxes = [open_boxes("new", name) for name in ("train", "val")]
    assert sum(len(dataset.rows) for dataset in boxes) == 7  # 10, without d.png of train and two of class 5


def test_split_and_merge_clip_boxes(over_the_edge: Path, run: Run) -> None:
    """A box of 80..120 px in an image of 100 px ends at 100."""
    words = ["--split", "train", "--split", "val", "--parts", "train=0.5,val=0.5", "--no-near-duplicates"]
    status, out, err = run("data", "split", "set", "-o", "new", *words, "--clip-boxes")
    assert (status, out.count("1 box clipped")) == (0, 2), err
    edges = [edge for name in ("train", "val") for edge in open_boxes("new", name).rows.xyxy[:, 2].tolist()]
    assert sorted(edges) == pytest.approx([60, 60, 100, 100], abs=1e-3)
    over_the_edge.rename("other")
    yolo(over_the_edge, {"c": "5 0.5 0.5 0.2 0.4\n", "d": "0 0.5 0.5 0.2 0.4\n"})
    status, _, err = run("data", "merge", "set", "other", "-o", "both", "--clip-boxes")
    assert (status, "2 errors" in err or "1 error" in err) == (2, True), err
    status, out, err = run("data", "merge", "set", "other", "-o", "both", "--clip-boxes", "--skip-bad")
    assert status == 0, err
    assert "c.txt line 1" in out
    assert "1 box clipped" in out
    assert open_boxes("both", "train").rows.xyxy[:, 2].max() == 100


def test_class_list_with_commas_in_names(tmp_path: Path) -> None:
    from boxwright.cli.options import class_list

    assert class_list("big, red car", ["big, red car", "van"]) == ["big, red car"]
    assert class_list('["big, red car"]', ["van"]) == ["big, red car"]
    assert class_list("car, van", ["car", "van"]) == ["car", "van"]
    with pytest.raises(InputError, match="JSON list of names"):
        class_list("[1]", ["van"])


@pytest.mark.parametrize("cut", [1, 4, 8, 12, 16, 20])
def test_truncated_png_is_found_by_check(tmp_path: Path, cut: int) -> None:
    """Pillow decodes it, OpenCV does not."""
    data = yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4\n"})
    file = data / "images/train/a.png"
    assert not check(open_boxes(data, "train")).errors
    file.write_bytes(file.read_bytes()[:-cut])
    (error,) = check(open_boxes(data, "train")).errors
    assert error.kind == "unreadable_image"
    assert not check(open_boxes(data, "train"), decode=None).errors  # --fast
    file.write_bytes(file.read_bytes() + (data / "images/val/a.png").read_bytes()[-cut:] + b"more")
    assert not check(open_boxes(data, "train")).errors  # something after the end does no harm


def test_fast_and_decode_exclude_each_other(tmp_path: Path, run: Run) -> None:
    yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.4\n"})
    assert run("data", "check", "set", "--fast")[0] == 0
    status, _, err = run("data", "check", "set", "--fast", "--decode")
    assert (status, "--fast and --decode" in err) == (2, True)
