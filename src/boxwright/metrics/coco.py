"""COCO's average precision and recall, counted by hotcoco; pycocotools is the referee in the tests.

I images, N boxes, K classes, T = 10 IoU thresholds 0.50:0.05:0.95, R = 101 recall thresholds 0:0.01:1
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval

from boxwright.data.dataset import Sample
from boxwright.errors import printable
from boxwright.types import Detections

Array = np.ndarray[Any, np.dtype[Any]]

# key, AP or AR, IoU, area, detections an image and class: COCO's twelve numbers in COCO's order
SUMMARY = (
    ("AP", "AP", "0.50:0.95", "all", 100),
    ("AP50", "AP", "0.50", "all", 100),
    ("AP75", "AP", "0.75", "all", 100),
    ("AP_small", "AP", "0.50:0.95", "small", 100),
    ("AP_medium", "AP", "0.50:0.95", "medium", 100),
    ("AP_large", "AP", "0.50:0.95", "large", 100),
    ("AR1", "AR", "0.50:0.95", "all", 1),
    ("AR10", "AR", "0.50:0.95", "all", 10),
    ("AR100", "AR", "0.50:0.95", "all", 100),
    ("AR_small", "AR", "0.50:0.95", "small", 100),
    ("AR_medium", "AR", "0.50:0.95", "medium", 100),
    ("AR_large", "AR", "0.50:0.95", "large", 100),
)
RECALLS = np.linspace(0, 1, 101)
ALL_AREAS, MOST_DETECTIONS = 0, 2  # where "all" and 100 stand on the last two axes of hotcoco's arrays


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class. ap, ap50 and ar (at most 100 detections an image) in [0, 1], -1 where there is no truth.

    images: how many show the class. objects: true boxes without crowd regions. detections: all that were given.
    best_score: the lowest score to let through where F1 at IoU 0.5 shall be highest, -1 where nothing is found.
    """

    name: str
    ap: float
    ap50: float
    ar: float
    images: int
    objects: int
    detections: int
    best_score: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an evaluation found.

    summary: COCO's twelve numbers by the keys of `SUMMARY`, in [0, 1], -1 where there is no truth.
    classes: one entry a class, in label order. precision: (T, R, K) over all areas, -1 where a class has no truth.
    info: how it was measured (recipe, thresholds, versions, images).
    """

    summary: dict[str, float]
    classes: tuple[ClassMetrics, ...]
    precision: Array
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def ap(self) -> float:
        return self.summary["AP"]

    @property
    def ap50(self) -> float:
        return self.summary["AP50"]

    @property
    def quality(self) -> float:
        """By what the best network of a training is chosen."""
        return self.ap

    @property
    def headline(self) -> str:
        return f"AP {self.ap:.3f}, AP50 {self.ap50:.3f}"

    def __str__(self) -> str:
        return "\n".join([*self.lines(), "", *self.table()])

    def lines(self) -> list[str]:
        """The twelve lines as COCO's own tool prints them."""
        titles = {"AP": "Average Precision", "AR": "Average Recall"}
        return [
            f" {titles[kind]:<18} ({kind}) @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] "
            f"= {self.summary[key]:0.3f}"
            for key, kind, iou, area, most in SUMMARY
        ]

    def table(self) -> list[str]:
        """One line a class under a heading, as plain text."""
        width = max([len("class"), *(len(row.name) for row in self.classes)])
        heading = f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}  {'AR':>6}  {'images':>8}  {'objects':>7}  detections"
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {cell(row.ap)}  {cell(row.ap50)}  {cell(row.ar)}  "
                f"{row.images:>8}  {row.objects:>7}  {row.detections:>10}"
            )
            for row in self.classes
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `metrics.json`."""
        fields = ClassMetrics.__slots__
        rows = [{name: getattr(row, name) for name in fields} for row in self.classes]
        return {**self.info, "summary": self.summary, "classes": rows}


def score(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    names: Sequence[str],
    info: Mapping[str, Any] | None = None,
) -> Metrics:
    """COCO's numbers for `detections`, one entry a sample, both in original px with labels 0 to K - 1.

    Crowd regions neither need to be found nor count as wrong, and the small, medium and large ranges go by
    `Sample.areas`, which for COCO files is the area of the mask and not of the box.
    """
    truth = COCO(_truth(samples, names))
    counter = COCOeval(truth, truth.loadRes(_results(detections)), "bbox")
    counter.evaluate()
    counter.accumulate()
    counter.summary_lines()  # fills stats, and unlike summarize() prints nothing
    summary = {row[0]: float(value) for row, value in zip(SUMMARY, counter.stats, strict=True)}
    arrays: Any = counter.eval
    precision = np.asarray(arrays["precision"])[:, :, :, ALL_AREAS, MOST_DETECTIONS]
    recall = np.asarray(arrays["recall"])[:, :, ALL_AREAS, MOST_DETECTIONS]
    scores = np.asarray(arrays["scores"])[0, :, :, ALL_AREAS, MOST_DETECTIONS]
    best = _best_scores(precision[0], scores)
    return Metrics(summary, _classes(samples, detections, names, precision, recall, best), precision, dict(info or {}))


def _best_scores(precision: Array, scores: Array) -> Array:
    """(R, K) at IoU 0.5 -> (K,). Precision there is the best at that recall or beyond, so F1 peaks where it is real."""
    known = precision.clip(min=0)
    f1 = 2 * known * RECALLS[:, None] / (known + RECALLS[:, None]).clip(min=1e-9)
    best = np.take_along_axis(scores, f1.argmax(axis=0)[None], axis=0)[0]
    return np.where(f1.max(axis=0) > 0, best, -1.0)


def _truth(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
    """A COCO file's content. Ids are positions counted from 1: matching takes an annotation id of 0 for no match."""
    annotations: list[dict[str, Any]] = []
    for image, sample in enumerate(samples, 1):
        boxes = sample.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        columns = (sample.labels.tolist(), boxes.tolist(), sample.areas.tolist(), sample.crowd.tolist())
        for label, box, area, crowd in zip(*columns, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return {
        "images": [{"id": image} for image in range(1, len(samples) + 1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(names, 1)],
        "annotations": annotations,
    }


def _results(detections: Sequence[Detections]) -> Array:
    """(N, 7) float64 rows of image, x, y, width, height, score, category, in the order given."""
    counts = [len(found) for found in detections]
    rows = np.zeros((sum(counts), 7))
    if len(rows):
        rows[:, 0] = np.repeat(np.arange(1, len(counts) + 1), counts)
        rows[:, 1:5] = np.concatenate([found.boxes.numpy(force=True) for found in detections])
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 5] = np.concatenate([found.scores.numpy(force=True) for found in detections])
        rows[:, 6] = np.concatenate([found.labels.numpy(force=True) for found in detections]) + 1
    return rows


def _classes(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    names: Sequence[str],
    precision: Array,
    recall: Array,
    best: Array,
) -> tuple[ClassMetrics, ...]:
    classes = len(names)
    real = [sample.labels[~sample.crowd] for sample in samples]
    objects = np.bincount(np.concatenate([*real, np.zeros(0, np.int64)]), minlength=classes)
    shown = np.concatenate([*(np.unique(sample.labels) for sample in samples), np.zeros(0, np.int64)])
    images = np.bincount(shown, minlength=classes)
    found = np.concatenate([*(given.labels.numpy(force=True) for given in detections), np.zeros(0, np.int64)])
    counts = np.bincount(found, minlength=classes)
    return tuple(
        ClassMetrics(
            name,
            _mean(precision[:, :, label]),
            _mean(precision[0, :, label]),
            _mean(recall[:, label]),
            int(images[label]),
            int(objects[label]),
            int(counts[label]),
            float(best[label]),
        )
        for label, name in enumerate(names)
    )


def _mean(values: Array) -> float:
    """Mean of what is known; COCO marks the unknown with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def cell(value: float) -> str:
    """A number of a table, six wide; a dash for the -1 of what is not known."""
    return f"{value:>6.3f}" if value >= 0 else f"{'-':>6}"
