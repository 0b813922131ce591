"""XMLs as label tools write them: real files are read correctly, every fault is reported, nothing is misread."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright import xml_text
from boxwright.data.dataset import Dataset
from boxwright.datatools.check import check, check_folder, skip_bad
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import find, layout, open_boxes, splits

DATA = Path(__file__).parent / "data_layouts"
XML = (
    "<annotation><folder>f</folder><filename>{name}.jpg</filename><size><width>96</width><height>64</height>"
    "<depth>3</depth></size><object><name>car</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>9</ymin>"
    "<xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"
)
NAMES = ("a0", "a1", "a2")


def image(file: Path, size: tuple[int, int] = (96, 64)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)


def voc(root: Path, old: str = "", new: str = "", xmls: str = "Annotations", images: str = "JPEGImages") -> Path:
    """Three images with a box each; `old` in the XMLs is replaced by `new`."""
    for name in NAMES:
        image(root / images / f"{name}.jpg")
        (root / xmls).mkdir(parents=True, exist_ok=True)
        text = XML.replace("{name}", name)
        assert old in text
        (root / xmls / f"{name}.xml").write_bytes(text.replace(old, new).encode("gb18030"))
    return root


def boxes(dataset: Dataset) -> list[list[float]]:
    return dataset.rows.xyxy.tolist()


def notes(dataset: Dataset) -> list[str]:
    return [finding.text.partition(" (")[0] for finding in dataset.findings if finding.level == "note"]


def errors(dataset: Dataset) -> list[tuple[str, str]]:
    """Place relative to the data set, and text."""
    found = [finding for finding in dataset.findings if finding.level == "error"]
    return [(finding.file.removeprefix(f"{dataset.root}/"), finding.text) for finding in found]


def expected(name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Image -> its boxes (class, x1, y1, x2, y2), and the classes, by separate code from the same label files."""
    tree = json.loads((DATA / name / "expected.json").read_text())
    return {entry["file"]: entry for entry in tree["pictures"]}, tuple(tree["classes"])


def copied(name: str, root: Path) -> Path:
    """The label files of a tool, and images of the declared sizes."""
    for file in (DATA / name).rglob("*.xml"):
        target = root / file.relative_to(DATA / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    for file, entry in expected(name)[0].items():
        image(root / file, (entry["width"], entry["height"]))
    return root


def compare(root: Path, name: str, split: str, count: int, *, shift: int = 0) -> Dataset:
    """Compare a split with the expected reading. shift: px by which x1 and y1 are less."""
    entries, classes = expected(name)
    dataset = open_boxes(root, split)
    assert dataset.names == classes
    found = 0
    for sample in dataset:
        entry = entries[str(Path(sample.path).relative_to(root))]
        assert sample.size == (entry["height"], entry["width"])
        assert [dataset.names[label] for label in sample.labels] == [row[0] for row in entry["boxes"]]
        right = np.array([row[1:] for row in entry["boxes"]]).reshape(-1, 4) - [shift, shift, 0, 0]
        np.testing.assert_allclose(sample.boxes, right, atol=0.0051)  # it has hundredths
        found += len(sample)
    assert (len(dataset.rows), found) == (count, count)
    return dataset


# --- VOC


@pytest.mark.parametrize(
    ("old", "new", "noted"),
    [
        ("", "", []),
        ("<difficult>0", "<difficult>Unspecified", ["difficult 'Unspecified' was read as 0"]),
        ("<difficult>0", "<difficult>False", ["difficult 'False' was read as 0"]),
        ("<annotation>", '<?xml version="1.0" ?>\n<!DOCTYPE annotation>\n<annotation>', []),
        ("<annotation>", '<?xml version="1.0" encoding="gb2312"?>\n<annotation><path>汽车</path>', []),
        ("<width>96</width><height>64</height>", "<width>96.0</width><height>64.0</height>",
         ["a size with decimals was read"]),
        ("<width>96</width><height>64</height>", "<width></width><height></height>", []),
        ("<width>96</width><height>64</height>", "<width>-1</width><height>-1</height>",
         ["an invalid size; that of the image was used"]),
    ],
)  # fmt: skip
def test_unusual_voc_entries_are_read(tmp_path: Path, old: str, new: str, noted: list[str]) -> None:
    """Pixels 11 to 40 and 9 to 30, counted from 1, are the edges 10, 8, 40, 30."""
    dataset = open_boxes(voc(tmp_path, old, new), "all")
    assert boxes(dataset) == [[10, 8, 40, 30]] * 3
    assert (dataset.names, dataset.rows.difficult.any()) == (("car",), False)
    assert notes(dataset) == noted
    assert not check(dataset).errors


@pytest.mark.parametrize(
    ("split", "lines", "folder"),
    [
        ("train", ["a0.jpg", "a1.jpg", "a2.jpg"], ""),
        ("train", ["# of Monday", "a0", "a1", "a2"], ""),
        ("default", ['"cam one/a0"', '"cam one/a1"', '"cam one/a2"'], "/cam one"),
        ("val", ["data/a0.jpg", "data\\a1.jpg", "/data/JPEGImages/a2"], ""),
    ],
)
def test_forms_of_names_in_image_lists(tmp_path: Path, split: str, lines: list[str], folder: str) -> None:
    voc(tmp_path, xmls=f"Annotations{folder}", images=f"JPEGImages{folder}")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / f"ImageSets/Main/{split}.txt").write_text("\n".join(lines))
    assert splits(tmp_path) == [split]
    dataset = open_boxes(tmp_path, split)
    assert [Path(sample.path).stem for sample in dataset] == list(NAMES)
    assert boxes(dataset) == [[10, 8, 40, 30]] * 3
    assert not check(dataset).errors


