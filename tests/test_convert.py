"""`data convert`: the files of each layout, round trips, and reported losses."""

import contextlib
import io
import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from boxwright import cli
from boxwright.data.dataset import Dataset
from boxwright.datatools.check import check_folder
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.files import new_folder
from boxwright.formats import dota, open_dataset, splits

AERIAL = Path(__file__).parents[2] / "shared" / "data" / "aerial"
LAYOUTS = ("coco", "yolo_txt", "line_txt", "voc", "dota", "cvat", "kitti")
OUTLINE_LAYOUTS = {"coco", "dota", "cvat"}  # layouts of quadrilaterals
TOOLS = ("createml", "csv_retinanet", "csv_table", "label_studio", "labelme", "openimages", "via")
TOOL_CHAIN = [*zip(("coco", *TOOLS), (*TOOLS, "coco"), strict=True)]
# A figure on its tip in the box 10.1, 5, 30.3, 15; its area by hand: half of 20.2 x 10.
RHOMBUS = [20.2, 5, 30.3, 10, 20.2, 15, 10.1, 10]


def labels(**further: Any) -> dict[str, Any]:
    """Images of 60 x 40 px: one with a plain box and a rhombus, one in a folder with a difficult box, one bare."""
    names = {7: "a.png", 3: "in/b c.jpg", 5: "in/bare.png"}
    return {
        "images": [{"id": n, "file_name": name, "width": 60, "height": 40} for n, name in names.items()],
        "annotations": [
            {"id": 31, "image_id": 3, "category_id": 9, "bbox": [0, 0, 60, 40], "area": 2400, "difficult": 1},
            {"id": 32, "image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 8], "area": 80},
            {"id": 33, "image_id": 7, "category_id": 9, "bbox": [10.1, 5, 20.2, 10], "area": 101.0,
             "segmentation": [RHOMBUS]},
        ],
        "categories": [{"id": 9, "name": "delivery truck"}, {"id": 2, "name": "car"}],
    } | further  # fmt: skip


def write_coco(root: Path, tree: dict[str, Any] | None = None, split: str = "train") -> Path:
    tree = tree or labels()
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(tree), encoding="utf-8")
    for number, image in enumerate(tree["images"]):
        file = root / "images" / split / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (number, len(split), 0)).save(file)
    return root


def labels_with_extras(**changes: Any) -> dict[str, Any]:
    """With a crowd region and keys of all sorts."""
    tree = labels(info={"year": 2020}, **changes)
    tree["annotations"].append(
        {"id": 40, "image_id": 7, "category_id": 2, "bbox": [30, 20, 20, 10], "area": 55, "iscrowd": 1,
         "segmentation": {"size": [40, 60], "counts": [2400]}}
    )  # fmt: skip
    tree["annotations"][1]["pose"] = "left"
    tree["images"][0] |= {"gsd": "0.5", "license": 4}
    tree["categories"][0]["supercategory"] = "vehicle"
    return tree


def boxes_by_image(dataset: Dataset, *columns: str) -> dict[str, Any]:
    """Image's name -> its boxes with their classes and these `columns`, sorted."""
    boxes = {}
    for sample in dataset:
        parts = [sample.boxes.tolist(), [dataset.names[label] for label in sample.labels]]
        boxes[Path(sample.path).name] = sorted(
            zip(*parts, *(getattr(sample, c).tolist() for c in columns), strict=True)
        )
    return boxes


