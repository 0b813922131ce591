"""Sheets of images: rows that fill the width, with boxes drawn at display size.

N boxes of a view
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from boxwright.arrays import Array
from boxwright.data.dataset import ANY_CLASS, Sample
from boxwright.errors import printable
from boxwright.files import write_bytes
from boxwright.images.draw import BACKGROUND, FOREGROUND, Color, color, draw_boxes, encode_image, font, name_of
from boxwright.metrics.matching import Kind, Matches
from boxwright.types import Detections

WIDTH = 1800  # px of a sheet
ROW = 440  # px: approximate height of a row
MAX_ROW = 800  # px; a row of few narrow images does not fill the width
GAP = 14  # px between images
LINE, FONT = 2, 13  # px of lines and text on the sheet
SMALL_FONT, SMALL = 10, 40  # px of the text where the median box is shorter than SMALL px
KEPT = (1400, 1000)  # px: maximum width, height of an image that is kept for a sheet
MAX_CLASSES = 12  # in a legend
KIND_COLORS: dict[Kind, Color] = {
    Kind.CORRECT: (0, 158, 115),  # the colors of Okabe and Ito, which most color-blind people can tell apart
    Kind.CLASSIFICATION: (230, 159, 0),
    Kind.LOCALIZATION: (86, 180, 233),
    Kind.BOTH: (204, 121, 167),
    Kind.DUPLICATE: (240, 228, 66),
    Kind.BACKGROUND: (213, 94, 0),
    Kind.MISSED: (255, 255, 255),
    Kind.IGNORED: (128, 128, 128),
    Kind.NOT_COUNTED: (128, 128, 128),
}
NO_ERRORS = (Kind.CORRECT, Kind.IGNORED, Kind.NOT_COUNTED)


@dataclass(frozen=True, slots=True)
class View:
    """Boxes and texts to draw on an image.

    Attributes:
        title: Title above the image; "" for none.
        boxes: (N, 4) xyxy px of the panel's image.
        colors: Color of each box.
        texts: Text of each box; "" for none.
        scores: Score of each box; the highest is drawn on top.
    """

    title: str
    boxes: Array
    colors: tuple[Color, ...] = ()
    texts: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One image of a sheet, shown once for each view, side by side.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        views: At least one view.
        captions: Lines of text below the image.
        legend: The meaning of the colors.
    """

    image: Array
    views: tuple[View, ...]
    captions: tuple[str, ...] = ()
    legend: tuple[tuple[str, Color], ...] = ()


