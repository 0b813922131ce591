"""Label files of annotation tools are read as these tools mean them."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright import cli, formats
from boxwright.audit.report import COLUMNS as FINDINGS
from boxwright.data.dataset import Dataset
from boxwright.datatools.check import check, check_folder
from boxwright.datatools.clean import Cleaning
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import open_boxes
from boxwright.metrics.error_table import COLUMNS as ERRORS

SAMPLES = Path(__file__).parent / "data_layouts"
KINDS = {
    "labelme_rectangles": "labelme",
    "label_studio": "label_studio",
    "makesense": "csv_table",
    "roboflow_createml": "createml",
    "sagemaker_manifest": "manifest",
    "tensorflow_csv": "csv_table",
}


def image(file: Path, width: int = 100, height: int = 80) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(file)


def write(file: Path, content: Any) -> Path:
    """A text, or JSON; returns the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file.parent


def found(dataset: Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """Image path relative to the data set -> (class, x1, y1, x2, y2), sorted."""
    return {
        Path(sample.path).relative_to(dataset.root).as_posix(): sorted(
            (dataset.names[label], *np.round(box.astype(float), 2).tolist())
            for label, box in zip(sample.labels, sample.boxes, strict=True)
        )
        for sample in dataset
    }


def errors(dataset: Dataset) -> list[str]:
    return [str(finding) for finding in dataset.findings if finding.level == "error"]


def notes(dataset: Dataset) -> list[str]:
    return [finding.text for finding in dataset.findings if finding.level == "note"]


def boxes(root: Path, split: str = "all") -> list[tuple[Any, ...]]:
    """The boxes of all images; there are no faults."""
    dataset = open_boxes(root, split)
    assert errors(dataset) == []
    return [box for rows in found(dataset).values() for box in rows]


@pytest.fixture(params=KINDS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any], str]:
    """A folder of label files with generated images, its right reading, and its layout."""
    root = tmp_path / request.param
    shutil.copytree(SAMPLES / request.param, root)
    expected = json.loads((root / "expected.json").read_text())
    for entry in expected["pictures"]:
        image(root / entry["file"], entry["width"], entry["height"])
    return root, expected, KINDS[request.param]


def test_sample_files_of_annotation_tools(sample: tuple[Path, dict[str, Any], str]) -> None:
    root, expected, kind = sample
    sources = formats.find(root)
    assert {source.kind for source in sources.values()} == {kind}
    wanted: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
    for entry in expected["pictures"]:
        split = wanted.setdefault(entry.get("split", "all"), {})
        split[entry["file"]] = sorted((name, *box) for name, *box in entry["boxes"])
    assert sorted(formats.splits(root)) == sorted(wanted)
    for split, images in wanted.items():
        dataset = open_boxes(root, split)
        assert dataset.names == tuple(expected["classes"])
        read = found(dataset)
        assert read.keys() == images.keys()
        for name, rows in images.items():
            assert [row[0] for row in read[name]] == [row[0] for row in rows]
            np.testing.assert_allclose([row[1:] for row in read[name]], [row[1:] for row in rows], atol=0.011)
    assert not check_folder(root).errors


def test_label_studio_json_min_equals_json(tmp_path: Path) -> None:
    """Without the JSON, from the JSON-MIN."""
    shutil.copytree(SAMPLES / "label_studio", tmp_path / "s")
    for name in ("3f9c1e02-plate_a.jpg", "b7704d5a-plate_b.jpg"):
        image(tmp_path / "s/images" / name, 2800, 2800)
    before = open_boxes(tmp_path / "s", "all")
    (tmp_path / "s/project-1-json.json").unlink()
    after = open_boxes(tmp_path / "s", "all")
    assert found(after) == found(before)
    assert any("several annotations" in note for note in notes(after))
    assert any("several annotations" in note for note in notes(before))


def test_label_studio_class_order(tmp_path: Path) -> None:
    """That of the labeling configuration, which often has a comment; not of one that declares entities."""
    image(tmp_path / "a.png", 200, 100)
    task = studio({"x": 1, "y": 1, "width": 1, "height": 1, "rectanglelabels": ["cat"]})
    root = write(tmp_path / "export.json", [task])
    labels = '<RectangleLabels name="label"><Label value="zebra"/><Label value="cat"/></RectangleLabels>'
    write(root / "label_config.xml", f"<View><!-- labels -->{labels}</View>")
    assert open_boxes(root, "all").names == ("zebra", "cat")
    write(root / "label_config.xml", f'<!DOCTYPE x [<!ENTITY y "z">]><View>{labels}</View>')
    assert open_boxes(root, "all").names == ("cat",)