def test_yolo_txt_by_hand(tmp_path: Path) -> None:
    """Center and size as shares of 60 x 40 px."""
    convert(write_coco(tmp_path / "from"), "yolo_txt", tmp_path / "to")
    first, second = (tmp_path / "to/labels/train/a.txt").read_text().splitlines()
    assert first == f"0 {6 / 60!r} {6 / 40!r} {10 / 60!r} {8 / 40!r}"
    np.testing.assert_allclose([float(w) for w in second.split()], [1, 20.2 / 60, 10 / 40, 20.2 / 60, 10 / 40])
    assert (tmp_path / "to/labels/train/in/b c.txt").read_text() == "1 0.5 0.5 1.0 1.0\n"
    assert (tmp_path / "to/labels/train/in/bare.txt").read_text() == ""
    assert (tmp_path / "to/classes.txt").read_text() == "car\ndelivery truck\n"
    described = yaml.safe_load((tmp_path / "to/data.yaml").read_text())
    assert described == {"train": "images/train", "names": {0: "car", 1: "delivery truck"}}
    (tmp_path / "to/data.yaml").unlink()
    for part in ("images", "labels"):
        (tmp_path / "to" / part / "train").rename(tmp_path / "to" / part / "fold 1")
    convert(tmp_path / "to", "yolo_txt", tmp_path / "folds")
    assert not (tmp_path / "folds/data.yaml").exists(), "its splits are train, val and test"
    assert splits(tmp_path / "folds") == ["fold 1"]


def test_line_txt_by_hand(tmp_path: Path) -> None:
    convert(write_coco(tmp_path / "from", labels_with_extras()), "line_txt", tmp_path / "to")
    assert (tmp_path / "to/train.txt").read_text().splitlines() == [
        "images/train/a.png 1,2,11,10,0 10.1,5,30.3,15,1 30,20,50,30,0,1",
        "images/train/in/b c.jpg 0,0,60,40,1",
        "images/train/in/bare.png",
    ]


def test_dota_by_hand(tmp_path: Path) -> None:
    convert(write_coco(tmp_path / "from", labels_with_extras()), "dota", tmp_path / "to")
    assert (tmp_path / "to/train/labelTxt/a.txt").read_text().splitlines() == [
        "gsd:0.5",
        "1 2 11 2 11 10 1 10 car 0",
        "20.2 5 30.3 10 20.2 15 10.1 10 delivery-truck 0",
        "30 20 50 20 50 30 30 30 car 1",
    ]
    assert (tmp_path / "to/train/labelTxt/b c.txt").read_text() == "0 0 60 0 60 40 0 40 delivery-truck 1\n"


