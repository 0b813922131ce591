"""COCO JSONs as annotation tools and converters write them."""

import copy
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from boxwright import cli
from boxwright.data import coco_index, coco_json, index
from boxwright.data.dataset import ANY_CLASS, Dataset
from boxwright.datatools.check import check, check_folder, skip_bad
from boxwright.datatools.class_crops import crop
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import coco, open_boxes, splits
from boxwright.tasks.detect import TASK, dataset_labels
from small_run import SMALL

SAMPLES = Path(__file__).parent / "data_layouts"
BOX = [10, 8, 40, 30]  # of each image, as x1, y1, x2, y2
Tree = dict[str, Any]


def tree(names: tuple[str, ...] = ("a0.jpg", "a1.jpg", "a2.jpg")) -> Tree:
    """A car in each image of 96 x 64 px."""
    numbers, size = range(1, len(names) + 1), {"width": 96, "height": 64}
    return {
        "info": {}, "licenses": [],
        "images": [{"id": n, "file_name": name} | size for n, name in zip(numbers, names, strict=True)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 8, 30, 22], "area": 660, "iscrowd": 0,
             "segmentation": []}
            for n in numbers
        ],
        "categories": [{"id": 1, "name": "car", "supercategory": "vehicle"}],
    }  # fmt: skip


def write(file: Path, content: Tree) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("a0.jpg", "a1.jpg", "a2.jpg"):
        Image.new("RGB", (96, 64), (90, 120, 150)).save(folder / name, format="JPEG")


def make(root: Path, content: Tree) -> Path:
    write(root / "annotations" / "train.json", content)
    images(root / "images")
    return root


def found(dataset: Dataset) -> list[tuple[str, list[list[float]]]]:
    return [(Path(sample.path).name, sample.boxes.tolist()) for sample in dataset]


def notes(dataset: Dataset) -> list[str]:
    return [finding.text for finding in dataset.findings if finding.level == "note"]


ALL = [(f"a{number}.jpg", [BOX]) for number in range(3)]
OUTLINE = [[10, 8, 40, 8, 40, 30, 10, 30]]


def each(where: str, **values: object) -> Callable[[Tree], object]:
    return lambda content: [entry.update(values) for entry in content[where]]


def second(where: str, **values: object) -> Callable[[Tree], object]:
    return lambda content: content[where][1].update(values)


def texts(where: str, key: str) -> Callable[[Tree], object]:
    return lambda content: [entry.update({key: str(entry[key])}) for entry in content[where]]


def together(*changes: Callable[[Tree], object]) -> Callable[[Tree], object]:
    return lambda content: [change(content) for change in changes]


def without(where: str, key: str) -> Callable[[Tree], object]:
    return lambda content: [entry.pop(key) for entry in content[where]]


def of_20_digits(content: Tree) -> None:
    for entry, label in zip(content["images"], content["annotations"], strict=True):
        entry["id"] += 10**19
        label["image_id"] += 10**19