def studio(value: dict[str, Any], kind: str = "rectanglelabels", **task: Any) -> dict[str, Any]:
    """A task of an image of 200 x 100 px with one result."""
    result = {"type": kind, "original_width": 200, "original_height": 100, "value": value}
    return {"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": [result]}]} | task


def test_label_studio_rotation_by_hand(tmp_path: Path) -> None:
    """A quarter turn clockwise about the upper left corner; in px, not percent. The file has its name of before."""
    image(tmp_path / "images/a.png", 200, 100)
    value = {"x": 50, "y": 10, "width": 10, "height": 20, "rotation": 90, "rectanglelabels": ["car"]}
    root = write(tmp_path / "export.json", [studio(value)])
    # corners 100, 10; 20 wide becomes 20 down, 20 high becomes 20 to the left
    assert boxes(root) == [("car", 80, 10, 100, 30)]
    dataset = open_boxes(root, "all")
    extras = formats.layout("label_studio").extras
    assert extras is not None
    np.testing.assert_allclose(extras(dataset).rows[0]["segmentation"], [[100, 10, 100, 30, 80, 30, 80, 10]], atol=1e-9)


def test_label_studio_polygon_and_faults(tmp_path: Path) -> None:
    image(tmp_path / "0a1b2c3d-a.png", 200, 100)
    polygon = studio({"points": [[10, 10], [20, 10], [15, 30]], "polygonlabels": ["car"]}, "polygonlabels")
    wrong = [
        studio({"x": 1, "y": 1, "width": "wide", "height": 1, "rectanglelabels": ["car"]}),
        studio({"x": 1, "y": 1, "width": 1, "height": 1, "rectanglelabels": ["car", "bus"]}),
        studio({"format": "rle", "rle": [0], "brushlabels": ["car"]}, "brushlabels"),
        {"data": {}},
        7,
    ]
    skipped = polygon | {"annotations": [polygon["annotations"][0] | {"was_cancelled": True}]}
    answer = studio({"choices": ["day"]}, "choices")
    root = write(tmp_path / "export.json", [polygon, *wrong, skipped, answer])
    dataset = open_boxes(root, "all")
    assert len(dataset.rows) == 1
    assert dataset.rows.xyxy.tolist() == [[20, 10, 40, 30]]
    assert [finding.kind for finding in dataset.findings if finding.level == "error"] == ["unreadable_label"] * 5
    assert len(dataset) == 5  # neither the two that are no task nor the skipped one
    for word in ("polygon", "skipped", "'choices'"):
        assert any(word in note for note in notes(dataset))


def test_label_studio_without_size_uses_the_image_size(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 200, 100)
    task = studio({"x": 50, "y": 10, "width": 10, "height": 20, "rectanglelabels": ["car"]})
    for key in ("original_width", "original_height"):
        del task["annotations"][0]["result"][0][key]
    assert boxes(write(tmp_path / "export.json", [task])) == [("car", 100, 10, 120, 30)]


def shape(points: list[list[float]], kind: str = "rectangle", **keys: Any) -> dict[str, Any]:
    return {"label": "cat", "points": points, "shape_type": kind} | keys


def test_labelme_shapes(tmp_path: Path) -> None:
    """Rectangles and polygons have boxes; the rest is reported, with its place."""
    image(tmp_path / "a.png")
    triangle = [[10, 20], [30, 20.5], [20, 60]]
    shapes = [
        shape([[30, 40], [10, 20]]),
        shape(triangle, "polygon", group_id=3),
        shape([[10, 10], [20, 10], [20, 20], [10, 20]], "rectangle"),  # X-AnyLabeling
        *(shape([[10, 10], [20, 10]], kind) for kind in ("tube", "line", "point", "mask", "linestrip")),
        shape([[10, 10], [20, "x"]]),
        shape([[10, 10]]),
        {"points": [[1, 2], [3, 4]], "shape_type": "rectangle"},
        shape([[50, 40], [53, "36"]], "circle"),  # 5 px from the center
    ]
    tree = {"shapes": shapes, "imagePath": r"C:\data\a.png", "imageData": "A" * 100_000, "imageHeight": 80,
            "imageWidth": 100}  # fmt: skip
    root = write(tmp_path / "a.json", tree)
    dataset = open_boxes(root, "all")
    assert dataset.rows.xyxy.tolist() == [[10, 20, 30, 40], [10, 20, 30, 60], [10, 10, 20, 20], [45, 35, 55, 45]]
    assert "circle read as its enclosing box" in notes(dataset)
    assert "number written as text" in notes(dataset)
    assert [finding.kind for finding in dataset.findings if finding.level == "error"] == ["unreadable_label"] * 8
    assert all(f"shapes[{index}]" in errors(dataset)[index - 3] for index in range(3, 11))
    extras = formats.layout("labelme").extras
    assert extras is not None
    assert extras(dataset).rows[1] == {"group_id": 3, "segmentation": [[10, 20, 30, 20.5, 20, 60]]}
    assert len(dataset) == 1