def test_voc_by_hand(tmp_path: Path) -> None:
    """Pixels from 1, both ends meant."""
    convert(write_coco(tmp_path / "from", labels_with_extras()), "voc", tmp_path / "to")
    tree = ET.parse(tmp_path / "to/Annotations/train/a.xml").getroot()
    assert [tree.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["60", "40", "3"]
    found = [[o.findtext(key) for key in ("name", "difficult", "pose")] for o in tree.findall("object")]
    assert found == [["car", "0", "left"], ["delivery truck", "0", None], ["car", "1", None]]
    corners = [[e.text for e in o.findall("bndbox/*")] for o in tree.findall("object")]
    assert corners == [["2", "3", "11", "10"], ["11.1", "6", "30.3", "15"], ["31", "21", "50", "30"]]
    names = (tmp_path / "to/ImageSets/Main/train.txt").read_text().splitlines()
    assert names == ["train/a", "train/in/b c", "train/in/bare"]


@pytest.mark.slow
def test_conversion_copies_images(tmp_path: Path) -> None:
    """The same bytes; two splits may have images of the same name."""
    root = write_coco(write_coco(tmp_path / "from"), split="val")
    for layout in LAYOUTS + TOOLS:
        convert(root, layout, tmp_path / layout)
        assert splits(tmp_path / layout) == ["train", "val"]
        for split in ("train", "val"):
            before, after = open_dataset(root, split), open_dataset(tmp_path / layout, split)
            assert len(after) == 3
            for sample in after:
                (old,) = (one.path for one in before if Path(one.path).name == Path(sample.path).name)
                assert Path(sample.path).read_bytes() == Path(old).read_bytes()
        assert not check_folder(tmp_path / layout).errors


@pytest.mark.parametrize(("layout", "last"), [*itertools.product(LAYOUTS, LAYOUTS), *TOOL_CHAIN])
def test_round_trip_through_two_layouts(tmp_path: Path, layout: str, last: str) -> None:
    """Boxes and classes come back through any two layouts; flags, areas and outlines through those that hold them."""
    tree = labels_with_extras()
    tree["categories"][0]["name"] = "truck"
    if {layout, last} - {"coco", "line_txt", "openimages"}:
        tree["annotations"].pop()  # the crowd region
    root = write_coco(write_coco(tmp_path / "from", tree), tree | {"annotations": []}, "test")
    convert(root, layout, tmp_path / "1")
    convert(tmp_path / "1", last, tmp_path / "2")
    convert(tmp_path / "2", "coco", tmp_path / "3")
    columns = []
    if {layout, last} <= {"coco", "dota", "voc"}:
        columns.append("difficult")
    if {layout, last} <= OUTLINE_LAYOUTS:
        columns.append("areas")
    if {layout, last} <= {"coco", "line_txt", "openimages"}:
        columns.append("crowd")
    before, after = open_dataset(root, "train"), open_dataset(tmp_path / "3", "train")
    assert after.names == ("car", "truck")
    assert boxes_by_image(open_dataset(tmp_path / "3", "test")) == boxes_by_image(open_dataset(root, "test"))
    assert boxes_by_image(after, *columns) == boxes_by_image(before, *columns)
    written = json.loads((tmp_path / "3/annotations/train.json").read_text())
    outlines = [a.get("segmentation") for a in written["annotations"] if a["category_id"] == after.category_ids[1]]
    assert ([RHOMBUS] in outlines) == ({layout, last} <= OUTLINE_LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS + TOOLS)
def test_file_names_with_spaces_and_suffixes_round_trip(tmp_path: Path, layout: str) -> None:
    """Also where such a name comes first, and looks like a line of VOC's list of a class."""
    images = [
        {"id": n, "file_name": name} for n, name in [(3, "photo 1.jpg"), (5, "my photo 1.jpg"), (7, "a.jpg copy.png")]
    ]
    root = write_coco(write_coco(write_coco(tmp_path / "from", labels(images=images)), split="val"), split="trainval")
    convert(root, layout, tmp_path / "1")
    convert(tmp_path / "1", "coco", tmp_path / "2")
    assert splits(tmp_path / "2") == ["train", "val", "trainval"]
    for split in splits(root):
        before, after = open_dataset(root, split), open_dataset(tmp_path / "2", split)
        if layout in ("dota", "kitti"):
            before = replace(before, names=("car", "delivery-truck"))
        assert boxes_by_image(after) == boxes_by_image(before)


def test_values_that_change_in_a_round_trip_are_reported(tmp_path: Path) -> None:
    """XML and DOTA's first lines contain text: flags become 0 and 1, and changes of other values are reported."""
    tree = labels()
    tree["annotations"][0] |= {"truncated": True, "occluded": 1, "pose": "left", "point": ["x"], "part": []}
    tree["annotations"][1] |= {"pose": " left", "actions": {"walking": "1"}}
    tree["images"][0] |= {"gsd": 0.5, "imagesource": "a\nb"}
    tree["images"][1] |= {"gsd": "0.5"}
    root = write_coco(tmp_path / "from", tree)
    summary = convert(root, "voc", tmp_path / "voc")
    changed = ("truncated", "occluded", "point", "part", "pose")
    for key in changed:
        assert f"1 '{key}' of boxes unchanged (they" in summary
    assert summary.count("unchanged (they") == len(changed)
    assert ET.parse(tmp_path / "voc/Annotations/train/in/b c.xml").findtext("object/truncated") == "1"
    summary = convert(root, "dota", tmp_path / "dota")
    assert "1 'gsd' of images unchanged (they" in summary
    assert "1 'imagesource' of images unchanged (they" in summary
    first = (tmp_path / "dota/train/labelTxt/a.txt").read_text().splitlines()[:2]
    assert first == ["imagesource:a b", "gsd:0.5"]


def test_coco_to_coco_keeps_every_key(tmp_path: Path) -> None:
    tree = labels_with_extras()
    convert(write_coco(tmp_path / "from", tree), "coco", tmp_path / "to")
    written = json.loads((tmp_path / "to/annotations/train.json").read_text())
    assert written["info"] == tree["info"]
    for key in ("images", "annotations", "categories"):
        after = {entry["id"]: entry for entry in written[key]}
        for entry in tree[key]:
            converted = after.pop(entry["id"])
            assert converted | entry == converted, key
            assert converted.keys() - entry.keys() <= {"iscrowd", "difficult"}
        assert not after


def test_dota_round_trip_gives_equal_lines(tmp_path: Path) -> None:
    lines = ["imagesource:GoogleEarth", "gsd:null", "20.5 0 40 10.25 20 20 0 10 plane 1", "5 9 5 5 9 5 9 9 ship 2"]
    for part in ("images", "labelTxt"):
        (tmp_path / "from/train" / part).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "from/train/images/P1.png")
    (tmp_path / "from/train/labelTxt/P1.txt").write_text("\n".join(lines))
    assert "cannot hold" not in convert(tmp_path / "from", "coco", tmp_path / "coco")
    areas = "area other than that of the box"
    assert "marks of difficult" not in convert(tmp_path / "from", "voc", tmp_path / "voc")
    summary = convert(tmp_path / "from", "yolo_txt", tmp_path / "yolo")
    for word in (
        "2 marks of difficult",
        "1 'dota_difficult' of boxes",
        f"1 {areas}",
        "1 outline",
        "1 'gsd' of images",
    ):
        assert word in summary
    convert(tmp_path / "coco", "dota", tmp_path / "to")
    assert (tmp_path / "to/train/labelTxt/P1.txt").read_text().splitlines() == lines
    assert open_dataset(tmp_path / "to", "train").names == open_dataset(tmp_path / "from", "train").names


