"""Data sets crafted to break their reader, or code that uses its output."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from boxwright import cli, progress, xml_text
from boxwright.data import text
from boxwright.datatools.check import check, check_folder
from boxwright.datatools.class_crops import crop
from boxwright.datatools.convert import convert, writable
from boxwright.datatools.report import CheckReport
from boxwright.datatools.tile import Cutting, tile
from boxwright.errors import InputError, one_line
from boxwright.formats import open_boxes, open_classes, open_dataset
from boxwright.images import budget, header
from boxwright.images.draw import add_caption, draw_boxes
from boxwright.images.windows import open_scene
from boxwright.metrics import plots
from boxwright.predict.labels import draw_labels

SHARED = Path(__file__).parents[2] / "shared" / "cases"
Tree = dict[str, Any]
BAD_NAMES = ["a\0b", "a\nb", "a\rb", "a\u2028b", "\ud800", "\x1b[31m", "x" * 201]
pytestmark = pytest.mark.timeout(60)


def coco(root: Path, *, name: str = "car", file: str = "1.png", **further: Any) -> Path:
    """A set of one image with one box. Returns its folder."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    cv2.imwrite(str(root / "images" / "1.png"), np.full((40, 60, 3), 90, np.uint8))
    tree: Tree = {
        "images": [{"id": 1, "file_name": file, "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 30]}],
        "categories": [{"id": 1, "name": name}],
    }
    (root / "annotations/train.json").write_text(json.dumps(tree | further))
    return root


def rejection(work: Callable[[], object]) -> str:
    """The message of an InputError; it must be one printable line."""
    with pytest.raises(InputError) as caught:
        work()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_repeated_json_key_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    labels = root / "annotations/train.json"
    labels.write_text(labels.read_text()[:-1] + ', "annotations": []}')
    message = rejection(lambda: check_folder(root))
    assert str(labels) in message
    assert "key 'annotations' is repeated" in message


def test_shared_json_with_a_repeated_key_is_rejected() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent")
    assert "key 'annotations' is repeated" in rejection(lambda: check_folder(SHARED / "R-duplicate-keys"))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_invalid_class_names_are_rejected_by_all_layouts(tmp_path: Path, name: str) -> None:
    """Of a COCO JSON, a YAML, a list of names, a VOC XML, and a folder of images."""
    message = rejection(lambda: open_dataset(coco(tmp_path / "coco", name=name), "train"))
    assert "train.json categories[0].name: " in message
    folder = tmp_path / "yolo"
    for part in ("images/train", "labels/train"):
        (folder / part).mkdir(parents=True)
    cv2.imwrite(str(folder / "images/train/1.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "labels/train/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text(json.dumps({"names": [name]}))
    assert "data.yaml" in rejection(lambda: open_dataset(folder, "train"))
    if "\ud800" in name:
        return  # in no file of UTF-8
    (folder / "classes.txt").write_text(f"{name}\n", newline="\n")
    if "\n" not in name and "\r" not in name:  # which make two names
        assert "classes.txt line 1: " in rejection(lambda: open_dataset(folder, "train"))
    if "\0" not in name and len(name) < 200:
        (tmp_path / "classes/train" / name).mkdir(parents=True)
        assert "class name" in rejection(lambda: open_classes(tmp_path / "classes", "train", "folder"))


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["$5_a_b$", "US$ or CA$", "a_b^c", "\\frac{", "日本語", "naïve"])
def test_class_names_are_plotted_literally(tmp_path: Path, name: str) -> None:
    """A `$` starts no formula, and letters that a font lacks are no reason to fail."""
    counts = np.array([[3, 1], [0, 2]])
    plots.confusion_matrix(counts, [name, "b"], [name, "b"], f"title {name}", tmp_path / "matrix.png")
    log = [
        {"step": 1, "epoch": 0, "terms": {name: 1.0}, "total": 1.0, "lr": 0.1},
        {"step": 1, "epoch": 0, name: 0.5, "ap50": 0.5},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    plots.curves(tmp_path / "log.jsonl", tmp_path / "curves.png", (name, "ap50"), name)
    for file in ("matrix.png", "curves.png"):
        assert header.read_header(str(tmp_path / file), decode=True).size[0] > 100


@pytest.mark.parametrize("name", BAD_NAMES)
def test_any_class_name_can_be_drawn(name: str) -> None:
    """Also for names that readers reject: weights may contain them."""
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[10.0, 50, 250, 150]]), [(255, 0, 0)], [name])
    assert drawn.any()
    assert add_caption(image, (200, 200), [name]).shape[1] == 200


def test_report_replaces_only_an_earlier_report(tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    labels = root / "annotations/train.json"
    before = labels.read_bytes()
    for file in (labels, root / "images/1.png", tmp_path / "notes.txt"):
        rejection(partial(check_folder, root, report=file))
    assert labels.read_bytes() == before
    (tmp_path / "link.json").symlink_to(labels)
    assert "not a report of a check" in rejection(lambda: check_folder(root, report=tmp_path / "link.json"))
    for _ in range(2):  # the second in the place of the first
        check_folder(root, report=tmp_path / "check.json")
    assert json.loads((tmp_path / "check.json").read_text())["errors"] == 0
    classes = tmp_path / "classes/train/a"
    classes.mkdir(parents=True)
    cv2.imwrite(str(classes / "1.png"), np.zeros((8, 8, 3), np.uint8))
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    rejection(lambda: check_folder(tmp_path / "classes", report=mine))
    assert mine.read_text() == "{}"


def test_tiles_and_drawings_never_overwrite_labels_or_images(tmp_path: Path) -> None:
    root, other = coco(tmp_path / "set"), coco(tmp_path / "other")
    before = (other / "annotations/train.json").read_bytes()
    assert "does not list tiles" in rejection(lambda: tile(root, other, Cutting(window=32)))
    assert (other / "annotations/train.json").read_bytes() == before
    tile(root, tmp_path / "tiles", Cutting(window=32))
    tile(root, tmp_path / "tiles", Cutting(window=30))
    assert "holds images of the data set" in rejection(
        lambda: draw_labels(open_dataset(root, "train"), root / "images", 1)
    )


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
def test_only_regular_files_are_images(tmp_path: Path, kind: str) -> None:
    root = coco(tmp_path / "set")
    image = root / "images/1.png"
    image.unlink()
    if kind == "fifo":
        os.mkfifo(image)
    elif kind == "zero":
        image.symlink_to("/dev/zero")
    else:
        image.mkdir()
    (finding,) = check(open_dataset_from(root)).errors
    assert finding.kind == "unreadable_image"
    assert "cannot be read (" in finding.text
    with pytest.raises(InputError, match="cannot be read"), open_scene(image):
        pass


def open_dataset_from(root: Path) -> Any:
    """The set of `coco` with its folder of images named, since none of them is a file."""
    (root / "data.yaml").write_text("kind: coco\ntrain: annotations/train.json\nimages: images\n")
    return open_dataset(root / "data.yaml", "train")


@pytest.mark.parametrize("kind", ["coco", "yolo_txt", "line_txt", "voc"])
def test_only_regular_files_are_labels(tmp_path: Path, kind: str) -> None:
    (tmp_path / "data.yaml").write_text(f"train: /dev/zero\nkind: {kind}\nnames: [a]\n")
    assert "regular" in rejection(lambda: open_dataset(tmp_path / "data.yaml", "train"))


def test_pipe_as_yolo_label_file_is_an_error(tmp_path: Path) -> None:
    for part in ("images/train", "labels/train"):
        (tmp_path / part).mkdir(parents=True)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"images/train/{number}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "classes.txt").write_text("a\n")
    (tmp_path / "labels/train/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    os.mkfifo(tmp_path / "labels/train/2.txt")
    (error,) = check_folder(tmp_path).errors
    assert (error.kind, error.index) == ("unreadable_label", 1)
    assert Path(error.file).name == "2.txt"
    assert "cannot be read (not a regular file)" in str(error)


def test_invalid_names_in_a_list_are_reported_with_their_line(tmp_path: Path) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "Annotations/a.xml").write_text("<annotation/>")
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"a\nb\0c\n")
    assert "train.txt line 2: contains a NUL" in rejection(lambda: open_dataset(tmp_path, "train", "voc"))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n" + "b" * 5000 + "\n")
    assert "train.txt line 2: " in rejection(lambda: open_dataset(tmp_path, "train", "voc"))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n" + "b" * 300 + "\n")  # longer than a name may be
    report = check(open_boxes(tmp_path, "train", "voc"), images=False)
    assert "cannot be read" in rejection(lambda: report.raise_on_errors(tmp_path))


def test_line_length_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "long.txt"
    monkeypatch.setattr(text, "MAX_LINE", 1000)
    file.write_text("a\n" + "b" * 1000 + "\n")
    assert [len(line) for _, line in text.lines(file)] == [1, 1000]
    file.write_text("a\r\n\r\n" + "b" * 1001)
    assert "line 3: has more than 1,000 characters" in rejection(lambda: list(text.lines(file)))


def test_number_of_xml_elements_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_text, "MAX_ELEMENTS", 100)
    for part in ("Annotations", "JPEGImages"):
        (tmp_path / part).mkdir()
    (tmp_path / "classes.txt").write_text("a\n")
    (tmp_path / "Annotations/a.xml").write_text("<annotation>" + "<b/>" * 99 + "</annotation>")
    open_dataset(tmp_path, "all", "voc")
    (tmp_path / "Annotations/a.xml").write_text("<annotation>" + "<b/>" * 100 + "</annotation>")
    (finding,) = open_dataset(tmp_path, "all", "voc").findings
    assert (finding.kind, finding.text) == ("unreadable_label", "more than 100 elements, needed labels")


