"""A detector of a .cfg with two heads, and what Darknet's loops add to the numbers before them.

A box is (center x, center y, width, height) in shares of the input.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from boxwright import models
from boxwright.darknet_cfg.plan import plan
from boxwright.darknet_cfg.training import training
from boxwright.models.darknet_cfg import CfgDetector
from boxwright.types import Batch
from zoo_loss import batch_of

NET = """[net]
batch=64
subdivisions=16
width=96
height=64
channels=3
momentum=0.949
decay=0.0005
angle=0
saturation=1.5
exposure=.5
hue=.1
learning_rate=0.00261
burn_in=100
max_batches=2000
policy=steps
steps=1600,1800
scales=.1,.1
mosaic=1
"""
CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n"
LAST = "[convolutional]\nfilters={}\nsize=1\nstride=1\npad=1\nactivation={}\n"
ANCHORS = "anchors=6,9, 14,12, 18,33, 30,20, 41,51"
HEADS = (
    f"[yolo]\nmask=4,1,3\n{ANCHORS}\nclasses=3\nnum=5\njitter=.3\nresize=1.5\nscale_x_y=1.1\nignore_thresh=.4\n"
    "iou_thresh=.6\niou_normalizer=.07\nobj_normalizer=2\ntruth_thresh=1\nrandom=1\n",
    f"[yolo]\nmask=0,2\n{ANCHORS}\nclasses=3\nnum=5\njitter=.3\nresize=1.5\nscale_x_y=1.1\nignore_thresh=.6\n"
    "iou_thresh=.5\niou_normalizer=.09\nobj_normalizer=.5\ntruth_thresh=1\nrandom=1\n",
)
PAIRS = ((6, 9), (14, 12), (18, 33), (30, 20), (41, 51))
MASKS = ((4, 1, 3), (0, 2))
KINDS = ("mse", "iou", "giou", "diou", "ciou")

Box = tuple[float, float, float, float]
Truths = list[list[tuple[int, Box]]]
TRUTHS: Truths = [
    [(2, (0.31, 0.42, 0.40, 0.75)), (0, (0.71, 0.30, 0.07, 0.15)), (1, (0.12, 0.81, 0.19, 0.50))],
    [
        (1, (0.55, 0.62, 32 / 96, 33 / 64)),  # IoU 0.57 with 30 x 20, and 0.56 with 18 x 33 of the other head
        (0, (0.2, 0.3, 31.9 / 96, 27 / 64)),  # best 30 x 20; with 18 x 33 IoU 0.501, complete IoU 0.498
        (2, (0.8, 0.25, 31.7 / 96, 27 / 64)),  # the same with 0.504, 0.501, and in px 0.499
    ],
]


def cfg(net: str = NET, extra: str = "", last: str = "linear", kind: str = "yolo", second: str = "") -> str:
    """A detector with a map of 4 x 6 cells and three anchors, then one of 8 x 12 cells and two.

    extra: keys of both heads, which come first and so count. second: of the second head.
    """
    coarse, fine = (LAST.format(len(mask) * (12 if kind == "Gaussian_yolo" else 8), last) for mask in MASKS)
    body = "\n".join(CONV.format(8, 2) for _ in range(4))
    heads = [
        head.replace("[yolo]\n", f"[{kind}]\n{keys}") for head, keys in zip(HEADS, (extra, second + extra), strict=True)
    ]
    return "\n".join([net, body, coarse, heads[0], "[route]\nlayers=-4\n", CONV.format(8, 1), fine, heads[1]])


def detector(text: str) -> CfgDetector:
    """With the loss that the text says."""
    tree = {"name": "darknet_cfg", "cfg": text, **training(plan(text))[2]}
    model = models.build(models.module("darknet_cfg").Config.model_validate(tree))
    assert isinstance(model, CfgDetector)
    return model


def batch_of_truths(truths: Truths = TRUTHS) -> Batch:
    boxes = torch.zeros(2, 3, 4)
    labels = torch.full((2, 3), -1, dtype=torch.int64)
    for image, own in enumerate(truths):
        for number, (label, (x, y, w, h)) in enumerate(own):
            corners = [(x - w / 2) * 96, (y - h / 2) * 64, (x + w / 2) * 96, (y + h / 2) * 64]
            boxes[image, number], labels[image, number] = torch.tensor(corners), label
    return batch_of(boxes, labels, (64, 96))


def overlap(kind: str, box: Box, other: Box, alpha: float | None = None) -> float:
    """Written out: IoU, and what the others subtract. alpha: the weight of ciou's aspect, which is held fixed."""
    (x, y, w, h), (u, v, p, q) = box, other
    across = max(0.0, min(x + w / 2, u + p / 2) - max(x - w / 2, u - p / 2))
    down = max(0.0, min(y + h / 2, v + q / 2) - max(y - h / 2, v - q / 2))
    union = w * h + p * q - across * down
    value = across * down / union
    hull_w = max(x + w / 2, u + p / 2) - min(x - w / 2, u - p / 2)
    hull_h = max(y + h / 2, v + q / 2) - min(y - h / 2, v - q / 2)
    if kind == "iou":
        return value
    if kind == "giou":
        return value - (hull_w * hull_h - union) / (hull_w * hull_h)
    result = value - ((x - u) ** 2 + (y - v) ** 2) / (hull_w**2 + hull_h**2)
    if kind == "ciou":
        aspect = 4 / math.pi**2 * (math.atan(p / q) - math.atan(w / h)) ** 2
        result -= (aspect / (1 - value + aspect) if alpha is None else alpha) * aspect
    return result