def test_voc_round_trip_gives_equal_elements(tmp_path: Path) -> None:
    inner = (
        "<filename>a.png</filename><folder>x</folder><owner><name>me</name></owner>"
        "<size><width>60</width><height>40</height><depth>1</depth></size><object><name>cat</name><pose>Left</pose>"
        "<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9.5</xmax><ymax>8</ymax></bndbox>"
        "<part><name>head</name></part><part><name>foot</name></part></object>"
    )
    for part in ("Annotations", "JPEGImages"):
        (tmp_path / "from" / part).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "from/JPEGImages/a.png")
    (tmp_path / "from/Annotations/a.xml").write_text(f"<annotation>{inner}</annotation>")

    def elements(file: Path) -> list[tuple[str, str]]:
        return sorted((e.tag, (e.text or "").strip()) for e in ET.parse(file).getroot().iter())

    assert "cannot hold" not in convert(tmp_path / "from", "coco", tmp_path / "coco")
    summary = convert(tmp_path / "coco", "voc", tmp_path / "to")
    assert "cannot hold: 1 id of images, 1 id of boxes, 1 id of classes\n" in summary
    assert elements(tmp_path / "to/Annotations/all/a.xml") == elements(tmp_path / "from/Annotations/a.xml")


@pytest.mark.parametrize(
    ("layout", "lost"),
    [
        ("coco", []),
        ("yolo_txt", ["1 crowd region (left out)", "1 mark of difficult objects", "2 areas", "2 outlines",
                      "3 ids of images", "4 ids of boxes", "2 ids of classes", "1 'pose' of boxes",
                      "1 'supercategory' of classes", "1 'info' of the data set", "1 'gsd' of images",
                      "1 'license' of images"]),
        ("line_txt", ["1 mark of difficult objects", "2 areas", "2 outlines", "1 'license' of images"]),
        ("voc", ["1 crowd region (written as difficult)", "2 areas", "2 outlines", "1 'license' of images"]),
        ("dota", ["1 crowd region (written as difficult)", "1 area other", "1 outline", "1 'pose' of boxes",
                  "1 name of classes (delivery truck becomes delivery-truck)"]),
        ("cvat", ["1 crowd region (left out)", "1 mark of difficult objects", "1 area other", "1 outline", "1 'pose'"]),
        ("kitti", ["1 crowd region (left out)", "1 mark of difficult objects", "2 areas", "2 outlines", "1 'pose'",
                   "1 name of classes (delivery truck becomes delivery-truck)"]),
        ("openimages", ["1 mark of difficult objects", "2 areas", "2 outlines", "4 ids of boxes"]),
        *((tool, ["1 crowd region (left out)", "1 mark of difficult objects", "2 areas", "2 outlines"])
          for tool in TOOLS if tool != "openimages"),
    ],
)  # fmt: skip
def test_lost_information_is_reported(tmp_path: Path, layout: str, lost: list[str]) -> None:
    summary = convert(write_coco(tmp_path / "from", labels_with_extras()), layout, tmp_path / "to")
    assert f"train: 3 images, 4 boxes from coco to {layout}" in summary
    assert ("cannot hold" in summary) == bool(lost)
    for word in lost:
        assert word in summary
    assert ("difficult objects" in summary) == (layout not in ("coco", "voc", "dota"))
    assert ("'gsd'" in summary) == (layout not in ("coco", "dota"))
    assert ("'pose'" in summary) == (layout not in ("coco", "voc"))
    assert len(open_dataset(tmp_path / "to", "train").rows) == (3 if "(left out)" in summary else 4)


