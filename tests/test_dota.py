"""DOTA's labelTxt and Pascal VOC: boxes worked by hand, class lists by version, bad lines in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright import recipe
from boxwright.datatools.check import check, check_folder
from boxwright.errors import InputError
from boxwright.formats import open_dataset, splits
from boxwright.predict.labels import draw_labels

LABELS = """imagesource:GoogleEarth
gsd:0.146343590398

10.0 5.0 30.0 5.0 30.0 15.0 10.0 15.0 plane 0
20 0 40 10 20 20 0 10 large-vehicle 1
1 1 3 1 3 3 1 3 ship
"""
V15 = "1 1 3 1 3 3 1 3 container-crane 0\n"
V20 = "1 1 3 1 3 3 1 3 helipad 0\n"


def scene(root: Path, name: str, labels: str | None, folder: str = "train", label_folder: str = "labelTxt") -> Path:
    """A scene of 60 x 40 px with its labels, in {folder}/images and {folder}/{label_folder}."""
    (root / folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), (90, 120, 150)).save(root / folder / "images" / f"{name}.png")
    (root / folder / label_folder).mkdir(parents=True, exist_ok=True)
    file = root / folder / label_folder / f"{name}.txt"
    if labels is not None:
        file.write_text(labels, encoding="utf-8")
    return file


def test_quadrilaterals_become_boxes(tmp_path: Path) -> None:
    file = scene(tmp_path, "P0001", LABELS)
    scene(tmp_path, "P0000", "")
    scene(tmp_path, "P0002", None)
    assert splits(tmp_path) == ["train"]
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.kind, dataset.names) == ("dota", recipe.class_names("dota10"))
    assert [(Path(sample.path).stem, len(sample)) for sample in dataset] == [("P0000", 0), ("P0001", 3), ("P0002", 0)]
    sample = dataset[1]
    np.testing.assert_array_equal(sample.boxes, [[10, 5, 30, 15], [0, 0, 40, 20], [1, 1, 3, 3]])
    assert [dataset.names[label] for label in sample.labels] == ["plane", "large-vehicle", "ship"]
    assert sample.difficult.tolist() == [False, True, False]
    assert sample.areas.tolist() == [200, 400, 4]  # the second is a rhombus with diagonals of 40 and 20 px
    assert dataset.location(1, 0) == f"{file} line 4"
    assert dataset.subset([1]).without_rows(np.array([True, False, False]))[0].difficult.tolist() == [True, False]


@pytest.mark.parametrize(
    ("label_folder", "labels", "listed"),
    [
        ("labelTxt", "", "dota10"), ("labelTxt", V15, "dota15"), ("labelTxt", V20, "dota20"),
        ("labelTxt-v1.0", "", "dota10"), ("labelTxt-v1.5", "", "dota15"), ("labelTxt-v2.0", V15, "dota20"),
    ],
)  # fmt: skip
def test_class_list_follows_the_dota_version(tmp_path: Path, label_folder: str, labels: str, listed: str) -> None:
    """Every split has the classes of the whole set, also one that shows fewer."""
    scene(tmp_path, "a", LABELS + labels, label_folder=label_folder)
    scene(tmp_path, "b", LABELS, folder="val", label_folder=label_folder)
    for split in ("train", "val"):
        assert open_dataset(tmp_path, split).names == recipe.class_names(listed)


def test_class_lists_have_15_16_and_18_classes() -> None:
    """15, 16 and 18 classes, as DOTA's own page counts them; each begins with the one before."""
    old, newer, newest = (recipe.class_names(name) for name in ("dota10", "dota15", "dota20"))
    assert (len(old), len(newer), len(newest)) == (15, 16, 18)
    assert (newer[:15], newer[15:]) == (old, ("container-crane",))
    assert (newest[:16], newest[16:]) == (newer, ("airport", "helipad"))
    assert len(set(newest)) == 18


def test_dota_folder_layouts(tmp_path: Path) -> None:
    scene(tmp_path / "flat", "a", LABELS, folder=".")
    scene(tmp_path / "zip", "a", LABELS, label_folder="labelTxt-v1.5/DOTA-v1.5_train")
    for part in ("images/val", "labelTxt/val"):
        (tmp_path / "inner" / part).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "inner/images/val/a.png")
    (tmp_path / "inner/labelTxt/val/a.txt").write_text(LABELS)
    scene(tmp_path / "test", "a", LABELS)
    (tmp_path / "test/test/images").mkdir(parents=True)  # scenes whose labels nobody has
    for name, split in (("flat", "all"), ("zip", "train"), ("inner", "val"), ("test", "train")):
        assert splits(tmp_path / name) == [split]
        assert open_dataset(tmp_path / name, split).rows.difficult.tolist() == [False, True, False]


