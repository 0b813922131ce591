"""KITTI's labels: columns by hand, ignore regions, layouts of its tools, and what other layouts hold of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright.data.dataset import ANY_CLASS
from boxwright.datatools.check import check, check_folder
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import find, layout, open_boxes, splits

# Two lines of KITTI's development kit, and a region that nobody labeled.
CAR = "Car 0.00 1 2.13 78.22 195.25 239.59 268.19 1.59 1.72 3.86 -11.46 2.22 18.60 1.58"
CYCLIST = "Cyclist 0.00 3 2.48 1005.81 190.32 1206.35 331.10 1.68 0.86 2.01 6.30 1.92 9.28 3.06"
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def kitti(root: Path, *lines: str, name: str = "000001", images: str = "image_2", labels: str = "label_2") -> Path:
    """An image and its labels; returns the file of labels."""
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1242, 375)).save(root / images / f"{name}.png")
    file = root / labels / f"{name}.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_columns_of_a_label_line(tmp_path: Path) -> None:
    """Boxes are columns 5 to 8, as edges; `DontCare` is a region of any class."""
    file = kitti(tmp_path / "training", CAR, DONT_CARE, CYCLIST)
    assert splits(tmp_path) == ["train"]
    dataset = open_boxes(tmp_path, "train")
    assert (dataset.kind, dataset.names) == ("kitti", ("Car", "Cyclist"))
    right = [[78.22, 195.25, 239.59, 268.19], [503.89, 169.71, 590.61, 190.13], [1005.81, 190.32, 1206.35, 331.10]]
    np.testing.assert_array_equal(dataset.rows.xyxy, np.array(right, np.float32))
    assert dataset.rows.labels.tolist() == dataset.rows.categories.tolist() == [0, ANY_CLASS, 1]
    assert dataset.rows.crowd.tolist() == [False, True, False]
    assert dataset.location(0, 2) == f"{file} line 3"
    assert not check(dataset).errors
    first, region, second = layout("kitti").extras(dataset).rows
    assert first == {
        "truncated": 0, "occluded": 1, "alpha": 2.13, "dimensions": [1.59, 1.72, 3.86],
        "location": [-11.46, 2.22, 18.60], "rotation_y": 1.58,
    }  # fmt: skip
    assert (region, second["occluded"]) == ({}, 3)


def test_every_faulty_line_is_reported(tmp_path: Path) -> None:
    bad = ["Car 1 2", CAR.replace("239.59", "x"), f"{CAR} 1 2", CAR.replace("Car", "red car"), f"{CAR} 0.9"]
    file = kitti(tmp_path / "train", *bad, "", CAR)
    other = kitti(tmp_path / "train", CAR, name="lost")
    (tmp_path / "train/image_2/lost.png").unlink()
    kitti(tmp_path / "train", name="bare").unlink()
    dataset = open_boxes(tmp_path, "train")
    found = [(finding.kind, finding.file) for finding in dataset.findings]
    assert found == [
        *(("unreadable_label", f"{file} line {number}") for number in (1, 2, 3, 4)),
        ("unknown_image", str(other)),
        ("unusual", f"{file} line 5"),
        ("unusual", str(tmp_path / "train/image_2/bare.png")),
    ]
    assert [finding.text for finding in dataset.findings[-2:]] == [
        "a score in column 16 was not used",
        "an image without a label file was read as one without objects",
    ]
    assert [len(sample) for sample in dataset] == [2, 0]


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("image_2", "label_2", "all"), ("images", "labels", "all"), ("data", "labels", "all"),
        ("default/image_2", "default/label_2", "default"), ("valid/images", "valid/labels", "val"),
        ("images/val", "labels/val", "val"),
    ],
)  # fmt: skip
def test_names_of_image_and_label_folders(tmp_path: Path, images: str, labels: str, split: str) -> None:
    """`images` and `labels`, as NVIDIA's TAO takes them, are YOLO's only with YOLO's lines."""
    file = kitti(tmp_path, CAR, images=images, labels=labels)
    assert splits(tmp_path) == [split]
    assert open_boxes(tmp_path, split).kind == "kitti"
    (tmp_path / "classes.txt").write_text("Car\n")
    if "labels" in labels and "data" not in images:
        file.write_text("0 0.5 0.5 0.5 0.5\n")
        assert open_boxes(tmp_path, split).kind == "yolo_txt"