HARMLESS: dict[str, tuple[Callable[[Tree], object], str]] = {  # the change, a part of the note
    "area null": (second("annotations", area=None), "area is null"),
    "iscrowd null": (second("annotations", iscrowd=None), "iscrowd is null"),
    "size null": (second("images", width=None, height=None), "the size is taken from the image"),
    "size -1": (each("images", width=-1, height=-1), "(3 times, here first)"),
    "size as text": (each("images", width="96", height="64"), "numbers are written as text"),
    "image ids as text": (texts("annotations", "image_id"), "image_id is written as text (3 times"),
    "category ids as text": (
        together(texts("annotations", "category_id"), texts("categories", "id")), "category_id is written as text"
    ),
    "box as text": (second("annotations", bbox=["10", "8.0", "30", "22"]), "numbers are written as text (4 times"),
    "iscrowd as text": (second("annotations", iscrowd="0"), "numbers are written as text"),
    "annotation ids as text": (second("annotations", id="6f1c-2"), "boxes are renumbered"),
    "no annotation ids": (without("annotations", "id"), "boxes are renumbered (3 times"),
    "annotation ids of 20 digits": (each("annotations", id=10**19), "boxes are renumbered (3 times"),
    "image ids of 20 digits": (of_20_digits, ""),
    "mixed image ids": (lambda c: (c["images"][1].update(id="x"), c["annotations"][1].update(image_id="x")), ""),
    "category ids of 20 digits": (
        together(each("annotations", category_id=10**19), each("categories", id=10**19)), "classes are numbered"
    ),
    "class names as numbers": (each("categories", name=7), "a class name is a number"),
    "outline without a box": (second("annotations", bbox=None, segmentation=OUTLINE), "that of the outline"),
    "numbers as floats": (each("annotations", id=4.0, image_id=1.0, category_id=1.0, iscrowd=0.0), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_deviations_are_read_with_a_note(tmp_path: Path, name: str) -> None:
    change, message = HARMLESS[name]
    content = tree()
    change(content)
    dataset = open_boxes(make(tmp_path, content), "train")
    assert found(dataset) == (
        ALL if name != "numbers as floats" else [("a0.jpg", [BOX] * 3), ("a1.jpg", []), ("a2.jpg", [])]
    )
    assert dataset.names == (("7",) if "names" in name else ("car",))
    assert len(set(dataset.rows.ids.tolist())) == (1 if "floats" in name else 3)
    assert not [finding for finding in check(dataset).errors if finding.kind != "duplicate_box"]
    assert [text for text in notes(dataset) if message in text] or not message
    assert dataset.rows.areas.tolist() == [660, 660, 660]
    assert not dataset.rows.crowd.any()


FAULTS: dict[str, tuple[Callable[[Tree], object], str, str]] = {  # the change, place, fault
    "empty box": (second("annotations", bbox=[]), "annotations[1]", "bbox: found []"),
    "no box": (lambda c: c["annotations"][1].pop("bbox"), "annotations[1]", "bbox: missing, needed [x, y, width, hei"),
    "three numbers": (second("annotations", bbox=[1, 2, 3]), "annotations[1]", "bbox: found [1, 2, 3]"),
    "string in bbox": (second("annotations", bbox=[1, 2, "x", 3]), "annotations[1]", "bbox: found [1, 2, 'x', 3]"),
    "not an object": (lambda c: c["annotations"].__setitem__(1, 5), "annotations[1]", "found 5, needed an object"),
    "no image id": (lambda c: c["annotations"][1].pop("image_id"), "annotations[1]", "image_id: missing"),
    "image id not a number": (second("annotations", image_id="x"), "annotations[1]", "image_id: found 'x'"),
    "iscrowd 2": (second("annotations", iscrowd=2), "annotations[1]", "iscrowd: found 2, needed 0 or 1"),
    "difficult no": (second("annotations", difficult="no"), "annotations[1]", "difficult: found 'no'"),
    "category not a number": (second("annotations", category_id="x"), "annotations[1]", "category_id: found 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_invalid_annotation_is_a_finding_and_others_are_read(tmp_path: Path, name: str) -> None:
    change, place, fault = FAULTS[name]
    content = tree()
    change(content)
    root = make(tmp_path, content)
    dataset = open_boxes(root, "train")
    assert found(dataset) == [ALL[0], ("a1.jpg", []), ALL[2]]
    report = check(dataset)
    (error,) = report.errors
    assert (error.kind, error.file) == ("unreadable_label", f"{root}/annotations/train.json {place}")
    assert fault in error.text
    assert len(error.text) <= 110  # room for the place and the remedy in a line
    known = "object" not in name and "image id" not in name
    assert error.image == (str(root / "images" / "a1.jpg") if known else "")
    assert len(skip_bad(dataset, report)) == 3
    rows = coco.extras(dataset).rows
    assert rows == [{"segmentation": []}] * 2


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"file_name": 7}, "file_name: found 7, needed a text"),
        ({"file_name": "a\0"}, "cannot be a path"),
        ({"file_name": "\ud800"}, "cannot be a path"),
        ({"id": None}, "id: found None, needed a whole number"),
        ({"id": "x" * 257}, "needed a whole number or a text of 1 to 256 letters"),
        ({"id": 1.5}, "id: found 1.5"),
    ],
)
def test_invalid_image_entry_is_a_finding(tmp_path: Path, changes: Tree, fault: str) -> None:
    content = tree()
    content["images"][1] |= changes
    dataset = open_boxes(make(tmp_path, content), "train")
    assert found(dataset) == [ALL[0], ALL[2]]
    first, second = dataset.findings
    assert fault in first.text
    assert (first.kind, first.file.split(" ")[-1], second.kind) == ("unreadable_label", "images[1]", "unknown_image")


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("images", {"width": "wide"}), ("images", {"height": 0}), ("images", {"width": 10**30}),
        ("annotations", {"area": "big"}),
    ],
)  # fmt: skip
def test_invalid_sizes_and_areas_are_only_notes(tmp_path: Path, where: str, changes: Tree) -> None:
    content = tree()
    content[where][1] |= changes
    dataset = open_boxes(make(tmp_path, content), "train")
    assert (found(dataset), [finding.kind for finding in check(dataset).findings]) == (ALL, ["unusual"])