def test_labelme_finds_its_images(tmp_path: Path) -> None:
    """A valid path, the same folder, the same stem; in two splits with equal names."""
    rectangle = [shape([[1, 2], [3, 4]])]
    for split in ("Train", "validation"):
        image(tmp_path / split / "a.png")
        write(tmp_path / split / "a.json", {"shapes": rectangle, "imagePath": "..\\..\\old\\a.png"})
        image(tmp_path / split / "b.JPG")
        write(tmp_path / split / "b.json", {"shapes": rectangle, "imagePath": "b.jpg"})
        image(tmp_path / split / "c.png")
        write(tmp_path / split / "c.json", {"shapes": rectangle, "imagePath": "renamed.png"})
        image(tmp_path / split / "images/d.png")
        write(tmp_path / split / "json/d.json", {"shapes": [], "imagePath": "../images/d.png"})
    assert formats.splits(tmp_path) == ["train", "val"]
    for split, folder in (("train", "Train"), ("val", "validation")):
        names = found(open_boxes(tmp_path, split))
        assert sorted(names) == [f"{folder}/{name}" for name in ("a.png", "b.JPG", "c.png", "images/d.png")]
    assert not check_folder(tmp_path).errors


def test_labelme_reports_broken_files(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / "a.json", {"shapes": [shape([[1, 2], [3, 4]])], "imagePath": "a.png"})
    write(tmp_path / "b.json", '{"shapes": [')
    write(tmp_path / "c.json", '{"other": 1}')
    image(tmp_path / "later.png")
    dataset = open_boxes(tmp_path, "all")
    assert len(dataset) == 1
    assert len(errors(dataset)) == 1
    assert "b.json" in errors(dataset)[0]
    assert any("not a LabelMe file" in note for note in notes(dataset))
    assert ["later.png" in finding.file for finding in dataset.findings if "not labeled" in finding.text] == [True]


def via_region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


RECT = {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 5}
VIA_SHAPES = [
    (RECT, (10, 20, 40, 25)),
    ({"name": "polygon", "all_points_x": [10, 30, 20], "all_points_y": [20, 25, 60]}, (10, 20, 30, 60)),
    ({"name": "circle", "cx": 50, "cy": 40, "r": 10.5}, (39.5, 29.5, 60.5, 50.5)),
    ({"name": "ellipse", "cx": 50, "cy": 40, "rx": 20, "ry": 10}, (30, 30, 70, 50)),
    ({"name": "ellipse", "cx": 50, "cy": 40, "rx": 20, "ry": 10, "theta": math.pi / 2}, (40, 20, 60, 60)),
]


@pytest.mark.parametrize("form", ["project", "json", "version 1", "csv"])
def test_via_file_formats(tmp_path: Path, form: str) -> None:
    """All forms of VIA's files give the same boxes; an image without regions is one without objects."""
    regions = [via_region(shape, kind="cat") for shape, _ in VIA_SHAPES] + [via_region({"name": "point"}, kind="cat")]
    for name in ("a.png", "b.png"):
        image(tmp_path / "pics" / name)
    entries: dict[str, Any] = {
        "a.png12": {"filename": "a.png", "size": 12, "regions": regions, "file_attributes": {}},
        "b.png34": {"filename": "b.png", "size": 34, "regions": [], "file_attributes": {}},
    }
    if form == "version 1":
        for entry in entries.values():
            entry["regions"] = {str(index): region for index, region in enumerate(entry["regions"])}
    if form == "csv":
        quoted = []
        for index, region in enumerate(regions):
            columns = ('"' + json.dumps(region[key]).replace('"', '""') + '"' for key in region)
            quoted.append(f'a.png,12,"{{}}",6,{index},{",".join(columns)}')
        head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        write(tmp_path / "via.csv", "\n".join([head, *quoted, 'b.png,34,"{}",0,0,"{}","{}"', ""]))
    else:
        tree = {"_via_settings": {}, "_via_img_metadata": entries} if form == "project" else entries
        write(tmp_path / "via.json", tree)
    dataset = open_boxes(tmp_path, "all")
    assert dataset.kind == "via"
    assert found(dataset) == {
        "pics/a.png": sorted(("cat", *map(float, box)) for _, box in VIA_SHAPES),
        "pics/b.png": [],
    }
    (error,) = errors(dataset)
    assert "shape 'point' has no box" in error


