"""`boxwright data audit`: findings that are known by hand, folds, near-duplicates, drift, and files."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boxwright import models, recipe
from boxwright.audit import drift, folds
from boxwright.audit.findings import Finding, Kind, find
from boxwright.audit.report import AuditReport
from boxwright.audit.run import _was_trained_on, across, audit
from boxwright.audit.subject import open_subject
from boxwright.cache import VARIABLE
from boxwright.cli import main
from boxwright.data.dataset import ANY_CLASS, Boxes, Dataset, Images, paths_column
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate
from boxwright.formats import open_dataset
from boxwright.types import Detections
from boxwright.weights import checkpoint
from stand_in import NAMES, rectangles_predictor, scene

Box = tuple[int, int, int, int]
Row = tuple[Box, int]


def dataset(images: list[list[Row]], **columns: Any) -> Dataset:
    """Labels of made images. columns: of the rows or images, in place of none crowd, none difficult, all looked for."""
    rows = [row for image in images for row in image]
    xyxy = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    count, labels = len(rows), np.array([label for _, label in rows], np.int64)
    flags = {name: np.array(columns.get(name, [False] * count), bool) for name in ("crowd", "difficult")}
    boxes = Boxes(
        xyxy, labels, labels, flags["crowd"], np.ones(count), np.arange(count) + 1, np.arange(count), flags["difficult"]
    )
    paths = paths_column([f"{number}.png" for number in range(len(images))])
    sizes = np.full((len(images), 2), 100)
    made = Images(np.arange(len(images)), paths, sizes, paths_column(["a.json"]), columns.get("labeled"))
    starts = np.concatenate([[0], np.cumsum([len(image) for image in images])])
    return Dataset(NAMES, (0, 1, 2), "train", Path(), "coco", made, boxes, starts)


def detections(rows: list[tuple[Box, int, float]]) -> Detections:
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4).float()
    return Detections(
        boxes, torch.tensor([score for *_, score in rows]), torch.tensor([label for _, label, _ in rows]).long()
    )


RIGHT: tuple[Box, int] = ((0, 0, 20, 20), 0)
FOUND = (*RIGHT, 0.9)
PLACE: Box = (50, 50, 70, 70)


def single(labels: list[Row], found: list[tuple[Box, int, float]], least: float = 0.3, **columns: Any) -> list[Finding]:
    """The findings of an image, among 9 whose labels are all found."""
    made = dataset([labels, *[[RIGHT]] * 9], **{name: [*values, *[False] * 9] for name, values in columns.items()})
    return find(made, [detections(found), *[detections([FOUND])] * 9], least)


def test_detection_equal_to_its_label_is_not_a_finding() -> None:
    assert single([RIGHT], [FOUND], least=0.0999) == []


def test_detection_without_a_label_is_a_missing_box() -> None:
    (finding,) = single([RIGHT], [FOUND, (PLACE, 1, 0.8)])
    assert (finding.kind, finding.row, finding.box, finding.label) == (Kind.MISSING, -1, PLACE, 1)
    assert finding.score == pytest.approx(0.8)


def test_label_without_a_detection_is_spurious() -> None:
    (finding,) = single([RIGHT, (PLACE, 0)], [FOUND])
    assert (finding.kind, finding.row, finding.box, finding.label) == (Kind.SPURIOUS, 1, None, -1)
    assert finding.score == pytest.approx(1)


def test_low_recall_lowers_scores_of_spurious_labels() -> None:
    few, many = (
        find(dataset([[RIGHT]] * 100), [detections([FOUND])] * (100 - missed) + [detections([])] * missed, 0.01)
        for missed in (1, 21)
    )
    assert (len(few), few[0].kind, len(many)) == (1, Kind.SPURIOUS, 21)
    assert few[0].score == pytest.approx(1)
    assert many[0].score == pytest.approx(0.05 / (0.05 + 20 / 99))


def test_low_score_detection_lowers_the_score_of_a_spurious_label() -> None:
    (alone,) = single([RIGHT, (PLACE, 0)], [FOUND])
    (seen,) = single([RIGHT, (PLACE, 0)], [FOUND, (PLACE, 0, 0.3)])
    assert seen.kind == Kind.SPURIOUS
    assert (alone.score, seen.score) == (pytest.approx(1), pytest.approx(0.7))


def test_overlapping_detection_of_another_class_is_a_wrong_class() -> None:
    (finding,) = single([RIGHT, (PLACE, 0)], [FOUND, ((51, 50, 71, 70), 2, 0.8), (PLACE, 0, 0.25)])
    assert (finding.kind, finding.row, finding.box, finding.label) == (Kind.CLASS, 1, (51, 50, 71, 70), 2)
    assert finding.score == pytest.approx(0.8 * (1 - 0.25))


def test_overlapping_labels_of_two_classes_are_not_a_wrong_class() -> None:
    """A rider and the motorcycle: the one that is not found is not of the other's class."""
    findings = single([RIGHT, (PLACE, 1), ((50, 48, 70, 70), 2)], [FOUND, (PLACE, 1, 0.8)], 0.15)
    assert {(finding.kind, finding.row, round(finding.score, 6)) for finding in findings} == {
        (Kind.SPURIOUS, 1, 0.2), (Kind.SPURIOUS, 2, 0.2),
    }  # fmt: skip


