"""Parquet files with images and boxes, written by pyarrow as Hugging Face's library does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright import cli, files
from boxwright.archives import parquet as rows_of_parquet
from boxwright.errors import InputError
from boxwright.formats import describe, open_boxes, splits
from boxwright.images.decode import read_image

arrow: Any = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")

NAMES = ["blue", "red"]
Rows = list[dict[str, Any]]
VALUE = {"dtype": "int64", "_type": "Value"}
LABEL = {"names": NAMES, "_type": "ClassLabel"}
BOX = {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "Sequence"}
# `Features.to_dict` of a Sequence of a dict (cppe-5), of a dict of Lists (`datasets` 4), and of a list of a dict
FEATURES: dict[str, Any] = {
    "sequence": {"feature": {"id": VALUE, "bbox": BOX, "category": LABEL}, "_type": "Sequence"},
    "lists": {"bbox": {"feature": BOX, "_type": "List"}, "category": {"feature": LABEL, "_type": "List"}},
    "structs": [{"bbox": BOX, "category": LABEL}],
}


def png(number: int, size: tuple[int, int] = (60, 80)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def rows(count: int, boxes: list[list[list[float]]] | None = None, **objects: Any) -> Rows:
    """Rows with the boxes of each image, xywh, of classes 0, 1, 0, ..."""
    result = []
    for number in range(count):
        own = boxes[number % len(boxes)] if boxes is not None else [[50.0, 30.0, 20.0, 10.0], [1.5, 2.25, 4.0, 8.0]]
        categories = [index % 2 for index in range(len(own))]
        image = {"bytes": png(number), "path": f"{number}.png"}
        result.append({"image": image, "objects": {"bbox": own, "category": categories, **objects}})
    return result


def write(file: Path, table: Rows, features: object = None, group: int = 2, schema: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    made = arrow.Table.from_pylist(table, schema)
    if features is not None:
        tree = {"info": {"features": {"image": {"_type": "Image"}, "objects": features}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(tree)})
    parquet.write_table(made, file, row_group_size=group)
    return file


def structs(table: Rows) -> Rows:
    """`objects` as a list of structs."""
    return [
        {**row, "objects": [{"bbox": b, "category": c} for b, c in zip(*row["objects"].values(), strict=True)]}
        for row in table
    ]


@pytest.mark.parametrize("form", FEATURES)
def test_boxes_classes_and_images(tmp_path: Path, form: str) -> None:
    table = rows(7)
    for number, part in enumerate((table[:4], table[4:])):
        written = structs(part) if form == "structs" else part
        write(tmp_path / "data" / f"train-{number:05}-of-00002.parquet", written, FEATURES[form], group=3)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", rows(2), FEATURES["lists"])
    assert splits(tmp_path) == ["train", "val"]
    dataset = open_boxes(tmp_path, "train")
    assert dataset.names == ("blue", "red")
    np.testing.assert_array_equal(dataset.rows.xyxy, [[50, 30, 70, 40], [1.5, 2.25, 5.5, 10.25]] * 7)
    assert dataset.rows.labels.tolist() == [0, 1] * 7
    names = [f"train-00000-of-00002/000000{n}.png" for n in range(4)]
    names += [f"train-00001-of-00002/000000{n}.png" for n in range(3)]
    for index, name in enumerate(names):
        assert str(InputError(dataset.path(index))) == f"{tmp_path}/data/{name}"
        assert files.read_bytes(dataset.path(index)) == png(index)
        np.testing.assert_array_equal(read_image(dataset.path(index)).shape, (60, 80, 3))
    assert len(open_boxes(tmp_path, "val")) == 2
    assert not list(tmp_path.rglob("*.png"))  # nothing is unpacked


@pytest.mark.parametrize("name", ["train.parquet", "data/train.parquet", "train/0000.parquet", "0000.parquet"])
def test_splits_from_file_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, rows(2), FEATURES["lists"])
    split = "all" if name == "0000.parquet" else "train"
    assert splits(tmp_path) == [split]
    assert len(open_boxes(tmp_path, split)) == 2
    assert len(open_boxes(tmp_path / name, "val")) == 2  # a file serves as any split
    assert describe(tmp_path).endswith(f"parquet, boxes; splits {split}")


def test_classes_as_text_or_numbers(tmp_path: Path) -> None:
    as_text = rows(2)
    for row in as_text:
        row["objects"]["category"] = ["ship", "car"]
    write(tmp_path / "text" / "train.parquet", as_text)
    dataset = open_boxes(tmp_path / "text", "train")
    assert (dataset.names, dataset.rows.labels.tolist()) == (("car", "ship"), [1, 0, 1, 0])
    write(tmp_path / "numbers" / "train.parquet", rows(2))
    with pytest.raises(InputError, match=r"no class names; looked for classes\.txt"):
        open_boxes(tmp_path / "numbers", "train")
    (tmp_path / "numbers" / "classes.txt").write_text("ship\ncar\n")
    assert open_boxes(tmp_path / "numbers", "train").names == ("ship", "car")


XYWH = [[50.0, 30.0, 20.0, 10.0], [60.0, 40.0, 15.0, 15.0]]
XYXY = [[50.0, 30.0, 70.0, 40.0], [60.0, 40.0, 75.0, 55.0]]
EITHER = [[2.0, 3.0, 20.0, 10.0], [1.0, 4.0, 15.0, 15.0]]  # fits 80 x 60 px in both ways


@pytest.mark.parametrize(
    ("boxes", "areas", "corners"),
    [
        (XYWH, None, XYXY),
        (XYXY, None, XYXY),
        (EITHER, [200.0, 225.0], [[2, 3, 22, 13], [1, 4, 16, 19]]),
        (EITHER, [126.0, 154.0], EITHER),
    ],
)
def test_box_format_is_detected(
    tmp_path: Path, boxes: list[list[float]], areas: list[float] | None, corners: list[list[float]]
) -> None:
    more = {} if areas is None else {"area": areas}
    write(tmp_path / "train.parquet", rows(3, [boxes], **more), FEATURES["lists"])
    np.testing.assert_array_equal(open_boxes(tmp_path, "train").rows.xyxy, corners * 3)


def test_ambiguous_box_format_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(3, [EITHER]), FEATURES["lists"])
    with pytest.raises(InputError, match=r"\[x, y, width, height\] .6 of 6 .* or \[x1, y1, x2, y2\] .*bbox: xywh"):
        open_boxes(tmp_path, "train")
    for way, corners in (("xywh", [[2, 3, 22, 13], [1, 4, 16, 19]]), ("xyxy", EITHER)):
        (tmp_path / "d.yaml").write_text(f"train: train.parquet\nbbox: {way}\n")
        np.testing.assert_array_equal(open_boxes(tmp_path / "d.yaml", "train").rows.xyxy, corners * 3)


def test_normalized_boxes_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(3, [[[0.5, 0.5, 0.25, 0.25]]]), FEATURES["lists"])
    with pytest.raises(InputError, match="at most 1, as in fractions of the image; needed px"):
        open_boxes(tmp_path, "train")


def test_invalid_entries_are_findings(tmp_path: Path) -> None:
    table = rows(6)
    table[0]["image"] = None
    table[1]["image"] = {"bytes": None, "path": "elsewhere.png"}
    table[2]["objects"]["category"] = [0, 7]
    table[3]["objects"]["bbox"] = [[1.0, 2.0, 3.0], [50.0, 30.0, 20.0, 10.0]]
    table[4]["objects"] = None
    write(tmp_path / "train.parquet", table, FEATURES["lists"])
    dataset = open_boxes(tmp_path, "train")
    file = tmp_path / "train.parquet"
    found = {finding.file.removeprefix(f"{file} "): finding.text for finding in dataset.findings}
    assert found == {
        "row 0": "has no bytes of an image; leave the row out, or embed the images",
        "row 1": "has no bytes of an image; leave the row out, or embed the images",
        "row 2 objects[1]": "category: found 7, needed one of 2 classes from 0",
        "row 3 objects[0]": "bbox: found 3 numbers, needed 4",
    }
    assert [len(dataset[index]) for index in range(len(dataset))] == [1, 1, 0, 2]


def _not_parquet(folder: Path) -> None:
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"PAR1 and no more")


def _truncated(folder: Path) -> None:
    file = write(folder / "train.parquet", rows(2), FEATURES["lists"])
    file.write_bytes(file.read_bytes()[:-100])


def _damaged(folder: Path) -> None:
    file = write(folder / "train.parquet", rows(2), FEATURES["lists"])
    data = bytearray(file.read_bytes())
    data[4:200] = bytes(196)
    file.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (_not_parquet, "not a complete Parquet file"),
    "cut off": (_truncated, "not a complete Parquet file"),
    "damaged": (_damaged, "row group 0 is damaged"),
    "no images": (
        lambda at: write(at / "train.parquet", [{"objects": {"bbox": [[1.0] * 4], "category": [0]}}]),
        "needed a column image with the bytes",
    ),
    "no boxes": (
        lambda at: write(at / "train.parquet", [{"image": {"bytes": png(1)}, "label": 1}]),
        "needed objects with bbox and category",
    ),
    "no classes": (
        lambda at: write(at / "train.parquet", [{"image": {"bytes": png(1)}, "objects": {"bbox": [[1.0] * 4]}}]),
        "needed objects with bbox and category",
    ),
    "a missing file": (
        lambda at: write(at / "train-00000-of-00002.parquet", rows(2), FEATURES["lists"]),
        "found 1 of its 2 files",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_unreadable_files_are_one_line_errors(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    make, fault = BAD[case]
    make(tmp_path / "data")
    with pytest.raises(SystemExit) as end:
        cli.main(["data", "check", str(tmp_path / "data")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert fault in line
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_too_large_row_group_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_of_parquet, "MAX_GROUP", 20_000)
    write(tmp_path / "train.parquet", rows(4), FEATURES["lists"], group=1)
    assert len(open_boxes(tmp_path, "train")) == 4
    write(tmp_path / "train.parquet", rows(5), FEATURES["lists"], group=5)
    with pytest.raises(
        InputError, match=r"row group 0 has .* bytes of images, more than the 20,000 that are read at once"
    ):
        open_boxes(tmp_path, "train")


def test_large_row_groups_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    monkeypatch.setattr(rows_of_parquet, "SLOW_GROUP", 20_000)
    write(tmp_path / "a" / "train.parquet", rows(3), FEATURES["lists"], group=1)
    open_boxes(tmp_path / "a", "train")
    assert log == []
    write(tmp_path / "b" / "train.parquet", rows(3), FEATURES["lists"], group=3)
    open_boxes(tmp_path / "b", "train")
    assert [line.partition(" of up to")[0] for line in log] == [f"{tmp_path}/b: row groups"]


def test_row_group_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.parquet", rows(8), FEATURES["lists"], group=2)
    dataset = open_boxes(tmp_path, "train")
    groups = rows_of_parquet._Groups()
    monkeypatch.setattr(rows_of_parquet, "_groups", groups)
    monkeypatch.setattr(rows_of_parquet, "CACHE_BYTES", 70_000)  # an image has 15 KB
    read: list[int] = []
    real = rows_of_parquet.ParquetFile.group
    monkeypatch.setattr(rows_of_parquet.ParquetFile, "group", lambda file, n: read.append(n) or real(file, n))
    for index in (0, 1, 2, 1, 0, 6, 4, 3):
        assert files.read_bytes(dataset.path(index)) == png(index)
    assert read == [0, 1, 3, 2, 1]  # two are kept, those read last
    assert sum(kept.nbytes for kept in groups._kept.values()) <= 70_000


def test_symlinks_of_the_hugging_face_cache(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / "0a1b", rows(3), FEATURES["lists"])
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}-00000-of-00001.parquet").symlink_to("../blobs/0a1b")
        dataset = open_boxes(tmp_path / name, name)
        assert [files.read_bytes(dataset.path(index)) for index in range(3)] == [png(index) for index in range(3)]


def test_file_replaced_while_open_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(4), FEATURES["lists"])
    dataset = open_boxes(tmp_path, "train")
    write(tmp_path / "train.parquet", rows(3), FEATURES["lists"])
    with pytest.raises(InputError, match="has changed since it was opened; start again"):
        read_image(dataset.path(0))
    assert len(open_boxes(tmp_path, "train")) == 3


def test_conversion_to_coco(tmp_path: Path) -> None:
    write(tmp_path / "hf" / "train.parquet", rows(3), FEATURES["lists"])
    with pytest.raises(SystemExit) as end:
        cli.main(["data", "convert", str(tmp_path / "hf"), "--to", "coco", "--out", str(tmp_path / "coco")])
    assert not end.value.code
    converted = open_boxes(tmp_path / "coco", "train")
    np.testing.assert_array_equal(converted.rows.xyxy, open_boxes(tmp_path / "hf", "train").rows.xyxy)
    assert [Path(converted.path(index)).read_bytes() for index in range(3)] == [png(index) for index in range(3)]
