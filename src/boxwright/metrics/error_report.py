"""Files of an evaluation that show errors: errors.json, errors.csv and errors.png."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.data.dataset import ANY_CLASS, Sample
from boxwright.errors import printable, titled
from boxwright.files import atomic_write
from boxwright.metrics import slices
from boxwright.metrics.calibration import BINS, Calibration, calibration
from boxwright.metrics.error_split import ErrorSplit, split_errors
from boxwright.metrics.matching import ERRORS, Kind, Matches
from boxwright.metrics.plots import new_figure, save, tidy
from boxwright.metrics.slices import Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ("errors.json", "errors.csv", "errors.png")
COLUMNS = ("id", "image", "box", "class", "x1", "y1", "x2", "y2", "score", "status", "iou", "match")
FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs fields that start so; an apostrophe before them makes them text
GRAY = "0.6"


def write(
    folder: Path,
    samples: Sequence[Sample],
    matches: Matches,
    names: Sequence[str],
    threshold: float,
    looks: Mapping[int, tuple[float, float]],
) -> None:
    """Write `FILES`.

    Args:
        folder: For the files.
        samples: The ground truth.
        matches: Of it and the detections.
        names: The class names.
        threshold: Minimum score of the errors that are counted beside all.
        looks: `slices.appearance` of the images, by index.
    """
    found = matches.found
    errors, parts = split_errors(matches, threshold), slices.quartiles(matches, looks)
    counted, correct = found.counted, found.kinds == Kind.CORRECT
    of_all = calibration(found.scores[counted], correct[counted])
    shown = counted & (found.scores >= threshold)
    of_shown = calibration(found.scores[shown], correct[shown])
    of_classes = {}
    by_class = np.flatnonzero(counted)[np.argsort(found.labels[counted], kind="stable")]
    ends = np.cumsum(np.bincount(found.labels[counted], minlength=len(names)))
    for label, name in enumerate(names):
        chosen = by_class[ends[label - 1] if label else 0 : ends[label]]
        of_classes[name] = calibration(found.scores[chosen], correct[chosen]).ece
    tree = {
        "errors": errors.to_json(),
        "calibration": {**of_all.to_json(), "ece_from_threshold": of_shown.ece, "ece_of_classes": of_classes},
        "slices": slices.to_json(parts),
    }
    json_text.write(folder / FILES[0], tree, indent=1)
    _write_table(folder / FILES[1], samples, matches, names)
    _plot(folder / FILES[2], errors, of_all, parts)


def write_calibration(folder: Path, scores: Array, correct: Array) -> None:
    """Write errors.json and errors.png of a classifier: the calibration of the scores (N,) of its best classes."""
    found = calibration(scores, correct)
    json_text.write(folder / FILES[0], {"calibration": found.to_json()}, indent=1)
    figure = new_figure(5, 4.5)
    _plot_calibration(figure.subplots(), found)
    save(figure, folder / FILES[2])


def _write_table(file: Path, samples: Sequence[Sample], matches: Matches, names: Sequence[str]) -> None:
    """A row for each object and each detection, image by image. match: the id of the row that the status refers to."""
    found, objects = matches.found, matches.objects
    count = len(objects.images)
    order = np.argsort(np.concatenate([objects.images, found.images]), kind="stable")
    ids = np.empty(len(order), np.int64)
    ids[order] = np.arange(1, len(order) + 1)
    paths = [table_text(titled(sample.path)) for sample in samples]
    classes = {label: table_text(name) for label, name in enumerate(names)} | {ANY_CLASS: "ignore region"}
    statuses = [kind.name.lower().replace("_", " ") for kind in Kind]
    ious = np.where(objects.detections < 0, 0.0, found.ious[objects.detections] if len(found.ious) else 0.0)
    rows: list[tuple[object, ...]] = []
    for numbers, part, box, scores, overlaps, others in (
        (ids[:count], objects, "object", [""] * count, ious, _ids(ids[count:], objects.detections)),
        (ids[count:], found, "detection", _rounded(found.scores, 5), found.ious, _ids(ids[:count], found.objects)),
    ):
        rows += zip(
            numbers.tolist(),
            [paths[image] for image in part.images.tolist()],
            [box] * len(numbers),
            [classes[label] for label in part.labels.tolist()],
            *_rounded(part.boxes.T, 2),
            scores,
            [statuses[kind] for kind in part.kinds.tolist()],
            _rounded(overlaps, 3),
            others,
            strict=True,
        )
    with atomic_write(file) as tmp, tmp.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(rows[index] for index in order.tolist())


def _rounded(values: Array, digits: int) -> list[Any]:
    rounded: list[Any] = np.round(values, digits).tolist()
    return rounded


def _ids(ids: Array, rows: Array) -> Iterable[str]:
    """The ids of rows as text; "" for -1."""
    return ["" if row < 0 else str(ids[row]) for row in rows.tolist()]


def table_text(name: str) -> str:
    """A name for a table, which no spreadsheet takes for a formula."""
    text = printable(name)
    return "'" + text if text.lstrip().startswith(FORMULA) else text


def _plot(file: Path, errors: ErrorSplit, found: Calibration, parts: Mapping[str, Sequence[Slice]]) -> None:
    figure = new_figure(14, 4.5)
    split, reliability, quarters = figure.subplots(1, 3)
    ticks = [kind.name.lower() for kind in ERRORS]
    bars = split.barh(ticks, [errors.gains[kind] for kind in ERRORS], color="tab:red")
    split.bar_label(bars, [f" {errors.gains[kind]:.3f}  ({errors.counts[kind]})" for kind in ERRORS], fontsize=8)
    split.invert_yaxis()
    split.margins(x=0.35)
    split.set(title=f"AP50 lost to errors (their number); AP50 {max(0.0, errors.ap50):.3f}", xlabel="AP50")
    _plot_calibration(reliability, found)
    for number, (name, rows) in enumerate(parts.items()):
        x = [number * 5 + index for index in range(len(rows))]
        drawn = quarters.bar(x, [max(0.0, row.ap50) for row in rows], color=f"C{number}", label=name)
        quarters.bar_label(drawn, [f" {row.low:.3g} to {row.high:.3g}" for row in rows], fontsize=7, rotation=90)
    quarters.set_xticks([])
    quarters.set(title="AP50 of quarters of the images", ylim=(0, 1.35))
    quarters.legend(frameon=False, fontsize=8, ncols=len(parts), loc="upper center")
    for axes in (split, quarters):
        tidy(axes)
    save(figure, file)


def _plot_calibration(axes: "Axes", found: Calibration) -> None:
    centers = (np.arange(BINS) + 0.5) / BINS
    used = found.counts > 0
    axes.plot([0, 1], [0, 1], color=GRAY, lw=1, label="calibrated")
    drawn = axes.bar(centers[used], found.accuracies[used], 0.9 / BINS, color="tab:blue", alpha=0.7)
    axes.bar_label(drawn, [str(count) for count in found.counts[used]], fontsize=6)
    axes.plot(found.scores[used], found.accuracies[used], "o", ms=4, color="black", label="mean score of a bin")
    error = f"{found.ece:.3f}" if found.ece >= 0 else "-"
    axes.set(title=f"calibration; ECE {error}", xlabel="score", ylabel="fraction that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    tidy(axes)