def test_repeated_box_ids_are_renumbered(tmp_path: Path) -> None:
    """The first box has no id, and is read as number 1, which is the id of the next."""
    tree = labels()
    del tree["annotations"][0]["id"]
    tree["annotations"][1]["id"], tree["annotations"][2]["id"] = 1, 2
    summary = convert(write_coco(tmp_path / "from", tree), "coco", tmp_path / "to")
    assert "3 ids of boxes, since some repeat (renumbered)" in summary
    written = json.loads((tmp_path / "to/annotations/train.json").read_text())["annotations"]
    assert [each["id"] for each in written] == [1, 2, 3]


@pytest.mark.parametrize("layout", ["kitti", "line_txt"])
def test_ignore_regions_are_written_without_a_report(tmp_path: Path, layout: str) -> None:
    tree = labels()
    tree["annotations"][1] |= {"ignore": 1, "iscrowd": 1}
    summary = convert(write_coco(tmp_path / "from", tree), layout, tmp_path / "to")
    assert open_dataset(tmp_path / "to", "train").rows.ignored.sum() == 1
    assert "'ignore'" not in summary


def test_class_named_background_is_kept(tmp_path: Path) -> None:
    """In `line_txt`, a first name `background` is not a class."""
    tree = labels(categories=[{"id": 2, "name": "background"}, {"id": 9, "name": "truck"}])
    root = write_coco(tmp_path / "from", tree)
    convert(root, "line_txt", tmp_path / "to")
    assert boxes_by_image(open_dataset(tmp_path / "to", "train")) == boxes_by_image(open_dataset(root, "train"))


