"""VOC's average precision: worked by hand, and against pycocotools where its rules are the same."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright.data.dataset import Sample
from boxwright.metrics.voc import _match, average_precision, score
from boxwright.types import Detections

HUGE = 1e9  # px, the area that marks a difficult object for pycocotools: outside the range that it looks at


def sample(boxes, labels=None, difficult=None, crowd=None):
    n = len(boxes)
    corners = np.array(boxes, np.float32).reshape(n, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return Sample(
        image_id=0,
        path="0.png",
        size=None,
        boxes=corners,
        labels=np.zeros(n, np.int64) if labels is None else np.array(labels),
        crowd=np.zeros(n, bool) if crowd is None else np.array(crowd),
        areas=sides.prod(1).astype(np.float64),
        annotation_ids=np.arange(n),
        difficult=np.zeros(n, bool) if difficult is None else np.array(difficult),
    )


def detections(rows, label=0):
    """Rows (x1, y1, x2, y2, score)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], torch.full((len(table),), label))


def by_hand():
    """Four objects and a difficult one; the ranks are: found, (difficult), twice, found, too small, found."""
    samples = [
        sample([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)], difficult=[False, False, True]),
        sample([(0, 0, 10, 10), (20, 20, 30, 30)]),
    ]
    found = [
        detections(
            [
                (20, 0, 30, 5, 0.7),  # half of the second: IoU 0.5 is enough
                (0, 0, 10, 10, 0.95),
                (40, 0, 50, 9, 0.9),  # the difficult one
                (0, 0, 10, 9, 0.8),  # the first again
            ]
        ),
        detections([(0, 0, 10, 4, 0.6), (0, 0, 10, 10, 0.5)]),  # IoU 0.4, then the whole
    ]
    return samples, found


def test_ap07_and_ap12_by_hand():
    """Precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4.

    VOC07: three points (0, .1, .2) see 1, three (.3, .4, .5) see 2/3, two (.6, .7) see 3/5, the others 0.
    VOC12: a quarter each of 1, 2/3 and 3/5.
    """
    (row,) = score(*by_hand(), ["a"]).classes
    assert row.ap07 == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11, abs=1e-12)
    assert row.ap12 == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-12)
    assert (row.recall, row.objects, row.ignored, row.detections) == (0.75, 4, 1, 6)


def test_ap_differs_when_difficult_objects_count():
    samples, found = by_hand()
    plain = [sample(one.boxes) for one in samples]
    (row,) = score(plain, found, ["a"]).classes
    # 1, 1, 2/3, 3/4, 3/5, 4/6 at recall 1/5, 2/5, 2/5, 3/5, 3/5, 4/5
    assert row.ap12 == pytest.approx((1 + 1 + 3 / 4 + 4 / 6) / 5, abs=1e-12)
    assert (row.objects, row.ignored) == (5, 0)


def test_detections_on_difficult_or_crowd_are_not_false_positives():
    boxes = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)]
    one = sample(boxes, difficult=[False, True, False], crowd=[False, False, True])
    rows = [(20, 0, 30, 10, 0.9), (20, 0, 30, 9, 0.8), (40, 0, 50, 10, 0.7), (40, 0, 50, 9, 0.6), (0, 0, 10, 10, 0.1)]
    (row,) = score([one], [detections(rows)], ["a"]).classes
    assert (row.ap07, row.ap12, row.recall) == (1, 1, 1)
    assert (row.objects, row.ignored) == (1, 2)


def test_detection_is_matched_only_to_its_best_overlap():
    """The second lies on both objects by more than half, most on the one that is found already: wrong, unlike COCO."""
    one = sample([(0, 0, 10, 10), (0, 2, 10, 12)])
    (row,) = score([one], [detections([(0, 0, 10, 10, 0.9), (0, 0.5, 10, 10.5, 0.8)])], ["a"]).classes
    assert (row.recall, row.ap12) == (0.5, 0.5)


def test_ap07_is_exact_at_recalls_that_floats_round():
    """The k best of 10 objects reach a recall of k / 10 and with it k + 1 of the points, though 3 / 10 < 3 * 0.1."""
    for k in range(11):
        assert average_precision(np.ones(k, bool), 10)[0] == pytest.approx((k + 1) / 11 if k else 0, abs=1e-12)


