"""Several data sets as one: classes by name, `class_map`, weights, findings, evaluation, `data merge`."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import boxwright as bw
from boxwright import cli, recipe, tasks
from boxwright.batches.loader import EpochLoader, Loader, Visits
from boxwright.data import sets
from boxwright.data.class_dataset import ClassSet
from boxwright.data.class_map import map_classes
from boxwright.data.dataset import ANY_CLASS, Dataset
from boxwright.datatools.check import check, check_folder, skip_bad
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import open_boxes, open_dataset, splits
from boxwright.recipe import CanvasConfig
from class_folder import write as write_classes
from stand_in import rectangles_predictor, scene

# (x1, y1, x2, y2) px of the 60 x 40 images below, by hand
CAR_A, LORRY_A, SIGN_A = (1, 2, 11, 10), (20, 10, 40, 20), (5, 5, 9, 9)
TRUCK_B, CAR_B = (15, 10, 45, 30), (12, 16, 18, 24)
TRAIN_COCO = {
    "images": [
        {"id": 4, "file_name": "1.png", "width": 60, "height": 40},
        {"id": 9, "file_name": "2.png", "width": 60, "height": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 5, "bbox": [1, 2, 10, 8], "area": 80},
        {"id": 2, "image_id": 9, "category_id": 8, "bbox": [5, 5, 4, 4], "area": 16},
        {"id": 3, "image_id": 4, "category_id": 6, "bbox": [20, 10, 20, 10], "area": 150},
    ],
    "categories": [{"id": 5, "name": "car"}, {"id": 8, "name": "sign"}, {"id": 6, "name": "lorry"}],
}


def image(file: Path, level: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), (level, level, level)).save(file)


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sets `a` (COCO: train, val) and `b` (YOLO: train), which is the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "annotations").mkdir(parents=True)
    val = {**TRAIN_COCO, "images": TRAIN_COCO["images"][:1], "annotations": TRAIN_COCO["annotations"][:1]}
    for level, (split, tree) in enumerate({"train": TRAIN_COCO, "val": val}.items()):
        (tmp_path / "a" / "annotations" / f"{split}.json").write_text(json.dumps(tree))
        for entry in tree["images"]:
            image(tmp_path / "a" / split / entry["file_name"], 50 * level + entry["id"])
    (tmp_path / "b" / "labels" / "train").mkdir(parents=True)
    (tmp_path / "b" / "classes.txt").write_text("truck\ncar\n")
    (tmp_path / "b" / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.5 0.1 0.2\n")
    for name in ("1", "3"):
        image(tmp_path / "b" / "images" / "train" / f"{name}.png", 200 + int(name))
    return tmp_path


def write_yaml(file: str, *lines: str) -> str:
    Path(file).write_text("\n".join(lines) + "\n")
    return file


def found(dataset: Dataset) -> list[list[tuple[str, tuple[float, ...]]]]:
    """The class and the box of each label of each image, sorted."""
    return [
        sorted(
            (dataset.names[label] if label >= 0 else str(label), tuple(np.round(box, 4).tolist()))
            for label, box in zip(sample.labels.tolist(), sample.boxes, strict=True)
        )
        for sample in dataset
    ]


def line_of(error: "pytest.ExceptionInfo[InputError]") -> str:
    line = str(error.value)
    assert len(line) <= 200
    assert line.isprintable()
    return line


def test_classes_are_matched_by_name(working_folder: Path) -> None:
    """Labels of `a` are car, lorry, sign; those of `b` truck, car."""
    dataset = open_boxes(["a", "b"], "train")
    assert dataset.names == ("car", "lorry", "sign", "truck")
    assert found(dataset) == [
        [("car", CAR_A), ("lorry", LORRY_A)],
        [("sign", SIGN_A)],
        [("car", CAR_B), ("truck", TRUCK_B)],
        [],
    ]
    assert [Path(dataset.path(index)).as_posix() for index in range(4)] == [
        "a/train/1.png", "a/train/2.png", "b/images/train/1.png", "b/images/train/3.png"
    ]  # fmt: skip
    assert len(set(dataset.images.ids.tolist())) == 4
    assert dataset.rows.areas.tolist() == [80, 150, 16, 600, 48]
    places = [dataset.location(int(image), row) for row, image in enumerate(dataset.image_indices())]
    assert places == [
        "a/annotations/train.json annotations[0]", "a/annotations/train.json annotations[2]",
        "a/annotations/train.json annotations[1]", "b/labels/train/1.txt line 1", "b/labels/train/1.txt line 2",
    ]  # fmt: skip
    assert [dataset.own_id(index) for index in range(4)] == [4, 9, 1, 2]
    assert open_dataset(["a", "b"], "train").names == dataset.names
    assert open_boxes(["b", "a"], "train").names == ("truck", "car", "lorry", "sign")


def test_subset_keeps_its_sets(working_folder: Path) -> None:
    dataset = open_boxes(["a", "b"], "train").subset([3, 0])
    assert dataset.members is not None
    assert [dataset.own_id(index) for index in range(2)] == [2, 4]
    assert [(member.title, indices.tolist()) for member, indices, _ in dataset.members.each()] == [
        ("a", [1]),
        ("b", [0]),
    ]


def test_yaml_with_sets_and_class_maps(working_folder: Path) -> None:
    """Rename, merge and drop; paths are relative to the file."""
    (working_folder / "lists").mkdir()
    write_yaml(
        "lists/both.yaml",
        "sets:",
        "  - path: ../a",
        "    class_map: {lorry: truck, sign: drop}",
        "  - ../b",
        "names: [truck, car]",
    )
    dataset = open_boxes("lists/both.yaml", "train")
    assert dataset.names == ("truck", "car")
    assert found(dataset) == [[("car", CAR_A), ("truck", LORRY_A)], [], [("car", CAR_B), ("truck", TRUCK_B)], []]
    assert [note for note in dataset.notes if "class_map" in note] == [
        "lists/../a: class_map leaves out class sign (train, labels: 1)"
    ]
    assert splits("lists/both.yaml") == ["train", "val"]


def test_classes_are_merged_by_class_map(working_folder: Path) -> None:
    write_yaml("one.yaml", "sets: [a, b]", "class_map: {lorry: vehicle, car: vehicle, truck: vehicle}")
    dataset = open_boxes("one.yaml", "train")
    assert dataset.names == ("vehicle", "sign")
    assert np.bincount(dataset.rows.labels).tolist() == [4, 1]
    assert not check(dataset).errors  # two classes with one name in a set are one class


def test_class_map_of_a_single_set(working_folder: Path) -> None:
    """All names are read at once, so that two can change places; `ignore` leaves a region of any class."""
    file = write_yaml("single.yaml", "path: a", "class_map: {car: lorry, lorry: car, sign: ignore}")
    dataset = open_boxes(file, "train")
    assert dataset.names == ("lorry", "car")
    assert dataset.category_ids == (5, 6)
    assert found(dataset) == [[("car", LORRY_A), ("lorry", CAR_A)], [(str(ANY_CLASS), SIGN_A)]]
    assert dataset.rows.crowd.tolist() == [False, False, True]
    assert dataset.notes == ("single.yaml: class_map makes ignore regions of class sign (train, labels: 1)",)
    assert not check(dataset).errors
    assert [finding.text for finding in check(dataset).notes if finding.kind == "class_map"] == list(dataset.notes)


def test_class_named_drop(working_folder: Path) -> None:
    """Only a value is a word, and only of a class that the mapping names."""
    write_yaml("single.yaml", "path: b", "names: [drop, car]", "class_map: {car: ignore}")
    assert open_boxes("single.yaml", "train").names == ("drop",)


def test_missing_classes_and_splits_are_noted(working_folder: Path) -> None:
    train, val = (open_boxes(["a", "b"], split) for split in ("train", "val"))
    assert train.notes == (
        "a: has no class truck (train); its images were not searched for them",
        "b: has no classes lorry, sign (train); its images were not searched for them",
    )
    assert val.names == train.names  # also those of a set without this split
    assert val.notes == (
        "b: has no split val",
        "a: has no class truck (val); its images were not searched for them",
    )
    assert len(val) == 1


def test_classes_missing_in_a_set_are_unlabeled_in_its_images(working_folder: Path) -> None:
    """By hand: car, lorry, sign, truck in two images of `a`, then of `b`."""
    in_a, in_b = [True, True, True, False], [True, False, False, True]
    dataset = open_boxes(["a", "b"], "train")
    assert dataset.images.labeled is not None
    assert dataset.images.labeled.tolist() == [in_a, in_a, in_b, in_b]
    assert dataset.subset([2, 0]).images.labeled.tolist() == [in_b, in_a]  # type: ignore[union-attr]
    assert [sample.labeled.tolist() for sample in dataset] == [in_a, in_a, in_b, in_b]  # type: ignore[union-attr]
    assert open_boxes(["a", "a"], "train").images.labeled is None
    a = open_boxes("a", "train")
    limited = replace(a, images=replace(a.images, labeled=np.array([[True, False, True], [True, True, False]])))
    mapped = map_classes(limited, {"lorry": "car"}, "a")  # a car only where both were looked for
    assert mapped.names == ("car", "sign")
    assert mapped.images.labeled.tolist() == [[False, True], [True, False]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ("names: [car, truck]",),
            "a: class lorry and 1 more not in names (car, truck); give it a name there, drop or",
        ),
        (("class_map: {lory: truck}",), "x.yaml: class_map: there is no class 'lory'; did you mean 'lorry'?"),
        (("class_map: {car: drop, lorry: drop, sign: drop}",), "a: class_map leaves no class; needed at least one"),
        (("class_map: [car]",), "x.yaml: class_map: "),
        (('class_map: {car: "a\\u0007b"}',), "x.yaml: class_map.car: "),
        (("wieghts: 3",), "x.yaml: wieghts: unknown key"),
        (("train: a",), "x.yaml: train: unknown key"),
    ],
)
def test_errors_name_the_set_and_a_remedy(working_folder: Path, lines: tuple[str, ...], message: str) -> None:
    write_yaml("x.yaml", "sets: [a, b]", *lines)
    with pytest.raises(InputError) as error:
        open_boxes("x.yaml", "train")
    assert line_of(error).startswith(message)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{path: b, class_map: {lorry: truck}}", "b: class_map: there is no class 'lorry'; there are truck, car"),
        ("{path: b, weight: 0}", "x.yaml: sets.1.weight: "),
        ("{path: b, weight: 1000}", "x.yaml: sets.1.weight: "),
        ("{path: x.yaml}", "x.yaml: x.yaml: itself lists several sets, needed a single one; list its sets here"),
        ("nowhere", "nowhere: there is no such folder"),
        ("{weight: 2}", "x.yaml: sets.1.path: missing"),
    ],
)
def test_errors_of_a_set_entry(working_folder: Path, entry: str, message: str) -> None:
    write_yaml("x.yaml", "sets:", "  - a", f"  - {entry}")
    with pytest.raises(InputError) as error:
        open_boxes("x.yaml", "train")
    assert line_of(error).startswith(message)


def test_missing_split_and_mixed_kinds_of_sets_are_errors(working_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^a: no split 'test'; it holds train, val$"):
        open_boxes(["a", "b"], "test")
    write_classes(working_folder / "c", {"train": 1})
    with pytest.raises(InputError, match=r"^a has boxes, c images with one class each; needed sets of one kind$"):
        open_dataset(["a", "b", "c"], "train")
    write_yaml("both.yaml", "sets: [a, b]")
    with pytest.raises(InputError, match=r"^both.yaml: itself lists several sets; use it alone"):
        open_boxes(["both.yaml", "b"], "train")


def test_class_map_may_name_a_class_of_another_split(working_folder: Path) -> None:
    """A mapping names a class that only one split of a set has."""
    tree = json.loads((working_folder / "a" / "annotations" / "val.json").read_text())
    tree["categories"] = tree["categories"][:1]
    (working_folder / "a" / "annotations" / "val.json").write_text(json.dumps(tree))
    write_yaml("x.yaml", "sets: [{path: a, class_map: {lorry: truck}}, b]", "class_map: {sign: drop}")
    assert open_boxes("x.yaml", "val").names == ("car", "truck")


def add_faults(working_folder: Path) -> None:
    """A box without area in `a`, an unknown class and an empty box in `b`, and an image that is missing."""
    tree = json.loads((working_folder / "a" / "annotations" / "train.json").read_text())
    tree["annotations"][2]["bbox"] = [20, 10, 0, 10]
    tree["annotations"].append({"id": 9, "image_id": 77, "category_id": 5, "bbox": [1, 1, 2, 2], "area": 4})
    (working_folder / "a" / "annotations" / "train.json").write_text(json.dumps(tree))
    (working_folder / "b" / "labels" / "train" / "3.txt").write_text(
        "7 0.5 0.5 0.5 0.5\n0 0.5 0.5 0 0.5\n0 0.5 0.5 0.5 0.5\n"
    )
    (working_folder / "a" / "train" / "2.png").unlink()


def test_findings_equal_those_of_the_single_sets(working_folder: Path) -> None:
    add_faults(working_folder)
    whole = check(open_boxes(["a", "b"], "train"))
    each = [finding for name in ("a", "b") for finding in check(open_boxes(name, "train")).errors]
    assert len(each) == 5
    assert sorted(map(str, whole.errors)) == sorted(map(str, each))  # files, entries, ids, category ids
    assert whole.checked == {"train": (4, 8), "train of a": (2, 3), "train of b": (2, 5)}


def test_faulty_labels_are_left_out_of_their_set(working_folder: Path) -> None:
    add_faults(working_folder)
    dataset = open_boxes(["a", "b"], "train")
    kept = skip_bad(dataset, check(dataset))
    assert [Path(kept.path(index)).as_posix() for index in range(len(kept))] == [
        "a/train/1.png", "b/images/train/1.png", "b/images/train/3.png"
    ]  # fmt: skip
    assert found(kept)[1] == [("car", CAR_B), ("truck", TRUCK_B)]
    assert ("car", CAR_A) in found(kept)[0]
    assert ("truck", TRUCK_B) in found(kept)[2]
    assert "lorry" not in {name for labels in found(kept) for name, _ in labels}


def test_image_in_two_sets_is_noted(working_folder: Path) -> None:
    notes = [finding for finding in check(open_boxes(["a", "b", "a"], "train")).notes if finding.kind == "image_twice"]
    assert [(finding.index, finding.text) for finding in notes] == [(4, "is also in a"), (5, "is also in a")]


def test_data_check_of_a_yaml_with_sets(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yaml("x.yaml", "sets: [a, {path: b, class_map: {truck: lorry}}]")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["data", "check", "x.yaml"])
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    assert "train of a: 2 images, 3 boxes\ntrain of b: 2 images, 2 boxes\n" in printed
    assert "b: has no split val" in printed
    assert not check_folder("x.yaml").errors


def visited(loader: EpochLoader[Any], epoch: int, skip: int = 0) -> list[int]:
    return [int(frame.image_id) for batch in loader.epoch(epoch, skip) for frame in batch.frames]


def test_weights_determine_visits_per_epoch(working_folder: Path) -> None:
    """Images 1 and 2 twice each, one of 3 and 4 in half of the epochs."""
    write_yaml("x.yaml", "sets: [{path: a, weight: 2}, {path: b, weight: 0.5}]")
    dataset = open_boxes("x.yaml", "train")
    assert dataset.members is not None
    loader = Loader(dataset, CanvasConfig(size=(32, 32)), 1, seed=3, weights=dataset.members.weights())
    assert loader.steps_per_epoch == 5
    epochs = [visited(loader, epoch) for epoch in range(60)]
    for order in epochs:
        counts = Counter(order)
        assert counts[1] == counts[2] == 2
        assert counts[3] + counts[4] == 1
    assert 15 < sum(3 in order for order in epochs) < 45
    assert len({tuple(order) for order in epochs}) > 5
    assert [visited(loader, epoch) for epoch in range(60)] == epochs
    assert visited(loader, 7, skip=2) == epochs[7][2:]  # as after a resume


def test_visits_of_two_processes_equal_a_single_process(working_folder: Path) -> None:
    dataset = open_boxes(["a", "b"], "train")
    weights = np.array([1.5, 1.5, 1.5, 1.5])
    words: dict[str, Any] = {"canvas": CanvasConfig(size=(32, 32)), "seed": 1, "weights": weights}
    single = Loader(dataset, batch=2, **words)
    pair = [Loader(dataset, batch=1, rank=rank, world=2, **words) for rank in range(2)]
    assert visited(single, 4) == [
        image for step in zip(*(visited(one, 4) for one in pair), strict=True) for image in step
    ]


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_without_weights_the_order_is_a_permutation(count: int) -> None:
    """NumPy's own, which resumed runs rely on."""
    order = Visits(np.ones(count)).order(np.random.default_rng([5, 2]))
    assert order.tolist() == np.random.default_rng([5, 2]).permutation(count).tolist()


