"""Readers of labels: each layout gives the same boxes, and an unusable file gives one line with the reason."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from boxwright.errors import InputError
from boxwright.formats import open_dataset, splits

SHARED = Path(__file__).parents[2] / "shared" / "data"
COUNTS = {  # images, boxes: the tables of the data sets' READMEs
    ("bccd", "train"): (205, 2804), ("bccd", "val"): (87, 1137), ("bccd", "test"): (72, 945),
    ("aerial", "train"): (75, 2487), ("aerial", "val"): (31, 789), ("aerial", "test"): (8, 172),
    ("aerial", "large"): (5, 135),
}  # fmt: skip


def labels() -> dict[str, Any]:
    """Two images of 40 x 20 px; category ids with a gap and out of order; one crowd; one area unlike the box's."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 20},
        ],
        "annotations": [
            {"id": 11, "image_id": 3, "category_id": 9, "bbox": [1, 2, 10, 8], "area": 50.5, "iscrowd": 0},
            {"id": 12, "image_id": 7, "category_id": 2, "bbox": [4.5, 0, 20, 20], "area": 400, "iscrowd": 1},
            {"id": 13, "image_id": 3, "category_id": 2, "bbox": [20, 10, 20, 10]},
        ],
        "categories": [{"id": 9, "name": "truck"}, {"id": 2, "name": "car"}],
    }


def images(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (90, 120, 150)).save(file)


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("label_file", "folder"),
    [
        ("annotations/train.json", "train"),
        ("annotations/train.json", "images/train"),
        ("annotations/train.json", "images"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2014.json", "images/train2014"),
        ("train/_annotations.coco.json", "train"),
        ("instances_train.json", "."),
    ],
)
def test_coco_layouts(tmp_path: Path, label_file: str, folder: str) -> None:
    write(tmp_path / label_file, labels())
    images(tmp_path / folder / "a.png", tmp_path / folder / "b.png")
    assert splits(tmp_path) == ["train"]
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.names, dataset.category_ids, len(dataset)) == (("car", "truck"), (2, 9), 2)
    first, second = dataset[0], dataset[1]
    assert (first.image_id, second.image_id, second.size) == (7, 3, (20, 40))
    assert Path(first.path) == tmp_path / folder / "a.png"
    np.testing.assert_array_equal(first.boxes, np.array([[4.5, 0, 24.5, 20]], dtype=np.float32))
    assert (first.crowd.tolist(), first.labels.tolist(), first.annotation_ids.tolist()) == ([True], [0], [12])
    np.testing.assert_array_equal(second.boxes, np.array([[1, 2, 11, 10], [20, 10, 40, 20]], dtype=np.float32))
    assert (second.areas.tolist(), second.labels.tolist()) == ([50.5, 200.0], [1, 0])
    dtypes = (second.boxes.dtype, second.labels.dtype, second.crowd.dtype, second.areas.dtype)
    assert dtypes == (np.float32, np.int64, np.bool_, np.float64)


def test_coco_file_path_finds_images_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "any name.json", labels())
    images(tmp_path / "a.png", tmp_path / "b.png")
    for split in ("train", "val"):
        dataset = open_dataset(file, split)
        assert (dataset.split, Path(dataset[0].path)) == (split, tmp_path / "a.png")


def test_image_ids_may_be_strings(tmp_path: Path) -> None:
    tree = labels()
    for entry, key in [(i, "id") for i in tree["images"]] + [(a, "image_id") for a in tree["annotations"]]:
        entry[key] = f"scene-{entry[key]}"
    write(tmp_path / "train.json", tree)
    images(tmp_path / "a.png", tmp_path / "b.png")
    assert [(s.image_id, len(s)) for s in open_dataset(tmp_path, "train")] == [("scene-7", 1), ("scene-3", 2)]