@pytest.mark.parametrize("layout", LAYOUTS + TOOLS)
def test_round_trip_of_aerial_data(tmp_path: Path, layout: str) -> None:
    """pycocotools reads the same boxes from the JSON that came back."""
    if not AERIAL.is_dir():
        pytest.skip(f"{AERIAL} is absent")
    (tmp_path / "from/annotations").mkdir(parents=True)
    (tmp_path / "from/annotations/test.json").symlink_to(AERIAL / "annotations/test.json")
    (tmp_path / "from/images").symlink_to(AERIAL / "images")
    convert(tmp_path / "from", layout, tmp_path / "1", outside=True)
    convert(tmp_path / "1", "coco", tmp_path / "2")
    found = []
    for file in (AERIAL / "annotations/test.json", tmp_path / "2/annotations/test.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO(str(file))
        found.append(
            {
                Path(image["file_name"]).name: sorted(
                    (reference.cats[a["category_id"]]["name"], *np.round(a["bbox"], 3).tolist())
                    for a in reference.imgToAnns[image["id"]]
                )
                for image in reference.imgs.values()
            }
        )
    assert found[0] == found[1]
    assert sum(map(len, found[0].values())) == 172


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [
        ({"annotations": [labels()["annotations"][0] | {"category_id": 77}]}, "voc", "category 77 is not defined"),
        ({"annotations": [labels()["annotations"][0] | {"image_id": 77}]}, "coco", "there is no image 77"),
        ({"categories": [{"id": 2, "name": "a "}, {"id": 9, "name": "c"}]}, "yolo_txt", "cannot be one line of a list"),
        ({"categories": [{"id": 2, "name": "a b"}, {"id": 9, "name": "a-b"}]}, "dota", "only in white space"),
        ({"images": [*labels()["images"], {"id": 8, "file_name": "in/a.png"}]}, "dota", "same label file"),
        ({"images": [*labels()["images"], {"id": 8, "file_name": "a.jpg"}]}, "voc", "same label file"),
        ({"annotations": [labels()["annotations"][0] | {"bbox": [9, 9, -5, 5]}]}, "dota", "negative side"),
        ({"annotations": []}, "line_txt", "has no box, needed one or more for line_txt"),
        ({"images": [*labels()["images"], {"id": 8, "file_name": "a .jpg"}]}, "voc", "space before the suffix"),
        (
            {"annotations": [labels()["annotations"][0] | {"pose": "a\x07"}]},
            "voc",
            "has bytes or characters that XML cannot hold",
        ),
        ({}, "pascal", "there is no such layout, needed one of coco"),
    ],
)
def test_inconvertible_data_is_rejected(tmp_path: Path, change: dict[str, Any], layout: str, message: str) -> None:
    root = write_coco(tmp_path / "from", labels(**change))
    with pytest.raises(InputError, match=message) as caught:
        convert(root, layout, tmp_path / "to")
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["from"]


@pytest.mark.parametrize(("layout", "split"), [("line_txt", "classes"), ("line_txt", "names"), ("coco", "stuff_a")])
def test_split_name_with_another_meaning_is_rejected(tmp_path: Path, layout: str, split: str) -> None:
    root = tmp_path / "from"
    convert(write_coco(tmp_path / "coco"), "yolo_txt", root)
    (root / "data.yaml").unlink()
    for part in ("images", "labels"):
        (root / part / "train").rename(root / part / split)
    with pytest.raises(InputError, match=f"split '{split}': in {layout} that name has another meaning"):
        convert(root, layout, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_splits_of_different_classes_are_rejected(tmp_path: Path) -> None:
    root = write_coco(
        write_coco(tmp_path / "from"), labels(categories=[{"id": 2, "name": "x"}, {"id": 9, "name": "y"}]), "val"
    )
    with pytest.raises(InputError, match=r"classes of val are x, y, of other splits car, delivery truck"):
        convert(root, "dota", tmp_path / "to")
    convert(root, "coco", tmp_path / "to")


def test_missing_image_or_existing_folder_is_rejected(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "from")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"to: is there already, needed a new or empty folder"):
        convert(root, "voc", tmp_path / "to")
    (tmp_path / "to/mine.txt").unlink()
    (root / "images/train/a.png").unlink()
    with pytest.raises(InputError, match="there is no such file"):
        convert(root, "voc", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_new_folder_is_atomic(tmp_path: Path) -> None:
    with new_folder(tmp_path / "in" / "a") as tmp:
        (tmp / "x").write_text("x")
        assert not (tmp_path / "in/a").exists()
    assert (tmp_path / "in/a/x").read_text() == "x"
    with pytest.raises(InputError, match="b: cannot be written"), new_folder(tmp_path / "b") as tmp:
        (tmp / "no" / "x").write_text("x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_convert_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_coco(tmp_path / "from")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["data", "convert", str(root), "--to", "dota", "-o", str(tmp_path / "to")])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "to")
    assert set(dota.find(tmp_path / "to")) == {"train"}
