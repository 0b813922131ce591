"""COCO's numbers against pycocotools, and the files and images an evaluation writes."""

import contextlib
import io
import json
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import distributed, multiprocessing

import boxwright as bw
from boxwright.data.dataset import Sample
from boxwright.evaluation.evaluate import evaluate_dataset as evaluate
from boxwright.formats import open_dataset
from boxwright.metrics import coco, plots
from boxwright.metrics.coco import score
from boxwright.predict.predictor import Predictor
from boxwright.types import Detections
from stand_in import NAMES, Rectangles, rectangles_predictor, scene

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"


def pycocotools_metrics(truth, results):
    """pycocotools on a COCO file's content and a list of results -> its evaluator and the lines it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = truth
        gold.createIndex()
        found = COCO()  # loadRes fails for an empty list
        found.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
        found.createIndex()
        judge = COCOeval(gold, gold.loadRes(results) if results else found, "bbox")
        judge.evaluate()
        judge.accumulate()
        with contextlib.redirect_stdout(printed):
            judge.summarize()
    return judge, printed.getvalue().splitlines()


def to_files(samples, found, names):
    """Samples and detections as pycocotools takes them, written here without the code under test."""
    images = [{"id": sample.image_id} for sample in samples]
    categories = [{"id": 3 * label + 5, "name": name} for label, name in enumerate(names)]
    annotations, results = [], []
    for sample, given in zip(samples, found, strict=True):
        for box, label, crowd, area in zip(sample.boxes, sample.labels, sample.crowd, sample.areas, strict=True):
            x1, y1, x2, y2 = map(float, box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": sample.image_id, "category_id": 3 * int(label) + 5,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(area), "iscrowd": int(crowd)}
            )  # fmt: skip
        for box, rating, label in zip(given.boxes.tolist(), given.scores.tolist(), given.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box
            results.append({"image_id": sample.image_id, "category_id": 3 * label + 5,
                            "bbox": [x1, y1, x2 - x1, y2 - y1], "score": rating})  # fmt: skip
    return {"images": images, "categories": categories, "annotations": annotations}, results


def made(seed, images=14, classes=5):
    """Truth in three sizes with crowd regions and areas smaller than the boxes; jittered and invented detections.

    Every fourth image is empty, the last class has no truth, one image has over 100 detections of a class, and
    scores come in steps of 0.05, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for index in range(images):
        n = 0 if index % 4 == 3 else int(rng.integers(1, 12))
        low, side = rng.uniform(0, 400, (n, 2)), rng.choice([15, 60, 200], (n, 1)) * rng.uniform(0.6, 1.5, (n, 2))
        boxes = np.concatenate([low, low + side], 1).astype(np.float32)
        labels, crowd = rng.integers(0, classes - 1, n), rng.random(n) < 0.15
        areas = side.prod(1) * rng.uniform(0.5, 1.0, n)
        samples.append(
            Sample(100 + index, f"{index}.jpg", None, boxes, labels, crowd, areas, np.arange(n), crowd & False)
        )
        near = np.repeat(boxes, 3, 0) + rng.normal(0, 1, (3 * n, 4)) * np.repeat(side, 3, 0).mean(1, keepdims=True) / 12
        wild = rng.uniform(0, 400, (150 if index == 2 else 8, 2))
        wild = np.concatenate([wild, wild + rng.uniform(5, 150, wild.shape)], 1)
        guess = np.where(rng.random(3 * n) < 0.15, rng.integers(0, classes, 3 * n), np.repeat(labels, 3))
        other = np.full(150, 1) if index == 2 else rng.integers(0, classes, 8)
        boxes = torch.from_numpy(np.concatenate([near, wild])).float()
        scores = torch.from_numpy(np.round(rng.random(len(boxes)) * 20) / 20).float()
        found.append(Detections(boxes, scores, torch.from_numpy(np.concatenate([guess, other]))))
    return samples, found, [f"class {label}" for label in range(classes)]


