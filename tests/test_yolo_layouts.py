"""YOLO text labels and the files around them as other tools write them: Roboflow, CVAT, LabelImg, Darknet."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright.data.dataset import Dataset
from boxwright.datatools.check import check, check_folder, skip_bad
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import open_boxes, splits

LAYOUTS = Path(__file__).parent / "data_layouts"
BOX = "0 0.260417 0.296875 0.3125 0.34375\n"  # on 96 x 64 px: 10, 8, 40, 30
OUTLINE = "0 0.1 0.125 0.4 0.125 0.4 0.47 0.1 0.47\n"  # 9.6, 8, 38.4, 30.08


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def image(file: Path, size: tuple[int, int] = (96, 64)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)


def labeled(root: Path, *names: str, label: str = BOX) -> None:
    """Images, with their labels in `labels` instead of `images`, or beside them."""
    for name in names:
        image(root / name)
        place = name.replace("images/", "labels/").replace("Images/", "Labels/").replace("JPEGLabels", "labels")
        write(root / Path(place).with_suffix(".txt"), label)


def roboflow(root: Path, label: str = BOX, yaml: str = "") -> Path:
    """Three splits of one image, and Roboflow's data.yaml."""
    for split in ("train", "valid", "test"):
        labeled(root, f"{split}/images/{split}0_jpg.rf.0a1b2c3d.jpg", label=label)
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['car', 'truck']\n"
    return write(root / "data.yaml", yaml or f"{paths}\nroboflow:\n  workspace: my-space\n  license: CC BY 4.0\n")


def counts(root: Path) -> dict[str, tuple[int, int]]:
    """Split -> number of images and of boxes, without errors."""
    report = check_folder(root)
    assert [str(finding) for finding in report.errors] == []
    return report.checked


def notes(root: Path) -> list[str]:
    return [finding.text for finding in check_folder(root).findings if finding.kind == "unusual"]


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("roboflow_yolov8", ""),
        ("roboflow_yolov8", "data.yaml"),
        ("labelimg_yolo", ""),
        ("yolo_mark", ""),
        ("yolo_mark", "data"),
        ("yolo_mark", "data/obj.data"),
    ],
)
def test_exports_of_tools_are_read_as_expected(tmp_path: Path, name: str, opened: str) -> None:
    root = tmp_path / name
    shutil.copytree(LAYOUTS / name, root)
    expected = json.loads((root / "expected.json").read_text())
    (root / "expected.json").unlink()
    for entry in expected["pictures"]:
        if not entry.get("missing"):
            image(root / entry["file"], (entry["width"], entry["height"]))
    datasets = [open_boxes(root / opened, split) for split in splits(root / opened)]
    found = {sample.path: (dataset, sample) for dataset in datasets for sample in dataset}
    assert {str(root / entry["file"]) for entry in expected["pictures"]} == {*found}
    for entry in expected["pictures"]:
        dataset, sample = found[str(root / entry["file"])]
        assert dataset.names == tuple(expected["classes"])
        assert dataset.split == entry.get("split", dataset.split)
        assert [dataset.names[label] for label in sample.labels] == [box[0] for box in entry["boxes"]]
        # yolo_mark's are rounded to 0.01 px
        boxes = np.array([box[1:] for box in entry["boxes"]]).reshape(-1, 4)
        np.testing.assert_allclose(sample.boxes, boxes, atol=0.0051)
    errors = [finding for dataset in datasets for finding in check(dataset).errors]
    missing = [str(root / entry["file"]) for entry in expected["pictures"] if entry.get("missing")]
    assert [(error.kind, error.image) for error in errors] == [("missing_image", file) for file in missing]


def test_makesense_export_needs_class_names(tmp_path: Path) -> None:
    shutil.copytree(LAYOUTS / "makesense", tmp_path, dirs_exist_ok=True)
    expected = json.loads((tmp_path / "expected.json").read_text())
    for file in (tmp_path / "expected.json", *tmp_path.glob("*.csv")):
        file.unlink()
    for entry in expected["pictures"]:
        image(tmp_path / entry["file"], (entry["width"], entry["height"]))
    with pytest.raises(
        InputError, match=r"no class names; .*write them into classes\.txt there in label order, one per line"
    ):
        open_boxes(tmp_path, "all")
    write(tmp_path / "classes.txt", "table\n")
    dataset = open_boxes(tmp_path, "all")
    for sample, entry in zip(dataset, expected["pictures"], strict=True):
        np.testing.assert_allclose(sample.boxes, [entry["boxes"][0][1:]], atol=1e-3)