def test_object_with_two_boxes_is_an_error(tmp_path: Path) -> None:
    """Which of them is meant is unclear; none is left out in silence."""
    voc(tmp_path)
    box = XML[XML.index("<bndbox>") : XML.index("</object>")]
    (tmp_path / "Annotations/a1.xml").write_text(XML.replace("</object>", f"{box}</object>"))
    assert errors(open_boxes(tmp_path, "all")) == [
        ("Annotations/a1.xml object[1]", "bndbox: found 2, needed one per object")
    ]


def test_all_errors_of_all_xml_files_are_reported(tmp_path: Path) -> None:
    """The rest stays, and what was left out can be left out."""
    voc(tmp_path)
    (tmp_path / "Annotations/a0.xml").write_text("")
    (tmp_path / "Annotations/a1.xml").write_text(XML.replace("11", "left").replace("</object>", "</object><object/>"))
    (tmp_path / "Annotations/a3.xml").write_text("<annotation><object>")
    image(tmp_path / "JPEGImages/a3.jpg")
    dataset = open_boxes(tmp_path, "all")
    assert errors(dataset) == [
        ("Annotations/a0.xml", "the file is empty, needed XML"),
        ("Annotations/a1.xml object[1]", "bndbox: found xmin 'left', ymin '9', xmax '40', ymax '30', needed numbers"),
        ("Annotations/a1.xml object[2]", "name: empty or missing, needed the object's class"),
        ("Annotations/a3.xml", "not well-formed XML in line 1; truncated?"),
    ]
    assert [Path(finding.image).name for finding in dataset.findings] == ["a0.jpg", "a1.jpg", "a1.jpg", "a3.jpg"]
    assert boxes(dataset) == [[10, 8, 40, 30]]
    assert check_folder(tmp_path).to_json()["errors"] == 4
    assert len(skip_bad(dataset, check(dataset))) == 4
    with pytest.raises(InputError, match="4 errors"):
        convert(tmp_path, "coco", tmp_path / "coco")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'<!DOCTYPE annotation [<!ENTITY x "y">]>\n<annotation/>', "declares or uses the entity 'x'"),
        (b'<!DOCTYPE annotation SYSTEM "voc.dtd">\n<annotation>&x;</annotation>', "declares or uses the entity 'x'"),
        (b"<annotation>&x;</annotation>", "not well-formed XML in line 1"),
        (b'<?xml version="1.0" encoding="rot13"?><annotation/>', "encoding 'rot13' is not supported"),
        (b"<annotation><folder>\xff\xfe</folder></annotation>", "not in the encoding utf-8"),
        (b"<annotations/>", "the outer element is 'annotations', needed 'annotation'"),
        (b"<annotation>" + b"<a>" * 40 + b"</a>" * 40 + b"</annotation>", "nested 33 deep"),
        (b"<annotation>" + b" " * (1 << 24) + b"</annotation>", "more than 16,777,216 bytes"),
    ],
)
def test_invalid_xml_is_rejected(tmp_path: Path, data: bytes, message: str) -> None:
    voc(tmp_path)
    (tmp_path / "Annotations/a1.xml").write_bytes(data)
    dataset = open_boxes(tmp_path, "all")
    ((place, text),) = errors(dataset)
    assert place == "Annotations/a1.xml"
    assert message in text
    assert len(f"{tmp_path}/{place}: {text}") < 200
    assert len(dataset.rows) == 2