@pytest.mark.parametrize(
    ("attributes", "label"),
    [
        ({"anything": "cat"}, "cat"),
        ({"class": "cat", "color": "red"}, "cat"),
        ({"class": {"cat": True, "dog": False}}, "cat"),
        ({"class": 7}, "7"),
    ],
)
def test_via_class_attribute(tmp_path: Path, attributes: dict[str, Any], label: str) -> None:
    image(tmp_path / "a.png")
    tree = {"a.png1": {"filename": "a.png", "regions": [via_region(RECT, **attributes)]}}
    root = write(tmp_path / "via.json", tree)
    assert boxes(root) == [(label, 10, 20, 40, 25)]
    assert bool(notes(open_boxes(root, "all"))) == (len(attributes) > 1)


def test_ambiguous_via_class_attribute_is_an_error(tmp_path: Path) -> None:
    tree = {"a.png1": {"filename": "a.png", "regions": [via_region(RECT, color="red", size="big")]}}
    with pytest.raises(InputError, match=r"any attribute of color, size; rename the right one to 'class'"):
        open_boxes(write(tmp_path / "via.json", tree), "all")


HEADERS = [
    "filename,width,height,class,xmin,ymin,xmax,ymax",
    "image_name,image_width,image_height,label,x_min,y_min,x_max,y_max",
    "Image Path;Width;Height;Class Name;Left;Top;Right;Bottom",
    "img,img_w,img_h,category,x1,y1,x2,y2",
]


@pytest.mark.parametrize("header", HEADERS)
def test_csv_columns(tmp_path: Path, header: str) -> None:
    image(tmp_path / "a.png")
    rows = [header, "a.png,100,80,cat,10,20,30.5,40", "a.png,100,80,cat,1,2,3,4", ""]
    text = "\r\n".join(rows).replace(",", ";" if ";" in header else ",")
    root = write(tmp_path / "labels.csv", "\ufeff" + text)  # with the mark that spreadsheets write
    assert boxes(root) == [("cat", 1, 2, 3, 4), ("cat", 10, 20, 30.5, 40)]
    assert open_boxes(root, "all")[0].size == (80, 100)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.csv", "table,10,20,30,15,a.png,100,80\n"),  # makesense, older
        ("labels.csv", "image_name,label,x,y,width,height\na.png,table,10,20,30,15\n"),
        ("labels.csv", "a.png,10,20,40,35,table\n"),  # RetinaNet
        ("list.txt", "a.png,10,20,40,35,table\n"),
    ],
)
def test_csv_forms(tmp_path: Path, file: str, content: str) -> None:
    image(tmp_path / "a.png")
    assert boxes(write(tmp_path / file, content)) == [("table", 10, 20, 40, 35)]