def test_data_yaml_of_roboflow(tmp_path: Path) -> None:
    """`..` stands for the YAML's own folder, and keys of other tools are passed over."""
    file = roboflow(tmp_path)
    assert counts(file) == {"train": (1, 1), "val": (1, 1), "test": (1, 1)}
    assert open_boxes(file, "val").names == ("car", "truck")
    found = notes(file)
    assert found[0] == "keys of other tools, ignored: roboflow"
    assert found[1] == "train: '../train/images' does not exist, read train/images"
    assert len(found) == 4
    labeled(tmp_path.parent, "train/images/other.jpg")  # where there is such a folder, it is meant
    assert Path(open_boxes(file, "train").path(0)).name == "other.jpg"
    shutil.rmtree(tmp_path.parent / "train")


def test_ultralytics_path_is_searched_beside_the_yaml(tmp_path: Path) -> None:
    """Ultralytics writes `path: ../datasets/coco8`; the folder is beside the file."""
    file = write(tmp_path / "d.yaml", "path: ../datasets/coco8\ntrain: images/train\nnames: [car]\n")
    with pytest.raises(InputError, match=r"from 'path', '../datasets/coco8', which is not there either"):
        splits(file)
    image(tmp_path / "coco8/images/train/a.png")
    write(tmp_path / "coco8/labels/train/a.txt", BOX)
    assert counts(file) == {"train": (1, 1)}


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    """Thumbnails, and what macOS writes beside each file."""
    labeled(tmp_path, "images/train/a.png")
    write(tmp_path / "classes.txt", "car\n")
    image(tmp_path / "images/train/.thumbnails/a.png")
    write(tmp_path / "images/train/._a.png", b"\0\5\x16\7")
    assert counts(tmp_path) == {"train": (1, 1)}
    assert not check_folder(tmp_path).errors


def test_missing_split_of_a_yaml_is_left_out(tmp_path: Path) -> None:
    file = roboflow(tmp_path)
    shutil.rmtree(tmp_path / "valid")
    assert counts(file) == {"train": (1, 1), "test": (1, 1)}
    assert any(note.endswith("valid/images'; the split is left out") for note in notes(file))
    with pytest.raises(InputError, match=r"no split 'val'; it holds train, test \(val: there is no '../valid/images'"):
        open_boxes(file, "val")
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(InputError, match=r"data\.yaml: train: there is no '\.\./train/images', needed"):
        open_boxes(file, "val")