def check_against_pycocotools(metrics, judge, lines):
    assert list(metrics.summary.values()) == pytest.approx(judge.stats.tolist(), abs=1e-6)
    assert metrics.lines() == lines
    precision = judge.eval["precision"][:, :, :, 0, 2]
    for label, row in enumerate(metrics.classes):
        known = precision[:, :, label][precision[:, :, label] > -1]
        assert row.ap == pytest.approx(known.mean() if known.size else -1, abs=1e-6)
        assert row.ap50 == pytest.approx(precision[0, :, label].mean() if known.size else -1, abs=1e-6)
        assert row.ar == pytest.approx(judge.eval["recall"][:, label, 0, 2].mean(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_summary_matches_pycocotools(seed):
    samples, found, names = made(seed)
    metrics = score(samples, found, names)
    check_against_pycocotools(metrics, *pycocotools_metrics(*to_files(samples, found, names)))
    assert 0.05 < metrics.ap < 0.9
    assert min(metrics.summary.values()) > 0
    assert metrics.classes[-1].ap == -1
    assert metrics.classes[-1].objects == 0
    assert sum(row.objects for row in metrics.classes) == sum(int((~sample.crowd).sum()) for sample in samples)
    assert sum(row.detections for row in metrics.classes) == sum(map(len, found))


def test_scoring_classes_in_groups_matches_pycocotools(monkeypatch):
    """As pycocotools scores them together: nine classes, three at once, the last without truth."""
    monkeypatch.setattr(coco, "CLASSES_AT_ONCE", 3)
    samples, found, names = made(5, classes=9)
    check_against_pycocotools(score(samples, found, names), *pycocotools_metrics(*to_files(samples, found, names)))


def test_memory_with_2000_classes():
    """hotcoco takes 0.2 MB per class: 400 MB for these, most of which have neither objects nor detections."""
    samples, found, _ = made(6)
    names = [f"class {label}" for label in range(2000)]
    few, before = score(samples, found, names[:5]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = score(samples, found, names)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024  # KiB
    assert many.summary == few.summary
    assert (many.precision[:, :, :5] == few.precision).all()
    assert (many.precision[:, :, 5:] == -1).all()


def test_score_of_maximum_f1_by_hand():
    """By hand. Four objects; best first hit, hit, miss, hit, miss, miss, hit. F1 after the hits: 0.4, 0.67, 0.75 (3 of
    4 right, 3 of 4 found) and 0.73 (4 of 7, all). The second class is found nowhere, the third has no objects."""
    x = np.arange(7, dtype=np.float32)[:, None] * 30
    boxes = np.concatenate((x, x * 0, x + 20, x * 0 + 20), 1)
    hits = [0, 1, 3, 6]
    truth, labels = np.concatenate((boxes[hits], boxes[:1] + 300)), np.array([0, 0, 0, 0, 1])
    flags = np.zeros(5, bool)
    sample = Sample(1, "1.jpg", None, truth, labels, flags, np.full(5, 400.0), np.arange(5), flags)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3])
    given = torch.from_numpy(np.concatenate((boxes, boxes[:1])))
    found = Detections(given, scores, torch.tensor([0] * 7 + [2]))
    rows = score([sample], [found], ["a", "b", "c"]).classes
    assert [row.best_score for row in rows] == pytest.approx([0.6, -1, -1])
    assert score([sample], [found], ["a", "b", "c"]).to_json()["classes"][0]["best_score"] == pytest.approx(0.6)


def test_random_sets_depend_on_crowd_and_area():
    """Otherwise the agreement above would not cover them."""
    samples, found, names = made(0)
    metrics = score(samples, found, names)
    for change in ({"crowd": lambda s: s.crowd & False}, {"areas": lambda s: s.areas * 9}):
        (key, new), *_ = change.items()
        other = [Sample(*(new(s) if f == key else getattr(s, f) for f in Sample.__slots__)) for s in samples]
        assert score(other, found, names).summary != metrics.summary


def test_empty_detections_and_ground_truth():
    samples, found, names = made(1)
    none = [Detections.empty()] * len(samples)
    check_against_pycocotools(score(samples, none, names), *pycocotools_metrics(*to_files(samples, none, names)))
    bare = [
        Sample(
            s.image_id,
            s.path,
            None,
            np.zeros((0, 4), np.float32),
            *(np.zeros(0, t) for t in (int, bool, float, int, bool)),
        )
        for s in samples
    ]
    for given in (found, none):
        metrics = score(bare, given, names)
        check_against_pycocotools(metrics, *pycocotools_metrics(*to_files(bare, given, names)))
        assert set(metrics.summary.values()) == {-1.0}


def write_set(root, scenes, names=NAMES, ids=(7, 3, 11)):
    """A COCO data set on the disk; scenes: (height, width, boxes, labels). Returns the annotation file's content."""
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    tree = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)],
    }
    for number, (height, width, boxes, labels) in enumerate(scenes):
        name, image_id = f"{number}.png", 50 - number
        cv2.imwrite(str(root / "val" / name), scene(height, width, boxes, labels)[:, :, ::-1])
        tree["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            tree["annotations"].append(
                {"id": len(tree["annotations"]) + 1, "image_id": image_id, "category_id": ids[label], "iscrowd": 0,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )  # fmt: skip
    (root / "annotations" / "val.json").write_text(json.dumps(tree))
    return tree


SCENES = [
    (100, 128, [(10, 10, 50, 60), (70, 20, 110, 80)], [0, 1]),
    (64, 64, [], []),
    (200, 100, [(5, 5, 95, 100)], [2]),
    (80, 80, [(11, 13, 37, 71)], [1]),
    (90, 70, [(3, 3, 24, 50)], [0]),
]


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
def test_evaluate_scores_every_image_and_writes_detections(tmp_path):
    tree = write_set(tmp_path / "set", SCENES)
    predictor, out = rectangles_predictor(), tmp_path / "out"
    predictor.model.train()
    metrics = evaluate(predictor, open_dataset(tmp_path / "set", "val"), out)
    assert predictor.model.seen == [False] * 3  # batches of 2, 2 and 1
    assert metrics.ap50 == 1
    assert metrics.ap > 0.6
    results = json.loads((out / "detections.json").read_text())
    check_sorted = sorted(row.name for row in metrics.classes)
    assert check_sorted == sorted(NAMES)
    judge, lines = pycocotools_metrics(tree, results)
    assert list(metrics.summary.values()) == pytest.approx(judge.stats.tolist(), abs=1e-6)
    assert metrics.lines() == lines
    assert str(metrics).splitlines()[:12] == lines
    saved = json.loads((out / "metrics.json").read_text())
    assert saved["summary"] == metrics.summary
    assert saved["images"] == 5
    assert saved["recipe"] == "demo"
    assert saved["threshold"] == predictor.recipe.evaluate.threshold
    assert saved["versions"]["boxwright"]
    assert {row["name"]: row["objects"] for row in saved["classes"]} == {"red": 2, "green": 2, "blue": 1}
    drawn = {path.name: path for path in out.iterdir() if path.suffix in {".png", ".jpg"}}
    assert set(drawn) == {"precision_recall.png", "confusion.png", "errors.png", "sheet.jpg"}, "and no error"
    assert all(min(cv2.imread(str(path)).shape[:2]) > 300 for path in drawn.values())
    assert evaluate(predictor, open_dataset(tmp_path / "set", "val"), threshold=1.0).ap == 0


@pytest.mark.slow
def test_plus_one_scores_boxes_one_px_wider_and_higher(tmp_path):
    """One box ends at the image's right edge: it was cut to the image before."""
    write_set(tmp_path / "set", [(64, 64, [(10, 12, 30, 40), (40, 8, 64, 20)], [0, 1])])
    rows = {}
    for plus_one in (False, True):
        predictor = rectangles_predictor(evaluate__plus_one=plus_one)
        metrics = evaluate(predictor, open_dataset(tmp_path / "set", "val"), tmp_path / str(plus_one))
        assert metrics.ap == (pytest.approx(1) if not plus_one else pytest.approx(0.9, abs=0.1))
        rows[plus_one] = json.loads((tmp_path / str(plus_one) / "detections.json").read_text())
        (found,) = predictor([tmp_path / "set/val/0.png"])
        assert sorted(found.boxes.tolist()) == [[10, 12, 30, 40], [40, 8, 64, 20]]
    assert sorted(row["bbox"] for row in rows[False]) == [[10, 12, 20, 28], [40, 8, 24, 12]]
    assert sorted(row["bbox"] for row in rows[True]) == [[10, 12, 21, 29], [40, 8, 25, 13]]


def test_classes_are_matched_by_name(tmp_path):
    write_set(tmp_path / "fewer", SCENES[2:3], ("other", "another", "blue"))
    fewer = open_dataset(tmp_path / "fewer", "val")
    predictor = rectangles_predictor()
    with pytest.raises(bw.InputError, match=r"lacks 2 of the data set's 3 classes \(\w+, \w+\)"):
        evaluate(predictor, fewer)
    write_set(tmp_path / "turned", SCENES, ("blue", "green", "red"))
    scored = {row.name: row.ap50 for row in evaluate(predictor, open_dataset(tmp_path / "turned", "val")).classes}
    assert scored == {"red": 0, "green": 1, "blue": 0}
    turned = Predictor(Rectangles(), predictor.recipe.with_overrides({"data.names": ["blue", "green", "red"]}))
    assert evaluate(turned, open_dataset(tmp_path / "turned", "val")).ap50 == 1
    more = predictor.recipe.with_names(("red", "green", "blue", "black"))
    write_set(tmp_path / "plain", SCENES)
    assert evaluate(Predictor(Rectangles(), more), open_dataset(tmp_path / "plain", "val")).ap50 == 1


def test_invalid_inputs_of_evaluate_are_rejected(tmp_path):
    write_set(tmp_path / "set", SCENES)
    dataset, predictor = open_dataset(tmp_path / "set", "val"), rectangles_predictor()
    with pytest.raises(bw.InputError, match="holds no image"):
        evaluate(predictor, dataset.subset([]))
    (tmp_path / "file").write_text("")
    with pytest.raises(bw.InputError, match="file: results cannot be written there"):
        evaluate(predictor, dataset, tmp_path / "file")
    dataset.rows.labels[0] = -1
    with pytest.raises(bw.InputError, match=r"0.png: a label of unknown category .*boxwright data check"):
        evaluate(predictor, dataset)
    assert predictor.model.seen == []
    dataset.rows.labels[0] = 0
    (tmp_path / "set/val/3.png").write_bytes(b"nothing")
    with pytest.raises(bw.InputError, match=r"3\.png"):
        evaluate(predictor, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _one_of_two(rank, meeting, root, out):
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    predictor = rectangles_predictor()
    metrics = evaluate(predictor, open_dataset(root, "val"), Path(out) / "files", rank=rank, world=2)
    (Path(out) / f"{rank}.json").write_text(json.dumps([metrics.summary, len(predictor.model.seen)]))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_match_a_single_process(tmp_path):
    write_set(tmp_path / "set", SCENES)
    alone = evaluate(rectangles_predictor(), open_dataset(tmp_path / "set", "val"), tmp_path / "alone")
    (tmp_path / "out").mkdir()
    multiprocessing.spawn(_one_of_two, (str(tmp_path / "meet"), str(tmp_path / "set"), str(tmp_path / "out")), nprocs=2)
    for rank, batches in ((0, 2), (1, 1)):  # 3 and 2 images, two a batch
        assert json.loads((tmp_path / f"out/{rank}.json").read_text()) == [alone.summary, batches]
    ours, theirs = (json.loads((tmp_path / f / "detections.json").read_text()) for f in ("alone", "out/files"))
    assert ours == theirs


class Cells(Rectangles):
    """Finds what is dark violet: white blood cells, with a little luck."""

    def _one(self, image, threshold):
        mask = (image[2] - image[1] > 0.2).numpy().astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        rows = [[x, y, x + w, y + h, min(a / 20000, 1.0), 1] for x, y, w, h, a in stats[1:count].tolist() if a > 100]
        table = torch.tensor(rows).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4], table[:, 5].long())


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.is_dir(), reason="needs shared/data/bccd beside the checkout")
def test_scores_on_real_images_match_pycocotools(tmp_path):
    dataset = open_dataset(BCCD, "val")
    canvas = {"data__canvas__size": [256, 320], "evaluate__batch": 8, "data__names": ["RBC", "WBC", "Platelets"]}
    predictor = Predictor(Cells(), rectangles_predictor(**canvas).recipe)
    metrics = evaluate(predictor, dataset, tmp_path)
    tree = json.loads((BCCD / "annotations/val.json").read_text())
    judge, lines = pycocotools_metrics(tree, json.loads((tmp_path / "detections.json").read_text()))
    assert list(metrics.summary.values()) == pytest.approx(judge.stats.tolist(), abs=1e-6)
    assert metrics.lines() == lines
    assert metrics.classes[dataset.names.index("WBC")].ap50 > 0.2  # real detections, not none


