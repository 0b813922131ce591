"""`check`: each planted fault is found with its file, image and annotation; sound sets give nothing."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from boxwright.data.dataset import ANY_CLASS
from boxwright.data.findings import TITLES
from boxwright.datatools.check import check, check_folder, check_splits, skip_bad
from boxwright.datatools.report import CheckReport, pluralize
from boxwright.errors import InputError
from boxwright.formats import open_dataset
from boxwright.images.decode import read_image
from boxwright.images.header import read_header, read_headers

SHARED = Path(__file__).parents[2] / "shared" / "data"
Tree = dict[str, Any]
SOUND: Tree = {
    "images": [{"id": 10 + n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(4)],
    "annotations": [
        {"id": 100 + n, "image_id": 10 + n // 2, "category_id": 1 + n % 2, "bbox": [5 + 20 * (n % 2), 5, 20, 30]}
        for n in range(8)
    ],
    "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "truck"}],
}


def make(root: Path, change: Callable[[Tree, Path], object] = lambda tree, folder: None, split: str = "train") -> Path:
    """A sound set of four images with two boxes each, then changed."""
    tree, folder = copy.deepcopy(SOUND), root / split
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number, entry in enumerate(tree["images"]):
        colors = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(colors).save(folder / entry["file_name"])
    change(tree, folder)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(tree))
    return root


def bbox(value: list[float], entry: int = 3) -> Callable[[Tree, Path], object]:
    return lambda tree, folder: tree["annotations"][entry].update(bbox=value)


def entry(key: str, index: int, **values: object) -> Callable[[Tree, Path], object]:
    return lambda tree, folder: tree[key][index].update(values)


def extra_label(**values: object) -> Callable[[Tree, Path], object]:
    """A ninth label, of image 11, class car, which has the box 5, 5, 20, 30 (annotation 102) already."""
    new = {"id": 900, "image_id": 11, "category_id": 1, "bbox": [30, 6, 5, 5]} | values
    return lambda tree, folder: tree["annotations"].append(new)


def cut_off(tree: Tree, folder: Path) -> None:
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) // 2])


def exif_rotated(declared: tuple[int, int]) -> Callable[[Tree, Path], object]:
    """Image 1 is stored as 60 x 40 px and displayed as 40 x 60."""

    def change(tree: Tree, folder: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 8
        Image.new("RGB", (60, 40), (50, 90, 130)).save(folder / "1.jpg", exif=exif)
        tree["images"][1].update(width=declared[0], height=declared[1])
        tree["annotations"][2]["bbox"] = tree["annotations"][3]["bbox"] = [5, 5, 20, 20]

    return change


PLANTED: dict[str, tuple[Callable[[Tree, Path], object], str, int | None, int | None, int | None]] = {
    # what is planted: kind, image id, annotation id, entry in annotations
    "NaN": (bbox([float("nan"), 5, 20, 30]), "not_finite", 11, 103, 3),
    "infinite": (bbox([5, 5, float("inf"), 30]), "not_finite", 11, 103, 3),
    "above float32": (bbox([5, 5, 1e300, 30]), "not_finite", 11, 103, 3),
    "negative width": (bbox([25, 5, -20, 30]), "negative_size", 11, 103, 3),
    "negative height": (bbox([25, 25, 20, -3]), "negative_size", 11, 103, 3),
    "no width": (bbox([25, 5, 0, 30]), "zero_area", 11, 103, 3),
    "no height": (bbox([25, 5, 20, 0]), "zero_area", 11, 103, 3),
    "left of the image": (bbox([-1.5, 5, 20, 30]), "outside", 11, 103, 3),
    "below the image": (bbox([25, 12, 20, 29.5]), "outside", 11, 103, 3),
    "just outside of the image": (bbox([60, 5, 0.5, 30]), "outside", 11, 103, 3),
    "far away": (bbox([500, 500, 20, 30]), "outside", 11, 103, 3),
    "area not a number": (entry("annotations", 3, area=float("nan")), "not_finite", 11, 103, 3),
    "negative area": (entry("annotations", 3, area=-600), "negative_area", 11, 103, 3),
    "unknown category": (entry("annotations", 3, category_id=77), "unknown_category", 11, 103, 3),
    "duplicate box": (extra_label(bbox=[5, 5, 20, 30]), "duplicate_box", 11, 900, 8),
    "label without an image": (extra_label(image_id=99), "unknown_image", 99, 900, 8),
    "missing image": (lambda tree, folder: (folder / "1.jpg").unlink(), "missing_image", 11, None, None),
    "empty file": (lambda tree, folder: (folder / "1.jpg").write_bytes(b""), "unreadable_image", 11, None, None),
    "text file": (lambda tree, folder: (folder / "1.jpg").write_text("an image"), "unreadable_image", 11, None, None),
    "truncated image": (cut_off, "unreadable_image", 11, None, None),
    "folder": (
        lambda tree, folder: ((folder / "1.jpg").unlink(), (folder / "1.jpg").mkdir()),
        "unreadable_image", 11, None, None,
    ),
    "another size": (entry("images", 1, width=61), "size_differs", 11, None, None),
    "size before EXIF": (exif_rotated((60, 40)), "labeled_unrotated", 11, None, None),
}  # fmt: skip
NOTED: dict[str, tuple[Callable[[Tree, Path], object], str, int | None, int | None, int | None]] = {
    "nearly the same box": (extra_label(bbox=[5.5, 5, 20, 30]), "near_duplicate", 11, 900, 8),
    "duplicate annotation id": (extra_label(id=100), "duplicate_annotation_id", None, 100, 8),
    "EXIF-rotated": (exif_rotated((40, 60)), "rotated", 11, None, None),
    "no boxes": (
        lambda tree, folder: [tree["annotations"].pop(2), tree["annotations"].pop(2)], "no_boxes", 11, None, None
    ),
    "duplicate image entry": (entry("images", 1, file_name="0.jpg"), "image_twice", 11, None, None),
    "class without a box": (
        lambda tree, folder: tree["categories"].append({"id": 5, "name": "bus"}), "class_without_box", None, None, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*PLANTED, *NOTED])
def test_planted_fault_is_the_only_finding(tmp_path: Path, name: str) -> None:
    change, kind, image_id, annotation_id, place = (PLANTED | NOTED)[name]
    make(tmp_path, change)
    dataset = open_dataset(tmp_path, "train")
    report = check(dataset)
    (finding,) = report.findings
    assert (finding.kind, finding.level) == (kind, "error" if name in PLANTED else "note")
    assert (finding.image_id, finding.annotation_id) == (image_id, annotation_id)
    file = tmp_path / "annotations/train.json"
    if place is not None:
        assert finding.file == f"{file} annotations[{place}]"
    if image_id == 11:
        image = "0.jpg" if kind == "image_twice" else "1.jpg"
        assert (finding.image, finding.file.split(" ")[0]) == (str(tmp_path / "train" / image), str(file))

    kept = skip_bad(dataset, report)
    ids = {n for sample in dataset for n in sample.annotation_ids.tolist()}
    left = [n for sample in kept for n in sample.annotation_ids.tolist()]
    if name in NOTED or kind == "unknown_image":
        assert (len(kept), set(left)) == (4, ids)
    elif annotation_id is None:
        assert [sample.image_id for sample in kept] == [10, 12, 13]
        assert left == [100, 101, 104, 105, 106, 107]
    elif kind == "duplicate_box":
        assert (len(kept), len(left)) == (4, len(dataset.rows) - 1)
        assert place not in kept.rows.entries
    else:
        assert (len(kept), len(left)) == (4, len(dataset.rows))
        assert kept.rows.entries[kept.rows.ignored].tolist() == [place]
    assert not check(kept).errors or kind == "unknown_image"
    assert len(report.left_out()) == (name in PLANTED)


def test_sound_set_has_no_findings(tmp_path: Path) -> None:
    make(make(tmp_path), lambda tree, folder: [e.update(id=e["id"] + 50) for e in tree["images"]] and None, "unused")
    report = check(open_dataset(tmp_path, "train"), decode=True)
    assert report == CheckReport((), {"train": (4, 8)})
    assert str(report) == "train: 4 images, 8 boxes\n0 errors, 0 notes"


def test_box_within_a_pixel_of_the_edge_is_inside(tmp_path: Path) -> None:
    make(tmp_path, bbox([-0.9, -0.9, 61.8, 41.8]))
    assert not check(open_dataset(tmp_path, "train")).findings


def test_duplicate_image_ids_on_different_and_equal_files(tmp_path: Path) -> None:
    make(tmp_path / "two", entry("images", 1, id=10))
    dataset = open_dataset(tmp_path / "two", "train")
    report = check(dataset)
    found = [(f.kind, Path(f.image).name) for f in report.errors if f.kind == "duplicate_image_id"]
    assert found == [("duplicate_image_id", "0.jpg"), ("duplicate_image_id", "1.jpg")]
    assert [sample.image_id for sample in skip_bad(dataset, report)] == [12, 13]

    make(tmp_path / "one", lambda tree, folder: tree["images"].append(dict(tree["images"][2])))
    dataset = open_dataset(tmp_path / "one", "train")
    report = check(dataset)
    assert [(f.kind, f.index) for f in report.errors] == [("duplicate_image_id", 4)]
    kept = skip_bad(dataset, report)
    assert [sample.annotation_ids.tolist() for sample in kept] == [[100, 101], [102, 103], [104, 105], [106, 107]]


def test_duplicate_boxes_refer_to_the_first(tmp_path: Path) -> None:
    def change(tree: Tree, folder: Path) -> None:
        tree["annotations"] += [dict(tree["annotations"][2], id=900 + n) for n in range(3)]

    make(tmp_path, change)
    report = check(open_dataset(tmp_path, "train"))
    assert [f.annotation_id for f in report.errors] == [900, 901, 902]
    assert all("annotations[2] (annotation id 102)" in f.text for f in report.errors)


@pytest.mark.slow
def test_near_duplicate_boxes_match_pycocotools(tmp_path: Path) -> None:
    """Against pycocotools' IoU of every pair, on crowded boxes of few widths and places."""
    from pycocotools import mask

    draw = np.random.default_rng(3)
    xywh = np.round(draw.uniform([0, 0, 12, 12], [8, 8, 16, 16], (400, 4)), 1)
    kinds = draw.integers(1, 3, 400)

    def change(tree: Tree, folder: Path) -> None:
        tree["annotations"] = [
            {"id": n + 1, "image_id": 10, "category_id": int(kinds[n]), "bbox": box}
            for n, box in enumerate(xywh.tolist())
        ]

    make(tmp_path, change)
    report = check(open_dataset(tmp_path, "train"), images=False)
    overlaps = np.triu(mask.iou(xywh, xywh, [0] * 400), 1) * (kinds[:, None] == kinds)
    expected = set((np.flatnonzero((overlaps >= 0.9).any(axis=0)) + 1).tolist())
    assert len(expected) > 50
    found = {f.annotation_id for f in report.findings if f.kind in ("near_duplicate", "duplicate_box")}
    assert found == expected