@pytest.mark.parametrize(
    ("yaml", "checked", "note"),
    [
        ("path: .\ntrain:\n  - images/a\n  - images/b\nval:\n  - images/c\n", {"train": (2, 2), "val": (1, 1)}, ""),
        ("path: .\nTrain: Train.txt\nValidation: c.txt\n", {"train": (2, 2), "val": (1, 1)}, ""),
        ("train: images/a\nvalid: images/c\ntest: # none\n", {"train": (1, 1), "val": (1, 1)}, ""),
        ("path: .\ntrain: images/a\ndownload: https://example.org/x.zip\n", {"train": (1, 1)}, "ignored: download"),
        (
            "path: /content/sets/mine\ntrain: images/a\n",
            {"train": (1, 1)},
            "train: 'images/a' does not exist, read images/a",
        ),
        ("train: /content/sets/mine/images/a\n", {"train": (1, 1)}, "read images/a"),
        ("train: 'C:\\me\\images\\a'\n", {"train": (1, 1)}, "read images/a"),
        ("rot: .\ntrain: images/a\n", {"train": (1, 1)}, "rot: unknown key (did you mean 'root'?)"),
    ],
)
def test_forms_of_data_yaml(tmp_path: Path, yaml: str, checked: dict[str, tuple[int, int]], note: str) -> None:
    labeled(tmp_path, "images/a/1.png", "images/b/2.png", "images/c/3.png")
    write(tmp_path / "Train.txt", "images/a/1.png\nimages/b/2.png\n")
    write(tmp_path / "c.txt", "images/c/3.png\n")
    file = write(tmp_path / "d.yaml", f"{yaml}names:\n  0: car\n")
    assert counts(file) == checked
    assert [text.endswith(note) for text in notes(file)] == [True] * bool(note)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\nnc: 3\nnames: {0: a, 2: b, 3: c}\n", ""),
        ("train: images\nnc: 4\nnames: {0: a, 2: b, 3: c}\n", ""),
        ("train: images\nnc: 2\nnames: {0: a, 2: b, 3: c}\n", "nc is 2, names holds 3"),
        ("train: images\nnames: {'0': a, 0: b}\n", "'0' is given twice|needed each number once"),
        ("train: images\nnames: {zero: a}\n", "found the key 'zero', needed class numbers"),
        ("train: [images, 7]\nnames: [a]\n", "train: found .*7.*, needed a path or a list of paths"),
        ("train: [images, l.json]\nnames: [a]\n", "found 2 paths of coco, yolo_txt, needed one"),
        ("trian: images\nnames: [a]\n", "trian: unknown key .did you mean 'train'"),
        ("train: images/gone/images\nnames: [a]\n", "train: there is no"),  # not the folder of another split
    ],
)
def test_data_yaml_validation(tmp_path: Path, yaml: str, message: str) -> None:
    labeled(tmp_path, "images/a.png")
    write(tmp_path / "l.json", "{}")
    file = write(tmp_path / "d.yaml", yaml)
    if message:
        with pytest.raises(InputError, match=message) as caught:
            open_boxes(file, "train")
        assert "d.yaml" in str(caught.value)
    else:
        open_boxes(file, "train")


@pytest.mark.parametrize("opened", ["", "data.yaml", "my.yaml"])
@pytest.mark.parametrize("names", ["", "names:\n"])
def test_nc_without_names_gives_numbered_class_names(tmp_path: Path, opened: str, names: str) -> None:
    """Ultralytics calls them class_0, class_1, ..."""
    labeled(tmp_path, "images/train/0.jpg", label="2 0.5 0.5 0.1 0.1\n")
    write(tmp_path / (opened or "data.yaml"), f"path: .\ntrain: images/train\nnc: 3\n{names}")
    dataset = open_boxes(tmp_path / opened, "train")
    assert dataset.names == ("class_0", "class_1", "class_2")
    assert dataset[0].labels.tolist() == [2]
    write(tmp_path / "classes.txt", "car\ntruck\nbus\n")
    assert open_boxes(tmp_path / opened, "train").names == ("car", "truck", "bus")
    (tmp_path / "classes.txt").unlink()
    for content in ("nc: 0", "nc: three", "nc: 100000", "names: []", "names: {}", ""):
        write(tmp_path / (opened or "data.yaml"), f"path: .\ntrain: images/train\n{content}\n")
        with pytest.raises(InputError, match=r"names|nc"):
            open_boxes(tmp_path / opened, "train")


@pytest.mark.parametrize("opened", ["", "data.yaml"])
def test_class_ids_with_a_gap_are_kept(tmp_path: Path, opened: str) -> None:
    labeled(tmp_path, "images/train2017/0.jpg", label="0 0.5 0.5 0.1 0.1\n2.0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.3 0.3\n")
    yaml = "path: .\ntrain: images/train2017\nkpt_shape: [17, 3]\nchannels: 3\nnames: {0: car, '2': truck}\n"
    write(tmp_path / "data.yaml", yaml)
    dataset = open_boxes(tmp_path / opened, "train")
    assert (dataset.names, dataset.category_ids) == (("car", "truck"), (0, 2))
    assert dataset[0].labels.tolist() == [0, 1, -1]
    (error,) = check(dataset).errors
    assert error.text == "category 1 is not defined; there are 0, 2"