SMALL = {
    "model.width": 0.125, "data.canvas.size": [32, 32], "data.workers": 0, "train.epochs": 1, "train.batch": 2,
    "train.evaluate_every": 0, "train.schedule.warmup_epochs": 0, "train.log_every": 1,
}  # fmt: skip


@pytest.mark.slow
def test_training_on_several_sets(working_folder: Path, log: list[str]) -> None:
    """The run stores all roots; it resumes with the same sets only."""
    run = bw.train("demo", ["a", "b"], "run", overrides=SMALL)
    resolved = recipe.load(run / "recipe.yaml")
    assert resolved.data.root == ("a", "b")
    assert resolved.data.names == ("car", "lorry", "sign", "truck")
    assert bw.load(run).recipe.data.names == resolved.data.names
    assert "b: has no split val" in (run / "left_out.txt").read_text().splitlines()
    more = SMALL | {"train.log_every": 2}
    bw.train("demo", ["a", "b"], "run", overrides=more, resume=True)
    with pytest.raises(InputError, match=r"the train images or labels have changed since"):
        bw.train("demo", ["a", "b", "b"], "run", overrides=more, resume=True)
    write_yaml("x.yaml", "sets: [a, {path: b, weight: 2}]")
    with pytest.raises(InputError, match=r"the train images or labels have changed since"):
        bw.train("demo", "x.yaml", "run", overrides=more, resume=True)
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["data"] for row in metrics["sets"]] == ["a"]  # `b` has no val


