"""Lines, zones and totals drawn on a frame."""

import cv2
import numpy as np

from boxwright.arrays import Array
from boxwright.counting.config import CountingConfig
from boxwright.counting.counter import END, ENTER, EXIT, IN, OUT, START, Counter
from boxwright.images.draw import OUTLINE, Color, color, draw_texts

ARROW = 0.05  # length of the arrow that shows `in`, as a fraction of the image's longer side
WIDTH = 0.004  # of lines, as a fraction of the geometric mean of the image's sides


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


def draw_places(canvas: Array, config: CountingConfig) -> None:
    """Draw zones, and lines with an arrow towards `in`, on `canvas`, uint8 RGB (h, w, 3)."""
    height, width = canvas.shape[:2]
    thick, arrow = max(1, round((height * width) ** 0.5 * WIDTH)), ARROW * max(height, width)
    tints = _tints(config)
    for place, corners in config.zones.items():
        _path(canvas, np.array(corners).reshape(-1, 2), tints[place], thick, closed=True)
    for place, line in config.lines.items():
        start, end = np.array(line).reshape(2, 2)
        right = np.array([start[1] - end[1], end[0] - start[0]]) / np.hypot(*(end - start))
        middle = (start + end) / 2
        _path(canvas, np.stack([start, end]), tints[place], thick)
        _path(canvas, np.stack([middle, middle + right * arrow]), tints[place], thick, arrow=True)


def draw_totals(canvas: Array, counter: Counter) -> None:
    """Write the totals into the top left corner of `canvas`, uint8 RGB (h, w, 3)."""
    draw_texts(canvas, list(zip(summary(counter), _tints(counter.config).values(), strict=True)))


def _tints(config: CountingConfig) -> dict[str, Color]:
    """A color for each place, lines first."""
    return {place: color(number) for number, place in enumerate((*config.lines, *config.zones))}


def _path(canvas: Array, points: Array, tint: Color, thick: int, *, closed: bool = False, arrow: bool = False) -> None:
    """Draw lines between points (N, 2), with an outline for contrast. Coordinates far outside are limited."""
    side = 4 * max(canvas.shape)
    corners = np.rint(points.clip(-side, side)).astype(np.int32)
    for shade, extra in ((OUTLINE, 2), (tint, 0)):
        if arrow:
            first, last = ((int(x), int(y)) for x, y in corners)
            cv2.arrowedLine(canvas, first, last, shade, thick + extra, tipLength=0.3)
        else:
            cv2.polylines(canvas, [corners], closed, shade, thick + extra)