def test_number_with_400_digits_is_not_finite(tmp_path: Path) -> None:
    content = tree()
    content["annotations"][1]["bbox"][2] = 10**400
    dataset = open_boxes(make(tmp_path, content), "train")
    assert {finding.kind for finding in check(dataset).errors} == {"not_finite"}


def test_extra_keys_stay_aligned_after_invalid_images(tmp_path: Path) -> None:
    content = tree()
    for number, (image, label) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        image["mine"] = label["mine"] = number
    del content["images"][0]["file_name"]
    content["images"].insert(0, 5)
    content["annotations"][1]["bbox"] = None
    dataset = open_boxes(make(tmp_path, content), "train")
    assert found(dataset) == [("a1.jpg", []), ALL[2]]
    assert [(finding.kind, finding.file.split(" ")[-1]) for finding in dataset.findings] == [
        ("unreadable_label", "images[0]"), ("unreadable_label", "images[1]"),
        ("unreadable_label", "annotations[1]"), ("unknown_image", "annotations[0]"),
    ]  # fmt: skip
    extras = coco.extras(dataset.subset([1]))
    assert (extras.images, extras.rows) == ([{"mine": 2}], [{"segmentation": [], "mine": 2}])
    assert [keys["mine"] for keys in coco.extras(dataset).images] == [1, 2]


def test_ids_round_trip_through_conversion(tmp_path: Path) -> None:
    content = tree()
    of_20_digits(content)
    content["annotations"][2]["id"] = "6f1c-2"
    summary = convert(make(tmp_path / "from", content), "coco", tmp_path / "to")
    after = json.loads((tmp_path / "to/annotations/train.json").read_text())
    assert [entry["id"] for entry in after["images"]] == [10**19 + n for n in (1, 2, 3)]
    assert [entry["image_id"] for entry in after["annotations"]] == [10**19 + n for n in (1, 2, 3)]
    assert [entry["id"] for entry in after["annotations"]] == [1, 2, "6f1c-2"]
    assert "cannot hold" not in summary


def test_repeated_annotation_ids_are_a_note(tmp_path: Path) -> None:
    content = tree()
    each("annotations", id=0)(content)
    root = make(tmp_path / "from", content)
    report = check_folder(root)
    (note,) = report.findings
    assert (note.kind, note.level, report.checked) == ("duplicate_annotation_id", "note", {"train": (3, 3)})
    assert note.file.endswith("annotations[1]")
    assert note.text.startswith("2 boxes have the id of an earlier one, here that of annotations[0]")
    summary = convert(root, "coco", tmp_path / "to")
    assert "3 ids of boxes, since some repeat (renumbered)" in summary
    after = open_boxes(tmp_path / "to", "train")
    assert (found(after), after.rows.ids.tolist()) == (ALL, [1, 2, 3])
    assert len(COCO(str(tmp_path / "to/annotations/train.json")).anns) == 3


NAMES: dict[str, Callable[[str], str]] = {
    "backslash": lambda name: f"images\\{name}",
    "other machine": lambda name: f"..\\..\\label-studio\\media\\upload\\4\\{name}",
    "absolute": lambda name: f"/home/me/data/{name}",
    "url": lambda name: f"https://example.org/storage/{name}?token=1",
    "percent": lambda name: name.replace(" ", "%20"),
    "capital suffix": lambda name: name.replace(".jpg", ".JPG"),
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
}
ON_DISK = ("größe é.jpg", "my a0.jpg", "a2.jpg")