def test_difficult_2_of_the_splitting_tool_is_difficult(tmp_path: Path) -> None:
    """ImgSplit.py of DOTA's development kit writes 2 for the rest of an object below its threshold."""
    scene(tmp_path, "a", LABELS.replace("plane 0", "plane 2"))
    assert open_dataset(tmp_path, "train").rows.difficult.tolist() == [True, True, False]


def test_two_label_folders_need_a_data_yaml(tmp_path: Path) -> None:
    scene(tmp_path, "a", LABELS)
    scene(tmp_path, "a", V15, label_folder="labelTxt-v1.5")
    with pytest.raises(InputError, match=r"train: holds labelTxt and labelTxt-v1\.5, needed one"):
        splits(tmp_path)
    file = tmp_path / "d.yaml"
    file.write_text("kind: dota\ntrain: train/labelTxt-v1.5\nnames: dota20\n")
    dataset = open_dataset(file, "train")
    assert (dataset.names, len(dataset.rows)) == (recipe.class_names("dota20"), 1)


def test_custom_class_names(tmp_path: Path) -> None:
    scene(tmp_path, "a", "0 0 1 0 1 1 0 1 kiosk 0\n")
    (tmp_path / "classes.txt").write_text("tram\nkiosk\n")
    assert open_dataset(tmp_path, "train").rows.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 4 5 6 7 plane 0", "needed eight numbers, a class, and 0, 1 or 2"),
        ("1 2 3 4 5 6 7", "needed eight numbers"),
        ("1 2 3 4 5 6 7 8", "needed eight numbers"),
        ("1 2 3 4 5 6 7 x plane 0", "needed eight numbers"),
        ("1 2 3 4 5 6 7 8 plane 3", "0, 1 or 2"),
        ("1 2 3 4 5 6 7 8 plane 0 0", "0, 1 or 2"),
    ],
)
def test_every_invalid_line_is_reported(tmp_path: Path, line: str, message: str) -> None:
    first, second = (scene(tmp_path, name, f"{line}\n{LABELS}{line}\n") for name in "ab")
    dataset = open_dataset(tmp_path, "train")
    places = [f"{first} line 1", f"{first} line 8", f"{second} line 1", f"{second} line 8"]
    assert [finding.file for finding in dataset.findings] == places
    assert all(finding.kind == "unreadable_label" and message in finding.text for finding in dataset.findings)
    assert len(dataset.rows) == 6


def test_nan_corner_is_reported(tmp_path: Path) -> None:
    """The least and the greatest of 0, 0, NaN and 9 may be 0 and 9."""
    scene(tmp_path, "a", "0 0 9 0 9 nan 0 9 ship 0\n")
    assert [finding.kind for finding in check(open_dataset(tmp_path, "train")).errors] == ["not_finite"]


def test_non_utf8_labels_are_reported(tmp_path: Path) -> None:
    scene(tmp_path, "a", LABELS)
    file = scene(tmp_path, "b", LABELS)
    file.write_bytes(file.read_bytes() + b"1 1 3 1 3 3 1 3 sh\xffp 0\n")
    (finding,) = open_dataset(tmp_path, "train").findings
    assert (finding.file, finding.kind) == (str(file), "unreadable_label")
    assert "not UTF-8" in finding.text


@pytest.mark.parametrize(("label_folder", "name"), [("labelTxt-v1.0", "container-crane"), ("labelTxt", "zeppelin")])
def test_class_outside_the_version_is_reported(tmp_path: Path, label_folder: str, name: str) -> None:
    file = scene(tmp_path, "a", LABELS + f"1 2 3 4 5 6 7 8 {name} 0\n", label_folder=label_folder)
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.names, dataset.undefined) == (recipe.class_names("dota10"), (name,))
    (finding,) = [finding for finding in check(dataset).errors if finding.kind == "unknown_category"]
    assert (finding.file, finding.text.partition(" is")[0]) == (f"{file} line 7", f"class '{name}'")


