"""The files of errors: errors.csv, errors.json with quarters of the images, and both sheets, also of classifiers."""

import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.data.dataset import ANY_CLASS, Sample
from boxwright.interop import to_coco
from boxwright.metrics import coco, error_report, slices
from boxwright.metrics.matching import match
from boxwright.tasks.detect_report import write_detections
from boxwright.types import Detections
from test_errors import FAR, NAMED, OBJECT, detections, made, sample


def written(
    folder: Path, samples: Sequence[Sample], found: Sequence[Detections], names: Sequence[str]
) -> list[dict[str, str]]:
    error_report.write(folder, samples, match(samples, found), names, 0.5, {})
    with (folder / "errors.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_box_has_a_row_with_its_status(tmp_path: Path) -> None:
    samples = [sample([OBJECT, FAR], [0, 1], path="a.jpg"), sample([], [], path="b.jpg")]
    found = [detections([[0, 0, 100, 90], OBJECT], [0, 0], [0.5, 0.9]), detections([FAR], [1], [0.25])]
    rows = written(tmp_path, samples, found, ["cat", "dog"])
    columns = [[row[key] for key in ("id", "image", "box", "class", "score", "status", "match")] for row in rows]
    assert columns == [
        ["1", "a.jpg", "object", "cat", "", "correct", "3"],
        ["2", "a.jpg", "object", "dog", "", "missed", ""],
        ["3", "a.jpg", "detection", "cat", "0.9", "correct", "1"],
        ["4", "a.jpg", "detection", "cat", "0.5", "duplicate", "1"],
        ["5", "b.jpg", "detection", "dog", "0.25", "background", ""],
    ]
    assert [float(rows[3][key]) for key in ("x1", "y1", "x2", "y2", "iou")] == [0, 0, 100, 90, 0.9]


@pytest.mark.usefixtures("figures")
def test_all_boxes_are_listed_and_matches_are_mutual(tmp_path: Path) -> None:
    samples, found = made(3)
    rows = written(tmp_path, samples, found, NAMED)
    assert len(rows) == sum(map(len, samples)) + sum(map(len, found))
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        if row["match"]:
            other = by_id[row["match"]]
            assert {row["box"], other["box"]} == {"object", "detection"}
            if row["status"] == "correct":
                assert (other["match"], other["status"], other["class"]) == (row["id"], "correct", row["class"])
    report = json.loads((tmp_path / "errors.json").read_text())
    counts = {name: row["count"] for name, row in report["errors"]["kinds"].items()}
    of_table = [row["status"] for row in rows if row["box"] == "detection"]
    assert {name: of_table.count(name) for name in counts if name != "missed"} | {"missed": counts["missed"]} == counts
    assert report["errors"]["ap50"] == pytest.approx(coco.score(samples, found, NAMED).ap50)
    assert sum(part["count"] for part in report["calibration"]["bins"]) == len(of_table)
    assert min(cv2.imread(str(tmp_path / "errors.png")).shape[:2]) > 300


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "a,b", 'a"b', "a\nb", "\udce9"]
)
def test_formulas_and_line_breaks_in_names_are_escaped(name: str, tmp_path: Path) -> None:
    (row,) = written(tmp_path, [sample([OBJECT], [0], path=name)], [detections([], [], [])], [name])
    for field in (row["image"], row["class"]):
        assert not field.lstrip().startswith(("=", "+", "-", "@"))
        assert field.isprintable()
        assert field.endswith(name[-1]) or name in ("a\nb", "\udce9")


def test_crowd_and_ignore_regions_are_listed_as_ignored(tmp_path: Path) -> None:
    samples = [sample([OBJECT, FAR], [ANY_CLASS, 0], [True, True], path="a.jpg")]
    rows = written(tmp_path, samples, [detections([OBJECT], [0], [0.9])], ["cat"])
    assert [(row["class"], row["status"]) for row in rows] == [
        ("ignore region", "ignored"),
        ("cat", "ignored"),
        ("cat", "ignored"),
    ]


def test_brightness_and_sharpness() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3)
    assert slices.appearance(np.full((50, 60, 3), 51, np.uint8)) == (pytest.approx(0.2), 0)
    assert slices.appearance(noise)[1] > 20 * slices.appearance(blurred)[1] > 0
    assert slices.appearance(noise[:1, :1])[1] == 0


def test_ap_of_quartiles_matches_ap_of_their_images() -> None:
    samples, found = made(5)
    looks = {index: (float(value), 1.0) for index, value in enumerate(np.random.default_rng(1).permutation(12))}
    quarters = slices.quartiles(match(samples, found), looks)
    for number, row in enumerate(quarters["brightness"]):
        chosen = [index for index, (value, _) in looks.items() if number * 3 <= value < number * 3 + 3]
        assert (row.low, row.high, row.images) == (number * 3, number * 3 + 2, 3)
        metrics = coco.score([samples[i] for i in chosen], [found[i] for i in chosen], NAMED)
        assert row.ap50 == pytest.approx(metrics.ap50, abs=1e-9)
        assert row.objects == sum(len(samples[i]) for i in chosen)
    assert [row.images for row in quarters["sharpness"]] == [12], "equal values are not taken apart"
    crowding = quarters["objects per image"]
    assert sum(row.images for row in crowding) == 12
    assert all(before.high < after.low for before, after in itertools.pairwise(crowding))


@pytest.mark.usefixtures("figures")
def test_calibration_of_a_classifier(tmp_path: Path) -> None:
    error_report.write_calibration(tmp_path, np.array([0.95, 0.95]), np.array([True, False]))
    assert json.loads((tmp_path / "errors.json").read_text())["calibration"]["ece"] == pytest.approx(0.45)
    assert (tmp_path / "errors.png").is_file()


def test_empty_data_set(tmp_path: Path) -> None:
    assert written(tmp_path, [sample([], [])], [Detections.empty()], ["cat"]) == []
    assert json.loads((tmp_path / "errors.json").read_text())["errors"]["ap50"] == -1


@pytest.mark.parametrize("files", [False, True])
def test_detections_are_written_as_coco_results(files: bool, tmp_path: Path) -> None:
    samples, found = made(2)
    names = ['a "b".jpg', "Größe\\.jpg", "\udce9.jpg"]
    samples = [replace(one, image_id=f"i{n}" if n % 2 else n, path=names[n % 3]) for n, one in enumerate(samples)]
    found[1] = Detections.empty()
    write_detections(tmp_path / "d.json", samples, found, [7, 3, 9, 1], files=files)
    wanted = [
        row | ({"file": one.path} if files else {})
        for one, result in zip(samples, found, strict=True)
        for row in to_coco(result, one.image_id, [7, 3, 9, 1])
    ]
    assert json.loads((tmp_path / "d.json").read_text(encoding="utf-8")) == wanted
    write_detections(tmp_path / "d.json", samples[1:2], found[1:2], [7, 3, 9, 1], files=files)
    assert json.loads((tmp_path / "d.json").read_text()) == []
