"""Repair of labels by `boxwright look`: what is written, and what stays byte for byte.

The files are written here by hand, and the boxes that they mean are worked out by hand.
"""

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

for module in ("fastapi", "uvicorn"):
    pytest.importorskip(module, reason="needs the extra web")

from boxwright import formats  # noqa: E402
from look_client import Client  # noqa: E402

W, H = 200, 100  # px of all images
Rows = list[tuple[str | None, list[float]]]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((H, W, 3), 90, np.uint8))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(root: Path, split: str = "train", place: int = 0) -> Rows:
    """Classes and boxes of an image, read again from the files by the readers of layouts."""
    dataset = formats.open_boxes(root, split)
    sample = dataset[place]
    names = [dataset.names[label] if label >= 0 else None for label in sample.labels.tolist()]
    return list(zip(names, sample.boxes.tolist(), strict=True))


def same(found: Rows, expected: Rows, tolerance: float = 0.01) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, box), (_, wanted) in zip(found, expected, strict=True):
        assert box == pytest.approx(wanted, abs=tolerance)


def yolo(root: Path, *lines: str, end: str = "\n") -> Path:
    """Two images of the split `train` and one of `val`, the first with the lines. Returns its label file."""
    for name in ("train/a", "train/b", "val/c"):
        image(root / "images" / f"{name}.png")
    write(root / "labels" / "train" / "b.txt", "1 0.5 0.5 0.5 0.5\n")
    write(root / "labels" / "val" / "c.txt", "")
    write(root / "classes.txt", "cat\ndog\n")
    return write(root / "labels" / "train" / "a.txt", end.join([*lines, ""]))


COCO = """{
  "info": {"year": 2026, "note": "kept  as it is"},
  "images": [{"id": 7, "file_name": "a.png", "height": 100, "width": 200, "license": 3},
    {"id": 9, "file_name": "b.png", "height": 100, "width": 200}],
  "annotations": [
    {"id": 11, "image_id": 7, "category_id": 5, "bbox": [20, 10, 40.0, 20], "area": 800, "iscrowd": 0, "by": "Ann"},
    {"id": 70, "image_id": 9, "category_id": 2, "bbox": [ 1.5,2, 30,4 ], "area": 120, "segmentation": [], "iscrowd":0},
    {"id": 40, "image_id": 7, "category_id": 2, "bbox": [100, 50, 50, 40], "area": 1000.0,
     "segmentation": [[100, 50, 150, 50, 125, 90]], "iscrowd": 0, "attributes": {"occluded": true}}
  ],
  "categories": [{"id": 2, "name": "dog", "supercategory": "pet"}, {"id": 5, "name": "cat"}]
}
"""


def coco(root: Path, text: str = COCO) -> Path:
    for name in ("a", "b"):
        image(root / "images" / f"{name}.png")
    return write(root / "annotations" / "train.json", text)


OBJECT = (
    "\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Left</pose>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
    "\t\t\t<xmin>{0}</xmin>\n\t\t\t<ymin>{1}</ymin>\n\t\t\t<xmax>{2}</xmax>\n\t\t\t<ymax>{3}</ymax>\n"
    "\t\t</bndbox>\n\t</object>\n"
)
HEAD = "<?xml version='1.0'?>\n<annotation>\n\t<!-- a > b -->\n\t<size><width>200</width><height>100</height></size>\n"


def voc(root: Path, *objects: str, end: str = "\n", head: str = HEAD) -> Path:
    image(root / "JPEGImages" / "a.png")
    write(root / "ImageSets" / "Main" / "train.txt", "a\n")
    write(root / "classes.txt", "cat\ndog\nA&B\n")
    text = head + "".join(objects) + "</annotation>\n"
    return write(root / "Annotations" / "a.xml", text.replace("\n", end))


def labelme(root: Path, *shapes: Any, indent: int | None = 2) -> Path:
    image(root / "train" / "a.png")
    write(root / "classes.txt", "cat\ndog\n")
    tree = {
        "version": "5.1.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": "QUJD" * 9,
        "imageHeight": H, "imageWidth": W,
    }  # fmt: skip
    return write(root / "train" / "a.json", json.dumps(tree, indent=indent))