def aspect_weight(box: Box, other: Box) -> float:
    (_, _, w, h), (_, _, p, q) = box, other
    aspect = 4 / math.pi**2 * (math.atan(p / q) - math.atan(w / h)) ** 2
    return aspect / (1 - overlap("iou", box, other) + aspect)


def slope(kind: str, box: Box, other: Box) -> list[float]:
    """By finite differences."""
    alpha, step, result = aspect_weight(box, other), 1e-6, []
    for number in range(4):
        ends = []
        for sign in (1, -1):
            moved = list(box)
            moved[number] += sign * step
            ends.append(overlap(kind, (moved[0], moved[1], moved[2], moved[3]), other, alpha))
        result.append((ends[0] - ends[1]) / (2 * step))
    return result


def shape(side: tuple[float, float], anchor: tuple[float, float]) -> float:
    shared = min(side[0], anchor[0]) * min(side[1], anchor[1])
    return shared / (side[0] * side[1] + anchor[0] * anchor[1] - shared)


def places() -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """(head, rows, columns, place in its mask, anchor, row, column) of every cell and anchor."""
    for head, (mask, (rows, columns)) in enumerate(zip(MASKS, ((4, 6), (8, 12)), strict=True)):
        for place, anchor in enumerate(mask):
            for row in range(rows):
                for column in range(columns):
                    yield head, rows, columns, place, anchor, row, column


@dataclass(frozen=True)
class Keys:
    """Of the heads, as the .cfg has them: lists are of both."""

    kind: str = "mse"
    gaussian: bool = False
    new_coords: bool = False
    limit: float = 1e9
    label_smoothing: float = 0.0
    truth_thresh: float = 1.0
    thresh_kind: str = "iou"
    smooth: tuple[bool, bool] = (False, False)
    focal: tuple[bool, bool] = (False, False)
    multipliers: tuple[float, float, float] | None = None
    cls_normalizer: float = 1.0
    uc_normalizer: float = 1.0


THRESHOLDS = {"ignore": (0.4, 0.6), "similar": (0.6, 0.5), "box": (0.07, 0.09), "objectness": (2.0, 0.5)}


def logistic(number: float) -> float:
    return 1 / (1 + math.exp(-number))


def deltas(maps: list[np.ndarray[Any, Any]], keys: Keys) -> list[Any]:
    """What Darknet adds to the numbers before each head, or with new_coords before the logistic in front of it.

    maps: (B, A, 8 or 12, h, w) these numbers.
    """
    result = [np.zeros_like(level) for level in maps]
    for image, truths in enumerate(TRUTHS):
        for head, rows, columns, place, anchor, row, column in places():
            numbers = [float(number) for number in maps[head][image, place, :, row, column]]
            at = list(range(0, 8, 2)) if keys.gaussian else list(range(4))  # of center and sides
            logits, objectness, classes = [numbers[each] for each in at], *split(numbers, keys)
            cell = Cell(head, (rows, columns), anchor, (row, column), logits, numbers[1:8:2])
            out = result[head][image, place, :, row, column]
            box = cell.box(keys)
            overlaps = [overlap("iou", box, truth) for _, truth in truths]
            best, o = max(overlaps), logistic(objectness)
            assigned = [each for each in truths if cell.is_assigned(each[1], keys)]
            goal: float | None = None if best > THRESHOLDS["ignore"][head] else 0.0
            own, factor = 1.0, 1.0
            if keys.smooth[head] and goal is None:
                goal = best
            if best > keys.truth_thresh:
                goal = best**2 if keys.smooth[head] else 1.0
            if assigned and not keys.smooth[head]:
                goal, factor = 1.0, keys.multipliers[assigned[-1][0]] if keys.multipliers else 1.0
            if best > keys.truth_thresh and not assigned:
                assigned, own = [truths[overlaps.index(best)]], goal or 0.0
            out[at[-1] + (2 if keys.gaussian else 1)] = (
                0.0 if goal is None
                else factor * (goal - o) * THRESHOLDS["objectness"][head] * (o * (1 - o) if keys.new_coords else 1)
            )  # fmt: skip
            for label, truth in assigned:
                out[-3:] = class_deltas(classes, label, own, head, keys)
                multiplier = keys.multipliers[label] if keys.multipliers else 1.0
                steps = [THRESHOLDS["box"][head] * multiplier * each for each in cell.box_deltas(box, truth, keys)]
                cut = [max(-keys.limit, min(keys.limit, step)) if keys.gaussian or keys.kind != "mse" else step
                       for step in steps]  # fmt: skip
                chain = [logistic(each) * (1 - logistic(each)) if keys.new_coords else 1.0 for each in logits]
                out[at] = [step * each for step, each in zip(cut, chain, strict=True)]
                if keys.gaussian:
                    spread = [each * keys.uc_normalizer for each in cell.normal_deltas(truth)[1]]
                    out[1:8:2] = [max(-keys.limit, min(keys.limit, step)) for step in spread]
    return result