@pytest.mark.slow
def test_train_and_evaluate_accept_several_sets(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    sets = ["--data", "a", "--data", "b"]
    for arguments in (
        ["train", "demo", *sets, "--out", "run", *settings],
        ["evaluate", "run", *sets, "--split", "train"],
    ):
        with pytest.raises(SystemExit) as leaving:
            cli.main(arguments)
        assert not leaving.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line[-10:] for line in lines if line.startswith(("a: AP", "b: AP"))] == ["(2 images)", "(2 images)"]
    assert json.loads(Path("evaluation/metrics.json").read_text())["data"] == "a, b"
    with pytest.raises(SystemExit) as leaving:
        cli.main(["evaluate", "run", *sets, "--no-truth", "--split", "train"])
    assert leaving.value.code == 2
    assert "found several sets, whose image ids are new" in capsys.readouterr().err


COLORED = [
    [(100, 128, [(10, 10, 50, 60), (70, 20, 110, 80)], [0, 1]), (64, 64, [], []), (64, 80, [(8, 8, 40, 40)], [0])],
    [(64, 64, [(10, 10, 40, 50)], [2]), (80, 64, [(4, 30, 50, 70), (10, 4, 30, 20)], [0, 2])],
]


def write_colored(root: Path, scenes: Iterable[Any], names: tuple[str, ...], moved: int) -> None:
    """A COCO set whose labels are shifted by `moved` px from what the stand-in detector finds."""
    colors = ("red", "green", "blue")
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    tree["categories"] = [{"id": 10 + label, "name": name} for label, name in enumerate(names)]
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number, (height, width, boxes, labels) in enumerate(scenes, 1):
        cv2.imwrite(str(root / "val" / f"{number}.png"), scene(height, width, boxes, labels)[:, :, ::-1])
        tree["images"].append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            tree["annotations"].append(
                {"id": len(tree["annotations"]) + 1, "image_id": number, "category_id": 10 + names.index(colors[label]),
                 "bbox": [x1 + moved, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            )  # fmt: skip
    (root / "annotations" / "val.json").write_text(json.dumps(tree))


def pycocotools_summary(sets: list[dict[str, Any]], results: list[list[dict[str, Any]]]) -> list[float]:
    """The twelve numbers of several sets' JSONs and results, joined here by class names."""
    from test_evaluation import pycocotools_metrics

    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": number, "name": name} for number, name in enumerate(("red", "green", "blue"), 1)]
    numbers = {entry["name"]: entry["id"] for entry in truth["categories"]}
    joined = []
    for index, (tree, rows) in enumerate(zip(sets, results, strict=True)):
        name_of = {entry["id"]: entry["name"] for entry in tree["categories"]}
        truth["images"] += [{"id": 100 * index + entry["id"]} for entry in tree["images"]]
        for entry in tree["annotations"]:
            truth["annotations"].append(
                {**entry, "id": len(truth["annotations"]) + 1, "image_id": 100 * index + entry["image_id"],
                 "category_id": numbers[name_of[entry["category_id"]]]}
            )  # fmt: skip
        joined += [
            {**row, "image_id": 100 * index + row["image_id"], "category_id": numbers[name_of[row["category_id"]]]}
            for row in rows
        ]
    judge, _ = pycocotools_metrics(truth, joined)
    return [float(value) for value in judge.stats]


@pytest.mark.slow
def test_evaluation_matches_pycocotools_on_concatenated_sets(working_folder: Path) -> None:
    """pycocotools on the joined JSONs, with detections of each set written by a run over it alone."""
    write_colored(working_folder / "one", COLORED[0], ("red", "green"), moved=0)
    write_colored(working_folder / "two", COLORED[1], ("blue", "red"), moved=9)
    predictor = rectangles_predictor()
    trees, rows, alone = [], [], []
    for name in ("one", "two"):
        alone.append(bw.evaluate(predictor, name, out=f"out_{name}"))
        trees.append(json.loads((working_folder / name / "annotations" / "val.json").read_text()))
        rows.append(json.loads((working_folder / f"out_{name}" / "detections.json").read_text()))
    metrics = bw.evaluate(predictor, ["one", "two"], out="out")
    assert list(metrics.summary.values()) == pytest.approx(pycocotools_summary(trees, rows), abs=1e-6)
    assert 0.1 < metrics.summary["AP"] < 0.95
    assert [(title, found.summary) for title, found in metrics.sets] == [
        ("one", alone[0].summary), ("two", alone[1].summary)
    ]  # fmt: skip
    assert f"two: {alone[1].headline} (2 images)" in str(metrics).splitlines()
    written = json.loads((working_folder / "out" / "metrics.json").read_text())
    assert [(row["data"], row["images"]) for row in written["sets"]] == [("one", 3), ("two", 2)]
    files = {row["file"] for row in json.loads((working_folder / "out" / "detections.json").read_text())}
    assert "two/val/1.png" in files


def test_evaluation_names_the_set_with_an_unknown_class(working_folder: Path) -> None:
    write_colored(working_folder / "one", COLORED[0], ("red", "green"), moved=0)
    with pytest.raises(InputError, match=r"^a: the model lacks 3 of the data set's"):
        bw.evaluate(rectangles_predictor(), ["one", "a"])


def test_evaluation_without_class_names(working_folder: Path) -> None:
    write_colored(working_folder / "one", COLORED[0], ("red", "green"), moved=0)
    with pytest.raises(InputError, match=r"compared by name, recipe demo has none; give them by --names"):
        bw.evaluate(rectangles_predictor(data__names=[]), "one")


def test_data_merge_writes_one_set(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that both sets have start with their set's; boxes, classes and areas stay."""
    arguments = ["data", "merge", "a", "b", "-o", "new", "--class-map", "lorry=truck", "--class-map", "sign=drop"]
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    assert not leaving.value.code
    printed = capsys.readouterr().out
    assert "train: 4 images, 4 boxes from coco, yolo_txt to coco\n  a: 2 images, 2 boxes\n  b: 2 images, 2 boxes\n" in (
        printed
    )
    assert "  a: class_map leaves out class sign (train, labels: 1)\n" in printed
    tree = json.loads(Path("new/annotations/train.json").read_text())
    names = {entry["id"]: entry["name"] for entry in tree["categories"]}
    assert sorted(names.values()) == ["car", "truck"]
    files = {entry["id"]: entry["file_name"] for entry in tree["images"]}
    assert sorted(files.values()) == ["2.png", "3.png", "a_1.png", "b_1.png"]
    boxes = sorted(
        (files[row["image_id"]], names[row["category_id"]], *row["bbox"], row["area"]) for row in tree["annotations"]
    )
    assert [box[:2] for box in boxes] == [
        ("a_1.png", "car"),
        ("a_1.png", "truck"),
        ("b_1.png", "car"),
        ("b_1.png", "truck"),
    ]
    assert [box[2:] for box in boxes] == [
        (1, 2, 10, 8, 80), (20, 10, 20, 10, 150), pytest.approx((12, 16, 6, 8, 48)), (15, 10, 30, 20, 600)
    ]  # fmt: skip
    for name, source in {"a_1": "a/train/1", "b_1": "b/images/train/1", "3": "b/images/train/3"}.items():
        assert Path(f"new/images/train/{name}.png").samefile(f"{source}.png")
    assert splits("new") == ["train", "val"]
    assert len(open_boxes("new", "val")) == 1


def test_label_file_among_sets_is_the_split_of_its_name(tiny_coco: Path) -> None:
    """Alone it serves as any split; here its images would be in both."""
    labels = tiny_coco / "annotations"
    sets = [labels / "train.json", labels / "val.json"]
    assert [len(bw.open_dataset(sets, split)) for split in ("train", "val")] == [12, 4]
    assert len(bw.open_dataset(labels / "train.json", "val")) == 12
    with pytest.raises(InputError, match="no split 'val'; it holds train"):
        bw.open_dataset([sets[0], sets[0]], "val")


def test_data_split_of_several_sets(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`data split` of a YAML with `sets` counts the images of each set in each part."""
    Path("both.yaml").write_text("sets: [a, b]\n")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["data", "split", "both.yaml", "-o", "new", "--parts", "x=0.5,y=0.5", "--split", "train"])
    assert not leaving.value.code
    lines = capsys.readouterr().out.splitlines()
    counts = dict.fromkeys(("a", "b"), 0)
    for part in ("x", "y"):
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{part}: "))
        assert lines[start].startswith(f"{part}: 2 images")
        for name, line in zip("ab", lines[start + 1 : start + 3], strict=True):
            counts[name] += int(line.removeprefix(f"  {name}: ").split(" image")[0])
    assert counts == {"a": 2, "b": 2}


@pytest.mark.parametrize("to", ["coco", "yolo_txt", "line_txt", "voc"])
def test_merged_sets_round_trip_in_every_layout(working_folder: Path, to: str) -> None:
    whole = open_boxes(["a", "b"], "train")
    convert(["a", "b"], to, "new")
    back = open_boxes("new", "train")
    assert sorted(map(str, found(back))) == sorted(map(str, found(whole)))


def test_conversion_of_sets_with_class_maps(working_folder: Path) -> None:
    write_yaml("x.yaml", "sets: [a, {path: b, class_map: {truck: lorry, car: drop}}]")
    convert("x.yaml", "voc", "list")
    assert sum(len(labels) for labels in found(open_boxes("list", "train"))) == 4
    write_yaml("list.yaml", "path: list", "class_map: {sign: car, lorry: drop}")
    convert("list.yaml", "coco", "mapped")  # extra keys of the labels that stay
    assert sorted(found(open_boxes("mapped", "train"))) == [[], [], [("car", CAR_A)], [("car", SIGN_A)]]


def test_extra_keys_of_merged_sets(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outlines and keys of classes stay; licenses that differ go, with the images' ids of them."""
    for number, name in enumerate(("c", "d")):
        tree = json.loads(json.dumps(TRAIN_COCO))
        tree |= {"info": {"year": 2020}, "licenses": [{"id": 1, "name": f"license {number}"}]}
        tree["images"][0]["license"] = 1
        tree["annotations"][1]["segmentation"] = [[5, 5, 9, 5, 9, 9, 5, 9 - number]]
        tree["categories"][0]["supercategory"] = f"vehicle {number}"
        (working_folder / name / "annotations").mkdir(parents=True)
        (working_folder / name / "annotations" / "train.json").write_text(json.dumps(tree))
        for entry in tree["images"]:
            image(working_folder / name / "train" / entry["file_name"], 3 * number)
    report = convert(["c", "d"], "coco", "new")
    assert "left out, since the sets differ in it: licenses, license of images" in report
    tree = json.loads(Path("new/annotations/train.json").read_text())
    assert tree["info"] == {"year": 2020}
    assert "licenses" not in tree
    assert not any("license" in entry for entry in tree["images"])
    outlines = [row["segmentation"] for row in tree["annotations"] if "segmentation" in row]
    assert outlines == [[[5, 5, 9, 5, 9, 9, 5, 9]], [[5, 5, 9, 5, 9, 9, 5, 8]]]
    assert [entry.get("supercategory") for entry in tree["categories"]] == ["vehicle 0", None, None]


def test_extra_keys_follow_their_labels_and_classes(working_folder: Path) -> None:
    """Of labels that stay where others of the file are left out: in COCO, VOC and DOTA."""
    tree = json.loads(json.dumps(TRAIN_COCO))
    for annotation in tree["annotations"]:
        annotation["pose"] = f"pose {annotation['id']}"
    for category in tree["categories"]:
        category["supercategory"] = f"over {category['name']}"
    (working_folder / "a" / "annotations" / "train.json").write_text(json.dumps(tree))
    convert("a", "voc", "v")
    write_yaml("coco.yaml", "path: a", "class_map: {car: drop}")
    write_yaml("voc.yaml", "path: v", "class_map: {car: drop}")
    for file in ("coco.yaml", "voc.yaml"):
        convert(file, "coco", Path(file).stem)
        tree = json.loads((Path(file).stem / Path("annotations/train.json")).read_text())
        assert sorted((row["bbox"], row["pose"]) for row in tree["annotations"]) == [
            ([5, 5, 4, 4], "pose 2"), ([20, 10, 20, 10], "pose 3")
        ]  # fmt: skip
    categories = json.loads(Path("coco/annotations/train.json").read_text())["categories"]
    assert [(row["name"], row["supercategory"]) for row in categories] == [
        ("lorry", "over lorry"),
        ("sign", "over sign"),
    ]
    (working_folder / "d" / "train" / "labelTxt").mkdir(parents=True)
    image(working_folder / "d" / "train" / "images" / "1.png", 9)
    (working_folder / "d" / "classes.txt").write_text("plane\nship\n")
    lines = ["gsd:0.5", "1 1 9 1 9 9 1 9 ship 0", "20 5 30 10 20 15 10 10 plane 2"]
    (working_folder / "d" / "train" / "labelTxt" / "1.txt").write_text("\n".join(lines))
    write_yaml("dota.yaml", "path: d", "class_map: {ship: drop}")
    convert("dota.yaml", "coco", "dota")
    (row,) = json.loads(Path("dota/annotations/train.json").read_text())["annotations"]
    assert row["segmentation"] == [[20, 5, 30, 10, 20, 15, 10, 10]]
    assert row["dota_difficult"] == 2


def test_images_outside_a_merged_set_are_rejected(working_folder: Path) -> None:
    """Each set's images must be in its own folder."""
    image(working_folder / "elsewhere.png", 1)
    (working_folder / "b" / "images" / "train" / "3.png").unlink()
    (working_folder / "b" / "images" / "train" / "3.png").symlink_to(working_folder / "elsewhere.png")
    with pytest.raises(InputError, match=r"3.png: lies outside .*/b, like 1 of the 2 images of train; use --outside"):
        convert(["a", "b"], "coco", "new")
    assert not Path("new").exists()
    convert(["a", "b"], "coco", "new", outside=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "a: found 1, needed two or more sets\n"),
        (["both.yaml"], "both.yaml: found 1, needed two or more sets; it lists sets itself, and `data convert` writes"),
        (["a", "b", "--class-map", "car"], "--class-map car: needed OLD=NEW, for example lorry=truck or sign=drop"),
        (
            ["a", "b", "--class-map", "van=car"],
            "a, b: class_map: there is no class 'van'; there are car, lorry, sign, truck",
        ),
        (
            ["a", "b", "--class-map", "car=x", "--class-map", "car=y"],
            "--class-map car=y: car was already renamed to",
        ),
    ],
)
def test_errors_of_merging(
    working_folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml("both.yaml", "sets: [{path: a}, {path: b}]")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["data", "merge", *arguments, "-o", "new"])
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith(f"boxwright: {message}")
    assert not Path("new").exists()


def test_web_addresses_that_differ_only_in_the_query_are_rejected() -> None:
    """Their queries may be secret and are not stored, so both would be read from the second address."""
    roots = ["https://host/set.zip?id=1", "https://me:pw@host/set.zip?id=2"]
    for use in (sets.several, sets.stored):
        with pytest.raises(InputError, match=r"^https://host/set\.zip: named twice with different queries"):
            use(roots)
    assert sets.stored(["https://host/a.zip?id=1", "https://host/b.zip?id=1"]) == [
        "https://host/a.zip", "https://host/b.zip"]  # fmt: skip


def test_sets_of_class_folders(working_folder: Path) -> None:
    """Folders of classes are matched by name, mapped and weighted, too."""
    write_classes(working_folder / "c", {"train": 2, "val": 1})  # blue, green, red
    write_classes(working_folder / "d", {"train": 1, "val": 1})
    (working_folder / "d" / "train" / "red").rename(working_folder / "d" / "train" / "black")
    (working_folder / "d" / "val" / "red").rename(working_folder / "d" / "val" / "black")
    (working_folder / "d" / "train" / "green" / "0.png").write_bytes(b"no image")
    write_yaml("x.yaml", "sets: [c, {path: d, weight: 3, class_map: {blue: drop}}]", "class_map: {black: red}")
    dataset = open_dataset("x.yaml", "train")
    assert isinstance(dataset, ClassSet)
    assert dataset.names == ("blue", "green", "red")
    assert dataset.counts().tolist() == [2, 3, 3]
    assert dataset.notes == ("d: class_map leaves out class blue (train, images: 1)",)
    assert dataset.members is not None
    assert dataset.members.weights().tolist() == [1] * 6 + [3] * 2
    red = [Path(dataset.path(index)).parts[-4:-1] for index in np.flatnonzero(dataset.labels == 2)]
    assert [parts[0] for parts in red] == ["c", "c", "d"]
    errors = check_folder("x.yaml", ("train",)).errors
    assert [finding.file for finding in errors] == ["d/train/green/0.png"]
    assert [finding.index for finding in errors] == [7]
    assert open_dataset(["c", "d"], "val").names == ("blue", "green", "red", "black")
    write_yaml("y.yaml", "sets: [c, d]", "class_map: {blue: ignore}")
    with pytest.raises(InputError, match=r"^c: class_map: blue: found ignore, which needs boxes; needed a new name or"):
        open_dataset("y.yaml", "train")
    one = map_classes(open_dataset("c", "train"), {"red": "rot"}, "c")
    task = tasks.of(recipe.load("tiny_darknet_cifar10"))
    assert one.names == ("blue", "green", "rot")
    assert task.fingerprint(dataset, recipe.load("tiny_darknet_cifar10"))