def test_shifted_detection_of_the_same_class_is_a_wrong_location() -> None:
    moved: Box = (60, 50, 80, 70)  # by half of its width: IoU 1/3
    (finding,) = single([RIGHT, (moved, 0)], [FOUND, (PLACE, 0, 0.8)], 0.15)  # and no missing box there
    assert (finding.kind, finding.row, finding.box, finding.label) == (Kind.LOCATION, 1, PLACE, 0)
    assert finding.score == pytest.approx(0.8 * (2 - 4 / 3))


def test_detection_between_two_objects_is_not_a_wrong_location() -> None:
    left: Box = (40, 50, 60, 70)
    right: Box = (60, 50, 80, 70)
    findings = single([RIGHT, (left, 0), (right, 0)], [FOUND, (PLACE, 0, 0.8)], 0.1)
    assert Kind.LOCATION not in {finding.kind for finding in findings}


def test_matched_neighbor_is_not_a_wrong_location() -> None:
    beside: Box = (60, 50, 80, 70)
    (finding,) = single([RIGHT, (beside, 0)], [FOUND, (beside, 0, 0.95), (PLACE, 0, 0.9)], 0.1)
    assert (finding.kind, finding.box) == (Kind.MISSING, PLACE)
    assert finding.score == pytest.approx(0.9 * (1 - (1 / 3) / 0.5) * 0.5)  # less, for it may be the same object


def test_part_of_a_matched_object_is_not_a_missing_box() -> None:
    part: Box = (50, 50, 60, 58)
    assert single([RIGHT, (PLACE, 0)], [FOUND, (PLACE, 0, 0.95), (part, 0, 0.9), (part, 1, 0.9)], 0.06) == []
    overlapping: Box = (45, 50, 55, 60)  # half of it lies on the other
    (finding,) = single([RIGHT, (PLACE, 0)], [FOUND, (PLACE, 0, 0.95), (overlapping, 0, 0.9)], 0.06)
    assert finding.score == pytest.approx(0.9 * (1 - 50 / 450 / 0.5) * 0.5)


def test_scores_of_shifted_boxes_do_not_depend_on_their_number() -> None:
    moved: Box = (10, 0, 30, 20)
    one, many = (
        find(dataset([[(moved, 0)]] * count + [[RIGHT]] * 50), [detections([FOUND])] * (count + 50), 0.3)
        for count in (1, 25)
    )
    assert (len(one), len(many)) == (1, 25)
    assert [finding.score for finding in one + many] == pytest.approx([0.9 * (2 - 4 / 3)] * 26)


def test_overlapping_detections_of_two_classes_are_one_missing_box() -> None:
    (finding,) = single([RIGHT], [FOUND, (PLACE, 1, 0.5), ((50, 51, 70, 71), 2, 0.7)])
    assert finding.label == 2


def test_detections_in_crowd_and_ignore_regions_are_not_findings() -> None:
    region: Box = (40, 40, 90, 90)
    assert single([RIGHT, (region, 1)], [FOUND, (PLACE, 1, 0.8)], crowd=[False, True]) == []
    assert single([RIGHT, (region, ANY_CLASS)], [FOUND, (PLACE, 1, 0.8)], crowd=[False, True]) == []
    assert len(single([RIGHT, (region, 1)], [FOUND, (PLACE, 2, 0.8)], crowd=[False, True])) == 1  # of another class


