"""COCO metrics, computed by hotcoco; the tests compare them with pycocotools.

N boxes, K classes, T = 10 IoU thresholds 0.50:0.05:0.95, R = 101 recall thresholds 0:0.01:1
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.dataset import Sample
from boxwright.errors import printable
from boxwright.json_text import JsonObject
from boxwright.metrics import coco_resampling
from boxwright.metrics.coco_matches import Truth, match
from boxwright.metrics.regions import class_regions
from boxwright.metrics.resampling import (
    Intervals,
    Resampled,
    after,
    class_cell,
    class_json,
    draw_weights,
    heading_cell,
    intervals,
    note_lines,
    resamples_for,
    summary_json,
)
from boxwright.metrics.sets import set_lines, set_summaries
from boxwright.types import Detections

# key, AP or AR, IoU, area, detections per image and class: COCO's twelve metrics in COCO's order
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
IOUS = {"0.50:0.95": slice(None), "0.50": slice(0, 1), "0.75": slice(5, 6)}
AREAS, MAX_DETECTIONS = ("all", "small", "medium", "large"), (1, 10, 100)  # the last two axes of hotcoco's arrays
CLASSES_AT_ONCE = 250  # hotcoco takes 0.2 MB per class


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """The metrics of a class.

    Attributes:
        name: Name of the class.
        ap: AP in [0, 1]; -1 if the class has no ground truth.
        ap50: AP at IoU 0.5, likewise.
        ar: AR with at most 100 detections per image, likewise.
        images: Number of images with the class.
        objects: Number of ground-truth boxes, without crowd regions.
        detections: Number of detections.
        best_score: The score threshold with the highest F1 at IoU 0.5, to 0.01 of recall; -1 if no object is detected.
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
    """The COCO metrics of a detector.

    Attributes:
        summary: COCO's twelve metrics by the keys of `SUMMARY`, in [0, 1]; -1 without ground truth.
        classes: The metrics of each class, in label order.
        precision: (T, R, K) precision over all areas; -1 for a class without ground truth.
        info: Recipe, thresholds, versions and number of images.
        sets: The title and the metrics of each of several sets that were evaluated together.
        intervals: Intervals of AP in the summary and of each class; None if they were not requested.
    """

    summary: dict[str, float]
    classes: tuple[ClassMetrics, ...]
    precision: Array
    info: JsonObject = field(default_factory=dict)
    sets: tuple[tuple[str, "Metrics"], ...] = ()
    intervals: Intervals | None = None

    @property
    def ap(self) -> float:
        return self.summary["AP"]

    @property
    def ap50(self) -> float:
        return self.summary["AP50"]

    @property
    def quality(self) -> float:
        """The metric that selects the best checkpoint."""
        return self.ap

    @property
    def headline(self) -> str:
        return f"AP {self.ap:.3f}{after('AP', self.intervals)}, AP50 {self.ap50:.3f}{after('AP50', self.intervals)}"

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *note_lines(self.intervals), *set_lines(self.sets), "", *self.table()])

    def lines(self) -> list[str]:
        """The twelve lines in the format of pycocotools."""
        titles = {"AP": "Average Precision", "AR": "Average Recall"}
        return [
            f" {titles[kind]:<18} ({kind}) @[ IoU={iou:<9} | area={area:>6} | maxDets={detections:>3} ] "
            f"= {self.summary[key]:0.3f}{after(key, self.intervals)}"
            for key, kind, iou, area, detections in SUMMARY
        ]

    def table(self) -> list[str]:
        """A heading and a line per class."""
        width, ends = max([len("class"), *(len(row.name) for row in self.classes)]), self.intervals
        heading = (
            f"{'class':<{width}}  {'AP':>6}{heading_cell(ends)}  {'AP50':>6}{heading_cell(ends)}  {'AR':>6}  "
            f"{'images':>8}  {'objects':>7}  detections"
        )
        return [heading] + [
            printable(
                f"{row.name:<{width}}  {cell(row.ap)}{class_cell('ap', row.name, ends)}  "
                f"{cell(row.ap50)}{class_cell('ap50', row.name, ends)}  {cell(row.ar)}  "
                f"{row.images:>8}  {row.objects:>7}  {row.detections:>10}"
            )
            for row in self.classes
        ]

    def to_json(self) -> JsonObject:
        """The content of `metrics.json`."""
        fields = ClassMetrics.__slots__
        rows = [
            {name: getattr(row, name) for name in fields} | class_json(row.name, self.intervals) for row in self.classes
        ]
        ends = summary_json(self.intervals)
        return {**self.info, "summary": self.summary, **ends, "classes": rows, **set_summaries(self.sets)}