def split(numbers: list[float], keys: Keys) -> tuple[float, list[float]]:
    """The objectness, and the classes."""
    first = 8 if keys.gaussian else 4
    return numbers[first], numbers[first + 1 :]


def class_deltas(classes: list[float], label: int, own: float, head: int, keys: Keys) -> list[float]:
    """own: the target of the object's class."""
    t = [logistic(each) for each in classes]
    if keys.focal[head]:
        p = t[label]
        factor = 0.5 * -(1 - p) * (2 * p * math.log(p) + p - 1)
        return [factor * ((number == label) - each) for number, each in enumerate(t)]
    result = []
    for number, each in enumerate(t):
        target = (own if number == label else 0.0) * (1 - keys.label_smoothing) + keys.label_smoothing / 2
        factor = keys.multipliers[label] * keys.cls_normalizer if keys.multipliers and number == label else 1.0
        result.append(factor * (target - each) * (each * (1 - each) if keys.new_coords else 1))
    return result


@dataclass(frozen=True)
class Cell:
    """logits: of center and sides. spread: of their deviations, in a [Gaussian_yolo]."""

    head: int
    grid: tuple[int, int]
    anchor: int
    index: tuple[int, int]
    logits: list[float]
    spread: list[float]

    def growth(self, keys: Keys) -> list[float]:
        sides = self.logits[2:]
        return [(2 * logistic(each)) ** 2 if keys.new_coords else math.exp(each) for each in sides]

    def box(self, keys: Keys) -> Box:
        """scale_x_y is 1.1."""
        (rows, columns), (row, column) = self.grid, self.index
        x, y = (logistic(each) * 1.1 - 0.05 for each in self.logits[:2])
        w, h = (factor * side for factor, side in zip(self.growth(keys), PAIRS[self.anchor], strict=True))
        return (column + x) / columns, (row + y) / rows, w / 96, h / 64

    def is_assigned(self, truth: Box, keys: Keys) -> bool:
        (rows, columns), (row, column) = self.grid, self.index
        side = (truth[2] * 96, truth[3] * 64)
        fits = [shape(side, pair) for pair in PAIRS]
        w, h = PAIRS[self.anchor]
        similar = overlap(keys.thresh_kind, (0, 0, w / 96, h / 64), (0, 0, *truth[2:]))
        here = int(truth[0] * columns) == column and int(truth[1] * rows) == row
        return here and (fits.index(max(fits)) == self.anchor or similar > THRESHOLDS["similar"][self.head])

    def errors(self, truth: Box) -> list[float]:
        """Of center and logarithms of the sides."""
        (rows, columns), (row, column) = self.grid, self.index
        x, y = (logistic(each) * 1.1 - 0.05 for each in self.logits[:2])
        w, h = PAIRS[self.anchor]
        logs = [math.log(truth[2] * 96 / w), math.log(truth[3] * 64 / h)]
        return [
            truth[0] * columns - column - x, truth[1] * rows - row - y, logs[0] - self.logits[2],
            logs[1] - self.logits[3],
        ]  # fmt: skip

    def box_deltas(self, box: Box, truth: Box, keys: Keys) -> list[float]:
        """Without the weight of the box."""
        if keys.kind != "mse":
            factors = [1.0, 1.0, *([1.0, 1.0] if keys.new_coords else self.growth(keys))]
            return [each * factor for each, factor in zip(slope(keys.kind, box, truth), factors, strict=True)]
        if keys.gaussian:
            return self.normal_deltas(truth)[0]
        return [(2 - truth[2] * truth[3]) * each for each in self.errors(truth)]

    def normal_deltas(self, truth: Box) -> tuple[list[float], list[float]]:
        """Of the box and of the deviations, without weights."""
        box, spread, scale = [], [], 2 - truth[2] * truth[3]
        for error, logit in zip(self.errors(truth), self.spread, strict=True):
            sigma = logistic(logit)
            density = math.exp(-((error / sigma) ** 2) / 2) / (math.sqrt(2 * math.pi) * (sigma + 0.3))
            factor = 0.5 * scale * density / (density + 1e-9)
            box.append(factor * error / sigma**2)
            spread.append(factor * (error**2 / sigma**3 - 1 / (sigma + 0.3)))
        return box, spread