def test_mmrotate_layout(tmp_path: Path) -> None:
    """`annfiles` beside `images`, as its tools that cut scenes write them; classes that are none of DOTA's."""
    for split, name in (("trainval", "tram"), ("test", "kiosk")):
        scene(tmp_path, "P0__1024__0___0", f"0 0 9 0 9 9 0 9 {name} 0\n", folder=split, label_folder="annfiles")
    assert splits(tmp_path) == ["test", "trainval"]
    for split, label in (("trainval", 1), ("test", 0)):
        dataset = open_dataset(tmp_path, split)
        assert (dataset.kind, dataset.names, dataset.rows.labels.tolist()) == ("dota", ("kiosk", "tram"), [label])


def test_unmatched_scenes_are_rejected(tmp_path: Path) -> None:
    scene(tmp_path, "a", LABELS).rename(tmp_path / "train/labelTxt/b.txt")
    with pytest.raises(InputError, match=r"no scene has a label file; looked for a\.txt"):
        open_dataset(tmp_path, "train")
    (tmp_path / "train/images/a.png").unlink()
    with pytest.raises(InputError, match="holds no scene"):
        open_dataset(tmp_path, "train")
    scene(tmp_path, "a", LABELS, label_folder="labelTxt/in")
    scene(tmp_path, "a", LABELS, label_folder="labelTxt/hbb")
    with pytest.raises(InputError, match="has the same name"):
        open_dataset(tmp_path, "train")


def test_check_and_show_dota(tmp_path: Path) -> None:
    """A scene that is gone, a figure outside its scene, a number that is none, a figure without area."""
    scene(tmp_path, "a", "50 30 70 30 70 50 50 50 plane 0\nnan 0 9 0 9 9 0 9 ship 0\n5 5 9 5 9 5 5 5 ship 0\n")
    lost = scene(tmp_path, "lost", LABELS)
    (tmp_path / "train/images/lost.png").unlink()
    report = check(open_dataset(tmp_path, "train"))
    assert [finding.kind for finding in report.errors] == ["not_finite", "zero_area", "outside", "unknown_image"]
    assert f"{lost}" in str(report.errors[3])
    assert "reaches 10 px out of the 60 x 40 image" in str(report.errors[2])
    scene(tmp_path / "sound", "a", LABELS)
    assert not check_folder(tmp_path / "sound").errors
    assert "1 of 1 images" in draw_labels(open_dataset(tmp_path / "sound", "train"), tmp_path / "drawn", 3)


VOC = """<annotation>
  <folder>VOC2007</folder><filename>{name}.png</filename>
  <size><width>60</width><height>40</height><depth>3</depth></size>
  <object><name>person</name><pose>Left</pose><truncated>1</truncated><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></part></object>
  <object><name>cat</name><bndbox><ymax>20</ymax><xmin>11</xmin><ymin>6</ymin><xmax>30.5</xmax></bndbox></object>
</annotation>"""


def voc(root: Path, lists: dict[str, list[str]], xml: str = VOC) -> Path:
    """A VOC folder; returns the XML of the last image."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            Image.new("RGB", (60, 40)).save(root / f"JPEGImages/{name}.png")
            (root / f"Annotations/{name}.xml").write_text(xml.format(name=name), encoding="utf-8")
    return root / f"Annotations/{name}.xml"


def test_voc_boxes_classes_and_splits(tmp_path: Path) -> None:
    """The whole of an image is 1 to 60 for VOC and 0 to 60 for us. Classes are those of all splits, sorted."""
    xml = voc(tmp_path, {"train": ["000012", "000005"], "val": ["000007"]})
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("000005\n000007\n000012\n")
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("000012  1\n000005 -1\n")
    xml.write_text(VOC.format(name="000007").replace("cat", "zebra"))
    assert splits(tmp_path) == ["train", "val"]
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.kind, dataset.names) == ("voc", ("cat", "person", "zebra"))
    assert open_dataset(tmp_path, "val").names == dataset.names
    assert [Path(sample.path).name for sample in dataset] == ["000012.png", "000005.png"]
    sample = dataset[1]
    np.testing.assert_array_equal(sample.boxes, [[0, 0, 60, 40], [10, 5, 30.5, 20]])
    assert (sample.labels.tolist(), sample.difficult.tolist(), sample.size) == ([1, 0], [True, False], (40, 60))
    assert dataset.location(1, 3) == f"{tmp_path / 'Annotations/000005.xml'} object[2]"
    assert not check_folder(tmp_path).errors


def test_voc_without_split_lists(tmp_path: Path) -> None:
    xml = voc(tmp_path, {"all": ["a", "b"]})
    (tmp_path / "ImageSets/Main/all.txt").unlink()
    xml.write_text(VOC.replace("<filename>{name}.png</filename>", ""))  # the image then bears the XML's name
    assert splits(tmp_path) == ["all"]
    assert [Path(sample.path).name for sample in open_dataset(tmp_path, "all")] == ["a.png", "b.png"]


def test_voc_names_with_spaces_and_separate_trainval(tmp_path: Path) -> None:
    """A name may look like a line of a class's list; `trainval` may hold what neither of the others does."""
    voc(tmp_path, {"train": ["my photo", "b"], "val": ["photo 1"], "trainval": ["my photo", "b", "photo 1", "c"]})
    (tmp_path / "ImageSets/Main/cat_val.txt").write_text("b  0\nc -1\n")
    assert splits(tmp_path) == ["train", "val", "trainval"]
    assert [Path(sample.path).name for sample in open_dataset(tmp_path, "val")] == ["photo 1.png"]
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("b\nmy photo\nphoto 1\n")
    assert splits(tmp_path) == ["train", "val"]