def test_polygons_become_boxes(tmp_path: Path) -> None:
    roboflow(tmp_path, OUTLINE)
    labeled(tmp_path, "train/images/b.jpg", label=BOX + "1 0.5 0.5 0.75 0.5 0.75 1\n")
    dataset = open_boxes(tmp_path, "train")
    assert [len(sample) for sample in dataset] == [2, 1]
    np.testing.assert_allclose(dataset[0].boxes[1], [48, 32, 72, 64], rtol=1e-6)
    np.testing.assert_allclose(dataset[1].boxes, [[9.6, 8, 38.4, 30.08]], rtol=1e-6)
    np.testing.assert_allclose(dataset.rows.areas, [30 * 22, 24 * 32 / 2, 28.8 * 22.08], rtol=1e-4)
    assert notes(tmp_path)[0] == "outline, read as the box around it (2 times, here first)"
    for split in ("valid", "test"):
        write(tmp_path / split / f"labels/{split}0_jpg.rf.0a1b2c3d.txt", "")
    convert(tmp_path, "coco", tmp_path / "coco")
    (written,) = (tmp_path / "coco/annotations").glob("train.json")
    kept = [a.get("segmentation") for a in json.loads(written.read_text())["annotations"]]
    assert kept[0] is None or kept[0] == []
    np.testing.assert_allclose(kept[1], [[48, 32, 72, 32, 72, 64]])
    np.testing.assert_allclose(kept[2], [[9.6, 8, 38.4, 8, 38.4, 30.08, 9.6, 30.08]])


def test_confidences_and_keypoints_are_ignored(tmp_path: Path) -> None:
    label = BOX.replace("\n", " 0.91\n")
    roboflow(tmp_path, label)
    assert counts(tmp_path) == {"train": (1, 1), "val": (1, 1), "test": (1, 1)}
    np.testing.assert_allclose(open_boxes(tmp_path, "val")[0].boxes, [[10, 8, 40, 30]], atol=1e-4)
    assert notes(tmp_path)[0] == "sixth number (confidence), ignored"
    # keypoints of two numbers look like an outline, unless the YAML says what they are
    file = roboflow(
        tmp_path, BOX.replace("\n", " 0.3 0.3 0.9 0.9\n"), "kpt_shape: [2, 2]\ntrain: train/images\nnames: [a]\n"
    )
    for root in (file, tmp_path):
        np.testing.assert_allclose(open_boxes(root, "train")[0].boxes, [[10, 8, 40, 30]], atol=1e-4)
        assert notes(root)[-1] == "keypoints after the box, ignored"


FAULTS = {
    "0 0.5 0.5 1": "0 0.5 0.5 1",
    "0.5 0.5 0.5 1 1": "0.5 0.5 0.5 1 1",
    "car 0.5 0.5 1 1": "car 0.5 0.5 1 1",
    "0 0.5 0.5 1 1 7": "0 0.5 0.5 1 1 7",  # six numbers, no confidence
    "0 0.1 0.1 0.9 0.1 -0.9": "0 0.1 0.1 0.9 0.1 -0.9",
    "0 0.1 0.1 0.9 0.1 0.9 0.9 0.5": "0 0.1 0.1 0.9 0.1 0.9 0.9 0.5",  # a coordinate is missing
    "0 0.1 0.1 0.9 nan 0.9 0.9": "0 0.1 0.1 0.9 nan 0.9 0.9",
    "0 0.1 0_1 0.9 0.1": "0 0.1 0_1 0.9 0.1",
    "0 0.5 0.5 1 1\0": "0 0.5 0.5 1 1\\x00",
}


def test_all_invalid_lines_are_reported(tmp_path: Path) -> None:
    """In all files; `skip_bad` leaves out exactly these lines."""
    lines = [*FAULTS]
    for name, part in (("a", lines[:5]), ("b", lines[5:])):
        labeled(
            tmp_path, f"images/train/{name}.png", label=BOX + "\n".join(part) + "\n\n" + BOX.replace("0.3125", "0.3")
        )
    write(tmp_path / "classes.txt", "car\n")
    dataset = open_boxes(tmp_path, "train")
    report = check(dataset)
    places = [f"{tmp_path}/labels/train/a.txt line {n}" for n in range(2, 7)]
    places += [f"{tmp_path}/labels/train/b.txt line {n}" for n in range(2, 6)]
    assert [(error.kind, error.file) for error in report.errors] == [("unreadable_label", place) for place in places]
    for error, shown in zip(report.errors, FAULTS.values(), strict=True):
        assert f"found '{shown}', needed five numbers: class x y width height" in str(error)
        assert len(error.text) < 150
    kept = skip_bad(dataset, report)
    assert [(sample.crowd.sum(), len(sample)) for sample in kept] == [(1, 3), (1, 3)]  # an ignore region each
    with pytest.raises(InputError, match=r"9 errors, the first: .*a\.txt line 2"):
        convert(tmp_path, "coco", tmp_path / "to")