def test_classes_not_looked_for_have_no_missing_boxes() -> None:
    labeled = np.ones((10, 3), bool)
    labeled[0, 1] = False
    made = dataset([[RIGHT]] * 10, labeled=labeled)
    found = [detections([FOUND, (PLACE, 1, 0.8), ((50, 0, 70, 20), 2, 0.7)]), *[detections([FOUND])] * 9]
    assert [finding.label for finding in find(made, found, 0.3)] == [2]


def test_difficult_labels_are_not_findings() -> None:
    assert single([RIGHT, (PLACE, 0)], [FOUND], difficult=[False, True]) == []
    assert single([RIGHT, (PLACE, 0)], [FOUND, (PLACE, 1, 0.8)], difficult=[False, True]) == []  # nor is a box missing


def test_images_without_labels_or_without_detections() -> None:
    assert find(dataset([[], []]), [detections([])] * 2) == []
    (finding,) = find(dataset([[]]), [detections([FOUND])])
    assert finding.kind == Kind.MISSING
    (finding,) = find(dataset([[RIGHT]]), [detections([])])
    assert finding.kind == Kind.SPURIOUS


def test_errors_of_each_kind_rank_first() -> None:
    """200 images of 5 boxes; a detector that finds all, places them to 2 px, and has false positives of low scores."""
    rng = np.random.default_rng(3)
    images, found, wrong = [], [], set()
    for number in range(200):
        rows: list[Row] = []
        seen: list[tuple[Box, int, float]] = []
        for place in range(5):
            x, y, label = 100 * place, int(rng.integers(0, 60)), int(rng.integers(3))
            noisy = [int(value) for value in np.array([x, y, x + 40, y + 30]) + rng.integers(-2, 3, 4)]
            seen.append(((noisy[0], noisy[1], noisy[2], noisy[3]), label, float(rng.uniform(0.6, 0.95))))
            seen.append(((x + 60, y, x + 90, y + 30), label, float(rng.uniform(0.01, 0.4))))
            error = int(rng.integers(100)) if place else 100
            if error == 0:
                wrong.add((number, "missing", -1))
                continue
            row = sum(map(len, images)) + len(rows)
            if error == 1:
                wrong.add((number, "class", row))
                label = (label + 1) % 3
            if error == 2:
                wrong.add((number, "location", row))
                x += 20
            if error == 3:
                wrong.add((number, "spurious", row))
                seen[-2] = (seen[-2][0], label, 0.02)
            rows.append(((x, y, x + 40, y + 30), label))
        images.append(rows)
        found.append(detections(seen))
    findings = find(dataset(images), found)
    assert {kind for _, kind, _ in wrong} == {kind.value for kind in Kind}
    assert {(each.image, each.kind.value, each.row) for each in findings[: len(wrong)]} == wrong


# --- a data set on disk, and the stand-in detector

COUNTS = {"train": 8, "val": 4}


def write_set(root: Path, counts: dict[str, int], errors: bool = True) -> Path:
    """Scenes of two rectangles in COCO layout; the first of each split misses one, and has another of a wrong class."""
    rng = np.random.default_rng(7)
    (root / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        (root / split).mkdir()
        images, rows = [], []
        for number in range(1, count + 1):
            boxes, labels = [], []
            for left in (2, 34):
                x, y, w, h = (int(rng.integers(*ends)) for ends in ((left, left + 8), (2, 30), (12, 20), (12, 30)))
                boxes.append((x, y, x + w, y + h))
                labels.append(int(rng.integers(3)))
            cv2.imwrite(str(root / split / f"{number}.png"), scene(64, 64, boxes, labels)[..., ::-1])
            images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
            if number == 1 and errors:
                boxes, labels = boxes[:1], [(labels[0] + 1) % 3]
            for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"image_id": number, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                rows.append({"id": 100 + len(rows)} | row)
        categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
        tree = {"images": images, "annotations": rows, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(tree))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "data", COUNTS)