@pytest.mark.parametrize(
    ("files", "filenames", "found"),
    [
        (["a.Png"], {"a": "IMG_0001.jpg"}, ["a.Png"]),
        (["a.jpg", "b.jpg"], {"a": "a.jpg", "b": "a.jpg"}, ["a.jpg", "b.jpg"]),
        (["a.jpg", "a.png"], {"a": "a.png"}, ["a.png"]),
        (["IMG_0001.jpg"], {"a": "IMG_0001.jpg"}, ["IMG_0001.jpg"]),
        (["b.jpg"], {"a": "IMG_0001.jpg"}, ["IMG_0001.jpg"]),
    ],
)
def test_voc_image_matched_to_xml(
    tmp_path: Path, files: list[str], filenames: dict[str, str], found: list[str]
) -> None:
    """The one of the XML's own name, else the `filename`, also where `data check` will report that it is missing."""
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part).mkdir()
    for file in files:
        Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / file)
    for stem, filename in filenames.items():
        text = VOC.replace("{name}.png", filename).replace("<difficult>1</difficult>", "<difficult/>")
        (tmp_path / f"Annotations/{stem}.xml").write_text(text)
    dataset = open_dataset(tmp_path, "all")
    assert [Path(sample.path).name for sample in dataset] == found
    assert not dataset.rows.difficult.any()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "not well-formed XML"),
        ("annotation>", "other>", "the outer element is 'other'"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY x "y">]><annotation>', "entity 'x'"),
        ("<folder>", "<a>" * 40 + "</a>" * 40 + "<folder>", "nested 33 deep"),
        ("<name>person</name>", "", r"object\[1\]: name: empty or missing"),
        ("<xmin>11</xmin>", "", r"object\[2\]: bndbox: found xmin '', ymin '6'"),
        ("<xmin>11</xmin>", "<xmin>left</xmin>", r"object\[2\]: bndbox: found xmin 'left'"),
        ("<difficult>1", "<difficult>yes", r"object\[1\]: difficult: found 'yes', needed 0 or 1"),
    ],
)
def test_invalid_voc_is_a_finding(tmp_path: Path, old: str, new: str, message: str) -> None:
    xml = voc(tmp_path, {"train": ["a"]}, VOC.replace(old, new))
    with_names = tmp_path / "classes.txt"
    with_names.write_text("person\ncat\n")
    (finding,) = open_dataset(tmp_path, "train").findings
    assert re.search(message, f"{finding.file}: {finding.text}")
    assert finding.file.startswith(str(xml))
    with_names.unlink()
    if "object" not in message:  # nothing is left that could tell the classes
        report = check(open_dataset(tmp_path, "train"), images=False)
        with pytest.raises(InputError, match=message):
            report.raise_on_errors(tmp_path)


def test_voc_undefined_class_and_missing_xml_are_findings(tmp_path: Path) -> None:
    voc(tmp_path, {"train": ["a"]})
    (tmp_path / "classes.txt").write_text("person\ndog\n")
    (finding,) = [found for found in check(open_dataset(tmp_path, "train")).errors if found.kind == "unknown_category"]
    assert finding.file.endswith("a.xml object[2]")
    assert "class 'cat' is not defined; there are person, dog" in finding.text
    (tmp_path / "Annotations/a.xml").unlink()
    (finding,) = open_dataset(tmp_path, "train").findings
    assert (finding.file, finding.text) == (
        str(tmp_path / "Annotations/a.xml"),
        "cannot be read (No such file or directory)",
    )