def test_split_lists_in_image_sets(tmp_path: Path) -> None:
    """ImageSets beside `training`; a list of `testing`, which has no labels, is not a split."""
    for name in ("000001", "000002", "000003"):
        kitti(tmp_path / "training", CAR, name=name)
    (tmp_path / "ImageSets").mkdir()
    lists = {"train": "000001\n000003\n", "val": "000002\n", "trainval": "000001\n000002\n000003\n", "test": "000007\n"}
    for split, names in lists.items():
        (tmp_path / f"ImageSets/{split}.txt").write_text(names)
    assert splits(tmp_path) == ["train", "val"]
    assert [Path(sample.path).stem for sample in open_boxes(tmp_path, "train")] == ["000001", "000003"]
    assert not check_folder(tmp_path).errors


def test_round_trip(tmp_path: Path) -> None:
    """The same lines; a class of several words, and one that would be an ignore region, are renamed."""
    lines = [CAR, DONT_CARE, CYCLIST, "Car -1 -1 -10 1 2 3.5 4 -1 -1 -1 -1000 -1000 -1000 -10"]
    kitti(tmp_path / "0/train", *lines)
    assert "cannot hold" not in convert(tmp_path / "0", "kitti", tmp_path / "1")
    written = (tmp_path / "1/train/label_2/000001.txt").read_text().splitlines()
    assert [line.split()[0] for line in written] == ["Car", "DontCare", "Cyclist", "Car"]
    for line, before in zip(written, lines, strict=True):
        assert [float(word) for word in line.split()[1:]] == [float(word) for word in before.split()[1:]]
    summary = convert(tmp_path / "1", "voc", tmp_path / "2")
    assert "1 ignore region (left out)" in summary
    assert "crowd" not in summary
    assert len(open_boxes(tmp_path / "2", "train").rows) == 3


def test_invalid_class_names_are_changed(tmp_path: Path) -> None:
    (tmp_path / "0/images").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "0/images/a.png")
    (tmp_path / "0/train.txt").write_text("images/a.png 1,2,3,4,0 5,6,7,8,1\n")
    (tmp_path / "0/classes.txt").write_text("dontcare\nred car\n")
    summary = convert(tmp_path / "0", "kitti", tmp_path / "1")
    assert "2 names of classes (dontcare becomes dontcare_, red car becomes red-car)" in summary
    dataset = open_boxes(tmp_path / "1", "train")
    assert (dataset.names, dataset.rows.labels.tolist()) == (("dontcare_", "red-car"), [0, 1])


def test_values_that_change_in_a_round_trip_are_reported(tmp_path: Path) -> None:
    kitti(tmp_path / "0/train", CAR)
    convert(tmp_path / "0", "coco", tmp_path / "1")
    file = tmp_path / "1/annotations/train.json"
    file.write_text(
        file.read_text().replace('"alpha": 2.13', '"alpha": "left"').replace('"occluded": 1.0', '"occluded": -1')
    )
    summary = convert(tmp_path / "1", "kitti", tmp_path / "2")
    assert "1 'alpha' of boxes unchanged (they" in summary
    assert "1 'occluded' of boxes unchanged (they" in summary
    assert summary.count("unchanged (they") == 2


def test_set_without_matching_file_names_is_an_error(tmp_path: Path) -> None:
    kitti(tmp_path, CAR).rename(tmp_path / "label_2/other.txt")
    assert find(tmp_path).keys() == {"all"}
    with pytest.raises(InputError, match=r"none of 1 images in .*image_2 has a label file; looked for NAME\.txt"):
        open_boxes(tmp_path, "all")