class Recorded:
    """Folds without training, with the images that each would train on and those that it predicts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.trained: list[set[str]] = []
        self.predicted: list[set[str]] = []
        self.data: list[Dataset] = []
        self.predict = folds.predict_subject
        patch.setattr(folds, "train", self._train)
        patch.setattr(folds, "load", lambda path: rectangles_predictor())
        patch.setattr(folds, "predict_subject", self._predict)
        patch.setattr(drift, "PERMUTATIONS", 9)

    def _train(self, recipe: Any, data: Path, out: Path, **further: Any) -> Path:
        found = open_dataset(data, "train")
        self.data.append(found)
        self.trained.append({"/".join(Path(found.path(index)).parts[-2:]) for index in range(len(found))})
        return out

    def _predict(self, predictor: Any, subject: Any) -> Any:
        self.predicted.append({"/".join(Path(path).parts[-2:]) for path in subject.paths()})
        return self.predict(predictor, subject)


@pytest.fixture(scope="module")
def audited(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditReport, Path, Recorded]:
    """The report, its folder, and what each of three folds has seen."""
    out = tmp_path_factory.mktemp("audit") / "out"
    with pytest.MonkeyPatch.context() as patch:
        recorded = Recorded(patch)
        return audit(data, out, training=folds.Training(folds=3)), out, recorded


@pytest.mark.slow
def test_each_image_is_predicted_once_out_of_fold(
    audited: tuple[AuditReport, Path, Recorded],
) -> None:
    report, out, seen = audited
    everything = {f"{split}/{number}.png" for split, count in COUNTS.items() for number in range(1, count + 1)}
    assert sorted(name for names in seen.predicted for name in names) == sorted(everything)
    assert [everything - names for names in seen.predicted] == seen.trained
    assert len(seen.trained) == 3
    assert report.trained_here is False
    assert "such weak networks" not in str(report)
    assert "such weak networks are unreliable" in str(dataclasses.replace(report, ap50=0.3))
    assert {path.name for path in out.iterdir()} == {"audit.json", "audit.csv", "audit.jpg", "drift.png"}


@pytest.mark.slow
def test_planted_errors_rank_first(audited: tuple[AuditReport, Path, Recorded]) -> None:
    _, out, _ = audited
    tree = json.loads((out / "audit.json").read_text())
    assert tree["format"] == "boxwright audit 1"
    first = tree["findings"][:4]
    assert {(row["kind"], row["split"], row["image"], row["object"]) for row in first} == {
        ("missing", "train", "train/1.png", None), ("class", "train", "train/1.png", 100),
        ("missing", "val", "val/1.png", None), ("class", "val", "val/1.png", 100),
    }  # fmt: skip
    assert all((row["box"] is None, row["class"] is None) == (row["kind"] == "missing",) * 2 for row in first)
    assert all(row["suggested_class"] in NAMES and len(row["suggested_box"]) == 4 for row in first)
    assert [row["id"] for row in tree["findings"]] == list(range(len(tree["findings"])))
    table = list(csv.DictReader((out / "audit.csv").read_text().splitlines()))
    assert [(row["kind"], row["object"], row["suggested_class"]) for row in table] == [
        (row["kind"], str(row["object"] or ""), row["suggested_class"] or "") for row in tree["findings"]
    ]
    drawn = cv2.imread(str(out / "audit.jpg"))
    assert drawn.shape[1] == 1800


def test_groups_stay_in_one_fold(tmp_path: Path) -> None:
    subject = open_subject(write_set(tmp_path / "data", {"train": 12}), by=r"(?:train/)([0-9])")  # 1, 10, 11, 12
    of_image = dict(zip((Path(path).stem for path in subject.paths()), folds.divide(subject, 3).tolist(), strict=True))
    assert len({of_image[name] for name in ("1", "10", "11", "12")}) == 1
    assert set(of_image.values()) == {0, 1, 2}


def test_folds_keep_flags_of_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowd and ignore regions, difficult objects and the classes that were looked for."""
    copy = write_set(tmp_path / "data", {"train": 4})
    file = copy / "annotations" / "train.json"
    tree = json.loads(file.read_text())
    tree["annotations"][1] |= {"iscrowd": 1}
    tree["annotations"][2] |= {"iscrowd": 1, "ignore": 1}
    tree["annotations"][3] |= {"difficult": 1}
    tree["images"][2]["not_exhaustive_category_ids"] = [2]
    file.write_text(json.dumps(tree))
    recorded, subject = Recorded(monkeypatch), open_subject(copy)
    folds._train(subject, np.arange(4), np.full((4, 2), 64), folds.Training(), tmp_path / "work")
    (written,), rows = recorded.data, subject.dataset.rows
    for name in ("xyxy", "labels", "crowd", "difficult"):
        assert np.array_equal(getattr(written.rows, name), getattr(rows, name)), name
    assert np.array_equal(written.images.labeled, subject.dataset.images.labeled)
    assert written.names == subject.dataset.names