def test_label_files_in_utf8_with_bom_and_utf16(tmp_path: Path) -> None:
    labeled(tmp_path, "images/train/a.png", "images/train/b.png")
    write(tmp_path / "labels/train/a.txt", b"\xef\xbb\xbf" + BOX.encode())
    write(tmp_path / "labels/train/b.txt", BOX.encode("utf-16"))
    write(tmp_path / "classes.txt", "car\n".encode("utf-16"))
    assert counts(tmp_path) == {"train": (2, 2)}


@pytest.mark.parametrize(
    ("folders", "checked"),
    [
        (("img 0.JPG", "img 1.JPG"), {"all": (2, 2)}),  # LabelImg
        (("train/1.jpg", "valid/2.jpg", "test/3.jpg"), {"train": (1, 1), "val": (1, 1), "test": (1, 1)}),
        (("obj_train_data/1.PNG", "obj_valid_data/2.PNG"), {"train": (1, 1), "val": (1, 1)}),  # CVAT without lists
        (("Images/train/1.jpg", "Images/val/2.jpg"), {"train": (1, 1), "val": (1, 1)}),
        (("JPEGImages/1.jpg", "JPEGImages/2.jpg"), {"all": (2, 2)}),  # Darknet's VOC
        (("Train/images/1.jpg", "Validation/images/2.jpg"), {"train": (1, 1), "val": (1, 1)}),
        (("train/images/1.jpg", "validate/images/2.jpg"), {"train": (1, 1), "val": (1, 1)}),
    ],
)
def test_folder_layouts(tmp_path: Path, folders: tuple[str, ...], checked: dict[str, tuple[int, int]]) -> None:
    labeled(tmp_path, *folders)
    write(tmp_path / "classes.txt", "car\ntruck\n")
    assert counts(tmp_path) == checked
    for split in checked:
        np.testing.assert_allclose(open_boxes(tmp_path, split)[0].boxes, [[10, 8, 40, 30]], atol=1e-4)


def test_yaml_with_labels_beside_images(tmp_path: Path) -> None:
    labeled(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "classes.txt", "car\n")
    assert counts(write(tmp_path / "d.yaml", "train: .\n")) == {"train": (2, 2)}
    write(tmp_path / "c.txt", BOX)
    write(tmp_path / "README.txt", "no labels\n")
    (error,) = check(open_boxes(tmp_path, "all")).errors
    assert (error.kind, Path(error.file).name) == ("unknown_image", "c.txt")


def test_captions_dota_and_kitti_are_not_read_as_yolo(tmp_path: Path) -> None:
    """Captions, DOTA's and KITTI's lines."""
    for number, line in enumerate(
        ("a car in the rain at night", "1 1 9 1 9 9 1 9 plane 0", "Car 0 0 -1.5 1 2 3 4 1 1 1 0 0 9 0")
    ):
        root = tmp_path / str(number)
        labeled(root / "beside", "a.jpg", label=line)
        labeled(root / "apart", "images/a.jpg", label=line)
        for part in ("beside", "apart"):
            with pytest.raises(InputError, match="no data set found"):
                splits(root / part, "yolo_txt")


@pytest.mark.parametrize(
    ("written", "places"),
    [
        ("data/obj_train_data/{}.PNG", "obj_train_data/{}.PNG"),
        ("images\\{}.jpg", "images/{}.jpg"),
        ("C:\\Users\\me\\proj\\images\\{}.jpg", "images/{}.jpg"),
        ("VOC2007/JPEGImages/{}.jpg", "VOC2007/JPEGImages/{}.jpg"),
    ],
)
def test_image_lists_with_paths_of_other_machines(tmp_path: Path, written: str, places: str) -> None:
    labeled(tmp_path, *(places.format(n) for n in range(3)))
    write(tmp_path / "train.txt", "".join(written.format(n) + "\n" for n in range(3)))
    write(tmp_path / "classes.txt", "car\n")
    dataset = open_boxes(tmp_path, "train")
    assert [sample.path for sample in dataset] == [str(tmp_path / places.format(n)) for n in range(3)]
    assert counts(tmp_path) == {"train": (3, 3)}
    labeled(tmp_path, "extra/images/9.jpg", "test/images/8.jpg")  # of folders, only further splits are needed
    assert splits(tmp_path) == ["train", "test"]
    shutil.rmtree(tmp_path / "extra")
    shutil.rmtree(tmp_path / "test")
    moved = written != places
    assert [note.startswith("image is not at the path in the list") for note in notes(tmp_path)] == [True] * moved