@pytest.mark.parametrize("name", NAMES)
def test_images_are_found_by_file_name(tmp_path: Path, name: str) -> None:
    content = tree(tuple(map(NAMES[name], ON_DISK)))
    same = [NAMES[name](file) == file for file in ON_DISK]
    write(tmp_path / "result.json", content)
    images(tmp_path / "images", *ON_DISK)
    (tmp_path / "d.yaml").write_text("train: result.json\nimages: images\n")
    for root, split in ((tmp_path, "all"), (tmp_path / "d.yaml", "train")):
        dataset = open_boxes(root, split)
        assert [sample.path for sample in dataset] == [str(tmp_path / "images" / file) for file in ON_DISK]
        assert found(dataset) == [(file, [BOX]) for file in ON_DISK]
        assert not check(dataset).errors
        if name == "url":  # which names no place on this machine
            assert dataset.findings == ()
            continue
        (note,) = dataset.findings
        more = f" ({same.count(False)} times, here first)" if same.count(False) > 1 else ""
        assert note.text == f"image is not at the named path; found by the last part of the name{more}"
        assert note.file == f"{tmp_path}/result.json images[{same.index(False)}]"


def test_ambiguous_file_name_error_names_both_files(tmp_path: Path) -> None:
    content = tree(("a0.jpg", "/home/me/a1.jpg", "x/a2.jpg"))
    write(tmp_path / "annotations/train.json", content)
    for folder in ("images", "more/a", "more/b"):
        images(tmp_path / folder)
    (tmp_path / "images/a1.jpg").unlink()
    (tmp_path / "more/b/a2.jpg").rename(tmp_path / "more/b/other.jpg")
    (tmp_path / "images/a2.jpg").unlink()
    dataset = open_boxes(tmp_path, "train")
    assert Path(dataset.path(2)) == tmp_path / "more/a/a2.jpg"
    error = dataset.findings[0]
    assert (error.kind, error.index, error.image_id) == ("ambiguous_image", 1, 2)
    assert error.file.endswith("images[1]")
    assert error.text == "'/home/me/a1.jpg' may be more/a/a1.jpg or more/b/a1.jpg; write the path"
    assert [finding.kind for finding in check(dataset).errors] == ["ambiguous_image", "missing_image"]


def test_missing_images_error_suggests_the_images_key(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root / "annotations/train.json", tree(tuple(f"/home/me/a{n}.jpg" for n in range(3))))
    images(tmp_path / "far")
    with pytest.raises(InputError, match=r"none of its 3 images .*name their folder with the key 'images'") as caught:
        open_boxes(root, "train")
    assert len(str(caught.value)) - len(str(root)) * 2 < 170
    (tmp_path / "d.yaml").write_text("root: set\nimages: ../far\n")
    assert found(open_boxes(tmp_path / "d.yaml", "train")) == ALL


@pytest.mark.parametrize(
    ("file", "folder", "split"),
    [
        ("train/labels.json", "train/data", "train"),
        ("val/labels.json", "val/data", "val"),
        ("labels.json", "data", "all"),
        ("result.json", "images", "all"),
        ("annotations/instances_default.json", "images", "all"),
        ("annotations/instances_Validation.json", "images/Validation", "val"),
        ("annotations/coco of mine.json", "images", "coco of mine"),
        ("export 7.json", "pictures", "all"),
        ("valid/any name.json", "valid", "val"),
    ],
)
def test_folder_layouts_of_tools_are_found(tmp_path: Path, file: str, folder: str, split: str) -> None:
    write(tmp_path / file, tree())
    images(tmp_path / folder)
    assert splits(tmp_path) == [split]
    dataset = open_boxes(tmp_path, split)
    assert (found(dataset), Path(dataset.path(0)).parent) == (ALL, tmp_path / folder)
    assert not check(dataset).errors


@pytest.mark.parametrize(
    "content", ['[{"image": "a.jpg", "annotations": [{"label": "a", "coordinates": {}}]}]', '{"shapes": []}', "{}"]
)
def test_other_json_files_are_not_coco(tmp_path: Path, content: str) -> None:
    (tmp_path / "train").mkdir()
    for file in (tmp_path / "labels.json", tmp_path / "train" / "a.json", tmp_path / "result.json"):
        file.write_text(content)
    assert coco.find(tmp_path) == {}


