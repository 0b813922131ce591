"""The index of a folder of many label files: it equals the files, and is never stale."""

import dataclasses
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from boxwright import formats
from boxwright.data import folder_index, index, label_files, listing
from boxwright.data.dataset import Dataset
from boxwright.data.findings import Finding
from boxwright.data.layout import Labels
from boxwright.data.source import Source
from boxwright.datatools.check import check_folder
from boxwright.datatools.convert import convert
from boxwright.formats import open_boxes
from boxwright.images import budget

FOREVER = 10**15  # ns
BOX = "<object><name>{}</name>{}<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"


def image(file: Path | bytes, width: int = 40, height: int = 32) -> None:
    Path(os.fsdecode(file)).parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as opened:
        Image.new("RGB", (width, height)).save(opened, "png")


def yolo(root: Path) -> Path:
    """With a box, an outline, a faulty line, a class without a name, no label file, a label file without an image."""
    lines = ("0 0.5 0.5 0.25 0.5", "1 0.1 0.1 0.9 0.1 0.5 0.8\n0 0.5 x 0.1 0.1", "7 0.5 0.5 0.1 0.1 0.9", None)
    for number, line in enumerate(lines):
        image(root / "images" / "train" / f"é{number}.png")
        if line is not None:
            file = root / "labels" / "train" / f"é{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(line)
    (root / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.25 0.5")
    image(os.fsencode(root / "images" / "train") + b"/\xff.png")  # no UTF-8
    (root / "classes.txt").write_text("lorry\nLKW \N{DELIVERY TRUCK}\n")
    return root


def voc(root: Path) -> Path:
    """With a difficult object, one of a class without a name, and a file that is not XML."""
    objects = (BOX.format("car", "<difficult>1</difficult>"), BOX.format("cat", "") + BOX.format("car", ""), "")
    for number, text in enumerate(objects):
        image(root / "JPEGImages" / f"{number}.png")
        file = root / "Annotations" / f"{number}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = "<size><width>40</width><height>32</height></size>" if number else ""
        file.write_text(f"<annotation><filename>{number}.png</filename>{size}{text}</annotation>")
    (root / "Annotations" / "1b.xml").write_text("<annotation><object>")
    (root / "classes.txt").write_text("van\ncar\n")
    return root


def contents(data: Dataset) -> list[Any]:
    """All that a data set holds."""
    values: list[Any] = []
    for part in (data, data.images, data.rows):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            values.append((value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value)
    return [value for value in values if value not in (data.images, data.rows, data.origin)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """The splits that were read from label files. Any split is indexed, however small and new."""
    monkeypatch.setattr(folder_index, "MIN_FILES", 0)
    monkeypatch.setattr(folder_index, "MAX_RATIO", 1000)
    monkeypatch.setattr(index, "CLOCK_TICK", 0)
    real, sources = folder_index.read_indexed, []

    def read_indexed(source: Source, read: Callable[[Source], Labels]) -> Labels:
        def counted(one: Source) -> Labels:
            sources.append(one)
            return read(one)

        return real(source, counted)

    monkeypatch.setattr(formats, "read_indexed", read_indexed)
    return sources


def opened(root: Path, split: str, cache: Path) -> Dataset:
    data = formats.open_dataset(root, split, cache=cache)
    assert isinstance(data, Dataset)
    return data


def kept(cache: Path) -> list[str]:
    return sorted(file.name.partition("-")[0] for file in cache.glob("*")) if cache.exists() else []


@pytest.mark.parametrize("kind", ["yolo_txt", "voc", "kitti", "dota", "labelme"])
def test_index_matches_the_label_files(tmp_path: Path, tiny_coco: Path, reads: list[Source], kind: str) -> None:
    convert(tiny_coco, kind, tmp_path / "set", outside=True)
    splits = formats.splits(tmp_path / "set")
    assert splits == ["train", "val"]
    for _ in range(2):  # links to images elsewhere are files here
        both = [contents(opened(tmp_path / "set", split, tmp_path / "cache")) for split in splits]
        assert both == [contents(open_boxes(tmp_path / "set", split, cache="")) for split in splits]
    assert kept(tmp_path / "cache") == [kind] * 2
    assert sum(source.cache == tmp_path / "cache" for source in reads) == 2


def test_every_field_round_trips(tmp_path: Path, reads: list[Source]) -> None:
    """Also those that no reader of many label files sets today."""
    plain = open_boxes(yolo(tmp_path / "set"), "train", cache=tmp_path / "other")
    source = dataclasses.replace(reads[0], cache=tmp_path / "cache")
    finding = Finding("duplicate_box", "train", "é.txt", "twice", "a/\udcff.png", "x", 7, 4, 2)
    labeled = np.arange(10).reshape(5, 2) % 3 == 0
    full = dataclasses.replace(
        plain,
        images=dataclasses.replace(plain.images, labeled=labeled, ids=np.array(list("abcdé"))),
        group=1, undefined=("cat",), notes=("note",), entry="object[{}]", relative=False, origin=None,
        findings=(finding,), category_ids=(3, 90),
    )  # fmt: skip
    first = folder_index.read_indexed(source, lambda _: full)
    second = folder_index.read_indexed(source, lambda _: pytest.fail("the index was not used"))
    assert contents(first) == contents(second)
    assert second.findings == (finding,)


def test_index_of_another_split_is_not_used(tmp_path: Path, tiny_coco: Path, reads: list[Source]) -> None:
    """Also under the right name."""
    convert(tiny_coco, "voc", tmp_path / "set", outside=True)
    indexes = []
    for split in ("train", "val"):
        opened(tmp_path / "set", split, tmp_path / split)
        indexes += (tmp_path / split).iterdir()
    indexes[1].write_bytes(indexes[0].read_bytes())
    assert len(opened(tmp_path / "set", "val", tmp_path / "val")) == 4


@pytest.mark.parametrize("make", [yolo, voc])
def test_findings_are_kept(tmp_path: Path, reads: list[Source], make: Callable[[Path], Path]) -> None:
    """Faulty labels, classes without a name and odd file names are the same; so `data check` reports the same."""
    root = make(tmp_path / "set")
    first, second = (opened(root, "train" if make is yolo else "all", tmp_path / "cache") for _ in range(2))
    assert contents(first) == contents(second)
    assert len(reads) == 1
    assert {finding.level for finding in second.findings} >= {"error"}
    assert second.origin == reads[0]
    assert (make is voc) == bool(second.undefined)
    reports = [check_folder(root) for _ in range(3)]
    assert len(reads) == 2  # in another cache
    assert str(reports[0]) == str(reports[1]) == str(reports[2])


def test_class_map_and_searched_classes_are_applied_to_the_index(tmp_path: Path, reads: list[Source]) -> None:
    yolo(tmp_path / "set")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("path: set\ntrain: images/train\nval: images/train\nnames: [lorry, van]\nlabelled_classes: [van]\n")
    first = opened(yaml, "train", tmp_path / "cache")
    yaml.write_text(yaml.read_text() + "class_map: {lorry: truck}\n")
    second = opened(yaml, "train", tmp_path / "cache")
    assert (first.names, second.names, len(reads)) == (("lorry", "van"), ("truck", "van"), 1)
    assert first.images.labeled is not None
    assert second.images.labeled is not None
    assert second.images.labeled.tolist() == first.images.labeled.tolist() == [[False, True]] * len(first)
    yaml.write_text(yaml.read_text().replace("van", "bus"))
    assert opened(yaml, "train", tmp_path / "cache").names == ("truck", "bus")
    assert len(reads) == 2


def with_its_old_time(file: Path, text: str) -> None:
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "label": lambda root: with_its_old_time(root / "labels/train/é0.txt", "1 0.5 0.5 0.25 0.5"),
    "label added": lambda root: (root / "labels/train/é3.txt").write_text("0 0.5 0.5 0.25 0.5"),
    "label removed": lambda root: (root / "labels/train/é0.txt").unlink(),
    "label renamed": lambda root: (root / "labels/train/é0.txt").rename(root / "labels/train/é3.txt"),
    "labels exchanged": lambda root: exchange(root / "labels/train/é0.txt", root / "labels/train/é2.txt"),
    "folder of labels": lambda root: (root / "labels").rename(root / "Labels"),
    "image": lambda root: image(root / "images/train/é0.png", 40, 40),
    "image added": lambda root: image(root / "images/train/é9.png"),
    "image removed": lambda root: (root / "images/train/é0.png").unlink(),
    "class names": lambda root: (root / "classes.txt").write_text("lorry\nvan\n"),
    "new folder": lambda root: image(root / "images/train/inner/a.png"),
}


def exchange(first: Path, second: Path) -> None:
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_detected(tmp_path: Path, reads: list[Source], change: str) -> None:
    root = yolo(tmp_path / "set")
    before = contents(opened(root, "train", tmp_path / "cache"))
    time.sleep(0.02)  # a tick of the clock
    CHANGES[change](root)
    after = [contents(opened(root, "train", tmp_path / "cache")) for _ in range(2)]
    assert after[0] == after[1] == contents(open_boxes(root, "train", cache=tmp_path / "other"))
    assert after[0] != before
    assert len(reads) == 3  # the second opening after the change took the new index


@pytest.mark.parametrize("inside", [False, True])
def test_changed_link_target_is_detected(tmp_path: Path, reads: list[Source], inside: bool) -> None:
    """Of label files with the same names, sizes and times; also if each file is below the data set all the time."""
    root = yolo(tmp_path / "set")
    far = root if inside else tmp_path
    (root / "labels").rename(far / "a")
    shutil.copytree(far / "a", far / "b")
    (far / "b/train/é0.txt").write_text("1 0.5 0.5 0.25 0.5")
    for folder in ("a", "b"):
        os.utime(far / folder / "train/é0.txt", ns=(10**18, 10**18))
    for folder in ("a", "b", "b"):
        (root / "labels").unlink(missing_ok=True)
        (root / "labels").symlink_to(far / folder)
        first = opened(root, "train", tmp_path / "cache").rows.categories[0]
        assert first == (folder == "b")
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("owner", "name", "value"), [(PIL, "__version__", "0"), (budget, "MAX_PIXELS", 100), (index, "code", "")]
)
def test_index_of_another_version_is_not_used(
    tmp_path: Path, reads: list[Source], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: object
) -> None:
    """Of a changed module of the package, of another Pillow, with another limit of pixels."""
    root, module = yolo(tmp_path / "set"), tmp_path / "package" / "inner" / "module.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(index, "PACKAGE", module.parent.parent)
    for number in range(3):
        index._code.cache_clear()
        opened(root, "train", tmp_path / "cache")
        if number == 1 and name == "code":
            module.write_text("# another reader")
        elif number == 1:
            monkeypatch.setattr(owner, name, value)
    index._code.cache_clear()
    assert len(reads) == 2


def test_folders_with_the_same_relative_path_have_own_indexes(
    tmp_path: Path, reads: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, label in (("a", "0"), ("b", "1")):
        root = yolo(tmp_path / name / "set")
        (root / "labels/train/é0.txt").write_text(f"{label} 0.5 0.5 0.25 0.5")
    for _ in range(2):
        for name, label in (("a", 0), ("b", 1)):
            monkeypatch.chdir(tmp_path / name)
            data = opened(Path("set"), "train", tmp_path / "cache")
            assert (data.path(0), data.rows.labels[0]) == ("set/images/train/é0.png", label)
            monkeypatch.chdir("set")
            data = opened(Path(), "train", tmp_path / "cache")
            assert (data.path(0), data.rows.labels[0]) == ("images/train/é0.png", label)
    assert (len(reads), len(kept(tmp_path / "cache"))) == (4, 4)


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


def edited(arrays: dict[str, Any], **changes: object) -> None:
    metadata = json.loads(arrays["metadata"].tobytes()) | changes
    arrays["metadata"] = np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)


def finding(arrays: dict[str, Any], field: int, value: object) -> None:
    """With another value in a field of the first finding."""
    values = json.loads(arrays["metadata"].tobytes())["findings"][0]
    edited(arrays, findings=[[*values[:field], value, *values[field + 1 :]]])


TAMPERED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "starts fall": lambda arrays: arrays["starts"].__setitem__(1, 3),
    "a row too few": lambda arrays: arrays.update(areas=arrays["areas"][1:]),
    "an image too many": lambda arrays: arrays.update(image_paths=np.append(arrays["image_paths"], b"x")),
    "two label files": lambda arrays: arrays.update(image_label_files=arrays["image_label_files"][:2]),
    "ids as floats": lambda arrays: arrays.update(image_ids=arrays["image_ids"].astype(float)),
    "pickled": lambda arrays: arrays.update(image_paths=np.array([Trap()] * 5, dtype=object)),
    "label too high": lambda arrays: arrays["labels"].__setitem__(0, 2),
    "a column is missing": lambda arrays: arrays.pop("image_sizes"),
    "labeled of another shape": lambda arrays: arrays.update(labeled=np.ones((5, 3), dtype=bool)),
    "a name as number": lambda arrays: edited(arrays, names=["lorry", 5]),
    "an id as text": lambda arrays: edited(arrays, category_ids=[0, "1"]),
    "a note as number": lambda arrays: edited(arrays, notes=[1]),
    "relative as text": lambda arrays: edited(arrays, relative="yes"),
    "entry as number": lambda arrays: edited(arrays, entry=1),
    "a class too many": lambda arrays: edited(arrays, names=["a", "b", "c"]),
    "another key": lambda arrays: edited(arrays, stamp={}),
    "finding of no kind": lambda arrays: finding(arrays, 0, "mine"),
    "finding of no image": lambda arrays: finding(arrays, 5, 5),
    "finding of an image as number": lambda arrays: finding(arrays, 6, 5),
    "finding of no row": lambda arrays: finding(arrays, 7, 3),
    "metadata is a list": lambda arrays: arrays.update(metadata=np.frombuffer(b"[]", dtype=np.uint8)),
}