def score(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    names: Sequence[str],
    info: Mapping[str, object] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Metrics:
    """Compute the COCO metrics.

    Crowd regions count neither as missed nor as false positives, nor do ignore regions and classes that were not looked
    for in an image (`class_regions`). The area ranges use `Sample.areas`, which in COCO files is the area of the mask,
    not of the box.

    Args:
        samples: The ground truth, in px of the images, with labels 0 to K - 1.
        detections: The detections of each sample.
        names: The class names.
        info: The content of `Metrics.info`.
        groups: (number of samples,) the group of each sample, as in `resampling.draw_weights`, for intervals; None for
            no intervals.
    """
    columns, results = truth_columns(samples, detections), result_rows(detections)
    truth = _annotations(columns)
    used = np.unique(columns.labels) + 1  # other classes have no precision and no recall
    precision = np.full((10, len(RECALLS), len(names)), -1.0)
    recall, best = np.full((10, len(names)), -1.0), np.full(len(names), -1.0)
    valid: dict[str, list[Array]] = {row[0]: [] for row in SUMMARY}
    for start in range(0, len(used), CLASSES_AT_ONCE):
        ids = used[start : start + CLASSES_AT_ONCE]
        arrays = _accumulated(len(samples), ids, truth, results)
        precision[:, :, ids - 1] = arrays["precision"][:, :, :, 0, -1]  # all areas, 100 detections
        recall[:, ids - 1] = arrays["recall"][:, :, 0, -1]
        best[ids - 1] = _best_scores(arrays["precision"][0, :, :, 0, -1], arrays["scores"][0, :, :, 0, -1])
        for key, kind, iou, area, count in SUMMARY:
            values = arrays["precision" if kind == "AP" else "recall"][IOUS[iou], ..., AREAS.index(area), :]
            values = values[..., MAX_DETECTIONS.index(count)]
            valid[key].append(values[values > -1])
    summary = {key: _mean(np.concatenate([*parts, np.zeros(0)])) for key, parts in valid.items()}
    rows = _classes(samples, detections, names, precision, recall, best)
    ends = None
    if groups is not None:
        weights = draw_weights(groups, resamples_for(max(len(results), len(samples))))
        resampled = coco_resampling.resample(match(columns, results, len(names)), weights)
        of_classes = {"ap": {row.name: row.ap for row in rows}, "ap50": {row.name: row.ap50 for row in rows}}
        ends = intervals(resampled, summary, of_classes, names, groups)
    return Metrics(summary, rows, precision, dict(info or {}), intervals=ends)


def resample(
    samples: Sequence[Sample], detections: Sequence[Detections], names: Sequence[str], weights: NDArray[np.float32]
) -> Resampled:
    """The metrics of resampled images. Arguments as in `score` and `coco_resampling.resample`."""
    truth, results = truth_columns(samples, detections), result_rows(detections)
    return coco_resampling.resample(match(truth, results, len(names)), weights)


def _accumulated(images: int, ids: Array, truth: Sequence[Mapping[str, object]], results: Array) -> dict[str, Array]:
    """hotcoco's arrays (T, R, classes, areas, detections per image) for the categories `ids`; recall has no axis R."""
    chosen = frozenset(ids.tolist())
    labels = COCO(
        {
            "images": [{"id": image} for image in range(1, images + 1)],
            "categories": [{"id": number, "name": str(number)} for number in ids.tolist()],
            "annotations": [entry for entry in truth if entry["category_id"] in chosen],
        }
    )
    counter = COCOeval(labels, labels.loadRes(results[np.isin(results[:, 6], ids)]), "bbox")
    counter.evaluate()
    counter.accumulate()
    arrays = counter.eval
    assert arrays is not None
    return {key: np.asarray(arrays[key]) for key in ("precision", "recall", "scores")}


def _best_scores(precision: Array, scores: Array) -> Array:
    """(R, K) at IoU 0.5 -> (K,) the score with the highest F1 among COCO's 101 levels of recall."""
    precision = precision.clip(min=0)
    f1 = 2 * precision * RECALLS[:, None] / (precision + RECALLS[:, None]).clip(min=1e-9)
    best = np.take_along_axis(scores, f1.argmax(axis=0)[None], axis=0)[0]
    return np.where(f1.max(axis=0) > 0, best, -1.0)


def truth_columns(samples: Sequence[Sample], detections: Sequence[Detections]) -> Truth:
    """The ground truth with the regions of `class_regions` as crowd regions."""
    parts = []
    for image, (sample, result) in enumerate(zip(samples, detections, strict=True)):
        regions, region_labels = class_regions(sample, result)
        usable, more = sample.labels >= 0, len(regions)
        labels = np.append(sample.labels[usable], region_labels)
        boxes = np.concatenate([sample.boxes[usable], regions]).astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        areas = np.append(sample.areas[usable], boxes[len(boxes) - more :, 2:].prod(axis=1))
        crowds = np.append(sample.crowd[usable], np.ones(more, dtype=bool))
        parts.append((np.full(len(labels), image), labels, boxes, areas, crowds))
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.bool_)
    return Truth(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def _annotations(truth: Truth) -> list[JsonObject]:
    """The ground truth as COCO's annotations. Ids start at 1, since matching treats annotation id 0 as unmatched."""
    columns = (truth.images + 1, truth.labels + 1, truth.boxes, truth.areas, truth.crowd.astype(int))
    rows = enumerate(zip(*(column.tolist() for column in columns), strict=True), 1)
    return [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image, category, box, area, crowd) in rows
    ]


