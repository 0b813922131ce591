"""Lines, zones and totals drawn on a frame."""

import cv2
import numpy as np

from boxwright.arrays import Array
from boxwright.counting.counter import END, ENTER, EXIT, IN, OUT, START, Counter
from boxwright.images.draw import OUTLINE, color, draw_texts

ARROW = 0.05  # length of the arrow that shows `in`, as a fraction of the image's longer side


def summary(counter: Counter) -> list[str]:
    """A line of text for each place."""
    lines = []
    for place, directions in counter.totals().items():
        counts = {direction: sum(classes.values()) for direction, classes in directions.items()}
        if place in counter.config.lines:
            lines.append(f"{place}: {IN} {counts.get(IN, 0)}, {OUT} {counts.get(OUT, 0)}")
        else:
            entries, exits = counts.get(ENTER, 0), counts.get(EXIT, 0)
            lines.append(f"{place}: {counter.inside(place)} inside, {ENTER} {entries}, {EXIT} {exits}")
    return lines


def details(counter: Counter) -> list[str]:
    """A line of text for each place, with the counts of each class."""
    lines = []
    for place, directions in counter.totals().items():
        words = []
        for direction in (IN, OUT, ENTER, EXIT, START, END):
            if classes := directions.get(direction):
                of_classes = ", ".join(f"{count} {name}" for name, count in sorted(classes.items()))
                words.append(f"{direction} {sum(classes.values())} ({of_classes})")
        lines.append(f"{place}: {', '.join(words) or 'nothing counted'}")
    return lines


def draw(canvas: Array, counter: Counter) -> None:
    """Draw on `canvas`, uint8 RGB (h, w, 3): lines with an arrow towards `in`, zones, and totals at the top left."""
    height, width = canvas.shape[:2]
    thick = max(1, round((height * width) ** 0.5 * 0.004))
    tints = {place: color(number) for number, place in enumerate(counter.totals())}
    for place, corners in counter.config.zones.items():
        _path(canvas, np.array(corners).reshape(-1, 2), tints[place], thick, closed=True)
    for place, line in counter.config.lines.items():
        start, end = np.array(line).reshape(2, 2)
        right = np.array([start[1] - end[1], end[0] - start[0]]) / np.hypot(*(end - start))
        middle = (start + end) / 2
        _path(canvas, np.stack([start, end]), tints[place], thick)
        _path(canvas, np.stack([middle, middle + right * ARROW * max(height, width)]), tints[place], thick, arrow=True)
    draw_texts(canvas, list(zip(summary(counter), tints.values(), strict=True)))


def _path(
    canvas: Array, points: Array, tint: tuple[int, int, int], thick: int, *, closed: bool = False, arrow: bool = False
) -> None:
    """Lines between points (N, 2), with an outline for contrast. Points far outside are brought near."""
    side = 4 * max(canvas.shape)
    corners = np.rint(points.clip(-side, side)).astype(np.int32)
    for shade, extra in ((OUTLINE, 2), (tint, 0)):
        if arrow:
            first, last = ((int(x), int(y)) for x, y in corners)
            cv2.arrowedLine(canvas, first, last, shade, thick + extra, tipLength=0.3)
        else:
            cv2.polylines(canvas, [corners], closed, shade, thick + extra)
