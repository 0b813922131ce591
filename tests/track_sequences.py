"""Made sequences of tracks: random ones, and the sample ground truth with noise. Everything follows from the seed.

Only `random()` of Python's generator is used, whose numbers are the same in all versions.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

Row = tuple[int, int, float, float, float, float, float, int]  # frame, id, left, top, width, height, confidence, class


def noisy(rows: Sequence[Row], seed: int, shift: float = 0.1, drop: float = 0.1, add: float = 0.1) -> Iterator[Row]:
    """Tracks with the faults of a tracker: boxes moved, dropped and added, ids swapped and begun anew.

    Args:
        rows: The ground truth; boxes of confidence 0 too.
        seed: Of the random numbers.
        shift: Largest change of a side as a fraction of the size.
        drop: Fraction of boxes left out.
        add: Boxes added at random, as a fraction of those there.
    """
    draw, fresh = random.Random(seed).random, itertools.count(1)
    names: dict[int, int] = {}
    for _, group in itertools.groupby(sorted(rows), key=lambda row: row[0]):
        boxes = list(group)
        for _, track, *_ in boxes:
            if track not in names or draw() < 0.02:  # an id begun anew
                names[track] = next(fresh)
            if draw() < 0.01:  # two ids swapped
                other = sorted(names)[int(draw() * len(names))]
                names[track], names[other] = names[other], names[track]
        for frame, track, left, top, width, height, _, category in boxes:
            x, y = left + (2 * draw() - 1) * shift * width, top + (2 * draw() - 1) * shift * height
            w, h = width * (1 + (2 * draw() - 1) * shift), height * (1 + (2 * draw() - 1) * shift)
            if draw() >= drop:
                yield frame, names[track], round(x, 2), round(y, 2), round(w, 2), round(h, 2), 1.0, category
            if draw() < add:
                yield frame, next(fresh), round(640 * draw(), 2), round(512 * draw(), 2), w, h, 0.5, category


def made(seed: int) -> tuple[list[Row], list[Row]]:
    """Ground truth and tracks of a random sequence: objects on straight ways, some of which do not count."""
    draw = random.Random(seed).random
    length, objects = 20 + int(draw() * 40), 1 + int(draw() * 12)
    truth: list[Row] = []
    for track in range(1, objects + 1):
        first, last = sorted(int(draw() * length) for _ in range(2))
        x, y, dx, dy = 600 * draw(), 400 * draw(), 12 * draw() - 6, 12 * draw() - 6
        width, height = 20 + 60 * draw(), 20 + 60 * draw()
        category = (1, 1, 1, 1, 1, 1, 3, 7)[int(draw() * 8)]  # pedestrians, a car, a static person
        for frame in range(first + 1, last + 2):
            if draw() < 0.95:
                step = frame - first
                counts = float(category == 1)
                truth.append(
                    (frame, track, round(x + step * dx, 2), round(y + step * dy, 2), width, height, counts, category)
                )
    shift, drop, add = 0.4 * draw(), 0.3 * draw(), 0.3 * draw()
    return truth, [(*row[:7], 1) for row in noisy(truth, seed + 1000, shift, drop, add)]


def read_rows(file: Path) -> list[Row]:
    """The rows of a file of the MOT challenge."""
    table = [[float(word) for word in line.split(",")] for line in file.read_text().splitlines()]
    return [(int(row[0]), int(row[1]), *row[2:7], int(row[7])) for row in table]  # type: ignore[misc]


def write_rows(file: Path, rows: Sequence[Row]) -> Path:
    """As a file of the MOT challenge; `repr` keeps all digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(",".join(map(repr, row)) + ",1\n" for row in rows))
    return file
