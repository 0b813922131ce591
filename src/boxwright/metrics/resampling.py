"""The bootstrap: metrics of resampled data sets, and the intervals that follow from them.

N images, G groups of images, B resamples, K classes
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array

MAX_RESAMPLES, MIN_RESAMPLES = 1000, 64  # with 64, the standard deviation is right within 18 %, 19 times of 20
DETECTIONS_TIMES_RESAMPLES = 32_000_000  # takes about as long as the metrics (benchmarks/bench_evaluate.py)
SEED = 0
LEVEL, DEVIATIONS = 0.95, 1.959964  # the fraction of a normal distribution within this many standard deviations
# With fewer images an interval is rough: the standard deviation of n values has a relative standard error of
# 1 / sqrt(2 n), so with 50 images the width is right within a fifth, 19 times of 20.
FEW = 50


class Interval(NamedTuple):
    """The lower and the upper end of a 95 % interval: a metric in [0, 1], or a difference of two."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Resampled:
    """The metrics of B resampled data sets. A value is NaN where a metric is not defined in a resample.

    Attributes:
        summary: Metric -> (B,).
        classes: Metric -> (B, K).
    """

    summary: Mapping[str, Array]
    classes: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of a data set's metrics.

    Attributes:
        summary: Metric -> interval; metrics that are not defined are missing.
        classes: Metric -> class -> interval, likewise.
        groups: Number of resampled units: images, or groups of images that belong together.
        images: Number of images.
        resamples: B.
    """

    summary: Mapping[str, Interval] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    groups: int = 0
    images: int = 0
    resamples: int = 0

    @property
    def unit(self) -> str:
        """The name of the resampled units."""
        return "images" if self.groups == self.images else "groups of images"

    @property
    def note(self) -> str:
        """A line that explains the intervals."""
        if self.groups < 2:
            return "no intervals: the images are one group, such as the tiles of one scene; they need at least 2"
        caveat = f"; from fewer than {FEW} the intervals themselves are rough" if self.groups < FEW else ""
        return f"in brackets: 95 % intervals, bootstrap over {self.groups} {self.unit}{caveat}"


def after(metric: str, ends: Intervals | None) -> str:
    """The text ` [0.412, 0.455]` after a metric; "" without an interval."""
    found = ends.summary.get(metric) if ends else None
    return f" {found}" if found else ""


def note_lines(ends: Intervals | None) -> list[str]:
    """The lines that explain the intervals, if there are any."""
    return ["", ends.note] if ends else []


def heading_cell(ends: Intervals | None) -> str:
    """The heading of the column of `class_cell`."""
    return f"  {'95 % interval':>14}" if ends else ""


def class_cell(metric: str, name: str, ends: Intervals | None) -> str:
    """The cell of a class in a table; "" without intervals."""
    found = ends.classes.get(metric, {}).get(name) if ends else None
    return f"  {str(found) if found else '-':>14}" if ends else ""


def summary_json(ends: Intervals | None) -> dict[str, object]:
    """The key `intervals` of `metrics.json`, if there are any."""
    if ends is None:
        return {}
    content = {
        "level": LEVEL,
        "resamples": ends.resamples,
        "seed": SEED,
        "over": ends.unit,
        "number": ends.groups,
        "rough": ends.groups < FEW,
        "summary": {key: list(pair) for key, pair in ends.summary.items()},
    }
    return {"intervals": content}


def class_json(name: str, ends: Intervals | None) -> dict[str, object]:
    """Keys such as `ap_interval` for the row of a class."""
    rows = ends.classes if ends else {}
    return {f"{key}_interval": list(pairs[name]) for key, pairs in rows.items() if name in pairs}


def resamples_for(detections: int) -> int:
    """The number of resamples for this number of detections: as many as take about as long as the metrics."""
    return min(MAX_RESAMPLES, max(MIN_RESAMPLES, DETECTIONS_TIMES_RESAMPLES // max(1, detections)))


def draw_weights(groups: NDArray[np.int64], resamples: int, seed: int = SEED) -> NDArray[np.float32]:
    """Draw how often each image is in each resampled data set.

    A resample draws as many groups as there are, with replacement, each with all its images.

    Args:
        groups: (N,) the index of each image's group, from 0 to G - 1.
        resamples: Number of resamples, B.
        seed: Random seed. Two models that are compared need the same resamples.

    Returns:
        (N, B) integers as float32.
    """
    total = int(groups.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    drawn = np.zeros((total, resamples), np.float32)
    for column in range(resamples):
        drawn[:, column] = np.bincount(rng.integers(total, size=total), minlength=total)
    return drawn[groups]


def interval(value: float, values: Array, lowest: float = 0.0) -> Interval | None:
    """The interval of a metric.

    It is `value` +- 1.96 standard deviations of the resampled values. Quantiles would need ten times as many resamples,
    and are too high for few images, since a curve such as that of AP is fitted to them.

    Args:
        value: The measured value.
        values: (B,) values of the resamples; NaN where there is none.
        lowest: Lower bound of the metric: 0, or -1 for a difference. The upper bound is 1.

    Returns:
        The interval; None where fewer than two resamples have a value.
    """
    valid = values[~np.isnan(values)]
    if len(valid) < 2:
        return None
    half = DEVIATIONS * float(valid.std(ddof=1))
    return Interval(max(lowest, value - half), min(1.0, value + half))


def intervals(
    resampled: Resampled,
    summary: Mapping[str, float],
    classes: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    groups: NDArray[np.int64],
) -> Intervals:
    """All intervals of a data set.

    Args:
        resampled: The metrics of the resamples.
        summary: Metric -> measured value.
        classes: Metric -> class -> measured value.
        names: Names of the K classes.
        groups: As in `draw_weights`.
    """
    number = int(groups.max(initial=-1)) + 1
    if number < 2:
        return Intervals(groups=number, images=len(groups))
    ends = {key: interval(summary[key], values) for key, values in resampled.summary.items()}
    of_classes = {
        key: {
            name: interval(classes[key][name], column)
            for name, column in zip(names, columns.T, strict=True)
            if name in classes[key]
        }
        for key, columns in resampled.classes.items()
    }
    found = {key: _found(rows) for key, rows in of_classes.items()}
    return Intervals(_found(ends), found, number, len(groups), next(map(len, resampled.summary.values())))


def _found(ends: Mapping[str, Interval | None]) -> dict[str, Interval]:
    return {key: pair for key, pair in ends.items() if pair is not None}


def mean_of_valid(values: Array) -> Array:
    """(B, K) -> (B,) the mean over classes without NaN; NaN where no class has a value."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=1)
    total = np.where(valid, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)