def test_ambiguous_name_in_an_image_list_is_an_error(tmp_path: Path) -> None:
    labeled(tmp_path, "images/x/1.jpg", "images/y/1.jpg", "images/y/2.jpg")
    write(tmp_path / "train.txt", "/far/1.jpg\n/far/2.jpg\n/far/y/1.jpg\n")
    write(tmp_path / "classes.txt", "car\n")
    dataset = open_boxes(tmp_path, "train")
    report = check(dataset)
    (error,) = (error for error in report.errors if error.kind == "ambiguous_image")
    assert error.text == "'/far/1.jpg' may be images/x/1.jpg or images/y/1.jpg; write the path"
    assert error.file == f"{tmp_path / 'train.txt'} line 1"
    assert [Path(sample.path).parts[-2:] for sample in skip_bad(dataset, report)] == [("y", "2.jpg"), ("y", "1.jpg")]
    file = write(tmp_path / "d.yaml", "train: [images/y, train.txt]\nnames: [car]\n")  # the image is counted from all
    (error,) = (error for error in check(open_boxes(file, "train")).errors if error.kind == "ambiguous_image")
    assert error.index == 2


def test_image_list_without_images_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "images/1.jpg\nimages/2.jpg\n")
    write(tmp_path / "classes.txt", "car\n")
    with pytest.raises(
        InputError, match=r"train\.txt: none of its 2 images exists, .* folder with 'images' in a data YAML"
    ):
        open_boxes(tmp_path, "train")
    labeled(tmp_path.parent / "far", "images/1.jpg", "images/2.jpg")
    file = write(tmp_path / "d.yaml", "train: train.txt\nimages: ../far\n")
    assert counts(file) == {"train": (2, 2)}
    shutil.rmtree(tmp_path.parent / "far")


def test_image_list_with_images_and_labels_in_different_folders(tmp_path: Path) -> None:
    """CVAT's export without images."""
    for number in range(2):
        image(tmp_path / f"far/{number}.jpg")
        write(tmp_path / f"set/obj_train_data/{number}.txt", BOX)
    write(tmp_path / "set/train.txt", "data/obj_train_data/0.jpg\ndata/obj_train_data/1.jpg\n")
    file = write(tmp_path / "set/d.yaml", "train: train.txt\nimages: ../far\nnames: [car]\n")
    assert counts(file) == {"train": (2, 2)}
    assert open_boxes(file, "train").label_file(1) == str(tmp_path / "set/obj_train_data/1.txt")


def darknet(root: Path) -> Path:
    """AlexeyAB's tree, with paths that start at the folder above, as in `classes= 2`."""
    labeled(root, *(f"data/obj/img{n}.jpg" for n in range(4)))
    write(root / "data/train.txt", "data/obj/img0.jpg\ndata/obj/img1.jpg\ndata/obj/img2.jpg\n")
    write(root / "data/test.txt", "data/obj/img3.jpg")
    write(root / "data/obj.names", "car\ntruck")
    lines = (
        "classes= 2\ntrain  = data/train.txt\n#valid = x\nvalid  = data/test.txt\nnames = data/obj.names\nbackup = b/\n"
    )
    return write(root / "data/obj.data", lines)


@pytest.mark.parametrize("opened", ["", "data", "data/obj.data"])
def test_darknet_obj_data(tmp_path: Path, opened: str) -> None:
    darknet(tmp_path)
    assert counts(tmp_path / opened) == {"train": (3, 3), "val": (1, 1)}
    assert open_boxes(tmp_path / opened, "val").names == ("car", "truck")
    assert open_boxes(tmp_path / opened, "val").path(0) == str(tmp_path / "data/obj/img3.jpg")
    assert notes(tmp_path / opened) == []
    with pytest.raises(InputError, match="no split 'test'; it holds train, val"):  # another list is not taken for it
        open_boxes(tmp_path / opened, "test")