def test_different_classes_and_shared_images_of_splits(tmp_path: Path) -> None:
    make(make(tmp_path), entry("categories", 0, name="bicycle"), "val")
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    (finding,) = check_splits(train, val).findings
    assert (finding.kind, finding.level, finding.split) == ("classes_differ", "error", "val")
    with pytest.raises(InputError, match="skipping cannot repair this"):
        skip_bad(val, check_splits(train, val))
    assert not check_splits(train, train.subset([])).findings
    shared = check_splits(train.subset([0, 1]), train.subset([3, 1]))
    assert [(f.kind, f.level, f.image_id) for f in shared.findings] == [("shared_image", "note", 11)]


def test_check_folder_and_json_report(tmp_path: Path) -> None:
    make(make(tmp_path, bbox([25, 5, 0, 30])), cut_off, "val")
    report = check_folder(tmp_path, report=tmp_path / "report.json")
    assert report.checked == {"train": (4, 8), "val": (4, 8)}
    tree = json.loads((tmp_path / "report.json").read_text())
    assert tree == report.to_json()
    assert (tree["errors"], tree["notes"]) == (2, 0)
    assert [(f["kind"], f["split"], f["annotation_id"]) for f in tree["findings"]] == [
        ("zero_area", "train", 103),
        ("unreadable_image", "val", None),
    ]
    assert "error: 1 box without area\n  train, " in str(report)
    assert str(report).endswith("2 errors, 0 notes")
    assert len(check_folder(tmp_path, ("val",)).errors) == 1
    with pytest.raises(InputError, match="there is no such folder"):
        check_folder(tmp_path, report=tmp_path / "gone" / "report.json")