def write_roboflow(root: Path) -> Path:
    """As Roboflow writes it: category 0 is the name of the project."""
    content = tree()
    content["categories"] = [
        {"id": 0, "name": "vehicles", "supercategory": "none"}, {"id": 1, "name": "car", "supercategory": "vehicles"}
    ]  # fmt: skip
    for split in ("train", "valid"):
        images(root / split, *[f"{split}{name}" for name in ("a0.jpg", "a1.jpg", "a2.jpg")])
        for entry in content["images"]:
            entry["file_name"] = split + entry["file_name"][-6:]
        write(root / split / "_annotations.coco.json", content)
    return root


def test_class_that_is_only_a_supercategory_is_dropped(tmp_path: Path) -> None:
    root = write_roboflow(tmp_path / "from")
    for split in ("train", "val"):
        dataset = open_boxes(root, split)
        assert (dataset.names, dataset.group, dataset.rows.labels.tolist()) == (("vehicles", "car"), 0, [1, 1, 1])
        (note,) = check(dataset).findings
        assert "'vehicles' is only the supercategory of the others" in note.text
        opened = TASK.open(root, split, small(root).data)
        assert (opened.names, opened.category_ids, opened.rows.labels.tolist()) == (("car",), (1,), [0, 0, 0])
    crop(root, tmp_path / "crops")
    assert sorted(path.name for path in (tmp_path / "crops" / "train").iterdir()) == ["car"]
    assert len([*(tmp_path / "crops").rglob("*.png")]) == 6
    assert dataset_labels(dataset, small(root)).tolist() == [1]  # a model of the class proper can be evaluated
    assert TASK.to_score(dataset, small(root)).names == ("car",)


def small(root: Path) -> Any:
    from boxwright import recipe

    return recipe.load("demo", SMALL | {"data.root": str(root), "data.names": ["car"], "model.classes": 1})


def test_supercategory_with_boxes_in_another_split_is_a_class(tmp_path: Path) -> None:
    root = write_roboflow(tmp_path / "from")
    file = root / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 0
    write(file, content)
    assert [open_boxes(root, split).group for split in ("train", "val")] == [None, None]
    assert TASK.open(root, "train", small(root).data).names == ("vehicles", "car")


def test_roboflow_chess_sample(tmp_path: Path) -> None:
    expected = sample("roboflow_coco", tmp_path)
    for split in ("train", "val", "test"):
        dataset = open_boxes(tmp_path, split)
        assert list(dataset.names) == expected["classes"]
        assert dataset.group == 0
        matches(dataset, [entry for entry in expected["pictures"] if entry["split"] == split])


def test_cvat_masks_need_the_crowd_key(tmp_path: Path) -> None:
    expected = sample("cvat_coco_masks", tmp_path)
    dataset = open_boxes(tmp_path, "all")
    assert dataset.rows.crowd.all()
    (error,) = check(dataset).errors
    assert (error.kind, error.leave_out) == ("only_crowd", "nothing")
    assert error.text == "12 of 12 have iscrowd 1; set crowd: objects (or regions) in a data YAML"
    assert str(error.brief(tmp_path)).endswith("in a data YAML")
    with pytest.raises(InputError, match="12 of 12 have"):
        convert(tmp_path, "voc", tmp_path / "new")
    yaml = tmp_path / "d.yaml"
    for value in ("objects", "regions"):
        yaml.write_text(f"train: annotations/instances_default.json\ncrowd: {value}\n")
        dataset = open_boxes(yaml, "train")
        assert not check(dataset).errors
        assert (dataset.rows.crowd == (value == "regions")).all()
        matches(dataset, expected["pictures"])
    yaml.write_text("train: annotations/instances_default.json\ncrowd: some\n")
    with pytest.raises(InputError, match="crowd"):
        open_boxes(yaml, "train")


def test_unusual_numbers_of_crowd_regions_are_a_note(tmp_path: Path) -> None:
    content = tree()
    each("annotations", iscrowd=1)(content)
    (note,) = open_boxes(make(tmp_path, content), "train").findings
    assert (note.kind, note.text[:6]) == ("unusual", "3 of 3")
    content["annotations"] = [{**content["annotations"][0], "id": n, "iscrowd": int(n < 2)} for n in range(20)]
    assert not open_boxes(make(tmp_path, content), "train").findings
    content["annotations"][7]["iscrowd"] = 1
    (note,) = open_boxes(make(tmp_path, content), "train").findings
    assert (note.kind, note.text[:7]) == ("unusual", "3 of 20")