def test_cvat_obj_data_beside_its_lists(tmp_path: Path) -> None:
    labeled(tmp_path, "obj_train_data/frame_0.PNG", "obj_train_data/frame_1.PNG")
    write(tmp_path / "train.txt", "data/obj_train_data/frame_0.PNG\ndata/obj_train_data/frame_1.PNG\n")
    write(tmp_path / "obj.names", "car\n")
    write(tmp_path / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    for opened in ("", "obj.data"):
        assert counts(tmp_path / opened) == {"train": (2, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("classes= 2", "classes= 3"), r"classes is 3, .*obj.names holds 2 names"),
        (("classes= 2", "classes= 2 # two"), "classes: found '2 # two', needed a number"),
        (("data/obj.names", "gone.names"), "names: there is no gone.names"),
        (("backup = b/", "what is this"), "line 6: found 'what is this', needed key = value"),
        (("data/test.txt", "data/train.txt"), ""),
    ],
)
def test_obj_data_validation(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = darknet(tmp_path)
    file.write_text(file.read_text().replace(*change))
    if message:
        with pytest.raises(InputError, match=message):
            splits(file)
    else:
        assert splits(file) == ["train"]
        assert notes(file) == ["train and valid are the same list, read as one split"]


def test_split_without_label_files(tmp_path: Path) -> None:
    file = roboflow(tmp_path)
    shutil.rmtree(tmp_path / "valid/labels")
    for root in (tmp_path, file):
        assert counts(root) == {"train": (1, 1), "val": (1, 0), "test": (1, 1)}
        assert notes(root)[-1].startswith("no image of this split has a label file")
    shutil.rmtree(tmp_path / "test/labels")  # images of `test` may be unlabeled
    assert splits(tmp_path) == ["train", "val"]
    shutil.rmtree(tmp_path / "train/labels")
    with pytest.raises(InputError, match=r"no image has a label file; looked for .*train/labels/train0"):
        open_boxes(file, "train")


def test_unsupported_image_format_is_an_error(tmp_path: Path) -> None:
    labeled(tmp_path, "images/train/a.png")
    write(tmp_path / "images/train/anim.psd", b"8BPS")
    write(tmp_path / "labels/train/anim.txt", BOX)
    write(tmp_path / "classes.txt", "car\n")
    (error,) = check(open_boxes(tmp_path, "train")).errors
    assert error.text == "its image anim.psd is not in a supported format; save it as PNG or JPEG"
    write(tmp_path / "images/train/a.txt", BOX)  # not an orphan, and not read: the image has labels elsewhere
    assert "not read, since the image has another label file" in notes(tmp_path)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("Straße\ncafé\n".encode("cp1252"), ("Straße", "café")),
        ("Straße\n汽车\n".encode("utf-16"), ("Straße", "汽车")),
        ("汽车\n".encode("gb2312"), None),
        ("машина\n".encode("cp1251"), None),
        ("łódź\n".encode("cp1250"), None),
    ],
)
def test_class_names_that_are_not_utf8(tmp_path: Path, content: bytes, names: tuple[str, ...] | None) -> None:
    """Read where it is certain, with a note; names are never guessed."""
    labeled(tmp_path, "images/train/a.png")
    write(tmp_path / "classes.txt", content)
    if names is None:
        with pytest.raises(InputError, match=r"classes\.txt line 1: not UTF-8, .*; save the file as UTF-8"):
            open_boxes(tmp_path, "train")
    else:
        assert open_boxes(tmp_path, "train").names == names
        (note,) = notes(tmp_path)
        assert note.startswith("not UTF-8, read as ")
        assert "'Straße'" in note


def test_class_names_in_label_folders(tmp_path: Path) -> None:
    labeled(tmp_path, "images/train/a.png", "images/val/b.png")
    for split in ("train", "val"):
        write(tmp_path / f"labels/{split}/classes.txt", "car\ntruck\n")
    assert open_boxes(tmp_path, "val").names == ("car", "truck")
    assert counts(tmp_path) == {"train": (1, 1), "val": (1, 1)}
    write(tmp_path / "labels/val/classes.txt", "truck\ncar\n")
    with pytest.raises(
        InputError, match=r"labels/train/classes\.txt and labels/val/classes\.txt have different class names"
    ):
        open_boxes(tmp_path, "val")