def shape(name: str, points: Any, kind: str = "rectangle", **keys: Any) -> Any:
    return {"label": name, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | keys


def test_yolo_only_the_edited_line_changes(tmp_path: Path) -> None:
    file = yolo(tmp_path, "0 0.25 0.5 0.1 0.2", "", "1\t0.50  0.500 0.2 0.4 0.93", "0 0.75 0.5 0.125 0.2", end="\r\n")
    client = Client(tmp_path)
    found = client.get("images/0")
    assert [each["id"] for each in found["objects"]] == [0, 1, 2]
    assert found["objects"][1]["box"] == pytest.approx([80, 30, 120, 70])
    answer = client.change(0, {"action": "set", "id": 1, "box": [80, 20, 120, 60], "class": "cat"})
    assert answer.status == 200, answer
    assert file.read_bytes() == b"0 0.25 0.5 0.1 0.2\r\n\r\n0\t0.5  0.4 0.2 0.4 0.93\r\n0 0.75 0.5 0.125 0.2\r\n"
    same(rows(tmp_path)[1:2], [("cat", [80, 20, 120, 60])])
    assert answer.json["objects"][1]["box"] == pytest.approx([80, 20, 120, 60])
    assert client.get("images", **{"class": "dog"})["total"] == 1, "the filters know of it: only b.png is left"


def test_yolo_add_and_delete(tmp_path: Path) -> None:
    file = write(yolo(tmp_path), "\ufeff0 0.25 0.5 0.1 0.2\r\n1 0.5 0.5 0.2 0.4")
    client = Client(tmp_path)
    add = {"action": "add", "box": [0, 0, 50, 25], "class": "dog"}
    assert client.change(0, {"action": "delete", "id": 0}, add).status == 200
    assert file.read_bytes() == "\ufeff1 0.5 0.5 0.2 0.4\r\n1 0.125 0.125 0.25 0.25\r\n".encode()
    same(rows(tmp_path), [("dog", [80, 30, 120, 70]), ("dog", [0, 0, 50, 25])])
    assert client.change(0, {"action": "delete", "id": 0}, {"action": "delete", "id": 1}).status == 200
    assert rows(tmp_path) == []


def test_yolo_missing_label_file_is_created(tmp_path: Path) -> None:
    file = yolo(tmp_path)
    file.unlink()
    client = Client(tmp_path)
    assert client.change(0, {"action": "add", "box": [150, 75, 200, 100], "class": "cat"}).status == 200
    assert file.read_bytes() == b"0 0.875 0.875 0.25 0.25\n"
    assert not file.with_name("a.txt.backup").exists()


def test_yolo_outlines_move_with_their_box(tmp_path: Path) -> None:
    file = yolo(tmp_path, "1 0.1 0.2 0.3 0.2 0.2 0.6", "0 0.5 0.5 0.1 0.1")  # a triangle: 20, 20 to 60, 60 px
    client = Client(tmp_path)
    same(rows(tmp_path)[:1], [("dog", [20, 20, 60, 60])])
    assert client.change(0, {"action": "set", "id": 0, "box": [120, 0, 200, 20], "class": "dog"}).status == 200
    assert file.read_bytes() == b"1 0.6 0 1 0 0.8 0.2\n0 0.5 0.5 0.1 0.1\n"
    same(rows(tmp_path)[:1], [("dog", [120, 0, 200, 20])])


def test_coco_only_the_edited_values_change(tmp_path: Path) -> None:
    file = coco(tmp_path)
    client = Client(tmp_path)
    objects = client.get("images/0")["objects"]
    assert [(each["id"], each["class"], each["box"]) for each in objects] == [
        (0, "cat", [20, 10, 60, 30]),
        (1, "dog", [100, 50, 150, 90]),
    ]
    assert client.change(0, {"action": "set", "id": 0, "box": [22.5, 10, 60, 30], "class": "cat"}).status == 200
    expected = COCO.replace("[20, 10, 40.0, 20]", "[22.5, 10, 37.5, 20]").replace('"area": 800', '"area": 750')
    assert file.read_text() == expected
    assert client.change(0, {"action": "set", "id": 1, "box": objects[1]["box"], "class": "cat"}).status == 200
    start, _, end = expected.rpartition('"category_id": 2')
    expected = f'{start}"category_id": 5{end}'
    assert file.read_text() == expected
    same(rows(tmp_path), [("cat", [22.5, 10, 60, 30]), ("cat", [100, 50, 150, 90])])


def test_coco_own_changes_do_not_reparse_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes a large one many seconds."""
    file = coco(tmp_path)
    client = Client(tmp_path)
    monkeypatch.setattr(client.state.catalog, "read_again", None)
    for x in (1, 2, 3):
        assert client.change(1, {"action": "set", "id": 0, "box": [x, 2, 40, 50], "class": "dog"}).status == 200
        assert client.get("images/1")["objects"][0]["box"] == [x, 2, 40, 50]
    assert json.loads(file.read_text())["annotations"][1]["bbox"] == [3, 2, 37, 48]


def test_coco_outlines_move_with_their_box(tmp_path: Path) -> None:
    file = coco(tmp_path)
    assert Client(tmp_path).change(0, {"action": "set", "id": 1, "box": [0, 50, 100, 70], "class": "dog"}).status == 200
    (entry,) = (each for each in json.loads(file.read_text())["annotations"] if each["id"] == 40)
    assert entry["bbox"] == [0, 50, 100, 20]
    assert entry["segmentation"] == [[0, 50, 100, 50, 50, 70]]
    assert entry["area"] == 1000, "twice as wide, half as high"
    assert entry["attributes"] == {"occluded": True}


def test_coco_areas_may_be_strings(tmp_path: Path) -> None:
    file = coco(tmp_path)
    file.write_text(COCO.replace('"area": 800', '"area": "800"'))
    assert Client(tmp_path).change(0, {"action": "set", "id": 0, "box": [20, 10, 60, 20], "class": "cat"}).status == 200
    assert json.loads(file.read_text())["annotations"][0]["area"] == 400


def test_coco_add_and_delete(tmp_path: Path) -> None:
    file = coco(tmp_path)
    client = Client(tmp_path)
    add = {"action": "add", "box": [10, 20, 40.25, 50], "class": "cat"}
    assert client.change(0, {"action": "delete", "id": 0}, add).status == 200
    lines = COCO.split("\n")
    del lines[5]
    new = '{"id": 71, "image_id": 7, "category_id": 5, "bbox": [10, 20, 30.25, 30], "area": 907.5, "iscrowd": 0}'
    lines[7] += f",\n    {new}"
    assert file.read_text() == "\n".join(lines)
    same(rows(tmp_path), [("dog", [100, 50, 150, 90]), ("cat", [10, 20, 40.25, 50])])
    found = client.get("images/0")["objects"]
    assert [each["id"] for each in found] == [0, 1]
    assert [each["id"] for each in client.get("images/1")["objects"]] == [0]
    deleted = client.change(0, *({"action": "delete", "id": each["id"]} for each in found))
    assert deleted.status == 200
    assert client.change(1, {"action": "delete", "id": 0}).status == 200
    assert json.loads(file.read_text())["annotations"] == []
    assert client.change(1, {"action": "add", "box": [0, 0, 1, 1], "class": "dog"}).status == 200
    same(rows(tmp_path, place=1), [("dog", [0, 0, 1, 1])])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_coco_on_one_line_in_other_order_with_non_ascii_names(tmp_path: Path, count: int) -> None:
    tree = json.loads(COCO)
    tree = {"annotations": tree["annotations"][:count], "categories": tree["categories"], "images": tree["images"]}
    tree["categories"][1]["name"] = "Kätzchen \U0001f408"
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False)
    file = coco(tmp_path, text)
    client = Client(tmp_path)
    add = {"action": "add", "box": [10, 20, 40, 50], "class": "Kätzchen \U0001f408"}
    assert client.change(0, add, {"action": "set", "id": 0, "box": [20, 10, 60, 40], "class": "dog"}).status == 200
    tree["annotations"][0] |= {"bbox": [20, 10, 40.0, 30], "area": 1200, "category_id": 2}
    new = {
        "id": max(each["id"] for each in tree["annotations"]) + 1,
        "image_id": 7,
        "category_id": 5,
        "bbox": [10, 20, 30, 30],
    }
    tree["annotations"].append(new | {"area": 900, "iscrowd": 0})
    assert json.loads(file.read_text()) == tree
    assert len(file.read_text()) < len(text) + 120, "as tight as before"
    assert client.change(0, {"action": "delete", "id": client.get("images/0")["objects"][-1]["id"]}).status == 200
    del tree["annotations"][-1]
    assert json.loads(file.read_text()) == tree


def test_voc_only_the_edited_values_change(tmp_path: Path) -> None:
    one, two = OBJECT.format(21, 11, 60, 30, name="cat"), OBJECT.format(101.5, 51, 150, 90.25, name="dog")
    file = voc(tmp_path, one, two, end="\r\n")
    client = Client(tmp_path)
    objects = client.get("images/0")["objects"]
    assert [each["box"] for each in objects] == [[20, 10, 60, 30], [100.5, 50, 150, 90.25]]
    changes = [
        {"action": "set", "id": 0, "box": [19.6, 10, 70.4, 30], "class": "A&B"},
        {"action": "set", "id": 1, "box": [99.25, 50, 150, 90.25], "class": "dog"},
    ]
    assert client.change(0, *changes).status == 200
    one = OBJECT.format(21, 11, 70, 30, name="A&amp;B")  # whole numbers stay whole
    two = OBJECT.format(100.25, 51, 150, 90.25, name="dog")
    assert file.read_bytes() == (HEAD + one + two + "</annotation>\n").replace("\n", "\r\n").encode()
    same(rows(tmp_path), [("A&B", [20, 10, 70, 30]), ("dog", [99.25, 50, 150, 90.25])])


def test_voc_add_and_delete(tmp_path: Path) -> None:
    one, two = OBJECT.format(21, 11, 60, 30, name="cat"), OBJECT.format(101, 51, 150, 90, name="dog")
    file = voc(tmp_path, one, two)
    client = Client(tmp_path)
    add = {"action": "add", "box": [0.2, 0.4, 9.8, 99.9], "class": "dog"}
    assert client.change(0, {"action": "delete", "id": 1}, add).status == 200
    new = (
        "\t<object>\n\t\t<name>dog</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        "\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>1</xmin>\n\t\t\t<ymin>1</ymin>\n"
        "\t\t\t<xmax>10</xmax>\n\t\t\t<ymax>100</ymax>\n\t\t</bndbox>\n\t</object>\n"
    )
    assert file.read_text() == HEAD + one + new + "</annotation>\n"
    same(rows(tmp_path), [("cat", [20, 10, 60, 30]), ("dog", [0, 0, 10, 100])])
    assert client.change(0, {"action": "delete", "id": 0}, {"action": "delete", "id": 1}).status == 200
    assert file.read_text() == HEAD + "</annotation>\n"
    assert client.change(0, add).status == 200
    assert file.read_text() == HEAD + new + "</annotation>\n"


def test_voc_empty_elements(tmp_path: Path) -> None:
    one, empty = OBJECT.format(21, 11, 60, 30, name="cat"), "\t<object/>\n"
    file = voc(tmp_path, one, empty)
    client = Client(tmp_path)
    add = {"action": "add", "box": [20, 10, 60, 30], "class": "cat"}
    assert client.change(0, {"action": "delete", "id": 0}, add).status == 200
    found = file.read_text()
    assert (found.startswith(f"{HEAD}{empty}\t<object>"), found.endswith("</object>\n</annotation>\n")) == (True, True)
    same(rows(tmp_path), [("cat", [20, 10, 60, 30])])
    file.write_text("<annotation/>")
    answer = client.change(0, add)
    assert (answer.status, "an empty element 'annotation'" in answer.json["error"]) == (409, True)


@pytest.mark.parametrize("codec", ["utf-8-sig", "gb18030", "iso-8859-1"])
def test_voc_keeps_its_encoding(tmp_path: Path, codec: str) -> None:
    name = "\u732b" if codec == "gb18030" else "chat g\xe9ant"
    declared = codec.removesuffix("-sig")
    head = HEAD.replace("version='1.0'", f"version='1.0' encoding='{declared}'")
    text = head + OBJECT.format(1, 1, 9, 9, name=name) + "</annotation>\n"
    file = write(voc(tmp_path), text.encode(codec))
    write(tmp_path / "classes.txt", f"{name}\nother\n")
    assert Client(tmp_path).change(0, {"action": "set", "id": 0, "box": [0, 0, 9, 19], "class": name}).status == 200
    assert file.read_bytes() == text.replace("<ymax>9<", "<ymax>19<").encode(codec)


def test_voc_rotated_boxes_are_not_changed(tmp_path: Path) -> None:
    rotated = OBJECT.format(1, 1, 9, 9, name="cat")
    start, end = rotated.index("\t\t<bndbox>"), rotated.index("\t</object>")
    robndbox = "<robndbox><cx>50</cx><cy>50</cy><w>20</w><h>10</h><angle>0.3</angle></robndbox>\n"
    file = voc(tmp_path, rotated[:start] + robndbox + rotated[end:])
    before = file.read_bytes()
    client = Client(tmp_path)
    answer = client.change(0, {"action": "set", "id": 0, "box": [1, 2, 30, 40], "class": "cat"})
    assert (answer.status, "a rotated box" in answer.json["error"]) == (409, True)
    assert file.read_bytes() == before
    assert client.change(0, {"action": "set", "id": 0, "class": "dog"}).status == 200
    assert file.read_bytes() == before.replace(b"cat", b"dog")


def test_labelme_only_the_edited_values_change(tmp_path: Path) -> None:
    first = shape("cat", [[60.0, 10.0], [20.0, 30.5]], description="as  drawn")
    second = shape("dog", [[100, 50], [150, 50], [125, 90]], "polygon")
    file = labelme(tmp_path, first, second)
    before = file.read_text()
    client = Client(tmp_path)
    changes = [
        {"action": "set", "id": 0, "box": [30, 10, 60, 30.5], "class": "cat"},
        {"action": "set", "id": 1, "box": [0, 50, 100, 70], "class": "cat"},
    ]
    assert client.change(0, *changes).status == 200
    expected = before.replace("20.0,", "30,").replace("60.0,", "60,").replace(" 10.0\n", " 10\n").replace("dog", "cat")
    found = json.loads(file.read_text())
    assert found["shapes"][0] == first | {"points": [[60, 10], [30, 30.5]]}
    assert found["shapes"][1] == second | {"label": "cat", "points": [[0, 50], [100, 50], [50, 70]]}
    end = expected.index("[", expected.index("polygon") - 200)
    assert file.read_text()[:end] == expected[:end]
    start = before.index("]", before.index("90\n"))
    assert file.read_text().endswith(before[start:])
    same(rows(tmp_path), [("cat", [30, 10, 60, 30.5]), ("cat", [0, 50, 100, 70])])


@pytest.mark.parametrize("indent", [None, 2, 4])
def test_labelme_add_and_delete(tmp_path: Path, indent: int | None) -> None:
    first, second = shape("cat", [[20, 10], [60, 30]]), shape("dog", [[100, 50], [150, 90]])
    file = labelme(tmp_path, first, second, indent=indent)
    before = json.loads(file.read_text())
    client = Client(tmp_path)
    add = {"action": "add", "box": [1, 2, 30, 40], "class": "dog"}
    assert client.change(0, {"action": "delete", "id": 0}, add).status == 200
    new = {"label": "dog", "points": [[1.0, 2.0], [30.0, 40.0]], "group_id": None, "description": ""}
    expected = before | {"shapes": [second, new | {"shape_type": "rectangle", "flags": {}}]}
    assert file.read_text() == json.dumps(expected, indent=indent), "as the tool writes it"
    same(rows(tmp_path), [("dog", [100, 50, 150, 90]), ("dog", [1, 2, 30, 40])])
    assert client.change(0, {"action": "delete", "id": 0}, {"action": "delete", "id": 1}).status == 200
    assert json.loads(file.read_text()) == before | {"shapes": []}
    assert client.change(0, add).status == 200
    assert len(json.loads(file.read_text())["shapes"]) == 1


def test_labelme_circles_are_not_changed(tmp_path: Path) -> None:
    labelme(tmp_path, shape("cat", [[50, 50], [60, 50]], "circle"))
    answer = Client(tmp_path).change(0, {"action": "set", "id": 0, "box": [40, 40, 70, 60], "class": "cat"})
    assert (answer.status, "a circle" in answer.json["error"]) == (409, True)


SETS: dict[str, Callable[[Path], Path]] = {
    "yolo_txt": lambda root: yolo(root, "0 0.25 0.5 0.1 0.2", "1 0.5 0.5 0.2 0.4"),
    "coco": coco,
    "voc": lambda root: voc(root, OBJECT.format(21, 11, 60, 30, name="cat"), OBJECT.format(9, 9, 19, 19, name="dog")),
    "labelme": lambda root: labelme(root, shape("cat", [[20, 10], [60, 30]]), shape("dog", [[9, 9], [19, 19]])),
}


@pytest.mark.parametrize("layout", SETS)
def test_backup_and_journal(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "set"
    file = SETS[layout](root)
    file.chmod(0o640)
    original, before = file.read_bytes(), formats.find(root)
    client = Client(root)
    assert client.get("set")["layout"] == layout
    first = client.get("images/0")["objects"][0]
    entry = formats.open_boxes(root, "train").rows.entries[0]  # as in messages of `data check`
    for box in ([5, 5, 50, 50], [5, 5, 60, 60]):
        assert client.change(0, {"action": "set", "id": first["id"], "box": box, "class": "dog"}).status == 200
    backup = file.with_name(f"{file.name}.backup")
    assert backup.read_bytes() == original, "as before the first change"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (file, backup)] == [0o640, 0o640]
    lines = [json.loads(line) for line in (root / "look-journal.jsonl").read_text().splitlines()]
    for line in lines:
        assert (line["action"], line["entry"], Path(line["file"])) == ("set", entry, file)
    assert [(line["before"]["class"], line["after"]["class"]) for line in lines] == [("cat", "dog"), ("dog", "dog")]
    assert [line["after"]["box"] for line in lines] == [[5, 5, 50, 50], [5, 5, 60, 60]]
    assert lines[0]["before"]["box"] == pytest.approx(first["box"], abs=0.01)
    assert formats.find(root) == before, "backup and journal are no labels"
    assert len(formats.open_boxes(root, "train").findings) == 0
    assert {each.name for each in root.rglob("*.part")} == set()


@pytest.mark.parametrize("layout", SETS)
def test_concurrently_changed_file_is_not_overwritten(tmp_path: Path, layout: str) -> None:
    file = SETS[layout](tmp_path)
    client = Client(tmp_path)
    old = client.get("images/0")
    content = file.read_bytes().replace(b"[20, 10,", b"[21, 10,") + b"\n"  # by somebody else
    file.write_bytes(content)
    change = {"action": "delete", "id": old["objects"][0]["id"]}
    answer = client.change(0, change, revision=old["revision"])
    assert (answer.status, "has changed since it was shown" in answer.json["error"]) == (409, True)
    assert file.read_bytes() == content
    assert not file.with_name(f"{file.name}.backup").exists()
    assert client.change(0, change).status == 200, "after it was loaded again"


@pytest.mark.parametrize("layout", SETS)
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"action": "add", "box": [1, 1, 9, 9], "class": "horse"}, "there is no class 'horse'"),
        ({"action": "add", "box": [1, 1, 9, 9]}, "there is no class 'None'"),
        ({"action": "add", "box": [1, 1, 201, 9], "class": "cat"}, "is not inside of the image of 200 x 100 px"),
        ({"action": "add", "box": [-1, 1, 9, 9], "class": "cat"}, "is not inside of the image"),
        ({"action": "add", "box": [1, 1, 1, 9], "class": "cat"}, "has no area"),
        ({"action": "add", "box": [9, 1, 1, 9], "class": "cat"}, "has no area"),
        ({"action": "add", "box": [1, 1, float("nan"), 9], "class": "cat"}, "needed four finite numbers"),
        ({"action": "add", "box": [1, 1, float("inf"), 9], "class": "cat"}, "needed four finite numbers"),
        ({"action": "add", "box": [1, 1, 10**400, 9], "class": "cat"}, "needed four finite numbers"),
        ({"action": "add", "box": [1, 1, True, 9], "class": "cat"}, "needed four finite numbers"),
        ({"action": "add", "box": "1 1 9 9", "class": "cat"}, "needed four finite numbers"),
        ({"action": "set", "id": 99, "box": [1, 1, 9, 9], "class": "cat"}, "needed the id of an object"),
        ({"action": "set", "id": "1", "box": [1, 1, 9, 9], "class": "cat"}, "needed the id of an object"),
        ({"action": "move", "id": 1}, "needed an object with action"),
        ("delete", "needed an object with action"),
    ],
)
def test_invalid_changes_are_rejected(tmp_path: Path, layout: str, change: Any, line: str) -> None:
    file = SETS[layout](tmp_path)
    content = file.read_bytes()
    answer = Client(tmp_path).change(0, change)
    assert (answer.status, line in answer.json["error"]) == (400, True), answer
    assert file.read_bytes() == content
    assert not file.with_name(f"{file.name}.backup").exists()


def test_changes_are_atomic(tmp_path: Path) -> None:
    file = SETS["yolo_txt"](tmp_path)
    content = file.read_bytes()
    client = Client(tmp_path)
    for second in ({"action": "delete", "id": 0}, {"action": "add", "box": [1, 1, 1, 1], "class": "cat"}):
        assert client.change(0, {"action": "delete", "id": 0}, second).status == 400
    for values in ({}, {"changes": []}, {"changes": [{}] * 6000}, {"changes": 1}):
        values["revision"] = client.get("images/0")["revision"]
        assert client.post("images/0/objects", values).status == 400
    assert file.read_bytes() == content


def test_class_change_keeps_a_box_partly_outside_the_image(tmp_path: Path) -> None:
    file = yolo(tmp_path, "0 0.9 0.5 0.4 0.2")
    client = Client(tmp_path)
    (one,) = client.get("images/0")["objects"]
    assert one["box"][2] == pytest.approx(220)
    assert client.change(0, {"action": "set", "id": 0, "box": one["box"], "class": "dog"}).status == 200
    assert file.read_bytes() == b"1 0.9 0.5 0.4 0.2\n"
    assert client.change(0, {"action": "set", "id": 0, "box": one["box"], "class": "dog"}).status == 200, "nothing"
    assert len((tmp_path / "look-journal.jsonl").read_text().splitlines()) == 1


def test_faulty_lines_are_kept_and_reported(tmp_path: Path) -> None:
    file = yolo(tmp_path, "what is this", "0 0.25 0.5 0.1 0.2")
    client = Client(tmp_path)
    found = client.get("images/0")
    assert "a.txt line 1: found 'what is this'" in found["message"]
    assert [each["id"] for each in found["objects"]] == [0]
    assert client.change(0, {"action": "set", "id": 0, "class": "dog"}).status == 200
    assert file.read_bytes() == b"what is this\n1 0.25 0.5 0.1 0.2\n"


@pytest.mark.parametrize("layout", ["voc", "labelme"])
def test_faulty_file_is_kept_and_reported(tmp_path: Path, layout: str) -> None:
    file = SETS[layout](tmp_path)
    client = Client(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    found = client.get("images/0")
    assert (found["objects"], found["editable"]) == ([], False)
    assert file.name in found["message"]
    answer = client.change(0, {"action": "add", "box": [1, 1, 9, 9], "class": "cat"})
    assert (answer.status, file.name in answer.json["error"]) == (409, True)


def test_labels_of_a_deleted_image_are_not_changed(tmp_path: Path) -> None:
    for layout, make in SETS.items():
        make(tmp_path / layout)
        client = Client(tmp_path / layout)
        Path(client.state.view.path(0)).unlink()
        found = client.get("images/0")
        assert "a.png" in found["message"], layout
        assert (len(found["objects"]), found["editable"]) == (2, False), layout
        answer = client.change(0, {"action": "delete", "id": found["objects"][0]["id"]})
        assert (answer.status, "the image cannot be read" in answer.json["error"]) == (409, True)


def test_read_only_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SETS["yolo_txt"](tmp_path)
    client = Client(tmp_path)
    if os.geteuid() == 0:  # who may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    else:
        file.parent.chmod(0o555)
    try:
        found = client.get("set")
        assert found["editable"] is False
        assert "read-only" in found["reason"]
        answer = client.change(0, {"action": "delete", "id": 0})
        assert (answer.status, "read-only" in answer.json["error"]) == (403, True)
    finally:
        file.parent.chmod(0o755)


def test_labels_outside_of_the_set_are_not_changed(tmp_path: Path) -> None:
    """Such paths may occur in an untrusted list of images."""
    root = tmp_path / "set"
    outside = write(tmp_path / "elsewhere" / "x.txt", "0 0.5 0.5 0.1 0.1\n")
    image(tmp_path / "elsewhere" / "x.png")
    image(root / "a.png")
    write(root / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    link = root / "b.txt"
    image(root / "b.png")
    link.symlink_to(outside)
    write(root / "train.txt", "a.png\nb.png\n../elsewhere/x.png\n")
    write(root / "classes.txt", "cat\ndog\n")
    client = Client(root)
    assert client.get("set")["editable"], client.get("set")
    for place in (1, 2):
        answer = client.change(place, {"action": "delete", "id": 0})
        assert (answer.status, "is not in the folder of the set" in answer.json["error"]) == (409, True), answer
    assert outside.read_text() == "0 0.5 0.5 0.1 0.1\n"
    assert client.change(0, {"action": "delete", "id": 0}).status == 200


def test_link_within_the_set_is_kept(tmp_path: Path) -> None:
    file = SETS["yolo_txt"](tmp_path)
    real = tmp_path / "store" / "a.label"
    real.parent.mkdir()
    file.rename(real)
    file.symlink_to(real)
    assert Client(tmp_path).change(0, {"action": "delete", "id": 0}).status == 200
    assert file.is_symlink()
    assert real.read_text() == "1 0.5 0.5 0.2 0.4\n"


def test_linked_journal_is_not_followed(tmp_path: Path) -> None:
    file = SETS["yolo_txt"](tmp_path / "set")
    content = file.read_bytes()
    target = write(tmp_path / "profile", "mine\n")
    (tmp_path / "set" / "look-journal.jsonl").symlink_to(target)
    answer = Client(tmp_path / "set").change(0, {"action": "delete", "id": 0})
    assert (answer.status, "a link or not a regular file" in answer.json["error"]) == (400, True)
    assert (target.read_text(), file.read_bytes()) == ("mine\n", content)


def test_label_file_of_two_images_is_not_changed(tmp_path: Path) -> None:
    file = SETS["yolo_txt"](tmp_path)
    image(tmp_path / "images" / "train" / "a.jpg")
    content = file.read_bytes()
    answer = Client(tmp_path).change(0, {"action": "delete", "id": 0})
    assert (answer.status, "holds the labels of several images" in answer.json["error"]) == (409, True)
    assert file.read_bytes() == content


def test_unsupported_sets_are_shown_but_not_changed(tmp_path: Path) -> None:
    SETS["coco"](tmp_path / "one")
    SETS["yolo_txt"](tmp_path / "two")
    several = write(tmp_path / "both.yaml", "sets: [one, two]\n")
    renamed = write(tmp_path / "two" / "data.yaml", "train: images/train\nnames: [cat, dog]\nclass_map: {cat: pet}\n")
    image(tmp_path / "csv" / "a.png")
    write(tmp_path / "csv" / "train.csv", "a.png,1,2,30,40,cat\n")
    write(tmp_path / "csv" / "classes.csv", "cat,0\n")
    write(tmp_path / "csv.yaml", "path: csv\nkind: csv_retinanet\ntrain: train.csv\n")
    for data, line in (
        (several, "several sets together"),
        (renamed, "renames classes"),
        (tmp_path / "csv.yaml", "labels of the layout csv_retinanet cannot be changed here, needed coco, labelme, voc"),
    ):
        client = Client(data)
        described = client.get("set")
        assert (described["editable"], line in described["reason"]) == (False, True), described
        assert client.get("images/0")["objects"]
        assert client.change(0, {"action": "delete", "id": 0}).status == 403


def test_set_in_an_archive_is_shown_but_not_changed(tmp_path: Path) -> None:
    import shutil

    SETS["yolo_txt"](tmp_path / "set")
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "set")
    before = Path(archive).read_bytes()
    client = Client(archive)
    described = client.get("set")
    assert (described["editable"], "archive" in described["reason"]) == (False, True)
    assert client.get("images/0")["name"] == "images/train/a.png"
    assert [each["class"] for each in client.get("images/0")["objects"]] == ["cat", "dog"]
    assert client.change(0, {"action": "delete", "id": 1}).status == 403
    assert Path(archive).read_bytes() == before


@pytest.mark.slow
def test_set_in_an_object_store_is_shown_but_not_changed(store: Any, tmp_path: Path) -> None:
    SETS["coco"](tmp_path / "set")
    store.put_folder("bucket/set", tmp_path / "set")
    keys = store.keys("bucket")
    client = Client("s3://bucket/set")
    described = client.get("set")
    assert (described["data"], described["editable"]) == ("s3://bucket/set", False)
    assert "object store" in described["reason"]
    assert [each["class"] for each in client.get("images/0")["objects"]] == ["cat", "dog"]
    assert client.get("images")["images"][0]["name"] == "images/a.png"
    assert client.ask("GET", "/a-token/api/images/0/thumbnail").status == 200
    assert client.change(0, {"action": "delete", "id": 0}).status == 403
    assert store.keys("bucket") == keys


def test_only_one_of_several_concurrent_changes_is_applied(tmp_path: Path) -> None:
    SETS["yolo_txt"](tmp_path)
    client = Client(tmp_path)
    revision = client.get("images/0")["revision"]
    delete = {"action": "delete", "id": 0}
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: client.change(0, delete, revision=revision).status, range(4))
        assert sorted(found) == [200, 409, 409, 409]
    assert len(rows(tmp_path)) == 1


def test_sets_given_by_a_json_or_yaml_file(tmp_path: Path) -> None:
    """A JSON file of COCO, and a data YAML, whose folder is elsewhere."""
    file = coco(tmp_path / "one")
    assert Client(file).change(0, {"action": "delete", "id": 0}).status == 200
    assert len(json.loads(file.read_text())["annotations"]) == 2
    assert (tmp_path / "one" / "look-journal.jsonl").is_file()
    label = SETS["yolo_txt"](tmp_path / "two")
    yaml = write(tmp_path / "yaml" / "data.yaml", "path: ../two\ntrain: images/train\nnames: {0: cat, 1: dog}\n")
    client = Client(yaml)
    assert client.get("set")["editable"], client.get("set")
    assert client.change(0, {"action": "delete", "id": 0}).status == 200
    assert label.read_text() == "1 0.5 0.5 0.2 0.4\n"
    assert (tmp_path / "two" / "look-journal.jsonl").is_file()


def test_changes_of_two_images_in_one_file_are_serialized(tmp_path: Path) -> None:
    """Also where a deletion changes the places of the other image's annotations in the file."""
    file = coco(tmp_path)
    client = Client(tmp_path)
    first, second = (client.get(f"images/{image}") for image in (0, 1))
    delete = {"action": "delete", "id": first["objects"][0]["id"]}
    assert client.change(0, delete, revision=first["revision"]).status == 200
    change = {"action": "set", "id": second["objects"][0]["id"], "class": "cat"}
    assert client.change(1, change, revision=second["revision"]).status == 200
    assert client.change(1, change, revision=second["revision"]).status == 409
    same(rows(tmp_path), [("dog", [100, 50, 150, 90])])
    same(rows(tmp_path, place=1), [("cat", [1.5, 2, 31.5, 6])])
    assert len(json.loads(file.read_text())["annotations"]) == 2


def test_second_page_sees_changes_of_the_first(tmp_path: Path) -> None:
    SETS["coco"](tmp_path)
    one, two = Client(tmp_path), Client(tmp_path)
    old = two.get("images/0")["revision"]
    assert one.change(0, {"action": "delete", "id": 0}).status == 200
    assert two.change(0, {"action": "delete", "id": 0}, revision=old).status == 409
    assert [each["class"] for each in two.get("images/0")["objects"]] == ["dog"]
    assert two.change(0, {"action": "set", "id": 0, "class": "cat"}).status == 200
    same(rows(tmp_path), [("cat", [100, 50, 150, 90])])