def test_every_finding_is_listed(tmp_path: Path) -> None:
    def spoil(tree: Tree, folder: Path) -> None:
        for label in tree["annotations"]:
            label["bbox"][2] = 0

    text = str(check(open_dataset(make(tmp_path, spoil), "train")))
    assert all(f"annotation id {number}:" in text for number in range(100, 108))


def test_duplicate_class_names_are_rejected(tmp_path: Path) -> None:
    make(tmp_path, entry("categories", 1, name="car"))
    with pytest.raises(InputError, match=r"train.json: 1 class names are repeated \(car\)"):
        open_dataset(tmp_path, "train")


def test_skip_bad_that_leaves_no_image_is_rejected(tmp_path: Path) -> None:
    make(tmp_path, lambda tree, folder: [(folder / f"{n}.jpg").write_bytes(b"") for n in range(4)] and None)
    dataset = open_dataset(tmp_path, "train")
    with pytest.raises(InputError, match="no image left"):
        skip_bad(dataset, check(dataset))


def test_yolo_findings_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"images/train/{name}.png")
    (tmp_path / "images/train/c.png").write_bytes(b"no image")
    (tmp_path / "classes.txt").write_text("car\n")
    for name, text in {
        "a": "0 0.5 0.5 0.5 0.5\n\n3 0.5 0.5 1 1\n",
        "b": "0 0.9 0.5 0.5 0.5",
        "c": "0 0.5 0.5 1 1",
    }.items():
        (tmp_path / f"labels/train/{name}.txt").write_text(text)
    (tmp_path / "labels/train/lonely.txt").write_text("0 0.5 0.5 1 1")
    dataset = open_dataset(tmp_path, "train")
    report = check(dataset)
    labels = tmp_path / "labels/train"
    assert [(f.kind, f.file) for f in report.errors] == [
        ("outside", f"{labels}/b.txt line 1"),
        ("unknown_category", f"{labels}/a.txt line 3"),
        ("unknown_image", f"{labels}/lonely.txt"),
        ("unreadable_image", f"{labels}/c.txt"),
    ]
    kept = skip_bad(dataset, report)
    found = [(Path(s.path).stem, s.labels.tolist(), s.boxes.tolist()) for s in kept]
    whole, right = [0, 0, 60, 40], [39, 10, 60, 30]  # the box of line 3, and that of the other inside its image
    assert found == [("a", [0, ANY_CLASS], [[15, 10, 45, 30], whole]), ("b", [ANY_CLASS], [right])]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_size_follows_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The size that OpenCV decodes to, which is what the loader sees, for each of the eight EXIF orientations."""
    file = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20), (200, 10, 10)).save(file, **({} if suffix == "bmp" else {"exif": exif}))
    for whole in (None, False, True):
        assert read_header(str(file), whole).size == read_image(file).shape[:2]


def test_png_exif_chunk_after_the_pixels_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "before.png", exif=exif)
    data = (tmp_path / "before.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    (tmp_path / "behind.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_header(str(tmp_path / "behind.png"), None).size == (30, 20)


def test_truncated_png_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-3000])
    assert "cannot be decoded" in read_header(str(tmp_path / "a.png")).fault
    (tmp_path / "a.png").write_bytes(data + b"behind the end")
    assert read_header(str(tmp_path / "a.png")).fault == ""


def test_truncated_tiff_is_found_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data[:-100])
    assert "cannot be decoded" in read_header(str(tmp_path / "b.tif")).fault
    for content in (data[:10], b"II*\0" + bytes(50), b"MM\0+" + bytes(50)):
        (tmp_path / "c.tif").write_bytes(content)
        assert "cannot be decoded" in read_header(str(tmp_path / "c.tif"), None).fault
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", None)
    assert read_header(str(tmp_path / "a.tif")).size == (50, 50)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "notes"), [("bccd", 7), ("aerial", 1)])
def test_findings_in_real_data_sets(name: str, notes: int) -> None:
    """BCCD's README lists seven cells boxed twice; aerial `large` has no truck. Neither has other faults."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is absent")
    report = check_folder(SHARED / name)
    assert not report.errors
    assert len(report.notes) == notes
    if name == "bccd":
        known = "train 00020, train 00100, train 00251, train 00403, val 00104, val 00331, test 00284"
        assert ", ".join(f"{f.split} {Path(f.image).stem[-5:]}" for f in report.notes) == known
        assert {f.kind for f in report.notes} == {"near_duplicate"}


def test_read_headers_keeps_warning_filters(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    assert {header.size for header in read_headers([str(tmp_path / "a.png")] * 600)} == {(20, 30)}
    assert warnings.filters == before


def test_first_image_of_an_mpo_is_read(tmp_path: Path) -> None:
    """MPO, as many phones write: JPEGs one behind the other."""
    others = [Image.new("RGB", (15, 10))]
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=others)
    assert read_header(str(tmp_path / "a.jpg"), True).size == read_image(tmp_path / "a.jpg").shape[:2] == (20, 30)


def test_titles_in_singular_and_plural() -> None:
    assert pluralize(1, TITLES["unusual"]) == "1 entry in an unusual form, and how it was read"
    assert pluralize(2, TITLES["unusual"]) == "2 entries in an unusual form, and how they were read"
    assert pluralize(1, TITLES["ambiguous_image"]) == "1 image name that fits several files"
    assert pluralize(0, "box[es]") == "0 boxes"
    for title in TITLES.values():
        assert not {"[", "]", "|"} & {*pluralize(1, title), *pluralize(2, title)}