def fitted(image: Array) -> tuple[Array, Array]:
    """The image, reduced to `KEPT` if it is larger, and the (4,) factors of boxes in px."""
    height, width = image.shape[:2]
    scale = min(1.0, KEPT[0] / width, KEPT[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = image.copy() if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.array([size[0] / width, size[1] / height] * 2)


def truth_and_prediction(image: Array, sample: Sample, prediction: Detections) -> Panel:
    """A panel of ground truth and prediction side by side, with colors by class."""
    small, factors = fitted(image)
    names, labels = prediction.names, sample.labels.tolist()
    texts = tuple(
        "ignore region" if label == ANY_CLASS else name_of(names, label) + (" (crowd)" if crowd else "")
        for label, crowd in zip(labels, sample.crowd.tolist(), strict=True)
    )
    truth = View("ground truth", sample.boxes * factors, tuple(map(color, labels)), texts)
    found, scores = prediction.labels.tolist(), tuple(prediction.scores.tolist())
    texts = tuple(f"{name_of(names, label)} {score:.2f}" for label, score in zip(found, scores, strict=True))
    boxes = prediction.boxes.numpy(force=True) * factors
    predicted = View("prediction", boxes, tuple(map(color, found)), texts, scores)
    shown = sorted({label for label in [*labels, *found] if label >= 0})
    legend = tuple((name_of(names, label), color(label)) for label in shown)
    return Panel(small, (truth, predicted), (Path(sample.path).name,), legend)


def errors(image: Array, sample: Sample, matches: Matches, names: Sequence[str]) -> Panel:
    """A panel of the errors in an image, with colors by kind of error. matches: of this image only."""
    small, factors = fitted(image)
    found, objects = matches.found, matches.objects
    texts = []
    for label, kind, score, row in zip(
        found.labels.tolist(), found.kinds.tolist(), found.scores.tolist(), found.objects.tolist(), strict=True
    ):
        text = f"{name_of(names, label)} {score:.2f}"
        if kind in (Kind.CLASSIFICATION, Kind.BOTH) and row >= 0:
            text += f", is {name_of(names, int(objects.labels[row]))}"
        texts.append("" if kind == Kind.CORRECT else text)
    missed = objects.kinds == Kind.MISSED
    boxes = np.concatenate([found.boxes, objects.boxes[missed]]) * factors
    kinds = [*map(Kind, found.kinds.tolist()), *[Kind.MISSED] * int(missed.sum())]
    texts += [name_of(names, label) for label in objects.labels[missed].tolist()]
    # errors are drawn above correct detections, and missed objects, which have no score, above both
    scores = tuple({Kind.CORRECT: 0.0, Kind.MISSED: 2.0}.get(kind, 1.0) for kind in kinds)
    view = View("", boxes, tuple(KIND_COLORS[kind] for kind in kinds), tuple(texts), scores)
    number = sum(kind not in NO_ERRORS for kind in kinds)
    return Panel(small, (view,), (f"{number} errors: {Path(sample.path).name}",))


def kind_legend() -> tuple[tuple[str, Color], ...]:
    """The colors of `errors`."""
    return tuple((kind.name.lower(), tint) for kind, tint in KIND_COLORS.items() if kind != Kind.NOT_COUNTED)


def write(panels: Sequence[Panel], file: Path, legend: Sequence[tuple[str, Color]] = ()) -> None:
    """Write a sheet as JPEG; without panels remove the one of an earlier evaluation.

    legend: Shown above the sheet; () for the legends of the panels.
    """
    if panels:
        write_bytes(file, encode_image(draw_sheet(panels, legend), ".jpg", 90))
    else:
        file.unlink(missing_ok=True)


def draw_sheet(panels: Sequence[Panel], legend: Sequence[tuple[str, Color]] = ()) -> Array:
    """The sheet, uint8 RGB (h, WIDTH, 3)."""
    entries = list(legend) or list(dict(entry for panel in panels for entry in panel.legend).items())
    bands = [_legend(entries[:MAX_CLASSES])] if entries else []
    for row in _rows([_aspect(panel) for panel in panels]):
        bands.append(_row([panels[index] for index in row]))
    return np.concatenate(bands)


def _aspect(panel: Panel) -> float:
    height, width = panel.image.shape[:2]
    return float(len(panel.views) * width / height)


def _rows(aspects: Sequence[float]) -> list[list[int]]:
    """Indices of panels in rows of about the same sum of aspect ratios, in their order."""
    ends = np.cumsum(aspects)
    count = max(1, round(ends[-1] * ROW / WIDTH))
    rows: list[list[int]] = [[] for _ in range(count)]
    for index, (end, aspect) in enumerate(zip(ends.tolist(), aspects, strict=True)):
        rows[min(count - 1, int((end - aspect / 2) / ends[-1] * count))].append(index)
    return [row for row in rows if row]


def _row(panels: Sequence[Panel]) -> Array:
    """Panels side by side, scaled to fill the width."""
    inner = sum((len(panel.views) - 1) * GAP // 2 for panel in panels)
    free = WIDTH - GAP * (len(panels) + 1) - inner
    height = max(1, min(MAX_ROW, round(free / sum(map(_aspect, panels)))))
    drawn = [_draw(panel, height) for panel in panels]
    band = np.full((max(map(len, drawn)) + GAP, WIDTH, 3), BACKGROUND, np.uint8)
    left = GAP
    for image in drawn:
        width = min(image.shape[1], WIDTH - left)
        band[: len(image), left : left + width] = image[:, :width]
        left += width + GAP
    return band


def _draw(panel: Panel, height: int) -> Array:
    """The panel with images of `height` px, its title above and its captions below."""
    h, w = panel.image.shape[:2]
    width = max(1, round(w * height / h))
    method = cv2.INTER_AREA if height < h else cv2.INTER_LINEAR
    image = cv2.resize(panel.image, (width, height), interpolation=method)
    columns: list[Array] = []
    for view in panel.views:
        boxes = np.asarray(view.boxes, np.float64).reshape(-1, 4) * np.array([width / w, height / h] * 2)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) if len(boxes) else np.array([np.inf])
        size = SMALL_FONT if np.median(sides) < SMALL else FONT
        drawn = draw_boxes(image, boxes, view.colors, view.texts, view.scores or None, LINE, size)
        titled = [_text([view.title], width), drawn] if view.title else [drawn]
        columns += [np.concatenate(titled), np.full((sum(map(len, titled)), GAP // 2, 3), BACKGROUND, np.uint8)]
    joined = np.concatenate(columns[:-1], axis=1)
    return np.concatenate([joined, _text(panel.captions, joined.shape[1])]) if panel.captions else joined


def _text(lines: Sequence[str], width: int) -> Array:
    """Lines of text on a band of `width` px, each truncated at its end."""
    step = FONT * 3 // 2
    band = Image.new("RGB", (width, step * len(lines)), (BACKGROUND,) * 3)
    write = ImageDraw.Draw(band)
    for number, line in enumerate(lines):
        write.text((0, number * step + 1), printable(line), fill=(FOREGROUND,) * 3, font=font(FONT))
    return np.asarray(band)


def _legend(entries: Sequence[tuple[str, Color]]) -> Array:
    """Colored squares with their meaning, as wide as a sheet."""
    side = FONT + 4
    band = Image.new("RGB", (WIDTH, 2 * side + GAP), (BACKGROUND,) * 3)
    write, left = ImageDraw.Draw(band), GAP
    for text, tint in entries:
        text = printable(text)
        write.rectangle((left, GAP, left + side, GAP + side), fill=tint, outline=(FOREGROUND,) * 3)
        write.text((left + side + 6, GAP), text, fill=(FOREGROUND,) * 3, font=font(FONT + 2))
        left += side + 24 + round(font(FONT + 2).getlength(text))
    return np.asarray(band)