def result_rows(detections: Sequence[Detections]) -> Array:
    """(N, 7) float64 rows of image, x, y, width, height, score, category."""
    counts = [len(result) for result in detections]
    rows = np.zeros((sum(counts), 7))
    if len(rows):
        rows[:, 0] = np.repeat(np.arange(1, len(counts) + 1), counts)
        rows[:, 1:5] = np.concatenate([result.boxes.numpy(force=True) for result in detections])
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 5] = np.concatenate([result.scores.numpy(force=True) for result in detections])
        rows[:, 6] = np.concatenate([result.labels.numpy(force=True) for result in detections]) + 1
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

    def count(labels: Iterable[Array]) -> list[int]:
        counts: list[int] = np.bincount(np.concatenate([*labels, np.zeros(0, np.int64)]), minlength=classes).tolist()
        return counts

    objects = count(sample.labels[~sample.crowd] for sample in samples)
    images = count(np.unique(sample.labels[sample.labels >= 0]) for sample in samples)
    counts = count(result.labels.numpy(force=True) for result in detections)
    return tuple(
        ClassMetrics(
            name,
            _mean(precision[:, :, label]),
            _mean(precision[0, :, label]),
            _mean(recall[:, label]),
            images[label],
            objects[label],
            counts[label],
            float(best[label]),
        )
        for label, name in enumerate(names)
    )


def _mean(values: Array) -> float:
    """The mean of the valid values; COCO marks undefined ones with -1."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def cell(value: float) -> str:
    """Format a value of a table in six characters; a dash for -1, which means undefined."""
    return f"{value:>6.3f}" if value >= 0 else f"{'-':>6}"