def test_matching_agrees_with_full_iou_matrix():
    """1,500 detections of all sizes on 400 objects, each against each by the formula."""
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 3000, (400, 2))
    true = np.concatenate([low, low + rng.uniform(2, 900, (400, 1)) * rng.uniform(0.5, 2, (400, 2))], 1)
    boxes = true[rng.integers(0, 400, 1500)] + rng.normal(0, 25, (1500, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    for plus_one in (0, 1):
        sides = np.minimum(boxes[:, None, 2:], true[None, :, 2:]) - np.maximum(boxes[:, None, :2], true[None, :, :2])
        shared = np.clip(sides + plus_one, 0, None).prod(2)
        areas = [(some[:, 2:] - some[:, :2] + plus_one).prod(1) for some in (boxes, true)]
        overlap = shared / (areas[0][:, None] + areas[1][None] - shared)
        expected = np.where(overlap.max(1) >= 0.5, overlap.argmax(1), -1)
        assert 100 < (expected < 0).sum() < 1400
        owners = _match(torch.from_numpy(boxes), true, 0.5, bool(plus_one))
        assert owners.tolist() == expected.tolist()


def test_no_detections_and_no_objects():
    samples, found = by_hand()
    none = [Detections.empty()] * 2
    bare = [sample([])] * 2
    metrics = score(samples, none, ["a", "b"])
    assert [(row.ap07, row.ap12, row.objects) for row in metrics.classes] == [(0, 0, 4), (-1, -1, 0)]
    assert (metrics.ap07, metrics.ap12) == (0, 0)  # the mean is over the classes with objects
    for given in (found, none):
        metrics = score(bare, given, ["a"])
        assert (metrics.ap07, metrics.ap12, metrics.classes[0].recall) == (-1, -1, -1)
        assert metrics.table()[-1].split()[:4] == ["mean", "-", "-", "-"]
    assert score([], [], ["a"]).ap07 == -1


def test_plus_one_counts_both_end_pixels():
    """Boxes from 0 to 9 and from 0 to 4 are 10 and 5 px wide then: an IoU of 1/2, not 4/9."""
    one, found = sample([(0, 0, 9, 9)]), detections([(0, 0, 4, 9, 0.9)])
    assert score([one], [found], ["a"]).ap12 == 0
    assert score([one], [found], ["a"], plus_one=True).ap12 == 1


def made(seed, images=12, classes=3):
    """Objects far apart, a fifth of them difficult; jittered detections, never two at a difficult one.

    Then the rules are COCO's: with objects that lie close, or with two detections at a difficult one, VOC's differ.
    """
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for index in range(images):
        n = 0 if index % 4 == 3 else int(rng.integers(4, 30))
        low = rng.permutation(64)[:n, None] // [[8, 1]] % [[8, 8]] * 100.0
        side = rng.uniform(8, 60, (n, 2))
        boxes = np.concatenate([low, low + side], 1)
        labels, difficult = rng.integers(0, classes, n), rng.random(n) < 0.2
        samples.append(sample(boxes, labels, difficult))
        again = np.concatenate([np.arange(n), np.flatnonzero(~difficult & (rng.random(n) < 0.5))])
        near = boxes[again] + rng.normal(0, 0.12, (len(again), 4)) * np.tile(side[again], 2)
        wild = np.concatenate([low, low + 30], 1)[: n // 3] + 60
        guess = np.concatenate([labels[again], rng.integers(0, classes, len(wild))])
        corners = torch.from_numpy(np.concatenate([near, wild])).float()
        ratings = torch.from_numpy(rng.permutation(len(corners)) / 200 + index / 5000).float()
        found.append(Detections(corners, ratings, torch.from_numpy(guess)))
    return samples, found, [f"class {label}" for label in range(classes)]


def pycocotools_ap(samples, found, names, recalls):
    """AP by class from pycocotools at IoU 0.5, over those recall thresholds."""
    truth, results = [], []
    for image, (true, given) in enumerate(zip(samples, found, strict=True), 1):
        for box, label, hard in zip(true.boxes.tolist(), true.labels.tolist(), true.difficult.tolist(), strict=True):
            x1, y1, x2, y2 = box
            truth.append(
                {"id": len(truth) + 1, "image_id": image, "category_id": label + 1, "iscrowd": 0,
                 "area": HUGE if hard else 1.0, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )  # fmt: skip
        for (x1, y1, x2, y2), rating, label in zip(
            given.boxes.tolist(), given.scores.tolist(), given.labels.tolist(), strict=True
        ):
            results.append({"image_id": image, "category_id": label + 1, "score": rating,
                            "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "images": [{"id": image} for image in range(1, len(samples) + 1)],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(names)],
            "annotations": truth,
        }
        gold.createIndex()
        judge = COCOeval(gold, gold.loadRes(results), "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.params.maxDets = [1000]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, HUGE / 2]], ["all"]
        judge.params.recThrs = recalls
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][0, :, :, 0, 0].mean(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_ap_matches_pycocotools_where_the_rules_agree(seed):
    samples, found, names = made(seed)
    metrics = score(samples, found, names)
    eleven = pycocotools_ap(samples, found, names, np.arange(11) / 10)
    assert [row.ap07 for row in metrics.classes] == pytest.approx(eleven, abs=1e-9)
    for label, row in enumerate(metrics.classes):
        between = (np.arange(row.objects) + 0.5) / row.objects  # the curve is flat there: their mean is the area
        assert row.ap12 == pytest.approx(pycocotools_ap(samples, found, names, between)[label], abs=1e-9)
        assert 0.2 < row.ap12 < 0.95
        assert row.ignored > 0
    assert metrics.ap07 == pytest.approx(eleven.mean(), abs=1e-9)


def test_ap_is_independent_of_order():
    samples, found, names = made(7)
    order = np.random.default_rng(0).permutation(len(samples)).tolist()
    turned = [found[index][torch.randperm(len(found[index]))] for index in order]
    assert score([samples[index] for index in order], turned, names) == score(samples, found, names)