def test_subset_and_without_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.json", labels())
    images(tmp_path / "a.png", tmp_path / "b.png")
    dataset = open_dataset(tmp_path, "train")
    turned = dataset.subset([1, 0, 1])
    assert [s.annotation_ids.tolist() for s in turned] == [[11, 13], [12], [11, 13]]
    assert len(dataset.subset([])) == 0
    fewer = dataset.without_rows(dataset.rows.ids == 11)
    assert [s.annotation_ids.tolist() for s in fewer] == [[12], [13]]
    with pytest.raises(IndexError):
        dataset[2]
    assert dataset[-1].image_id == 3


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_real_data_sets_match_pycocotools(name: str, split: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is absent")
    dataset = open_dataset(SHARED / name, split)
    assert (len(dataset), len(dataset.rows)) == COUNTS[name, split]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(SHARED / name / "annotations" / f"{split}.json"))
    assert list(dataset.category_ids) == sorted(reference.getCatIds())
    assert list(dataset.names) == [category["name"] for category in reference.loadCats(sorted(reference.getCatIds()))]
    assert sorted(sample.image_id for sample in dataset) == sorted(reference.getImgIds())
    for sample in dataset:
        rows = reference.loadAnns(reference.getAnnIds(imgIds=[sample.image_id]))
        assert sample.annotation_ids.tolist() == [row["id"] for row in rows]
        assert sample.areas.tolist() == [row["area"] for row in rows]
        assert sample.crowd.tolist() == [bool(row["iscrowd"]) for row in rows]
        assert [dataset.category_ids[label] for label in sample.labels] == [row["category_id"] for row in rows]
        xywh = np.array([row["bbox"] for row in rows])
        xywh[:, 2:] += xywh[:, :2]
        np.testing.assert_allclose(sample.boxes, xywh, rtol=1e-6)
        assert Path(sample.path).is_file()


YOLO = "1 0.15 0.3 0.25 0.4\n\n0 0.75 0.75 0.5 0.5\n"  # on 40 x 20 px: 1,2,11,10 and 20,10,40,20


@pytest.mark.parametrize(
    ("image_folder", "label_folder", "split"),
    [
        ("images/train", "labels/train", "train"),
        ("images/train2017", "labels/train2017", "train"),
        ("valid/images", "valid/labels", "val"),
        ("images", "labels", "all"),
    ],
)
@pytest.mark.parametrize(
    ("names_file", "names"),
    [
        ("classes.txt", "car\ntruck\n"),
        ("obj.names", "car\ntruck"),
        ("data.yaml", "nc: 2\nnames: [car, truck]\n"),
        ("data.yaml", "train: gone/images\nnames:\n  0: car\n  1: truck\n"),
    ],
)
def test_yolo_layouts(
    tmp_path: Path, image_folder: str, label_folder: str, split: str, names_file: str, names: str
) -> None:
    images(tmp_path / image_folder / "b.png", tmp_path / image_folder / "a.jpg", tmp_path / image_folder / "in/c.PNG")
    write(tmp_path / label_folder / "b.txt", YOLO)
    write(tmp_path / label_folder / "in/c.txt", "0 0.5 0.5 1 1")
    write(tmp_path / names_file, names)
    assert splits(tmp_path) == [split]
    dataset = open_dataset(tmp_path, split)
    assert dataset.names == ("car", "truck")
    assert [Path(sample.path).name for sample in dataset] == ["a.jpg", "b.png", "c.PNG"]
    assert [len(sample) for sample in dataset] == [0, 2, 1]
    sample = dataset[1]
    np.testing.assert_allclose(sample.boxes, [[1, 2, 11, 10], [20, 10, 40, 20]], rtol=1e-6)
    assert (sample.labels.tolist(), sample.size) == ([1, 0], (20, 40))
    np.testing.assert_allclose(sample.areas, [80, 200])
    assert dataset.location(1, 1) == f"{tmp_path / label_folder / 'b.txt'} line 3"
    assert dataset[2].boxes.tolist() == [[0, 0, 40, 20]]


def test_yolo_list_selects_images(tmp_path: Path) -> None:
    images(*(tmp_path / "images" / name for name in ("a.jpg", "b c.jpg", "other.jpg")), tmp_path / "beside.jpg")
    for name in ("a", "b c", "other"):
        write(tmp_path / "labels" / f"{name}.txt", YOLO)
    write(tmp_path / "beside.txt", "0 0.5 0.5 1 1\n")
    write(tmp_path / "classes.txt", "car\ntruck\n")
    write(tmp_path / "train.txt", f"./images/b c.jpg\n{tmp_path}/images/a.jpg\nbeside.jpg\n")
    write(tmp_path / "val.txt", "images/other.jpg\n")
    assert splits(tmp_path) == ["train", "val"]
    train = open_dataset(tmp_path, "train")
    assert [Path(sample.path).name for sample in train] == ["b c.jpg", "a.jpg", "beside.jpg"]
    assert [len(sample) for sample in train] == [2, 2, 1]
    assert [Path(sample.path).name for sample in open_dataset(tmp_path, "val")] == ["other.jpg"]


def test_yolo_boxes_follow_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "images/train/a.jpg", exif=exif)
    write(tmp_path / "labels/train/a.txt", "0 0.5 0.25 1 0.5\n")
    write(tmp_path / "classes.txt", "car")
    sample = open_dataset(tmp_path, "train")[0]
    assert (sample.size, sample.boxes.tolist()) == ((40, 20), [[0, 0, 20, 20]])