@pytest.mark.parametrize("to", ["coco", "yolo_txt", "voc", "folder"])
def test_images_outside_the_data_set_are_not_copied(tmp_path: Path, to: str) -> None:
    """By an absolute path, by `..`, by a link."""
    work = crop if to == "folder" else lambda root, out, **how: convert(root, to, out, **how)
    private = tmp_path / "private.png"
    cv2.imwrite(str(private), np.full((40, 60, 3), 9, np.uint8))
    for number, file in enumerate([str(private), "../../private.png", "link.png"]):
        root = coco(tmp_path / str(number), file=file)
        named = root / "data.yaml"
        named.write_text("kind: coco\ntrain: annotations/train.json\nimages: images\n")
        if file == "link.png":
            (root / "images/link.png").symlink_to(private)
        message = rejection(partial(work, named, tmp_path / "out"))
        assert "private.png" in message or "link.png" in message
        assert "1 of the 1 images" in message
        assert "--outside" in message
        assert not (tmp_path / "out").exists()
    work(named, tmp_path / "out", outside=True)
    work(coco(tmp_path / "own"), tmp_path / "out2")


def test_file_names_are_escaped_in_messages_and_exact_in_json(tmp_path: Path) -> None:
    """The JSON of a check and of a conversion has the exact name; no control character reaches the terminal."""
    name = os.fsdecode(b"caf\xe9\x1b[31m.png")
    root = coco(tmp_path / "set", file=name)
    (root / "images/1.png").rename(root / "images" / name)
    (root / "images/2.png").write_bytes(b"")
    labels = root / "annotations/train.json"
    labels.write_text(labels.read_text().replace("60", "61"))
    report = check_folder(root, report=tmp_path / "check.json")
    assert all(line.isprintable() for line in str(report).splitlines())
    assert "caf\\xe9\\x1b[31m.png" in str(report)
    (found,) = json.loads((tmp_path / "check.json").read_text())["findings"]
    assert found["image"] == str(root / "images" / name)
    labels.write_text(labels.read_text().replace("61", "60").replace("\\u001b[31m", ""))
    (root / "images" / name).rename(root / "images" / name.replace("\x1b[31m", ""))
    convert(root, "coco", tmp_path / "out")
    assert Path(open_dataset(tmp_path / "out", "train").path(0)).is_file()
    assert "is not UTF-8" in rejection(lambda: convert(root, "line_txt", tmp_path / "lines"))


