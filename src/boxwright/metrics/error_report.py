"""Files of an evaluation that show errors: errors.json, errors.csv and errors.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.data.dataset import Sample
from boxwright.metrics import error_table, slices
from boxwright.metrics.calibration import BINS, Calibration, calibration
from boxwright.metrics.error_split import ErrorSplit, split_errors
from boxwright.metrics.matching import ERRORS, Kind, Matches
from boxwright.metrics.plots import new_figure, save, tidy
from boxwright.metrics.slices import Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ("errors.json", "errors.csv", "errors.png")
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
        folder: Folder for the files.
        samples: The ground truth.
        matches: The matches of detections and ground truth.
        names: The class names.
        threshold: Minimum score of the errors that are counted separately, in addition to all errors.
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
    error_table.write(folder / FILES[1], samples, matches, names)
    _plot(folder / FILES[2], errors, of_all, parts)


def write_calibration(folder: Path, scores: Array, correct: Array) -> None:
    """Write errors.json and errors.png of a classifier: the calibration of the scores (N,) of its best classes."""
    found = calibration(scores, correct)
    json_text.write(folder / FILES[0], {"calibration": found.to_json()}, indent=1)
    figure = new_figure(5, 4.5)
    _plot_calibration(figure.subplots(), found)
    save(figure, folder / FILES[2])


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