def test_declared_xml_encodings_are_read(tmp_path: Path) -> None:
    """With the class in Chinese and French, as it was declared."""
    for name, codec in (("gb2312", "gb2312"), ("utf-16", "utf-16"), ("utf-8", "utf-8-sig"), ("windows-1252", "cp1252")):
        word = "été" if codec == "cp1252" else "汽车"
        text = f'<?xml version="1.0" encoding="{name}"?>' + XML.replace("car", word)
        (tmp_path / f"{name}.xml").write_bytes(text.encode(codec))
        assert xml_text.read(tmp_path / f"{name}.xml", "annotation").findtext("object/name") == word
    (tmp_path / "dotnet.xml").write_text('<?xml version="1.0" encoding="utf-16"?>' + XML, encoding="utf-8")
    assert xml_text.read(tmp_path / "dotnet.xml", "annotation").findtext("object/name") == "car"


@pytest.mark.parametrize("parts", [("", ""), ("annotations", "images"), ("annotations", "")])
def test_voc_folders_of_labelimg_and_kaggle(tmp_path: Path, parts: tuple[str, str]) -> None:
    """LabelImg: all in one folder. Kaggle: `annotations` and `images`, or images beside the former."""
    voc(tmp_path, xmls=parts[0], images=parts[1])
    assert find(tmp_path).keys() == {"all"}
    dataset = open_boxes(tmp_path, "all")
    assert (dataset.kind, boxes(dataset)) == ("voc", [[10, 8, 40, 30]] * 3)
    assert not check(dataset).findings


@pytest.mark.parametrize("form", ["{}", "{}/Annotations", "annotations/{}"])
def test_voc_folders_per_split(tmp_path: Path, form: str) -> None:
    """Roboflow: train/*.xml beside *.jpg."""
    for split in ("train", "valid", "test"):
        xmls = form.format(split)
        voc(tmp_path, xmls=xmls, images=xmls.replace("Annotations", "JPEGImages").replace("annotations", "images"))
    assert splits(tmp_path) == ["train", "val", "test"]
    for split in splits(tmp_path):
        dataset = open_boxes(tmp_path, split)
        assert (dataset.kind, len(dataset), boxes(dataset)) == ("voc", 3, [[10, 8, 40, 30]] * 3)
    assert not check_folder(tmp_path).findings