@pytest.mark.parametrize(("name", "columns"), [("errors.csv", ERRORS), ("audit.csv", FINDINGS)])
def test_tables_of_evaluations_and_audits_are_not_read_as_labels(
    tmp_path: Path, name: str, columns: tuple[str, ...]
) -> None:
    """They may lie in the folder of the set, where `--out` puts them if the commands run there."""
    image(tmp_path / "images" / "a.png")
    write(tmp_path / "images" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    row = ["" if column in ("status", "match") else "1" for column in columns]
    write(tmp_path / "results" / name, f"{','.join(columns)}\n{','.join(row)}\n")
    assert {source.kind for source in formats.find(tmp_path).values()} == {"yolo_txt"}
    with pytest.raises(InputError, match="no data set found"):
        open_boxes(tmp_path / "results" / name, "all", "csv_table")


def test_csv_faults_are_reported_with_their_lines(tmp_path: Path) -> None:
    image(tmp_path / "p/a.png")
    rows = ["p/a.png,1,2,3,4,cat", "p/a.png,1,2,x,4,cat", "p/a.png,1,2,3", "", "p/a.png,1,2,3,4,", "p/b.png,,,,,"]
    root = write(tmp_path / "train.csv", "\n".join(rows))
    dataset = open_boxes(root, "train")
    assert len(dataset.rows) == 1
    assert [error.partition("line ")[2][0] for error in errors(dataset)] == ["2", "3", "5"]
    assert len(dataset) == 2  # b.png has no objects


def test_retinanet_classes_are_ordered_by_id(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / "classes.csv", "zebra,0\ncat,1\n")
    root = write(tmp_path / "train.csv", "a.png,1,2,3,4,cat\n")
    assert open_boxes(root, "train").names == ("zebra", "cat")
    write(tmp_path / "train.csv", "a.png,1,2,3,4,dog\n")
    assert "unknown_category" in {finding.kind for finding in check_folder(root).errors}


def test_too_long_class_ids_are_ignored(tmp_path: Path) -> None:
    """Python converts at most 4300 digits."""
    image(tmp_path / "a.png")
    write(tmp_path / "a.pbtxt", f"item {{ id: {'1' * 5000} name: 'cat' }}")
    assert open_boxes(write(tmp_path / "train.csv", f"{HEADERS[0]}\na.png,100,80,cat,1,2,3,4\n"), "train").names == (
        "cat",
    )
    write(tmp_path / "classes.csv", f"cat,{'1' * 5000}\n")
    assert open_boxes(write(tmp_path / "train.csv", "a.png,1,2,3,4,cat\n"), "train").names == ("cat",)


def test_ambiguous_label_maps_are_an_error(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    for name in ("cat", "dog"):
        write(tmp_path / f"{name}.pbtxt", f"item {{ id: 1 name: '{name}' }}")
    root = write(tmp_path / "train.csv", f"{HEADERS[0]}\na.png,100,80,cat,1,2,3,4\n")
    with pytest.raises(InputError, match="another label map"):
        open_boxes(root, "train")


def test_csv_with_normalized_boxes_is_rejected(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    root = write(tmp_path / "train.csv", f"{HEADERS[0]}\na.png,100,80,cat,0.1,0.2,0.5,1\n")
    with pytest.raises(InputError, match="fractions of the image size"):
        open_boxes(root, "train")


def test_long_rows_are_rejected(tmp_path: Path) -> None:
    for content in ("a.png,1,2,3,4," + "x" * 200_000, 'a.png,1,2,3,4,"' + "x\n" * 2000, "a.png,1,2,3,4,c\nb\0"):
        root = write(tmp_path / "train.csv", "a.png,1,2,3,4,cat\n" + content)
        with pytest.raises(InputError, match=r"train\.csv line"):
            open_boxes(root, "train")


def test_open_images(tmp_path: Path) -> None:
    """Fractions of the image's size, groups as crowd regions, names by their ids, images without boxes from a list."""
    image(tmp_path / "validation/0001.jpg", 200, 100)
    image(tmp_path / "validation/0002.jpg", 200, 100)
    write(tmp_path / "class-descriptions-boxable.csv", "/m/1,Cat\n/m/2,Dog\n")
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    rows = ["0001,xclick,/m/1,1,0.1,0.5,0.2,0.6,0,0,0,0,0", "0001,xclick,/m/2,1,0,1,0,1,1,0,1,0,0"]
    write(tmp_path / "validation-annotations-bbox.csv", "\n".join([header, *rows]))
    write(tmp_path / "validation-images-with-rotation.csv", "ImageID,Subset,Rotation\n0001,v,0\n0002,v,0\n0003,v,0\n")
    dataset = open_boxes(tmp_path, "val")
    assert found(dataset) == {
        "validation/0001.jpg": [("Cat", 20, 20, 100, 60), ("Dog", 0, 0, 200, 100)],
        "validation/0002.jpg": [],
    }
    assert dataset.rows.crowd.tolist() == [False, True]
    extras = formats.layout("openimages").extras
    assert extras is not None
    assert extras(dataset).rows == [{}, {"IsOccluded": 1}]
    assert not check_folder(tmp_path).errors


def test_createml_forms_and_faults(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = {"label": "cat", "coordinates": {"x": 20, "y": "30", "width": 10, "height": 20}}
    tree = [
        {"imagefilename": "a.png", "annotation": [box, {"label": "cat"}, {"coordinates": box["coordinates"]}]},
        {"annotations": []},
    ]
    dataset = open_boxes(write(tmp_path / "labels.json", tree), "all")
    assert dataset.rows.xyxy.tolist() == [[15, 20, 25, 40]]
    assert len(errors(dataset)) == 3


def test_manifest_faults_and_failed_images(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = {"class_id": 0, "left": 1, "top": 2, "width": 3, "height": 4}
    metadata = {"class-map": {"0": "cat"}, "type": "groundtruth/object-detection", "creation-date": "2020"}
    good = {"source-ref": "s3://b/a.png", "job": {"annotations": [box]}, "job-metadata": metadata}
    adjusted = {"again": {"annotations": [box | {"left": 5}]}, "again-metadata": metadata | {"creation-date": "2021"}}
    lines = [
        json.dumps(good | adjusted),
        json.dumps({"source-ref": "s3://b/failed.png", "job-metadata": {"failure-reason": "x"}}),
        json.dumps(good | {"job": {"annotations": [box | {"class_id": 3}]}}),
        '{"source-ref": ',
    ]
    root = write(tmp_path / "output.manifest", "\n".join(lines))
    dataset = open_boxes(root, "all")
    assert dataset.rows.xyxy.tolist() == [[5, 2, 8, 6]]
    assert [error.partition("line ")[2][0] for error in errors(dataset)] == ["3", "4"]
    assert any("not used" in note for note in notes(dataset))


def test_texts_of_findings_are_short(tmp_path: Path) -> None:
    """One line of at most 200 characters, without control characters."""
    image(tmp_path / "a.png")
    nasty = "\x1b[31m" + "long " * 100
    write(tmp_path / "a.json", {"shapes": [shape([[1, 2], [3, nasty]]), shape([[1, 2], [3, 4]], nasty), nasty,
          shape([[1, 2], [3, 4]])]})  # fmt: skip
    findings = open_boxes(tmp_path, "all").findings
    assert len(findings) == 3
    for finding in findings:
        assert len(str(finding).replace(str(tmp_path), "")) <= 200
        assert str(finding).isprintable()


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Converts one image of 100 x 80 px with a cat in 10, 20, 30.5, 40 and one without objects; returns the folder."""
    for name in ("a b.png", "empty.png"):
        image(tmp_path / "from/all" / name)
    images = [{"id": number, "file_name": name} for number, name in enumerate(("a b.png", "empty.png"))]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 20, 20.5, 20]}
    tree = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "big cat"}]}
    write(tmp_path / "from/annotations/all.json", tree)

    def to(layout: str) -> Path:
        convert(tmp_path / "from", layout, tmp_path / layout)
        return tmp_path / layout

    return to


def test_written_csv_by_hand(written: Any) -> None:
    """The tables of the TensorFlow tutorials and of RetinaNet's implementations."""
    root = written("csv_table")
    assert (root / "all.csv").read_text().splitlines() == [
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "images/all/a b.png,100,80,big cat,10,20,30.5,40",
        "images/all/empty.png,100,80,,,,,",
    ]
    assert (root / "label_map.pbtxt").read_text() == "item {\n  id: 1\n  name: 'big cat'\n}\n"
    root = written("csv_retinanet")
    assert (root / "all.csv").read_text().splitlines() == [
        "images/all/a b.png,10,20,30.5,40,big cat",
        "images/all/empty.png,,,,,",
    ]
    assert (root / "classes.csv").read_text() == "big cat,0\n"


def test_written_json_by_hand(written: Any) -> None:
    """What the tools read: LabelMe's corners, CreateML's centers, percent in Label Studio, VIA's rectangles."""
    tree = json.loads((written("labelme") / "all/a b.json").read_text())
    assert tree["shapes"][0].items() >= {"label": "big cat", "points": [[10, 20], [30.5, 40]]}.items()
    assert (tree["imagePath"], tree["imageHeight"], tree["imageWidth"]) == ("a b.png", 80, 100)
    first, second = json.loads((written("createml") / "all/_annotations.createml.json").read_text())
    coordinates = {"x": 20.25, "y": 30, "width": 20.5, "height": 20}
    assert first == {"image": "a b.png", "annotations": [{"label": "big cat", "coordinates": coordinates}]}
    assert second == {"image": "empty.png", "annotations": []}
    root = written("label_studio")
    first, second = json.loads((root / "all.json").read_text())
    assert first["data"] == {"image": "/data/local-files/?d=images/all/a%20b.png"}
    (result,) = first["annotations"][0]["result"]
    value = {"x": 10, "y": 25, "width": 20.5, "height": 25, "rotation": 0, "rectanglelabels": ["big cat"]}
    assert result["value"] == value
    assert second["annotations"] == [{"result": []}]
    assert '<Label value="big cat" />' in (root / "label_config.xml").read_text()
    project = json.loads((written("via") / "all.json").read_text())
    entry = project["_via_img_metadata"]["images/all/a b.png-1"]
    shape = {"name": "rect", "x": 10, "y": 20, "width": 20.5, "height": 20}
    assert entry["regions"] == [{"shape_attributes": shape, "region_attributes": {"class": "big cat"}}]


def test_written_open_images_by_hand(written: Any) -> None:
    root = written("openimages")
    assert (root / "all-annotations-bbox.csv").read_text().splitlines() == [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside",
        "a b,xclick,big cat,1,0.1,0.305,0.25,0.5,0,0,0,0,0",
    ]
    assert (root / "class-descriptions-boxable.csv").read_text() == "big cat,big cat\n"


def test_open_images_ids_with_folder_names_and_uppercase_suffixes(tmp_path: Path) -> None:
    """Names that are in two splits, and that of a split: each image comes back, also those without boxes."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    for split in ("train", "val"):
        names = ["IMG_1.JPG", "IMG_2.JPG", f"{split}.JPG"]
        images = [{"id": n, "file_name": name, "width": 20, "height": 10} for n, name in enumerate(names)]
        for name in names:
            image(tmp_path / "from" / "images" / split / name, 20, 10)
        tree = {
            "images": images,
            "annotations": [box, box | {"id": 2, "image_id": 2}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        write(tmp_path / "from" / "annotations" / f"{split}.json", tree)
    convert(tmp_path / "from", "openimages", tmp_path / "to")
    for split in ("train", "val"):
        paths = found(open_boxes(tmp_path / "to", split))
        assert paths == {
            f"{split}/IMG_1.JPG": [],
            f"{split}/IMG_2.JPG": [("cat", 1, 2, 4, 6)],
            f"{split}/{split}.JPG": [("cat", 1, 2, 4, 6)],
        }
    assert not check_folder(tmp_path / "to").errors


def test_single_label_file(tmp_path: Path) -> None:
    """Named on the command line, and in a data YAML with another folder of images."""
    image(tmp_path / "elsewhere/a.png", 200, 100)
    for kind, name, content in (
        ("csv_retinanet", "boxes.csv", "a.png,1,2,3,4,cat\n"),
        ("csv_table", "labels.csv", f"{HEADERS[0]}\na.png,200,100,cat,1,2,3,4\n"),
        ("via", "via.json", {"a.png1": {"filename": "a.png", "regions": [via_region(RECT, name="cat")]}}),
        ("createml", "c.json", [{"image": "a.png", "annotations": []}]),
        ("label_studio", "s.json", [studio({"x": 1, "y": 1, "width": 1, "height": 1, "rectanglelabels": ["cat"]})]),
    ):
        folder = tmp_path / kind
        image(folder / "a.png", 200, 100)
        write(folder / name, content)
        write(folder / "classes.txt", "cat\n")
        assert open_boxes(folder / name, "train").kind == kind
        convert(folder / name, "coco", tmp_path / f"{kind} coco")
        yaml = f"train: {kind}/{name}\nimages: elsewhere\nnames: [cat]\n"
        dataset = open_boxes(write(tmp_path / "d.yaml", yaml) / "d.yaml", "train")
        assert dataset.kind == kind
        assert Path(dataset.path(0)) == tmp_path / "elsewhere/a.png"
        assert errors(dataset) == []


@pytest.mark.parametrize("number", ["10", 10])
def test_numbers_as_text_are_noted(tmp_path: Path, number: Any) -> None:
    box = {"x": number, "y": 10, "width": 20, "height": 20}
    for kind, name, content in (
        ("via", "via.json", {"a.png1": {"filename": "a.png", "regions": [via_region(RECT | box, name="cat")]}}),
        ("createml", "c.json", [{"image": "a.png", "annotations": [{"label": "1", "coordinates": box}]}]),
        ("label_studio", "s.json", [studio(box | {"rectanglelabels": ["1"]})]),
    ):
        folder = tmp_path / kind
        image(folder / "a.png", 200, 100)
        write(folder / name, content)
        assert ("number written as text" in notes(open_boxes(folder, "all"))) == isinstance(number, str)


def test_messages_for_a_set_with_only_faulty_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They say why no label has a class; otherwise what is noted does."""
    image(tmp_path / "a.png")
    write(tmp_path / "a.json", {"shapes": [shape([[1, 2]]), shape([[1, 2], [3, 4]], "line")], "imagePath": "a.png"})
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "check", str(tmp_path)])
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert all(place in out for place in ("shapes[0]", "shapes[1]", "2 errors"))
    for command in (
        "train demo --set train.evaluate_every=0 --data",
        "data split -o new --parts a=0.5,b=0.5",
        "data convert --to coco -o new",
    ):
        for further, message in (([], "2 errors"), (["--skip-bad"], "no class, since no label can be read")):
            with pytest.raises(SystemExit) as ended:
                cli.main([*command.split(), str(tmp_path), *further])
            assert (ended.value.code, message in capsys.readouterr().err) == (2, True), command
    (tmp_path / "a.json").unlink()
    write(tmp_path / "s.json", [{"id": 1, "data": {"image": "a.png"}, "annotations": []}])
    with pytest.raises(InputError, match=r"no label has a class \(task without labels.*classes\.txt"):
        open_boxes(tmp_path, "all")


def test_nan_coordinates_and_negative_sizes_are_errors(tmp_path: Path) -> None:
    """`min` and `max` of 3, NaN, 10 are 3 and 10; corners in any order hide a negative width."""
    nan = float("nan")
    triangle = [[3, 1], [nan, 9], [10, 5]]
    polygon = {"name": "polygon", "all_points_x": [3, nan, 10], "all_points_y": [1, 9, 5]}
    percent = {"points": triangle, "polygonlabels": ["cat"]}
    box = {"x": 50, "y": 50, "width": -20, "height": 20, "rectanglelabels": ["cat"]}
    for kind, name, content in (
        ("labelme", "a.json", {"shapes": [shape(triangle, "polygon")], "imagePath": "a.png"}),
        ("via", "via.json", {"a.png1": {"filename": "a.png", "regions": [via_region(polygon, name="cat")]}}),
        ("label_studio", "s.json", [studio(percent), studio(box)]),
    ):
        image(tmp_path / kind / "a.png", 200, 100)
        write(tmp_path / kind / name, content)
        found_kinds = [finding.kind for finding in check(open_boxes(tmp_path / kind, "all")).errors]
        assert found_kinds == ["not_finite", "negative_size"][: 1 + (kind == "label_studio")]


def test_missing_open_images_file_is_left_out_in_conversion(tmp_path: Path) -> None:
    """Open Images has ids; the suffix of a missing image is not known."""
    image(tmp_path / "set/images/a.jpg")
    rows = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"]
    rows += [f"{name},x,cat,1,0.1,0.5,0.1,0.5,0" for name in "ab"]
    write(tmp_path / "set/train-annotations-bbox.csv", "\n".join(rows))
    convert(tmp_path / "set", "voc", tmp_path / "new", cleaning=Cleaning(skip_bad=True))
    assert len(open_boxes(tmp_path / "new", "train")) == 1


def test_image_listed_twice(tmp_path: Path) -> None:
    image(tmp_path / "set/a.png")
    box = {"x": 20, "y": 20, "width": 10, "height": 10}
    entries = [{"image": "a.png", "annotations": [{"label": name, "coordinates": box}]} for name in ("cat", "dog")]
    write(tmp_path / "set/c.json", entries)
    with pytest.raises(InputError, match=r"a\.png: is listed twice, .*merge its labels"):
        convert(tmp_path / "set", "voc", tmp_path / "new")
    convert(tmp_path / "set", "coco", tmp_path / "new")
    assert len(open_boxes(tmp_path / "new", "all").rows) == 2


def test_drawing_the_only_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "set/a.png")
    write(tmp_path / "set/a.json", {"shapes": [shape([[1, 2], [30, 40]])], "imagePath": "a.png"})
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "show", str(tmp_path / "set"), "--out", str(tmp_path / "drawn")])
    assert (ended.value.code, "1 of 1 images of all" in capsys.readouterr().out) == (0, True)
