"""Boxes with labels, or classes, on an image, readable on any size.

Lines and letters grow with the image, because a big image is looked at from further away, but not beyond what its
objects bear. OpenCV draws the lines, Pillow the letters: OpenCV's own letters are thin and know no accents.
"""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from boxwright.errors import InputError, printable
from boxwright.types import Classes, Detections

Array = np.ndarray[Any, np.dtype[Any]]
Color = tuple[int, int, int]
Place = tuple[int, int, int, int]  # (x1, y1, x2, y2) px, the last two outside

LINE, LETTER = 0.003, 0.022  # share of the image's mean side
OF_OBJECT = 0.1, 0.5  # line and letter at most this share of the typical object, where that is not under 1 and 10 px
SMALLEST_LETTER = 7  # px; an image too small even for this shows boxes without text
NAMED = 300  # boxes of an image that get a text, the best; more hide the image, and each looks for a free place
OUTLINE: Color = (24, 24, 24)  # round every line, so that it shows on any ground
ROWS = 64  # whose channels are swapped at a time
PAPER, INK = 255, 40  # the gray of the sheet and of its headings


def draw(image: Array, detections: Detections) -> Array:
    """A copy of `image` (uint8 RGB (H, W, 3) or gray (H, W)) with the boxes, named and scored, as RGB (H, W, 3)."""
    scores = detections.scores.tolist()
    labels = detections.labels.tolist()
    texts = [f"{name_of(detections.names, label)} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    return draw_boxes(image, detections.boxes.numpy(force=True), labels, texts, scores)


def draw_boxes(
    image: Array, boxes: Array, labels: Sequence[int], texts: Sequence[str], scores: Sequence[float] | None = None
) -> Array:
    """Like `draw`, with boxes (N, 4) xyxy px and the text of each. Boxes of higher score lie on top.

    Of very many boxes only the best have their text.
    """
    canvas = _rgb(image)
    height, width = canvas.shape[:2]
    corners = _corners(boxes, width, height)
    side, typical = (height * width) ** 0.5, _typical(corners)
    line = max(1, round(min(side * LINE, typical * OF_OBJECT[0])))
    letter = max(10, round(min(side * LETTER, typical * OF_OBJECT[1])))
    best_first = np.argsort(-np.asarray(scores if scores is not None else np.zeros(len(labels))), kind="stable")
    for index in best_first[::-1]:
        _rectangle(canvas, corners[index], color(labels[index]), line)
    taken = np.zeros((0, 4), np.int64)
    chips: list[tuple[Array, Place]] = []
    for index in best_first[:NAMED]:
        chip = _chip(texts[index], color(labels[index]), letter, width, height)
        if chip is not None:
            place = _free_place(corners[index], chip.shape[1], chip.shape[0], width, height, taken)
            taken = np.concatenate([taken, [place]])
            chips.append((chip, place))
    for chip, (x1, y1, x2, y2) in reversed(chips):
        canvas[y1:y2, x1:x2] = chip
    return canvas


def draw_classes(image: Array, classes: Classes) -> Array:
    """A copy of `image` (as in `draw`) with the classes and their scores in its top left corner, best first."""
    canvas = _rgb(image)
    height, width = canvas.shape[:2]
    letter, top = max(10, round((height * width) ** 0.5 * 2 * LETTER)), 0
    for label, score in zip(classes.labels.tolist(), classes.scores.tolist(), strict=True):
        chip = _chip(f"{name_of(classes.names, label)} {score:.2f}", color(label), letter, width, height - top)
        if chip is None:  # no room for even small letters
            break
        canvas[top : top + chip.shape[0], : chip.shape[1]] = chip
        top += chip.shape[0]
    return canvas


def captioned(image: Array, size: tuple[int, int], lines: Sequence[str]) -> Array:
    """The image within `size` (width, height) px, and lines of text below; what is too long for a line is cut."""
    (width, height), (h, w) = size, image.shape[:2]
    scale = min(width / w, height / h)
    shown = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(_rgb(image), shown, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    panel = np.full((height, width, 3), PAPER, np.uint8)
    top, left = (height - shown[1]) // 2, (width - shown[0]) // 2
    panel[top : top + shown[1], left : left + shown[0]] = small
    letter = max(SMALLEST_LETTER, width // 16)
    band = Image.new("RGB", (width, len(lines) * letter * 3 // 2 + letter // 2), (PAPER,) * 3)
    for number, line in enumerate(lines):
        ImageDraw.Draw(band).text((0, number * letter * 3 // 2), printable(line), fill=(INK,) * 3, font=font(letter))
    return np.concatenate([panel, np.asarray(band)], axis=0)


def encode_image(image: Array, suffix: str, quality: int | None = None, *, in_place: bool = False) -> bytes:
    """uint8 RGB (H, W, 3) as a file of the format that `suffix` names.

    Args:
        image: The pixels.
        suffix: `.png`, `.jpg` or another that OpenCV writes.
        quality: Of a JPEG, from 1 to 100; None for OpenCV's.
        in_place: Swap the channels in `image` itself, which saves a copy of it.

    Raises:
        InputError: Where the format cannot hold it.
    """
    if in_place:
        for top in range(0, len(image), ROWS):
            image[top : top + ROWS] = image[top : top + ROWS, :, ::-1]
    else:
        image = image[:, :, ::-1]
    done, encoded = cv2.imencode(suffix, image, [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError(f"OpenCV cannot write {image.shape[1]} x {image.shape[0]} px in this format")
    return encoded.tobytes()


def color(label: int) -> Color:
    """The class's own RGB color; neighbors differ most. Hues step by the golden section of the color circle."""
    hue = (0.02 + label * 0.6180339887) % 1
    saturation, value = ((0.85, 1.0), (0.60, 0.95), (0.95, 0.75))[label // 7 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def name_of(names: Sequence[str], label: int) -> str:
    """The class's name, or its number where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def _rgb(image: Array) -> Array:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise InputError(
            f"image: found {image.dtype} of shape {image.shape}, needed uint8 (height, width, 3) or (height, width)"
        )
    plane = image[:, :, None] if image.ndim == 2 else image
    return np.repeat(plane, 3, axis=2) if plane.shape[2] == 1 else np.array(plane, order="C")


def _corners(boxes: Array, width: int, height: int) -> Array:
    """(N, 4) int64: the first and the last pixel of each box, inside the image."""
    corners = np.rint(np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4), posinf=1e9, neginf=-1e9))
    corners[:, 2:] = np.maximum(corners[:, 2:] - 1, corners[:, :2])
    return np.clip(corners, 0, [width - 1, height - 1, width - 1, height - 1]).astype(np.int64)


def _typical(corners: Array) -> float:
    """The longer side in px that half of the boxes exceed; endless where there is none."""
    return float(np.median((corners[:, 2:] - corners[:, :2] + 1).max(1))) if len(corners) else float("inf")


def _rectangle(canvas: Array, corners: Array, tint: Color, line: int) -> None:
    x1, y1, x2, y2 = (int(value) for value in corners)
    if line > 1:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), OUTLINE, line + 2)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), tint, line)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


@lru_cache(maxsize=2048)
def _chip(text: str, tint: Color, letter: int, width: int, height: int) -> Array | None:
    """The text on a ground of `tint`, at most (height, width) px; None where even small letters do not fit.

    What no font has, such as line breaks, is drawn as an escape.
    """
    text = printable(text)
    for size in (letter, letter * 2 // 3, letter // 2, SMALLEST_LETTER):
        pad = max(1, size // 5)
        ascent, descent = font(size).getmetrics()
        wide, high = round(font(size).getlength(text)) + 2 * pad + 1, ascent + descent + pad
        if wide <= width and high <= height and size >= SMALLEST_LETTER:
            break
    else:
        return None
    red, green, blue = tint
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)  # ITU-R BT.601 luma
    chip = Image.new("RGB", (wide, high), tint)
    ImageDraw.Draw(chip).text((pad, pad // 2), text, fill=ink, font=font(size))
    return np.asarray(chip)


def _free_place(corners: Array, wide: int, high: int, width: int, height: int, taken: Array) -> Place:
    """Above the box, below it, or inside it: the first that covers no other label; else above."""
    x1, y1, x2, y2 = (int(value) for value in corners)
    left, right = max(0, min(x1, width - wide)), max(0, min(x2 + 1 - wide, width - wide))
    spots = [(left, y1 - high), (left, y1), (left, y2 + 1 - high), (left, y2 + 1), (right, y1 - high), (right, y2 + 1)]
    inside = [(x, y) for x, y in spots if 0 <= y <= height - high]
    for x, y in inside:
        apart = (taken[:, 0] >= x + wide) | (taken[:, 2] <= x) | (taken[:, 1] >= y + high) | (taken[:, 3] <= y)
        if apart.all():
            return x, y, x + wide, y + high
    x, y = inside[0] if inside else (left, max(0, min(y1, height - high)))
    return x, y, x + wide, y + high