@pytest.mark.slow
def test_folds_can_be_trained_on_an_archive(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", data)
    changes = {"model.width": 0.125, "data.canvas.size": [64, 64], "data.workers": 0, "train.batch": 2}
    training = folds.Training(folds=2, minutes=0, overrides=changes | {"train.epochs": 1})
    audit(archive, tmp_path / "out", training=training)
    tree = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (tree["data"], tree["splits"]) == (archive, COUNTS)
    assert {row["image"].split("/")[0] for row in tree["findings"]} <= {"train", "val"}
    assert not list((tmp_path / "out").glob(".fold*"))  # runs are removed


@pytest.mark.parametrize(
    ("root", "splits", "expected"),
    [("{data}", ["train", "val"], True), ("{data}", ["val"], None), ("elsewhere", ["train"], None)],
)
def test_training_on_the_audited_images_is_detected(
    root: str, splits: list[str], expected: bool | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = recipe.load("demo", {"data.root": root.format(data=data)})
    monkeypatch.setattr("boxwright.audit.run.stored_recipe", lambda path: stored)
    subject = open_subject(data, splits)
    assert _was_trained_on(tmp_path, subject) is expected
    assert _was_trained_on(tmp_path / "net.onnx", subject) is None


def test_classifier_is_rejected(data: Path, tmp_path: Path, capsys: Any) -> None:
    settings = {"model.classes": 3, "data.names": list(NAMES), "data.canvas.size": [32, 32]}
    classifier = recipe.load("tiny_darknet_cifar10", settings)
    checkpoint.save(tmp_path / "net.safetensors", models.build(classifier.model), classifier)
    assert run(data, "--weights", tmp_path / "net.safetensors", "--out", tmp_path / "out") == 2
    assert "found a classifier, needed a detector" in capsys.readouterr().err


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as status:
        main(["data", "audit", *map(str, words)])
    return int(status.value.code or 0)


def results(data: Path, split: str, file: Path) -> Path:
    """detections.json of the stand-in."""
    found = open_dataset(data, split)
    rows = []
    for index in range(len(found)):
        result = rectangles_predictor()(found.path(index), threshold=0.01)
        for (x1, y1, x2, y2), score, label in zip(
            result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True
        ):
            image = int(found.images.ids[index])
            rows.append(
                {"image_id": image, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    file.write_text(json.dumps(rows))
    return file


@pytest.mark.slow
def test_audit_with_stored_detections(data: Path, tmp_path: Path, capsys: Any) -> None:
    file = results(data, "val", tmp_path / "detections.json")
    assert run(data, "--weights", file, "--split", "val", "--out", tmp_path / "out", "--count", 0) == 0
    printed = capsys.readouterr().out
    assert "no box for" in printed
    assert "looks like" in printed
    tree = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert tree["trained_on_these_images"] is None
    assert tree["splits"] == {"val": 4}
    metrics = evaluate(rectangles_predictor(), open_dataset(data, "val"))
    assert tree["ap50"] == pytest.approx(metrics.ap50, abs=1e-3)
    assert not (tmp_path / "out" / "audit.jpg").exists()


def test_near_duplicates_across_splits_and_sets(tmp_path: Path) -> None:
    copy = write_set(tmp_path / "data", {"train": 3, "val": 3})
    image = cv2.imread(str(copy / "train" / "2.png"))
    cv2.imwrite(str(copy / "val" / "3.png"), np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8))
    train, val = (open_subject(copy, [split]) for split in ("train", "val"))
    assert across({"data": open_subject(copy)}) == [[("train", "train/2.png"), ("val", "val/3.png")]]
    assert across({"a": train, "b": val}) == [[("a", "train/2.png"), ("b", "val/3.png")]]
    assert across({"data": train}) == []


def test_video_ids_are_unique_per_label_file_only(tmp_path: Path) -> None:
    """Each COCO file numbers its videos from 1."""
    root = write_set(tmp_path / "data", {"train": 3, "val": 3})
    for file in (root / "annotations").glob("*.json"):
        tree = json.loads(file.read_text())
        images = [entry | {"video_id": 1 + entry["id"] // 3} for entry in tree["images"]]
        file.write_text(json.dumps(tree | {"images": images}))
    subject = open_subject(root)
    assert across({"data": subject}) == []
    assert np.unique(np.array(subject.keys), return_inverse=True)[1].tolist() == [0, 0, 2, 1, 1, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "x.json", "--folds", "3"], "--weights and --folds"),
        (["--weights", "x.json"], "holds detections of one split, found train, val"),
        (["--split", "night"], "no split 'night'"),
        (["--folds", "50"], "needed 50"),
        (["--against", "{data}"], "is the same data set"),
        (["--against", "{data}/../data", "--weights", "x.json"], "is the same data set"),
        (["--recipe", "demoo"], "did you mean 'demo'"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run(data, "--out", tmp_path / "out", *(word.format(data=data) for word in words)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]  # after progress
    assert line.startswith("boxwright: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_label_files_are_not_overwritten(tmp_path: Path) -> None:
    copy = write_set(tmp_path / "data", {"train": 4})
    (copy / "annotations" / "train.json").rename(tmp_path / "data" / "train" / "audit.json")
    with pytest.raises(InputError, match="would be overwritten"):
        audit(tmp_path / "data" / "train" / "audit.json", tmp_path / "data" / "train")


# --- drift


def measured(a: NDArray[np.float64], b: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> drift.Measured:
    """Two parts; each value is a group, or `groups` says which."""
    groups = np.arange(len(a) + len(b)) if groups is None else groups
    part_of = np.zeros(groups.max() + 1, np.int64)
    part_of[groups[len(a) :]] = 1
    counts = np.bincount(groups, minlength=len(part_of))[:, None]
    return drift.Measured(("a", "b"), part_of, ("thing",), counts, {"size": (np.concatenate([a, b]), groups)})


def of_sizes(found: list[drift.Drift]) -> drift.Drift:
    (each,) = (each for each in found if each.quantity == "size")
    return each


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [1, 12])  # with ties, and without
def test_ks_test_matches_scipy(decimals: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 70).round(decimals), rng.normal(0.5, 2, 130).round(decimals)
    expected = stats.ks_2samp(a, b)
    found = of_sizes(drift.compare(measured(a, b)))
    assert found.distance == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    assert found.values == (70, 130)


def test_values_of_one_group_are_not_independent() -> None:
    """10 images of 30 equal boxes each: 300 values differ surely, 10 images do not."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(10), 30)
    values = rng.normal(0, 1, 10)[groups]
    single, grouped = (of_sizes(drift.compare(measured(values[:150], values[150:], which))) for which in (None, groups))
    assert single.distance == grouped.distance
    assert single.p == pytest.approx(1 / 1000)
    assert grouped.p > 0.05


def test_class_distribution_distance_by_hand(tmp_path: Path) -> None:
    part_of, counts = np.array([1, 0, 0]), np.array([[3, 1], [1, 3], [1, 3]])
    (found,) = drift.compare(drift.Measured(("a", "b"), part_of, ("x", "y"), counts, {}))
    assert found.distance == pytest.approx(0.5)  # a quarter and three quarters, against the reverse
    assert found.values == (8, 4)
    assert found.p == pytest.approx(1 / 3, abs=0.1)  # none of the two other divisions differs as much


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
def test_classes_of_two_sets_are_matched_by_name(data: Path, tmp_path: Path) -> None:
    copy = write_set(tmp_path / "data", {"train": 4})
    file = copy / "annotations" / "train.json"
    file.write_text(file.read_text().replace('"red"', '"crimson"'))
    subjects = {"a": open_subject(data), "b": open_subject(copy)}
    found = drift.measure(subjects)
    assert found.names == (*NAMES, "crimson")
    assert found.counts[found.part_of == 0][:, 3].sum() == 0
    assert found.counts[found.part_of == 1][:, 0].sum() == 0
    assert found.counts.sum() == sum(len(subject.dataset.rows) for subject in subjects.values())
    brightness, _ = found.values["brightness"]
    image = cv2.imread(open_subject(data).paths()[0])
    assert brightness[0] == pytest.approx(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean() / 255, abs=1e-3)
    drift.plot(found, drift.compare(found), tmp_path / "drift.png")
    assert cv2.imread(str(tmp_path / "drift.png")) is not None


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
def test_drift_without_boxes(tmp_path: Path) -> None:
    copy = write_set(tmp_path / "data", {"train": 2, "val": 2})
    for file in (copy / "annotations").iterdir():
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    found = drift.measure({"data": open_subject(copy)})
    drifts = drift.compare(found)
    assert {each.quantity for each in drifts} == {"objects", "brightness"}
    drift.plot(found, drifts, tmp_path / "drift.png")