def sample(name: str, root: Path) -> Any:
    """Copy a tool's label files, with empty images; returns the right reading."""
    shutil.copytree(SAMPLES / name, root, dirs_exist_ok=True)
    expected = json.loads((root / "expected.json").read_text())
    (root / "expected.json").unlink()
    for entry in expected["pictures"]:
        (root / entry["file"]).parent.mkdir(exist_ok=True)
        Image.new("RGB", (entry["width"], entry["height"])).save(root / entry["file"])
    return expected


def matches(dataset: Dataset, entries: list[Any]) -> None:
    read = {
        str(Path(s.path).relative_to(dataset.root)): (
            s.size,
            [[dataset.names[label], *box] for label, box in zip(s.labels, s.boxes.tolist(), strict=True)],
        )
        for s in dataset
    }
    assert read == {p["file"]: ((p["height"], p["width"]), p["boxes"]) for p in entries}


def test_ignore_regions_round_trip(tmp_path: Path) -> None:
    content = tree()
    second("annotations", ignore=1)(content)
    content["annotations"][0]["ignore"] = 0
    dataset = open_boxes(make(tmp_path / "from", content), "train")
    assert dataset.rows.labels.tolist() == [0, ANY_CLASS, 0]
    assert dataset.rows.crowd.tolist() == [False, True, False]
    assert not check(dataset).errors
    convert(tmp_path / "from", "coco", tmp_path / "to")
    again = open_boxes(tmp_path / "to", "train")
    assert (again.rows.labels.tolist(), found(again)) == (dataset.rows.labels.tolist(), ALL)


def test_findings_are_stored_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tree()
    content["annotations"][1]["bbox"] = []
    content["annotations"][2]["image_id"] = 9
    content["images"][0]["width"] = None
    root = make(tmp_path, content)
    fresh = open_boxes(root, "train", cache=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(coco_index, "MIN_SIZE", 0)
    monkeypatch.setattr(index, "CLOCK_TICK", 0)
    open_boxes(root, "train", cache=tmp_path / "cache")
    monkeypatch.setattr(coco, "parse", lambda file: pytest.fail("parsed again"))
    again = open_boxes(root, "train", cache=tmp_path / "cache")
    assert [finding.kind for finding in again.findings] == ["unreadable_label", "unknown_image", "unusual"]
    assert again.findings == fresh.findings


def test_fast_and_tolerant_parsers_are_equal(tmp_path: Path) -> None:
    """The two ways through the parser."""
    rng = np.random.default_rng(2)
    content = tree(tuple(f"{number}.jpg" for number in range(20)))
    content["categories"].append({"id": 5, "name": "bus"})
    content["annotations"] = [
        {"id": n, "image_id": int(rng.integers(1, 21)), "category_id": int(rng.choice([1, 5])),
         "bbox": rng.uniform(0, 30, 4).tolist(), "iscrowd": int(rng.integers(2)), "difficult": int(rng.integers(2))}
        for n in rng.permutation(200).tolist()
    ]  # fmt: skip
    plain = coco_json.parse(write(tmp_path / "a.json", content))
    assert not plain.findings
    other = copy.deepcopy(content)
    other["annotations"].append({})
    other["annotations"][7]["bbox"] = [str(value) for value in other["annotations"][7]["bbox"]]
    mixed = coco_json.parse(write(tmp_path / "b.json", other))
    assert [finding.kind for finding in mixed.findings] == ["unreadable_label", "unusual"]
    for name in plain.rows.__slots__:
        np.testing.assert_array_equal(getattr(plain.rows, name), getattr(mixed.rows, name))
    np.testing.assert_array_equal(plain.starts, mixed.starts)


def test_thousands_of_classes_without_boxes_are_summarized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tree()
    content["categories"] += [{"id": n, "name": f"class {n}"} for n in range(2, 5001)]
    make(tmp_path, content)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["data", "check", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 8
    assert lines[-2].endswith("class 8, class 9, class 10, class 11 and 4989 more")
