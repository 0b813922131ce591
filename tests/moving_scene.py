"""A rendered scene whose motions and counts are known: rectangles that `stand_in.Rectangles` finds.

In each round of 20 s, objects of 24 px cross a gate in the middle of the image to the right (`in`) and to the left
(`out`): some pass, one stops on the gate and goes on, one stops and turns back, one is hidden for a second while it
crosses, one leaves the image and comes back, one has another color for a frame on the gate, one crosses the ways of all
others, and spots flicker on the gate.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from boxwright.arrays import Array
from track_sequences import Row

ROUND = 20.0  # s
HEIGHT, WIDTH = 256, 320  # px
GATE = (160, 256, 160, 0)  # upwards: right of it is right in the image
YARD = (200, 0, 320, 0, 320, 256, 200, 256)
PILLAR = (133, 128, 187, 152)  # hides an object of 24 px at 30 px/s for a second
RED, GREEN, BLUE = range(3)
COUNTS = {"in": {"red": 4, "green": 1}, "out": {"red": 1, "green": 1}}  # of the gate, in a round


class Mover(NamedTuple):
    """An object: class, row of its center in px, and the time of the round -> column of its center."""

    label: int
    y: float
    x: Callable[[float], float]


def _stop(turn: float, end: float) -> Callable[[float], float]:
    """To the gate, tremble on it until `turn`, and on with `end` px/s."""
    return lambda t: 160 - 40 * (4.3 - t) if t < 4.3 else 160 + (math.sin(25 * t) if t < turn else end * (t - turn))


MOVERS = (
    Mover(RED, 20, lambda t: 30 * (t - 1) - 12),
    Mover(GREEN, 50, lambda t: 332 - 40 * (t - 0.5)),
    Mover(RED, 80, _stop(9, 40)),
    Mover(BLUE, 110, _stop(8, -40)),
    Mover(GREEN, 140, lambda t: 30 * t - 12),
    Mover(RED, 170, lambda t: 60 * t - 12 if t < 8 else 332 - 60 * (t - 9)),  # outside from 5.7 s to 9 s
    Mover(RED, 200, lambda t: 50 * (t - 2) - 12),
)
FLIP = 6  # the mover that is green in one frame on the gate


class Visible(NamedTuple):
    """The part of an object that is in the image."""

    track: int
    label: int
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 px


def objects(time: float, rate: float) -> list[Visible]:
    """The objects at a time in s that are in the image; what comes back has another id."""
    number, local = divmod(time + 1e-9, ROUND)
    found = []
    for index, mover in enumerate(MOVERS):
        x, label = mover.x(local), mover.label
        if index == FLIP and 0 <= x - 160 < 50 / rate:
            label = GREEN
        track = int(number) * 20 + index + 1 + 10 * (index == 5 and local > 8)
        found.append((track, label, x, mover.y))
    found.append((int(number) * 20 + 9, BLUE, 60.0, 25 * (local - 3) - 12))  # crosses the ways of all others
    boxes = [(track, label, (x - 12, y - 12, x + 12, y + 12)) for track, label, x, y in found]
    inside = np.array([0, 0, WIDTH, HEIGHT])
    clipped = [(track, label, tuple(np.clip(box, 0, inside[[2, 3, 2, 3]]).tolist())) for track, label, box in boxes]
    return [Visible(track, label, box) for track, label, box in clipped if box[2] - box[0] > 1 and box[3] - box[1] > 1]


def hidden(box: tuple[float, ...]) -> bool:
    """Whether the pillar hides all of a box."""
    return box[0] >= PILLAR[0] and box[1] >= PILLAR[1] and box[2] <= PILLAR[2] and box[3] <= PILLAR[3]


def render(time: float, rate: float) -> Array:
    """The frame at a time in s: uint8 RGB (256, 320, 3)."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for one in objects(time, rate):
        x1, y1, x2, y2 = (round(value) for value in one.box)
        image[y1:y2, x1:x2] = np.eye(3, dtype=np.uint8)[one.label] * 230
    x1, y1, x2, y2 = PILLAR
    image[y1:y2, x1:x2] = 140
    frame = round(time * rate)
    if frame % 40 < 2:  # a spot for two frames, before and behind the gate
        x = 150 + 16 * (frame % 2)
        image[221:229, x : x + 8] = np.eye(3, dtype=np.uint8)[GREEN] * 230
    return image


def truth(seconds: float, rate: float) -> list[Row]:
    """Ground truth as rows of the MOT challenge: boxes clipped to the image, without those that are hidden."""
    rows: list[Row] = []
    for frame in range(round(seconds * rate)):
        for track, label, (x1, y1, x2, y2) in objects(frame / rate, rate):
            if not hidden((x1, y1, x2, y2)):
                rows.append((frame + 1, track, x1, y1, x2 - x1, y2 - y1, 1.0, label + 1))
    return rows
