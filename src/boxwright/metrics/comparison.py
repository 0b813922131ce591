"""Two models on the same images: the paired bootstrap.

B resamples, the same for both models; K classes
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from boxwright.arrays import Array
from boxwright.errors import printable
from boxwright.json_text import JsonObject
from boxwright.metrics.resampling import DEVIATIONS, FEW, LEVEL, SEED, Resampled

# Two one-sided tests at 5 % each are equivalent to a 90 % interval within the margin.
DEVIATIONS_OF_EQUIVALENCE = 1.644854
TITLES = {"top1": "top-1", "top5": "top-5", "ap": "AP", "ap50": "AP50"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two models.

    Attributes:
        metric: Title of the metric, such as AP.
        a: Value of model A, in [0, 1].
        b: Value of model B, in [0, 1].
        deviation: Standard deviation of `b - a` over the resamples; NaN without resamples.
        better: Fraction of the resamples in which B is better; ties count half; NaN without resamples.
    """

    metric: str
    a: float
    b: float
    deviation: float
    better: float

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        return self._ends(DEVIATIONS)

    @property
    def is_worse(self) -> bool:
        """Whether B is significantly worse: the 95 % interval is below 0."""
        return self.interval[1] < 0

    def is_equivalent(self, margin: float) -> bool:
        """Whether two one-sided tests at 5 % show that the difference is less than `margin` in both directions."""
        low, high = self._ends(DEVIATIONS_OF_EQUIVALENCE)
        return -margin < low and high < margin

    def to_json(self) -> JsonObject:
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "interval": None if math.isnan(self.deviation) else list(self.interval),
            "b_is_better": None if math.isnan(self.better) else self.better,
        }

    def _ends(self, deviations: float) -> tuple[float, float]:
        return self.difference - deviations * self.deviation, self.difference + deviations * self.deviation

    def cells(self) -> str:
        low, high = self.interval
        return (
            f"{self.a:>6.3f}  {self.b:>6.3f}  {self.difference:>+10.4f}  [{low:+.4f}, {high:+.4f}]  {self.better:>8.3f}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two models.

    Attributes:
        a: Title of model A.
        b: Title of model B.
        images: Number of images.
        groups: Number of groups of images that were resampled, at least 2.
        resamples: B.
        summary: Differences of the metrics over all classes; the first one decides.
        classes: Class name and difference, one row per class and metric.
    """

    a: str
    b: str
    images: int
    groups: int
    resamples: int
    summary: tuple[Difference, ...]
    classes: tuple[tuple[str, Difference], ...]

    @property
    def main(self) -> Difference:
        """The difference in AP or top-1."""
        return self.summary[0]

    def is_equivalent(self, margin: float) -> bool:
        """`Difference.is_equivalent` of `main`; False for fewer than FEW images or groups, on which models may be equal
        by chance."""
        return self.groups >= FEW and self.main.is_equivalent(margin)

    def __str__(self) -> str:
        what = "images" if self.groups == self.images else "groups of images"
        lines = [f"A: {self.a}", f"B: {self.b}", ""]
        width = max(len("class"), *(len(name) for name, _ in self.classes), *(len(row.metric) for row in self.summary))
        columns = f"{'A':>6}  {'B':>6}  {'difference':>10}  {'95 % interval':<18}  B better"
        lines += [f"{'':<{width}}  {columns}"]
        lines += [f"{row.metric:<{width}}  {row.cells()}" for row in self.summary]
        for metric in dict.fromkeys(row.metric for _, row in self.classes):
            rows = [(name, row) for name, row in self.classes if row.metric == metric]
            lines += ["", f"{'class':<{width}}  {metric}"]
            lines += [f"{name:<{width}}  {row.cells()}" for name, row in rows]
        note = f"; from fewer than {FEW} they are rough" if self.groups < FEW else ""
        lines += ["", f"{self.resamples} resamples of {self.groups} {what}, the same for both{note}"]
        return "\n".join(map(printable, lines))

    def to_json(self) -> JsonObject:
        """The content of a JSON file."""
        return {
            "a": self.a,
            "b": self.b,
            "images": self.images,
            "groups": self.groups,
            "resamples": self.resamples,
            "level": LEVEL,
            "seed": SEED,
            "rough": self.groups < FEW,
            "summary": {row.metric: row.to_json() for row in self.summary},
            "classes": [{"class": name, "metric": row.metric} | row.to_json() for name, row in self.classes],
        }


def differences(a: Resampled, b: Resampled) -> tuple[Difference, ...]:
    """The differences of the metrics over all classes. The first of the (B + 1,) values are those of the original
    images. Metrics that are not defined, such as AP of a size that no object has, are left out."""
    rows = (_difference(TITLES.get(key, key), a.summary[key], b.summary[key]) for key in a.summary)
    return tuple(row for row in rows if row is not None)


def class_differences(
    a: tuple[Resampled, Sequence[str]], b: tuple[Resampled, Sequence[str]], metrics: Mapping[str, str] = TITLES
) -> tuple[tuple[str, Difference], ...]:
    """`differences` of each class, by name. a, b: with the names of the K classes, whose order may differ."""
    others = {name: column for column, name in enumerate(b[1])}
    found = [
        (name, _difference(metrics[key], values[:, column], b[0].classes[key][:, others[name]]))
        for key, values in a[0].classes.items()
        for column, name in enumerate(a[1])
        if name in others
    ]
    return tuple((name, row) for name, row in found if row is not None)


def _difference(metric: str, a: Array, b: Array) -> Difference | None:
    if math.isnan(a[0]) or math.isnan(b[0]):
        return None
    gains = (b - a)[1:]
    gains = gains[~np.isnan(gains)]
    deviation = float(gains.std(ddof=1)) if len(gains) > 1 else math.nan
    better = float((np.sign(gains) + 1).mean() / 2) if len(gains) else math.nan
    return Difference(metric, float(a[0]), float(b[0]), deviation, better)
