"""Intervals of metrics: against hotcoco's and pycocotools' own numbers, and against resampled sets that are written
out image by image."""

import json
from dataclasses import replace
from itertools import pairwise

import cv2
import hotcoco
import numpy as np
import pytest
import torch

from boxwright.datatools.groups import of_evaluation
from boxwright.evaluation.evaluate import evaluate
from boxwright.formats import open_dataset
from boxwright.metrics import coco, coco_resampling, topk, voc
from boxwright.metrics.comparison import differences
from boxwright.metrics.resampling import draw_weights, interval
from boxwright.types import Classes
from stand_in import NAMES as COLORS
from stand_in import rectangles_predictor, scene
from test_evaluation import made, pycocotools_metrics, to_files

NAMES = ("a", "b", "c", "d", "e")


def ones(images):
    return np.ones((images, 1), np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_unit_weights_match_pycocotools(seed):
    samples, found, _ = made(seed)
    judge, _ = pycocotools_metrics(*to_files(samples, found, NAMES))
    resampled = coco.resample(samples, found, NAMES, ones(len(samples)))
    keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert [resampled.summary[key][0] for key in keys] == pytest.approx(judge.stats[:6].tolist(), abs=1e-6)
    precision = judge.eval["precision"][:, :, :, 0, 2]
    expected = [one.mean() if (one := precision[:, :, k]).max() > -1 else np.nan for k in range(len(NAMES))]
    assert resampled.classes["ap"][0].tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert np.isnan(resampled.classes["ap50"][0, -1])  # the last class has no truth


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resampling_matches_evaluation_of_repeated_images(seed):
    samples, found, _ = made(seed)
    found, weights = untied(found), draw_weights(np.arange(len(samples)), 4, seed)
    resampled = coco.resample(samples, found, NAMES, weights)
    for column in range(4):
        drawn = np.repeat(np.arange(len(samples)), weights[:, column].astype(int))
        metrics = coco.score([samples[i] for i in drawn], [found[i] for i in drawn], NAMES)
        for key, values in resampled.summary.items():
            assert values[column] == pytest.approx(metrics.summary[key], abs=1e-6), key
        rows = [np.nan if row.ap < 0 else row.ap for row in metrics.classes]
        assert resampled.classes["ap"][column].tolist() == pytest.approx(rows, abs=1e-6, nan_ok=True)
    assert np.ptp(resampled.summary["AP"]) > 0


def untied(found):
    """All scores differ: where they are equal, copies of images put them in another order."""
    counts = np.cumsum([0, *map(len, found)])
    steps = [torch.arange(first, last) for first, last in pairwise(counts.tolist())]
    return [replace(one, scores=one.scores - 1e-5 * step) for one, step in zip(found, steps, strict=True)]


def test_recall_thresholds_are_exact_for_many_objects():
    """Where a hundredth of the objects is a whole number, for all such numbers up to 400, and above float32's limit."""
    for objects in (*range(10, 401, 10), 30_000):
        found = np.arange(0, objects + 1, 1, dtype=np.float32)[:, None, None]
        reached = coco_resampling._recalls_reached(found, np.array([objects], np.float32))
        expected = np.searchsorted(coco_resampling.RECALLS, np.arange(objects + 1) / objects, side="right")
        assert (reached[:, 0, 0] == expected).all(), objects


def test_differences_match_hotcoco():
    """Not its intervals: they are narrower than those of resampled sets that are written out, by a seventh here."""
    samples, found, _ = made(0, images=40)
    others = [replace(one, boxes=one.boxes + 3) for one in found]
    truth, first = to_files(samples, found, NAMES)
    gold = hotcoco.COCO(truth)
    judges = [
        hotcoco.COCOeval(gold, gold.load_res(rows), "bbox") for rows in (first, to_files(samples, others, NAMES)[1])
    ]
    for judge in judges:
        judge.evaluate()
    theirs = hotcoco.compare(*judges)["deltas"]
    values = [coco.resample(samples, some, NAMES, ones(40)) for some in (found, others)]
    ours = {row.metric: row.difference for row in differences(*values)}
    pairs = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_small": "APs", "AP_medium": "APm", "AP_large": "APl"}
    for key, name in pairs.items():
        assert ours[key] == pytest.approx(theirs[name], abs=1e-6)


def test_images_of_a_group_are_drawn_together():
    weights = draw_weights(np.array([0, 0, 1, 2, 1]), 200)
    assert (weights[0] == weights[1]).all()
    assert (weights[2] == weights[4]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()  # as many groups as there are
    assert (draw_weights(np.array([0, 0, 1, 2, 1]), 200) == weights).all()
    assert set(np.unique(weights[3])) == {0, 1, 2, 3}


@pytest.mark.slow
def test_grouped_copies_of_images_do_not_narrow_the_interval():
    samples, found, _ = made(1, images=30)
    found = untied(found)
    alone = coco.score(samples, found, NAMES, groups=np.arange(30))
    doubled = coco.score(samples * 4, found * 4, NAMES, groups=np.tile(np.arange(30), 4))
    naive = coco.score(samples * 4, found * 4, NAMES, groups=np.arange(120))

    def width(metrics):
        low, high = metrics.intervals.summary["AP"]
        return high - low

    assert width(doubled) == pytest.approx(width(alone), abs=1e-6)
    assert width(naive) == pytest.approx(width(alone) / 2, rel=0.15)


def test_interval_contains_the_value_and_stays_in_range():
    low, high = interval(0.99, np.array([0.9, 0.95, 1.0, np.nan]))
    assert low < 0.99 < high == 1.0
    assert interval(0.5, np.array([np.nan, 0.4])) is None


def test_resampled_top1_by_hand():
    truth = np.array([0, 1, 1])
    results = [Classes(torch.tensor([0.9, 0.1]), torch.tensor(order)) for order in ([0, 1], [0, 1], [1, 0])]
    weights = np.array([[1, 2, 0], [1, 0, 3], [1, 1, 0]], np.float32)
    resampled = topk.resample(truth, results, ("x", "y"), weights)
    assert resampled.summary["top1"].tolist() == pytest.approx([2 / 3, 1, 0])
    assert resampled.summary["top5"].tolist() == [1, 1, 1]
    assert resampled.classes["top1"].ravel().tolist() == pytest.approx([1, 0.5, 1, 1, np.nan, 0], nan_ok=True)


@pytest.mark.slow
def test_voc_intervals_match_evaluation_of_repeated_scenes():
    samples, found, _ = made(2, images=12)
    found = untied(found)
    metrics = voc.score(samples, found, NAMES, groups=np.arange(12))
    weights = draw_weights(np.arange(12), 1000)
    values = []
    for column in range(40):
        drawn = np.repeat(np.arange(12), weights[:, column].astype(int))
        values.append(voc.score([samples[i] for i in drawn], [found[i] for i in drawn], NAMES).ap12)
    low, high = metrics.intervals.summary["VOC12"]
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(values), rel=0.3)
    assert low < metrics.ap12 < high
    assert "mean" in metrics.table()[-1]
    assert metrics.table()[-1].count("[") == 2


def write_scenes(root, scenes=3, tiles=2):
    """A COCO folder of tiles; on every second one the detector errs."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    images, annotations = [], []
    for number in range(scenes * tiles):
        image = scene(64, 64, [(8, 8, 40, 40)], [number % 3])
        cv2.imwrite(str(root / "val" / f"{number}.png"), image[..., ::-1])
        images.append(
            {"id": number, "file_name": f"{number}.png", "height": 64, "width": 64, "scene": f"s{number % scenes}"}
        )
        label = (number + (number % 4 == 0)) % 3
        annotations.append(
            {"id": number + 1, "image_id": number, "category_id": label + 1, "bbox": [8, 8, 32, 32], "area": 1024,
             "iscrowd": 0}
        )  # fmt: skip
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(COLORS)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "val.json").write_text(json.dumps(tree))
    return root


@pytest.mark.slow
def test_evaluate_prints_and_writes_intervals_over_scenes(tmp_path):
    data = open_dataset(write_scenes(tmp_path / "tiles"), "val")
    assert of_evaluation(data).tolist() == [0, 1, 2, 0, 1, 2]
    metrics = evaluate(rectangles_predictor(), data, out=tmp_path / "out")
    lines = str(metrics).splitlines()
    assert all(line.endswith("]") for line in lines[:3])  # AP, AP50, AP75
    assert not lines[6].endswith("]")  # AR
    assert "bootstrap over 3 groups of images; from fewer than 50 the intervals themselves are rough" in lines[13]
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    low, high = written["intervals"]["summary"]["AP"]
    assert low < metrics.ap < high
    assert written["intervals"]["number"] == 3
    assert written["intervals"]["rough"]
    assert set(written["classes"][0]) >= {"ap_interval", "ap50_interval"}
    plain = evaluate(rectangles_predictor(), data, out=tmp_path / "plain", intervals=False)
    assert plain.intervals is None
    assert "interval" not in str(plain) + (tmp_path / "plain" / "metrics.json").read_text()
    assert plain.summary == metrics.summary


def test_single_scene_has_no_interval(tmp_path):
    metrics = evaluate(rectangles_predictor(), open_dataset(write_scenes(tmp_path, scenes=1), "val"))
    assert "no intervals" in str(metrics)
    assert "[" not in str(metrics).replace("@[", "").partition("no intervals")[0]


def test_frames_of_a_video_are_one_group(tmp_path):
    root = write_scenes(tmp_path)
    file = root / "annotations" / "val.json"
    tree = json.loads(file.read_text())
    for entry in tree["images"]:
        del entry["scene"]
        entry["video_id"] = 7 if entry["id"] < 4 else 8
    file.write_text(json.dumps(tree))
    assert of_evaluation(open_dataset(root, "val")).tolist() == [0, 0, 0, 0, 1, 1]
    tree["images"][:2] = [tree["images"][0] | {"id": "0"}, tree["images"][1] | {"id": "1", "video_id": [3]}]
    file.write_text(json.dumps(tree | {"images": [*tree["images"], {"file_name": "no id.png"}]}))
    groups = of_evaluation(open_dataset(root, "val")).tolist()
    assert groups[0] == groups[2] == groups[3] != groups[1]
