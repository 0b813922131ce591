"""How the splits of a data set, or two data sets, differ: class mix, sizes and aspects of boxes, crowding, brightness.

Distances are Kolmogorov-Smirnov distances, the largest difference of two cumulative distributions; for classes the
total variation, half the sum of the absolute differences of their fractions. p-values are from a permutation test that
permutes whole groups of images, since the boxes of an image and the frames of a video are not independent.

P images, T boxes, G groups of images, each of one part; V values, K classes
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.audit.subject import Subject
from boxwright.data.dataset import evenly_spaced
from boxwright.errors import InputError
from boxwright.images.decode import read_image
from boxwright.json_text import JsonObject
from boxwright.metrics.plots import disable_math, new_figure, save, tidy
from boxwright.metrics.slices import SIDE, appearance
from boxwright.progress import track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERMUTATIONS = 999
CHUNK = 50  # permutations at a time
MAX_VALUES = 50_000  # values of a quantity; if there are more, evenly spaced ones are used
MAX_SHOWN = 15  # classes in the figure
CLASSES = "classes"
QUANTITIES = {
    "size": "box size: root of the area, px",
    "aspect": "box aspect: width / height",
    "objects": "objects of an image",
    "brightness": "mean gray level of an image, 0 to 1",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements to compare.

    Attributes:
        parts: Names of the splits or data sets.
        part_of: (G,) index of each group's part.
        names: Names of the K classes.
        counts: (G, K) number of boxes.
        values: Quantity -> (V,) values and the (V,) groups that they belong to.
    """

    parts: tuple[str, ...]
    part_of: NDArray[np.int64]
    names: tuple[str, ...]
    counts: NDArray[np.int64]
    values: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class Drift:
    """The difference of two parts in one quantity.

    Attributes:
        quantity: `classes` or a key of `QUANTITIES`.
        a: Name of the first part.
        b: Name of the second part.
        distance: Distance in [0, 1]; 0 for equal distributions.
        p: p-value in (0, 1]: fraction of random divisions of the groups that differ at least as much.
        values: Number of values in both.
    """

    quantity: str
    a: str
    b: str
    distance: float
    p: float
    values: tuple[int, int]

    def to_json(self) -> JsonObject:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.quantity}: {self.a} and {self.b} differ by {self.distance:.3f} (p {self.p:.3f})"


def measure(subjects: Mapping[str, Subject]) -> Measured:
    """Measure the splits of a single subject, or several subjects without dividing them into splits.

    Images that cannot be read have no brightness.
    """
    single = next(iter(subjects.values())) if len(subjects) == 1 else None
    parts = single.splits if single else tuple(subjects)
    names = tuple(dict.fromkeys(name for each in subjects.values() for name in each.dataset.names))
    columns = []
    for number, subject in enumerate(subjects.values()):
        part = subject.split_of if single else np.full(len(subject.dataset), number)
        keys = np.unique(np.array(subject.keys), return_inverse=True)[1].reshape(-1)
        columns.append(np.stack([part, keys], axis=1))
    units, groups = np.unique(np.concatenate(columns), axis=0, return_inverse=True)
    groups = groups.reshape(-1)  # (P,) of all subjects
    owners, labels, boxes, start = [], [], [], 0
    for subject in subjects.values():
        rows = subject.dataset.rows
        usable = (rows.labels >= 0) & ~rows.crowd
        owners.append(subject.dataset.image_indices()[usable] + start)
        labels.append(np.array([names.index(name) for name in subject.dataset.names], int)[rows.labels[usable]])
        boxes.append(rows.xyxy[usable].astype(np.float64))
        start += len(subject.dataset)
    images, classes, sides = np.concatenate(owners), np.concatenate(labels), np.concatenate(boxes)
    sides = sides[:, 2:] - sides[:, :2]
    counts = np.zeros((len(units), len(names)), np.int64)
    np.add.at(counts, (groups[images], classes), 1)
    real = (sides > 0).all(axis=1)
    looks = np.array(list(_brightness([path for subject in subjects.values() for path in subject.paths()])))
    values = {
        "size": (np.sqrt(sides[real].prod(axis=1)), groups[images[real]]),
        "aspect": (sides[real, 0] / sides[real, 1], groups[images[real]]),
        "objects": (np.bincount(images, minlength=start).astype(np.float64), groups),
        "brightness": (looks[np.isfinite(looks)], groups[np.isfinite(looks)]),
    }
    return Measured(parts, units[:, 0], names, counts, values)