LONG = 150  # characters of a name; file systems allow 255 bytes


@pytest.mark.slow
def test_one_line() -> None:
    """By hand: a third of what is left is from the start, so of 47 characters 15, then three dots and 29."""
    assert one_line("abc def", 7) == "abc def"
    assert one_line(f"/{'a' * 300}/end.jpg: what; remedy", 60) == f"/{'a' * 14}...{'a' * 20}/end.jpg: what; remedy"
    assert one_line("x" * 300, 100) == "x" * 33 + "..." + "x" * 64
    assert one_line("ab " * 300 + "\n", 100).startswith("ab ab")
    assert one_line("ab " * 300 + "\n", 100).endswith("ab \\n")
    assert {len(one_line("ab " * count, 100)) for count in range(30, 400)} <= set(range(90, 101))


@pytest.mark.slow
@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("layout", writable())
def test_messages_with_long_names_are_short(
    layout: str, spaces: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long names of files and classes: without images, with unknown classes, with damaged labels."""
    monkeypatch.chdir(tmp_path)
    filler = "ab " * (LONG // 3) if spaces else "ab" * (LONG // 2)
    names = [f"{letter}{filler}{letter}" for letter in "kl"]
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)]
    boxes = [{"id": number, "image_id": number, "category_id": number, "bbox": [5, 5, 99, 9]} for number in range(2)]
    classes = [{"id": number, "name": name} for number, name in enumerate(names)]
    coco(tmp_path / "set", images=images, annotations=boxes, categories=classes)
    for name in names:
        cv2.imwrite(str(tmp_path / "set/images" / f"{name}.png"), np.full((40, 60, 3), 90, np.uint8))
    root = tmp_path / ("long" * 30) / layout
    convert(tmp_path / "set", layout, root)

    def check_lines(*words: str) -> None:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words])
        captured = capsys.readouterr()
        lines = [*captured.out.splitlines(), *captured.err.splitlines()]
        assert ended.value.code in (0, 1, 2)
        assert lines
        assert max(map(len, lines)) <= 200, max(lines, key=len)

    def check_all() -> None:
        check_lines("data", "check", str(root))
        check_lines("train", "demo", "--data", str(root), "--out", "run", "--set", "train.evaluate_every=0")
        shutil.rmtree("out", ignore_errors=True)
        check_lines("data", "convert", str(root), "--to", "coco", "-o", "out")

    check_all()  # boxes outside their image
    (root / "classes.txt").write_text(f"{names[0][:-1]}m\n")
    check_all()
    for file in root.rglob("*.png"):
        file.unlink()
    check_all()
    for file in root.rglob("*"):
        if file.is_file():
            file.write_text(file.read_text().replace("ab", "\x07x", 4)[:-9])
    check_all()


def test_messages_with_long_arguments_are_short(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    coco(tmp_path / "set")
    long = "x" * LONG
    (tmp_path / "folders" / "car").mkdir(parents=True)
    (tmp_path / "folders" / "car" / "a.png").write_bytes(b"")
    (tmp_path / "folders" / long / "Annotations").mkdir(parents=True)
    for words in (
        ["check", str(tmp_path / "set"), "--kind", long],
        ["check", str(tmp_path / "set"), "--kind", "?"],
        ["check", str(tmp_path / long)],
        ["check", str(tmp_path / "folders")],
        ["check", str(tmp_path / "set"), "--split", long],
        ["convert", str(tmp_path / "set"), "--to", long, "-o", str(tmp_path / "out")],
        ["merge", str(tmp_path / "set"), str(tmp_path / "set"), "--class-map", f"{long}={long}", "-o", long],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", *words])
        err = capsys.readouterr().err
        assert (ended.value.code, err.count("\n")) == (2, 1), err
        assert len(err) <= 201, err


def test_findings_of_repeated_ids_are_bounded(tmp_path: Path) -> None:
    """Each of 3000 entries with one id names some of the others, not all."""
    images = [{"id": 1, "file_name": f"{number}.png", "width": 60, "height": 40} for number in range(3000)]
    root = coco(tmp_path / "set", images=[*images, {"id": 1, "file_name": "1.png"}])
    report = check(open_dataset(root, "train"), images=False)
    assert sum(finding.kind == "duplicate_image_id" for finding in report.errors) == 3001
    assert max(len(finding.text) for finding in report.findings) < 20_000


def test_pillow_pixel_limit_of_the_host_program_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit is for the whole process; ours is for us, and the larger."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(budget, "MAX_PIXELS", 2400)
    for suffix in ("png", "jpg", "bmp"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"a.{suffix}")
        Image.new("RGB", (60, 41)).save(tmp_path / f"b.{suffix}")
        assert header.read_header(str(tmp_path / f"a.{suffix}")).size == (40, 60)
        assert "more than the 2400" in header.read_header(str(tmp_path / f"b.{suffix}")).fault
    assert Image.MAX_IMAGE_PIXELS == 10


def test_progress_escapes_control_characters_and_markup(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Neither acted on by a terminal nor taken for the markup of the library that draws the bar."""
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        assert list(progress.track([1, 2], 2, "checking a\x1b[31m[/b]")) == [1, 2]
        assert "\x1b[31m[/b]" not in capfd.readouterr().err


def test_empty_report_text() -> None:
    assert str(CheckReport()) == "0 errors, 0 notes"