@pytest.mark.parametrize("change", [None, *TAMPERED])
def test_tampered_index_is_not_used(
    tmp_path: Path, reads: list[Source], monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    """Whole files with right checksums; the unchanged one is used, so nothing but the change makes the others fail."""
    monkeypatch.chdir(tmp_path)
    truth = contents(opened(yolo(tmp_path / "set"), "train", tmp_path / "cache"))
    (place,) = (tmp_path / "cache").iterdir()
    with np.load(place) as loaded:
        arrays = {name: loaded[name].copy() for name in loaded}
    assert (len(arrays["labels"]), len(arrays["image_ids"])) == (3, 5)
    if change is not None:
        TAMPERED[change](arrays)
    made = io.BytesIO()
    np.savez(made, **arrays)
    place.write_bytes(made.getvalue())
    assert contents(opened(tmp_path / "set", "train", tmp_path / "cache")) == truth
    assert len(reads) == (1 if change is None else 2)
    assert not (tmp_path / "trapped").exists()
    assert contents(opened(tmp_path / "set", "train", tmp_path / "cache")) == truth
    assert len(reads) == (1 if change is None else 2)  # a new index


def test_damaged_or_compressed_index_is_not_used(tmp_path: Path, reads: list[Source]) -> None:
    root = yolo(tmp_path / "set")
    truth = contents(opened(root, "train", tmp_path / "cache"))
    (place,) = (tmp_path / "cache").iterdir()
    sound = place.read_bytes()
    with np.load(place) as loaded:
        np.savez_compressed(place, **{name: loaded[name] for name in loaded})
    pieces = [place.read_bytes(), b"", sound[: len(sound) // 2], sound[:-1], sound[1:], b"{}"]
    for piece in pieces:
        place.write_bytes(piece)
        assert contents(opened(root, "train", tmp_path / "cache")) == truth
    assert len(reads) == 1 + len(pieces)


def test_data_set_opens_without_a_writable_cache(
    tmp_path: Path, reads: list[Source], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = yolo(tmp_path / "set")
    (tmp_path / "file").touch()
    for _ in range(2):
        assert len(opened(root, "train", tmp_path / "file" / "cache")) == 5
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{root}: its index cannot be written" in line
    assert len(reads) == 2

    def no_home_folder() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(index, "cache_folder", no_home_folder)
    assert len(formats.open_boxes(root, "train")) == 5


def test_small_new_or_single_file_sets_are_not_indexed(
    tmp_path: Path, tiny_coco: Path, reads: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(folder_index, "MIN_FILES", 5)
    opened(yolo(tmp_path / "set"), "train", cache)
    monkeypatch.setattr(folder_index, "MIN_FILES", 4)
    monkeypatch.setattr(index, "CLOCK_TICK", FOREVER)
    opened(tmp_path / "set", "train", cache)
    monkeypatch.setattr(index, "CLOCK_TICK", 0)
    opened(tiny_coco, "train", cache)
    assert kept(cache) == []
    opened(tmp_path / "set", "train", cache)
    assert kept(cache) == ["yolo_txt"]


@pytest.mark.parametrize("change", ["label", "label removed", "image added"])
def test_labels_changed_during_reading_are_not_indexed(
    tmp_path: Path, reads: list[Source], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    root, real = yolo(tmp_path / "set"), formats.read_indexed

    def read_indexed(source: Source, read: Callable[[Source], Labels]) -> Labels:
        def slow(one: Source) -> Labels:
            values = read(one)
            time.sleep(0.05)
            CHANGES[change](root)
            return values

        return real(source, slow)

    monkeypatch.setattr(formats, "read_indexed", read_indexed)
    opened(root, "train", tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


@pytest.mark.parametrize("relative", [False, True])
def test_images_outside_of_the_folder_are_not_indexed(tmp_path: Path, reads: list[Source], relative: bool) -> None:
    """Their changes would not be detected."""
    outer = yolo(tmp_path / "far")
    root = tmp_path / "set"
    root.mkdir()
    (root / "classes.txt").write_text("lorry\nvan\n")
    name = "../far/images/train/é0.png" if relative else str(outer / "images/train/é0.png")
    (root / "train.txt").write_text(f"{name}\n")
    assert opened(root, "train", tmp_path / "cache").rows.labels.tolist() == [0]
    assert kept(tmp_path / "cache") == []


def test_folder_with_many_other_files_is_not_indexed(
    tmp_path: Path, reads: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking all of them would take longer than reading the labels: 51 are more than ten for each of 5 images."""
    root = yolo(tmp_path / "set")
    monkeypatch.setattr(folder_index, "MAX_RATIO", 10)
    for number in range(len([*root.rglob("*")]), 50):
        (root / f"{number}.log").touch()
    opened(root, "train", tmp_path / "cache")
    assert kept(tmp_path / "cache") == ["yolo_txt"]
    (root / "50.log").touch()
    opened(root, "train", tmp_path / "other")
    assert kept(tmp_path / "other") == []


def test_cache_inside_the_folder_and_recursive_link(tmp_path: Path, reads: list[Source]) -> None:
    root = yolo(tmp_path / "set")
    (root / "images/train/itself").symlink_to(root)
    (root / "nothing").symlink_to(root / "gone")
    (root / "cache").mkdir()
    first, second = (contents(opened(root, "train", root / "cache")) for _ in range(2))
    assert (first, len(reads)) == (second, 1)


@pytest.mark.parametrize("cache", [".", "labels", "labels/train"])
def test_cache_in_a_label_folder(tmp_path: Path, reads: list[Source], cache: str) -> None:
    """Its own files are left out, and no others: a changed label is read again."""
    root = yolo(tmp_path / "set")
    first, second = (contents(opened(root, "train", root / cache)) for _ in range(2))
    assert (first, len(reads)) == (second, 1)
    (root / "labels/train/é1.txt").write_text("1 0.5 0.5 0.25 0.25\n")
    changed = contents(opened(root, "train", root / cache))
    assert changed == contents(open_boxes(root, "train", cache=tmp_path / "other")) != first


def test_classification_set_is_not_indexed(tmp_path: Path, reads: list[Source]) -> None:
    for name in ("cat", "dog"):
        image(tmp_path / "set" / "train" / name / "a.png")
    for _ in range(2):
        assert len(formats.open_classes(tmp_path / "set", "train")) == 2
    assert len(reads) == 2


def test_folders_are_listed_once_while_the_layout_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all layouts together, and anew when the folder is opened again."""
    root, real, listed = voc(tmp_path / "set"), os.scandir, list[str]()

    def scandir(folder: Any) -> Any:
        listed.append(str(folder))
        return real(folder)

    monkeypatch.setattr(listing.os, "scandir", scandir)
    for name in ("b.CSV", "a.csv", ".csv", "c.txt"):
        (root / name).touch()
    with listing.listed_once():
        for suffixes in ((".csv",), (".json",), (".csv", ".txt")):
            found = label_files.candidates(root, suffixes)
    assert [file.name for file in found] == ["a.csv", "b.CSV", "c.txt", "classes.txt"]
    assert listed == [str(root), f"{root}/Annotations", f"{root}/JPEGImages"]
    (root / "d.csv").touch()
    with listing.listed_once():
        assert len(label_files.candidates(root, (".csv",))) == 3
    assert len(label_files.candidates(root, (".csv",))) == 3