def compare(measured: Measured, seed: int = 0) -> list[Drift]:
    """The difference of each pair of parts in each quantity in which both have values."""
    found = []
    for a, b in itertools.combinations(range(len(measured.parts)), 2):
        inside = np.flatnonzero((measured.part_of == a) | (measured.part_of == b))
        of_b = measured.part_of[inside] == b
        rng = np.random.default_rng(seed)
        # the first is the actual division
        divisions = np.stack([of_b, *(rng.permutation(of_b) for _ in range(PERMUTATIONS))])
        place = np.full(len(measured.part_of), -1)
        place[inside] = np.arange(len(inside))
        counts = measured.counts[inside]
        distances = {CLASSES: (_mix_distances(counts, divisions), counts.sum(axis=1))}
        for name, (values, groups) in measured.values.items():
            own = place[groups] >= 0
            chosen, units = values[own], place[groups[own]]
            rows = np.array(evenly_spaced(len(chosen), MAX_VALUES), int)
            totals = np.bincount(units, minlength=len(inside))
            distances[name] = _ks_distances(chosen[rows], units[rows], divisions), totals
        for name, (column, totals) in distances.items():
            sizes = int(totals[~of_b].sum()), int(totals[of_b].sum())
            if all(sizes):
                p = float((column >= column[0] - 1e-12).mean())  # the actual division included
                found.append(Drift(name, measured.parts[a], measured.parts[b], float(column[0]), p, sizes))
    return found


def _mix_distances(counts: NDArray[np.int64], divisions: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(G, K) numbers of boxes, (D, G) whether groups are in the second part -> (D,) total variation of the classes."""
    second = divisions.astype(np.float64) @ counts
    first = counts.sum(axis=0) - second
    shares = [part / np.maximum(part.sum(axis=1, keepdims=True), 1) for part in (first, second)]
    distances: NDArray[np.float64] = np.abs(shares[0] - shares[1]).sum(axis=1) / 2
    return distances


def _ks_distances(
    values: NDArray[np.float64], groups: NDArray[np.int64], divisions: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(V,) values of (V,) groups, and (D, G) divisions -> (D,) distances; 0 where a part has no value."""
    distances = np.zeros(len(divisions))
    if not len(values):
        return distances
    order = np.argsort(values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # last index of each value
    for start in range(0, len(divisions), CHUNK):
        second = np.cumsum(divisions[start : start + CHUNK][:, groups[order]], axis=1, dtype=np.float64)
        total = second[:, -1:]
        first = np.arange(1, len(values) + 1) - second
        gaps = np.abs(first / np.maximum(len(values) - total, 1) - second / np.maximum(total, 1))[:, last]
        both = (total[:, 0] > 0) & (total[:, 0] < len(values))
        distances[start : start + CHUNK] = np.where(both, gaps.max(axis=1), 0)
    return distances


def _brightness(paths: Sequence[str]) -> Iterator[float]:
    def of(path: str) -> float:
        try:
            return appearance(read_image(path, (SIDE, SIDE)))[0]
        except InputError:
            return float("nan")

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        chunks = (pool.map(of, paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK))
        yield from track(itertools.chain.from_iterable(chunks), len(paths), "brightness of images")


def plot(measured: Measured, drifts: Sequence[Drift], file: Path) -> None:
    """Write a PNG: the shares of the classes, and the cumulative distribution of each quantity."""
    from matplotlib.ticker import FormatStrFormatter

    figure = new_figure(16, 8)
    axes = figure.subplots(2, 3).ravel().tolist()
    largest = {
        name: max((each for each in drifts if each.quantity == name), key=lambda each: each.distance, default=None)
        for name in (CLASSES, *QUANTITIES)
    }

    def title(name: str, text: str) -> str:
        each = largest[name]
        return text if each is None else f"{text}\n{each.a} and {each.b}: {each.distance:.3f}, p {each.p:.3f}"

    _plot_classes(axes[0], measured)
    axes[0].set_title(title(CLASSES, "share of the boxes"))
    for panel, (name, text) in zip(axes[1:], QUANTITIES.items(), strict=False):
        values, groups = measured.values[name]
        for number, part in enumerate(measured.parts):
            own = np.sort(values[measured.part_of[groups] == number])
            if len(own):
                panel.step(own, np.arange(1, len(own) + 1) / len(own), where="post", lw=1.6, label=part)
        panel.set(title=title(name, text), ylim=(0, 1.02), ylabel="share of values up to here")
        if len(values):
            panel.legend(frameon=False, fontsize=8)
        if len(values) and name in ("size", "aspect"):
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        tidy(panel)
    axes[-1].set_axis_off()
    save(figure, file)


def _plot_classes(panel: "Axes", measured: Measured) -> None:
    totals = measured.counts.sum(axis=0)
    shown = np.argsort(-totals, kind="stable")[:MAX_SHOWN]
    height = 0.8 / len(measured.parts)
    for number, part in enumerate(measured.parts):
        counts: Array = measured.counts[measured.part_of == number].sum(axis=0)
        shares = counts[shown] / max(1, counts.sum())
        panel.barh(np.arange(len(shown)) + number * height, shares, height, label=part)
    ticks = panel.set_yticks(np.arange(len(shown)) + 0.4 - height / 2, [measured.names[label] for label in shown])
    disable_math([tick.label1 for tick in ticks])
    panel.invert_yaxis()
    panel.legend(frameon=False, fontsize=8)
    tidy(panel)