def test_confusion_matrix_by_hand():
    """One image, classes a and b, IoU 0.5, threshold 0.3."""
    truth = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 100, 40]]
    boxes, labels = np.array(truth, np.float32), np.array([0, 1, 1, 0])
    crowd, difficult = np.array([False, False, False, True]), np.zeros(4, bool)
    sample = Sample(1, "", None, boxes, labels, crowd, np.full(4, 100.0), np.arange(4), difficult)
    rows = [
        ([0, 0, 10, 9], 0.9, 0),  # a found as a
        ([0, 1, 10, 10], 0.8, 0),  # the same once more: a from nowhere
        ([20, 0, 30, 8], 0.7, 0),  # b taken for a
        ([40, 0, 50, 4], 0.6, 1),  # IoU 0.4 with the third: b from nowhere, and the third is missed
        ([70, 10, 80, 20], 0.5, 1),  # within the crowd: nothing
        ([0, 50, 9, 60], 0.2, 1),  # below the threshold
    ]
    boxes, scores, labels = zip(*rows, strict=True)
    found = Detections(torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(labels))
    counts = plots.confusion([sample], [found], 2, 0.3)
    assert counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert plots.confusion([sample], [Detections.empty()], 2, 0.3).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
    none = (np.zeros(0, t) for t in (int, bool, float, int, bool))
    bare = Sample(1, "", None, np.zeros((0, 4), np.float32), *none)
    assert plots.confusion([bare], [found], 2, 0.3).tolist() == [[0, 0, 0], [0, 0, 0], [3, 2, 0]]