def test_line_txt_boxes_and_classes(tmp_path: Path) -> None:
    images(tmp_path / "p/a b.JPG", tmp_path / "p/c.png")
    write(tmp_path / "train.txt", "p/a b.JPG 1,2,11,10,1 20,10,40,20.5,0,1\n\np/c.png\n")
    write(tmp_path / "classes.txt", "car\ntruck\n")
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.kind, len(dataset), dataset[1].path) == ("line_txt", 2, str(tmp_path / "p/c.png"))
    sample = dataset[0]
    np.testing.assert_array_equal(sample.boxes, np.array([[1, 2, 11, 10], [20, 10, 40, 20.5]], dtype=np.float32))
    assert (sample.labels.tolist(), sample.crowd.tolist(), sample.size) == ([1, 0], [False, True], None)
    assert dataset.location(0, 1) == f"{tmp_path / 'train.txt'} line 1"


def test_line_txt_with_splits_without_boxes(tmp_path: Path) -> None:
    """Bare paths beside lists with boxes are such a split, unless YOLO's labels lie there."""
    images(tmp_path / "p/a.jpg copy.png", tmp_path / "p/b.png")
    write(tmp_path / "classes.txt", "car\n")
    write(tmp_path / "train.txt", "p/b.png\n" * 9000 + "p/a.jpg copy.png 1,2,11,10,0\n")
    write(tmp_path / "test.txt", "p/a.jpg copy.png\np/b.png\n")
    assert splits(tmp_path) == ["train", "test"]
    train, test = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "test")
    assert (train.kind, len(train.rows), test.kind, len(test.rows)) == ("line_txt", 1, "line_txt", 0)
    assert train.path(9000) == test.path(0) == str(tmp_path / "p/a.jpg copy.png")
    write(tmp_path / "p/b.txt", "0 0.5 0.5 1 1\n")
    with pytest.raises(InputError, match="may be line_txt or yolo_txt"):
        splits(tmp_path)


def test_mindspore_zoo_list_with_image_folder(tmp_path: Path) -> None:
    """`anno_path` and `image_dir`: the list lies elsewhere, and its classes count from 1, 0 being the background."""
    images(tmp_path / "coco/train2017/0000001.jpg", tmp_path / "coco/train2017/0000002.jpg")
    images(tmp_path / "lists/train2017/0000002.jpg")  # not this one: the folder is named
    lines = "train2017/0000001.jpg 0,2,40,19,2,0 35,8,38,10,1,1 0,0,8,8,0,0\ntrain2017/0000002.jpg\n"
    write(tmp_path / "lists/mine.txt", lines)
    yaml = "train: lists/mine.txt\nimages: coco\nnames: [background, person, bicycle]\n"
    dataset = open_dataset(write(tmp_path / "d.yaml", yaml), "train")
    assert (dataset.kind, dataset.names, dataset.category_ids) == ("line_txt", ("person", "bicycle"), (1, 2))
    assert [Path(sample.path) for sample in dataset] == [
        tmp_path / "coco/train2017/0000001.jpg",
        tmp_path / "coco/train2017/0000002.jpg",
    ]
    sample = dataset[0]
    assert (sample.labels.tolist(), sample.crowd.tolist()) == ([1, 0, -1], [False, True, False])
    assert sample.boxes.tolist() == [[0, 2, 40, 19], [35, 8, 38, 10], [0, 0, 8, 8]]
    # root may name the images' folder as well, when the list does not lie in there
    yaml = f"root: coco\ntrain: {tmp_path / 'lists/bare.txt'}\nnames: [a, b, c]\n"
    write(tmp_path / "lists/bare.txt", "train2017/0000001.jpg 0,2,40,19,2,0\n")
    dataset = open_dataset(write(tmp_path / "d.yaml", yaml), "train")
    assert (Path(dataset[0].path), dataset[0].labels.tolist()) == (tmp_path / "coco/train2017/0000001.jpg", [2])


def test_data_yaml_with_paths(tmp_path: Path) -> None:
    write(tmp_path / "set/labels of mine.json", labels())
    images(tmp_path / "set/far/away/a.png", tmp_path / "set/far/away/b.png")
    yaml = "root: set\nkind: coco\ntrain: labels of mine.json\nval: labels of mine.json\nimages: far/away\n"
    file = write(tmp_path / "data.yaml", yaml)
    assert splits(file) == ["train", "val"]
    assert Path(open_dataset(file, "val")[1].path) == tmp_path / "set/far/away/b.png"
    write(file, yaml + "names: [truck, car]\n")
    with pytest.raises(InputError, match="categories are"):
        open_dataset(file, "val")