def test_class_names_in_darknet_labels_or_any_yaml(tmp_path: Path) -> None:
    labeled(tmp_path / "a", "train/1.jpg", "valid/2.jpg")
    for split in ("train", "valid"):
        write(tmp_path / f"a/{split}/_darknet.labels", "car\ntruck\n")
    assert open_boxes(tmp_path / "a", "val").names == ("car", "truck")
    labeled(tmp_path / "b", "train/images/1.jpg")
    write(tmp_path / "b/mine.yaml", "names: {0: car, 3: bus}\n")
    write(tmp_path / "b/other.yaml", "names: 5\n")
    assert open_boxes(tmp_path / "b", "train").category_ids == (0, 3)


def test_folder_layout_defined_only_by_its_yaml(tmp_path: Path) -> None:
    labeled(tmp_path, "far/away/set/images/1.jpg")
    write(tmp_path / "data.yaml", "train: far/away/set/images\nnames: [car]\n")
    assert counts(tmp_path) == {"train": (1, 1)}
    labeled(tmp_path, "images/a/1.jpg", "images/b/1.jpg")  # whose names say nothing of train and val
    write(tmp_path / "data.yaml", "train: images/b\nval: [images/a, far/away/set/images]\nnames: [car]\n")
    assert counts(tmp_path) == {"train": (1, 1), "val": (2, 2)}


def test_image_names_with_dots_or_not_utf8(tmp_path: Path) -> None:
    """File names that are not UTF-8 in a list, and dots in names."""
    name = b"caf\xe9.v1.jpg"
    (tmp_path / "images").mkdir()
    image(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").rename(Path(str(tmp_path / "images") + "/" + name.decode("utf-8", "surrogateescape")))
    write(Path(str(tmp_path / "labels") + "/" + "caf\udce9.v1.txt"), BOX)
    write(tmp_path / "train.txt", b"images/" + name + b"\n")
    write(tmp_path / "classes.txt", "car\n")
    dataset: Dataset = open_boxes(tmp_path, "train")
    assert len(dataset.rows) == 1


def test_one_label_file_for_two_images_is_noted(tmp_path: Path) -> None:
    labeled(tmp_path, "images/train/a.jpg", "images/train/b.jpg")
    image(tmp_path / "images/train/a.PNG")
    write(tmp_path / "classes.txt", "car\n")
    dataset = open_boxes(tmp_path, "train")
    assert len(dataset.rows) == 3
    (finding,) = check(dataset).findings
    assert (finding.text, finding.file) == (
        "label file of several images, read for each of them", str(tmp_path / "labels/train/a.txt")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[a, 1.5]", "names: class 1: found 1.5, needed a name; write it in quotes"),
        ("{0: a, 3: null}", "names: class 3: found None, needed a name"),
        ("[]", "names: found no class, needed a list of class names"),
    ],
)
def test_invalid_class_names_are_rejected(tmp_path: Path, names: str, message: str) -> None:
    labeled(tmp_path, "images/a.png")
    for opened in ("data.yaml", "."):
        write(tmp_path / "data.yaml", f"train: images\nnames: {names}\n")
        with pytest.raises(InputError, match=message):
            open_boxes(tmp_path / opened, "all")


def test_error_names_a_data_set_in_a_subfolder(tmp_path: Path) -> None:
    labeled(tmp_path / "My set.v1", "train/images/a.jpg")
    write(tmp_path / "My set.v1/classes.txt", "car\n")
    with pytest.raises(InputError, match=r"no data set found in it .*; open .*My set\.v1, which is one"):
        splits(tmp_path)


def test_image_folder_beside_labels_is_not_suggested_as_classes(tmp_path: Path) -> None:
    """Folders of images beside labels are not class folders."""
    for folder in ("images", "labels"):
        (tmp_path / folder / "train").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0,0.5,0.5,0.2,0.2\n")
    with pytest.raises(InputError, match=r"no data set found in it .*, or name its files in a data YAML") as error:
        open_boxes(tmp_path, "train")
    assert "which is one" not in str(error.value)