def test_confusion_matrix_of_many_classes_shows_most_frequent():
    """By hand: classes 7 and 301 are shown, 5 and 9 are others; each box is found as the next class of the list."""
    x = np.arange(4, dtype=np.float32)[:, None] * 30
    boxes, labels = np.concatenate((x, x * 0, x + 20, x * 0 + 20), 1), np.array([7, 301, 5, 9])
    sample = Sample(1, "", None, boxes, labels, np.zeros(4, bool), np.full(4, 400.0), np.arange(4), np.zeros(4, bool))
    found = Detections(torch.from_numpy(boxes), torch.ones(4), torch.tensor([301, 5, 9, 7]))
    counts = plots.confusion([sample], [found], 400, 0.5, [7, 301])
    assert counts.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert plots.confusion([sample], [found], 400, 0.5).shape == (401, 401)
    metrics = score([sample] * 2, [found] * 2, [f"class {label}" for label in range(400)])
    shown = plots.shown_classes(metrics)
    assert (len(shown), {5, 7, 9, 301} <= {*shown}) == (plots.MAX_CLASSES, True)


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
def test_curves_are_drawn_from_the_log_of_a_run(tmp_path):
    step = {"epoch": 0, "lr": 0.01, "total": 3.0, "terms": {"box": 1.0, "objectness": 2.0}, "images_per_second": 9.0}
    lines = [step | {"step": 20 * n, "total": 3.0 / n} for n in range(1, 5)]
    lines.insert(2, {"step": 40, "epoch": 0, "AP": 0.2, "AP50": 0.5})
    for name, kept in (("whole", lines), ("no_evaluation", lines[:2]), ("nothing", [])):
        log = tmp_path / f"{name}.jsonl"
        log.write_text("".join(json.dumps(line) + "\n" for line in kept))
        plots.curves(log, tmp_path / f"{name}.png", ("AP50", "AP"), "average precision")
        image = cv2.imread(str(tmp_path / f"{name}.png")).astype(int)
        vivid = image.max(axis=2) - image.min(axis=2) > 60  # the colored lines, also those of the legends
        loss, _, quality = (part.sum() for part in np.array_split(vivid, 3, axis=1))
        assert (loss > 500) == (name != "nothing")
        assert (quality > 300) == (name == "whole"), quality


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 80])
def test_plots_of_few_and_many_classes_without_detections(classes, tmp_path):
    names = [f"class {label}" for label in range(classes)]
    sample = Sample(1, "", None, np.array([[0, 0, 9, 9]], np.float32), np.array([0]), np.zeros(1, bool), np.ones(1),
                    np.ones(1, int), np.zeros(1, bool))  # fmt: skip
    for number, found in enumerate((Detections.empty(), Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1),
                                                                   torch.zeros(1, dtype=torch.int64)))):  # fmt: skip
        plots.precision_recall(score([sample], [found], names), tmp_path / f"{number}.png")
        counts = plots.confusion([sample], [found], classes, 0.5)
        ticks = [*names, "background"]
        plots.confusion_matrix(counts, ticks, ticks, "boxes", tmp_path / f"{number}c.png")
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    assert all((cv2.imread(str(file)) < 100).any() for file in files)