def test_data_yaml_of_a_yolo_set(tmp_path: Path) -> None:
    images(tmp_path / "set/images/fold1/a.png")
    write(tmp_path / "set/labels/fold1/a.txt", YOLO)
    file = write(tmp_path / "d.yaml", "path: set\ntrain: images/fold1\nval: images/fold1\nnc: 2\nnames: [car, truck]\n")
    assert open_dataset(file, "train")[0].labels.tolist() == [1, 0]


def broken_coco(**changes: object) -> dict[str, Any]:
    """`labels` with values at dotted places replaced, or removed where the value is None."""
    tree: Any = labels()
    for place, value in changes.items():
        *parents, leaf = (int(part) if part.isdigit() else part for part in place.split("__"))
        node = tree
        for part in parents:
            node = node[part]
        if value is None:
            del node[leaf]
        else:
            node[leaf] = value
    return tree  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(labels())[:200], r"train\.json: not JSON \(.*line 1 column \d+"),
        ("[" * 100000, "nested too deeply"),
        ("\xff\xfe", "not JSON"),
        ("[1]", "holds a list"),
        (broken_coco(images=None), "key 'images': missing"),
        (broken_coco(annotations={}), "key 'annotations': found dict"),
        (broken_coco(images=[]), "images: empty"),
        (broken_coco(categories=[]), "categories: empty"),
        (broken_coco(categories__1__name=None), r"categories\[1\]: key 'name' missing"),
        (broken_coco(categories__0__name=""), r"categories\[0\]\.name: empty"),
        (broken_coco(categories__0__id=2), r"categories\[1\]\.id: 2 is also that of categories\[0\]"),
        (broken_coco(images=[5, {}]), "all faulty"),
        (broken_coco(categories__1__id="\0"), r"categories\[1\]\.id: found"),
        (broken_coco(images__0__file_name="x.png", images__1__file_name="y.png"), "none of its 2 images"),
    ],
)
def test_broken_coco_is_reported_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    write(tmp_path / "annotations/train.json", content)
    images(tmp_path / "train/a.png", tmp_path / "train/b.png")
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(tmp_path, "train")
    assert "\n" not in str(caught.value)
    assert "train.json" in str(caught.value)


@pytest.mark.parametrize("word", ["1,2,3,4", "1,2,3,4,0,2", "1,2,3,4,car", "1 2 3 4 0"])
def test_broken_line_txt_error_names_the_line(tmp_path: Path, word: str) -> None:
    images(tmp_path / "a.png")
    write(tmp_path / "train.txt", f"a.png 1,2,3,4,0\na.png {word}\n")
    write(tmp_path / "classes.txt", "car")
    with pytest.raises(InputError, match=r"train\.txt line 2: found '1"):
        open_dataset(tmp_path, "train")


def test_missing_or_ambiguous_data_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        open_dataset(tmp_path / "gone", "train")
    with pytest.raises(InputError, match=r"no data set found in it \(nothing\)"):
        open_dataset(tmp_path, "train")
    images(tmp_path / "images/train/a.png", tmp_path / "images/train/b.png")
    write(tmp_path / "labels/train/a.txt", YOLO)
    with pytest.raises(InputError, match=r"no class names; looked for classes\.txt"):
        open_dataset(tmp_path, "train")
    write(tmp_path / "classes.txt", "car\ntruck")
    with pytest.raises(InputError, match="no split 'val'; it holds train"):
        open_dataset(tmp_path, "val")
    write(tmp_path / "annotations/train.json", labels())
    with pytest.raises(InputError, match="may be coco or yolo_txt; choose with --kind, "):
        open_dataset(tmp_path, "train")
    assert open_dataset(tmp_path, "train", "yolo_txt").kind == "yolo_txt"
    assert open_dataset(tmp_path, "train", "coco").kind == "coco"
    write(tmp_path / "annotations/instances_train2017.json", labels())
    write(tmp_path / "annotations/instances_train2014.json", labels())
    (tmp_path / "annotations/train.json").unlink()
    with pytest.raises(InputError, match="split 'train' may be train2014 or train2017"):
        open_dataset(tmp_path, "train", "coco")
    images(tmp_path / "train2014/a.png", tmp_path / "train2014/b.png")
    assert Path(open_dataset(tmp_path, "train2014", "coco")[0].path) == tmp_path / "train2014/a.png"


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: [", r"line \d: not valid YAML"),
        ("trian: x\n", "trian: unknown key .did you mean 'train'"),
        ("train: gone.json\n", "train: there is no"),
        ("kind: klingon\n", "kind: "),
        ("nc: 3\nnames: [a]\n", "nc is 3, names holds 1"),
        ("names: {0: a, -2: b}\n", "found the key '-2', needed class numbers from 0"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_broken_yaml_is_reported_in_one_line(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(write(tmp_path / "d.yaml", yaml), "train")
    assert "\n" not in str(caught.value)