@pytest.mark.parametrize("form", ["images/{}", "VOCdevkit/VOC2007", "VOC2007"])
def test_voc_sets_in_nested_folders(tmp_path: Path, form: str) -> None:
    """The tutorials of TensorFlow: images/train/*.xml beside *.jpg. VOC's own archive: VOC2007 with lists."""
    for split in ("train", "test"):
        if "images" in form:
            voc(tmp_path, xmls=form.format(split), images=form.format(split))
        else:
            set_folder = voc(tmp_path / form)
            (set_folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (set_folder / f"ImageSets/Main/{split}.txt").write_text("a0\na1\na2\n")
    root = tmp_path / "VOCdevkit" if "VOCdevkit" in form else tmp_path
    assert splits(root) == ["train", "test"]
    assert boxes(open_boxes(root, "test")) == [[10, 8, 40, 30]] * 3


def test_data_yaml_with_voc_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        voc(tmp_path, xmls=folder, images=folder)
    (tmp_path / "set.yaml").write_text("kind: voc\ntrain: a\nval: b\nnames: [bus, car]\n")
    for split, folder in (("train", "a"), ("val", "b")):
        dataset = open_boxes(tmp_path / "set.yaml", split)
        assert (dataset.path(0), dataset.rows.labels.tolist()) == (f"{tmp_path}/{folder}/a0.jpg", [1, 1, 1])


def test_folders_not_named_as_splits_are_one_split(tmp_path: Path) -> None:
    voc(tmp_path, xmls="monday", images="monday")
    voc(tmp_path, xmls="tuesday", images="tuesday")
    assert splits(tmp_path) == ["all"]
    assert len(open_boxes(tmp_path, "all").rows) == 6


def test_images_found_by_name_and_images_without_xml(tmp_path: Path) -> None:
    voc(tmp_path, xmls="", images="")
    image(tmp_path / "a7.jpg")
    (tmp_path / "a1.jpg").rename(tmp_path / "a1.JPG")
    (tmp_path / "inner").mkdir()
    (tmp_path / "a2.jpg").rename(tmp_path / "inner/a2.jpg")
    dataset = open_boxes(tmp_path, "all")
    assert [Path(dataset.path(index)).name for index in range(3)] == ["a0.jpg", "a1.JPG", "a2.jpg"]
    assert notes(dataset) == [
        "image is not at the named path; found by the last part of the name",
        "an image without an XML file is not in the data set",
    ]
    assert not check(dataset).errors


def test_xml_that_matches_two_images(tmp_path: Path) -> None:
    """The file name in the XML decides; where it does not, neither is taken in silence."""
    image(voc(tmp_path) / "JPEGImages/a1.png", (50, 40))
    dataset = open_boxes(tmp_path, "all")
    assert [Path(dataset.path(index)).name for index in range(3)] == ["a0.jpg", "a1.jpg", "a2.jpg"]
    assert not errors(dataset)
    file = tmp_path / "Annotations/a1.xml"
    file.write_text(file.read_text().replace("a1.jpg", "photo.jpg"))
    dataset = open_boxes(tmp_path, "all")
    (error,) = (finding for finding in dataset.findings if finding.level == "error")
    assert (error.kind, error.file) == ("ambiguous_image", str(file))
    assert "'photo.jpg' may be JPEGImages/a1.jpg or JPEGImages/a1.png" in error.text
    assert len(skip_bad(dataset, check(dataset))) == 2


def test_class_names_are_collected_from_all_splits(tmp_path: Path) -> None:
    voc(tmp_path, xmls="train", images="train")
    voc(tmp_path, "<name>car", "<name>bus", xmls="test", images="test")
    for split in ("train", "test"):
        assert open_boxes(tmp_path, split).names == ("bus", "car")
    (tmp_path / "classes.txt").write_text("car\n")
    kinds = [finding.kind for finding in check(open_boxes(tmp_path, "test")).errors]
    assert kinds == ["unknown_category"] * 3


def test_labelimg_voc_export(tmp_path: Path) -> None:
    """Its XMLs are VOC's, so x1 and y1 are one less than the numbers in them, which `expected` has."""
    root = copied("labelimg_voc", tmp_path)
    assert splits(root) == ["train", "test"]
    compare(root, "labelimg_voc", "train", 45, shift=1)
    compare(root, "labelimg_voc", "test", 6, shift=1)
    assert not check_folder(root).findings


def test_rolabelimg_export(tmp_path: Path) -> None:
    dataset = compare(copied("rolabelimg", tmp_path), "rolabelimg", "all", 15)
    assert notes(dataset) == ["a rotated box was read as the upright box around it"]
    assert "(15 times" in dataset.findings[0].text
    assert not check(dataset).errors
    entries, _ = expected("rolabelimg")
    sides = [row[3:5] for sample in dataset for row in entries[Path(sample.path).name]["rotated"]]
    np.testing.assert_allclose(dataset.rows.areas, np.prod(sides, axis=1), rtol=1e-4)


def test_corners_of_a_rotated_box_by_hand(tmp_path: Path) -> None:
    """30 x 20 px about (50, 30), a quarter of a right angle clockwise on the screen."""
    old = XML[XML.index("<bndbox>") : XML.index("</object>")]
    values = f"<cx>50</cx><cy>30</cy><w>30</w><h>20</h><angle>{math.pi / 6}</angle>"
    root = voc(tmp_path / "set", old, f"<robndbox>{values}</robndbox>")
    (root / "Annotations/a2.xml").write_text(XML.replace(old, "<robndbox><cx>1</cx></robndbox>"))
    dataset = open_boxes(root, "all")
    assert errors(dataset)[0][1] == "robndbox: found cx '1', cy '', w '', h '', angle '', needed numbers"
    (outline,) = layout("voc").extras(dataset).rows[0]["segmentation"]
    turn = np.array([[math.sqrt(0.75), 0.5], [-0.5, math.sqrt(0.75)]])  # of rows (x, y), y down
    corners = np.array([[-15, -10], [15, -10], [15, 10], [-15, 10]]) @ turn + [50, 30]
    np.testing.assert_allclose(np.reshape(outline, (4, 2)), corners, atol=1e-9)
    np.testing.assert_allclose(dataset.rows.xyxy[0], [*corners.min(axis=0), *corners.max(axis=0)], rtol=1e-6)
    np.testing.assert_allclose(dataset.rows.areas, 600)


# --- CVAT

SHAPES = {
    '<box label="car" xtl="1.25" ytl="2" xbr="30" ybr="20.5" occluded="0" source="manual" z_order="0"/>': (
        [1.25, 2, 30, 20.5], 28.75 * 18.5, ""
    ),
    '<box label="car" xtl="10" ytl="20" xbr="50" ybr="30" rotation="90.0"/>': (
        [25, 5, 35, 45], 400, "a rotated box was read as the upright box around it"
    ),
    '<polygon label="car" points="10,10;30.5,12;20,40"/>': (
        [10, 10, 30.5, 40], abs(20.5 * 30 - 10 * 2) / 2, "a polygon was read as the box around it"
    ),
    '<ellipse label="car" cx="40" cy="30" rx="20" ry="10" rotation="90"/>': (
        [30, 10, 50, 50], 800, "an ellipse was read as the box around it, without its outline"
    ),
    '<mask label="car" left="5" top="6" width="10" height="20" rle="200"/>': (
        [5, 6, 15, 26], 200, "a mask was read as the box around it, without its pixels"
    ),
}  # fmt: skip


def cvat(root: Path, shapes: str, images: str = "", meta: str = "", name: str = "annotations.xml") -> Path:
    labels = "<labels><label><name>bus</name></label><label><name>car</name></label></labels>"
    first = f'<image id="0" name="a.png" width="96" height="64">\n{shapes}</image>'
    image(root / "images/a.png")
    start = f"<annotations>\n<version>1.1</version>\n<meta><task>{meta}{labels}</task></meta>\n"
    (root / name).write_text(f"{start}{first}{images}</annotations>")
    return root


def test_cvat_export(tmp_path: Path) -> None:
    root = copied("cvat_images", tmp_path)
    assert find(root).keys() == {"Train"}
    assert splits(root) == ["train"]
    dataset = compare(root, "cvat_images", "train", 142)
    assert len(dataset) == 4
    assert dataset.location(0, 0) == f"{root}/annotations.xml line 44"
    assert [finding.kind for finding in check_folder(root).findings] == ["no_boxes"]
    assert len(open_boxes(root / "annotations.xml", "train").rows) == 142


@pytest.mark.parametrize("shape", SHAPES)
def test_cvat_shapes_become_boxes(tmp_path: Path, shape: str) -> None:
    box, area, noted = SHAPES[shape]
    dataset = open_boxes(cvat(tmp_path, shape), "all")
    assert (dataset.kind, dataset.names, dataset.rows.labels.tolist()) == ("cvat", ("bus", "car"), [1])
    np.testing.assert_allclose(dataset.rows.xyxy, [box], rtol=1e-6)
    np.testing.assert_allclose(dataset.rows.areas, area)
    assert notes(dataset) == ([noted] if noted else [])
    assert not check(dataset).errors


def test_cvat_shapes_without_boxes_are_errors(tmp_path: Path) -> None:
    shapes = [
        '<polyline label="car" points="1,1;2,2"/>', '<points label="car" points="1,1"/>', '<cuboid label="car"/>',
        '<tag label="car"/>', '<box label="car" xtl="a" ytl="2" xbr="3"/>', '<polygon label="car" points="1,1;2,2"/>',
        '<box label="van" xtl="1" ytl="2" xbr="9" ybr="9"/>', '<box xtl="1" ytl="2" xbr="9" ybr="9"/>',
    ]  # fmt: skip
    dataset = open_boxes(cvat(tmp_path, "\n".join(shapes)), "all")
    assert errors(dataset) == [
        ("annotations.xml line 5", "'polyline' has no box; delete it, or draw a box"),
        ("annotations.xml line 6", "'points' has no box; delete it, or draw a box"),
        ("annotations.xml line 7", "'cuboid' has no box; delete it, or draw a box"),
        ("annotations.xml line 9", "'box' has xtl 'a', ytl '2', xbr '3', ybr '', needed numbers"),
        ("annotations.xml line 10", "'polygon' has points '1,1;2,2', needed x,y;x,y;x,y;..."),
        ("annotations.xml line 12", "empty class name"),
    ]
    assert notes(dataset) == ["a tag of an image was not read"]
    assert dataset.undefined == ("van",)
    assert "unknown_category" in [finding.kind for finding in check(dataset).errors]


def test_cvat_subsets_are_splits(tmp_path: Path) -> None:
    """As a project is exported: `subset` of each image, the images in a folder each, with equal names."""
    box = '<box label="car" xtl="{0}" ytl="{0}" xbr="9" ybr="9"/>'
    image(tmp_path / "images/Train/b.png")
    image(tmp_path / "images/Test &amp; more/b.png".replace("&amp;", "&"))
    named = [("Train", 1), ("Test &amp; more", 2)]
    text = "".join(
        f'\n<image id="1" name="b.png" subset="{subset}" width="96" height="64">{box.format(x)}</image>'
        for subset, x in named
    )
    cvat(tmp_path, "", text)
    assert splits(tmp_path) == ["train", "Test & more"]
    for split, x in (("train", 1), ("Test & more", 2)):
        dataset = open_boxes(tmp_path, split)
        assert (dataset.path(0), boxes(dataset)) == (
            f"{tmp_path}/images/{split.replace('train', 'Train')}/b.png",
            [[x, x, 9, 9]],
        )
        assert errors(dataset) == [("annotations.xml line 4", "an image without a subset; name one")]
    with pytest.raises(InputError, match="no subset 'val'; it has Train, Test & more"):
        open_boxes(tmp_path / "annotations.xml", "val")


def test_one_cvat_xml_per_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        cvat(tmp_path / split, next(iter(SHAPES)))
    assert splits(tmp_path) == ["train", "val"]
    assert len(open_boxes(tmp_path, "val").rows) == 1
    for split in ("train", "val"):
        cvat(tmp_path / "one", next(iter(SHAPES)), name=f"{split}.xml")
    assert splits(tmp_path / "one") == ["train", "val"]
    assert Path(open_boxes(tmp_path / "one", "val").path(0)).is_file()
    file = tmp_path / "set.yaml"
    file.write_text("train: train/annotations.xml\nval: val/annotations.xml\n")
    assert (open_boxes(file, "val").kind, len(open_boxes(file, "val").rows)) == ("cvat", 1)


def test_cvat_video_and_truncated_xml_are_rejected(tmp_path: Path) -> None:
    root = cvat(tmp_path, "", '<track id="0" label="car"/>')
    with pytest.raises(InputError, match=r"XML for video \(tracks\); export the task as 'CVAT for images 1.1'"):
        open_boxes(root, "all")
    (root / "annotations.xml").write_text("<annotations><image>")
    with pytest.raises(InputError, match=r"annotations.xml: not well-formed XML in line 1"):
        open_boxes(root, "all")


def test_cvat_round_trip(tmp_path: Path) -> None:
    """With everything that is written: the second export equals the first."""
    attribute = '<attribute name="color">red &amp; blue</attribute>'
    polygon = '<polygon label="bus" points="1,2;30.25,2;40,20;1,30" occluded="1" group_id="3"/>'
    shapes = next(iter(SHAPES)).replace("/>", f">{attribute}</box>") + polygon
    convert(cvat(tmp_path / "0", shapes), "cvat", tmp_path / "1")
    message = convert(tmp_path / "1", "cvat", tmp_path / "2")
    assert "cannot hold" not in message
    first, second = ((tmp_path / name / "all/annotations.xml").read_text() for name in "12")
    assert first == second
    (child,) = (element for element in xml_text.children(tmp_path / "1/all/annotations.xml", "annotations")
                if element.tag == "image")  # fmt: skip
    box, outline = child
    assert (box.get("xtl"), box.get("ybr"), box.findtext("attribute")) == ("1.25", "20.5", "red & blue")
    assert (outline.get("points"), outline.get("group_id"), outline.get("occluded")) == (
        "1,2;30.25,2;40,20;1,30",
        "3",
        "1",
    )


def test_xml_is_recognized_by_exactly_one_layout(tmp_path: Path) -> None:
    cvat(tmp_path / "cvat", "")
    voc(tmp_path / "voc", xmls="", images="")
    for name in ("cvat", "voc"):
        kinds = {source.kind for source in find(tmp_path / name).values()}
        assert kinds == {name}


def test_large_xml_files_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the file is cut into pieces, and with a limit of elements that counts only one image at a time."""
    monkeypatch.setattr(xml_text, "CHUNK", 7)
    monkeypatch.setattr(xml_text, "MAX_ELEMENTS", 12)
    shape = next(iter(SHAPES))
    more = "".join(f'<image id="{n}" name="a.png" width="96" height="64">{shape * 3}</image>' for n in range(20))
    assert len(open_boxes(cvat(tmp_path, shape, more), "all").rows) == 61
    cvat(tmp_path, shape * 20)
    with pytest.raises(InputError, match="more than 12 elements"):
        open_boxes(tmp_path, "all")
