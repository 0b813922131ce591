"""Drawing of labeled boxes or of classes on images of any size, and encoding of image files.

Line width and font size scale with the image, since a large image is viewed scaled down, but are limited by the size of
the objects. Text is drawn by Pillow, since OpenCV's fonts have no accented letters.
"""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from boxwright.arrays import Array
from boxwright.errors import InputError, printable
from boxwright.types import Classes, Detections

Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]  # (x1, y1, x2, y2) px, x2 and y2 exclusive

LINE_SCALE, FONT_SCALE = 0.003, 0.022  # fractions of the geometric mean of the image's sides
MAX_OF_OBJECT = 0.1, 0.5  # line width and font size as fractions of the median object, but at least 1 and 10 px
MIN_FONT_SIZE = 7  # px; boxes have no text if this does not fit
MAX_TEXTS = 300  # the highest-scoring boxes have a text; more would hide the image
OUTLINE: Color = (24, 24, 24)  # around lines, for contrast on any background
ROWS_PER_CHUNK = 64  # rows whose channels are swapped at a time
BACKGROUND, FOREGROUND = 255, 40  # gray levels of sheets of images and of their headings


def draw(image: Array, detections: Detections) -> Array:
    """A copy of `image` (uint8 RGB (H, W, 3) or gray (H, W)) with boxes, class names and scores; RGB (H, W, 3)."""
    scores = detections.scores.tolist()
    labels = detections.labels.tolist()
    texts = [f"{name_of(detections.names, label)} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    return draw_boxes(image, detections.boxes.numpy(force=True), list(map(color, labels)), texts, scores)


def draw_boxes(
    image: Array,
    boxes: Array,
    tints: Sequence[Color],
    texts: Sequence[str],
    scores: Sequence[float] | None = None,
    line: int | None = None,
    size: int | None = None,
) -> Array:
    """A copy of `image`, as in `draw`, with boxes (N, 4) xyxy px in their colors with their texts, "" for none.

    The highest-scoring boxes are drawn on top; `MAX_TEXTS` of them have a text. line, size: width of lines and size of
    the font in px; None for values that suit the image.
    """
    canvas = _rgb(image)
    height, width = canvas.shape[:2]
    corners = _corners(boxes, width, height)
    side, median = (height * width) ** 0.5, _median_side(corners)
    line = line or max(1, round(min(side * LINE_SCALE, median * MAX_OF_OBJECT[0])))
    size = size or max(10, round(min(side * FONT_SCALE, median * MAX_OF_OBJECT[1])))
    best_first = np.argsort(-np.asarray(scores if scores is not None else np.zeros(len(tints))), kind="stable")
    for index in best_first[::-1]:
        _rectangle(canvas, corners[index], tints[index], line)
    occupied = np.zeros((0, 4), np.int64)
    tags: list[tuple[Array, Rect]] = []
    for index in best_first[:MAX_TEXTS]:
        tag = _tag(texts[index], tints[index], size, width, height) if texts[index] else None
        if tag is not None:
            rect = _free_rect(corners[index], tag.shape[1], tag.shape[0], width, height, occupied)
            occupied = np.concatenate([occupied, [rect]])
            tags.append((tag, rect))
    for tag, (x1, y1, x2, y2) in reversed(tags):
        canvas[y1:y2, x1:x2] = tag
    return canvas


def draw_classes(image: Array, classes: Classes) -> Array:
    """A copy of `image` (as in `draw`) with the classes and their scores in the top left corner."""
    canvas = _rgb(image)
    pairs = zip(classes.labels.tolist(), classes.scores.tolist(), strict=True)
    draw_texts(canvas, [(f"{name_of(classes.names, label)} {score:.2f}", color(label)) for label, score in pairs], 2)
    return canvas


def draw_texts(canvas: Array, texts: Sequence[tuple[str, Color]], scale: float = 1) -> None:
    """Write lines of text, each with the color of its background, into the top left corner of `canvas`.

    Lines below the image are left out. scale: of the font, relative to that of boxes.
    """
    height, width = canvas.shape[:2]
    size, top = max(10, round((height * width) ** 0.5 * scale * FONT_SCALE)), 0
    for text, tint in texts:
        tag = _tag(text, tint, size, width, height - top)
        if tag is None:
            break
        canvas[top : top + tag.shape[0], : tag.shape[1]] = tag
        top += tag.shape[0]


def displayed(pixels: Array) -> Array:
    """Pixels (h, w, C) of bands as RGB: the first three as red, green and blue; of fewer, the first as gray."""
    channels = pixels.shape[2]
    if channels == 3:
        return pixels
    return np.ascontiguousarray(pixels[:, :, :3] if channels > 3 else np.repeat(pixels[:, :, :1], 3, axis=2))


def add_caption(image: Array, size: tuple[int, int], lines: Sequence[str]) -> Array:
    """The image, scaled to fit `size` (width, height) px, with lines of text below, each clipped to the width."""
    (width, height), (h, w) = size, image.shape[:2]
    scale = min(width / w, height / h)
    fitted = (max(1, round(w * scale)), max(1, round(h * scale)))
    resized = cv2.resize(_rgb(image), fitted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    panel = np.full((height, width, 3), BACKGROUND, np.uint8)
    top, left = (height - fitted[1]) // 2, (width - fitted[0]) // 2
    panel[top : top + fitted[1], left : left + fitted[0]] = resized
    points = max(MIN_FONT_SIZE, width // 16)
    band = Image.new("RGB", (width, len(lines) * points * 3 // 2 + points // 2), (BACKGROUND,) * 3)
    write = ImageDraw.Draw(band)
    for number, line in enumerate(lines):
        write.text((0, number * points * 3 // 2), printable(line), fill=(FOREGROUND,) * 3, font=font(points))
    return np.concatenate([panel, np.asarray(band)], axis=0)


def encode_image(image: Array, suffix: str, quality: int | None = None, *, in_place: bool = False) -> bytes:
    """Encode an image as the content of a file.

    Args:
        image: (H, W, 3) uint8 RGB.
        suffix: `.png`, `.jpg` or another suffix that OpenCV writes.
        quality: Of a JPEG, 1 to 100; of a PNG, the compression level, 0 to 9. None: OpenCV's default.
        in_place: Swap the channels in `image` itself, which saves a copy.

    Raises:
        InputError: The format does not support this size.
    """
    if in_place:
        for top in range(0, len(image), ROWS_PER_CHUNK):
            image[top : top + ROWS_PER_CHUNK] = image[top : top + ROWS_PER_CHUNK, :, ::-1]
    else:
        image = image[:, :, ::-1]
    parameter = cv2.IMWRITE_PNG_COMPRESSION if suffix == ".png" else cv2.IMWRITE_JPEG_QUALITY
    success, encoded = cv2.imencode(suffix, image, [] if quality is None else [parameter, quality])
    if not success:
        raise InputError(f"OpenCV cannot write {image.shape[1]} x {image.shape[0]} px in this format")
    return encoded.tobytes()


def color(label: int) -> Color:
    """The RGB color of a class. Hues advance by the golden ratio, so colors of neighboring labels differ most."""
    hue = (0.02 + label * 0.6180339887) % 1
    saturation, value = ((0.85, 1.0), (0.60, 0.95), (0.95, 0.75))[label // 7 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def name_of(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number if it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def _rgb(image: Array) -> Array:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise InputError(
            f"image: found {image.dtype} of shape {image.shape}, needed uint8 (height, width, 3) or (height, width)"
        )
    plane = image[:, :, None] if image.ndim == 2 else image
    return np.repeat(plane, 3, axis=2) if plane.shape[2] == 1 else np.array(plane, order="C")


def _corners(boxes: Array, width: int, height: int) -> Array:
    """(N, 4) int64: the first and the last pixel of each box, clipped to the image."""
    corners = np.rint(np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4), posinf=1e9, neginf=-1e9))
    corners[:, 2:] = np.maximum(corners[:, 2:] - 1, corners[:, :2])
    return np.clip(corners, 0, [width - 1, height - 1, width - 1, height - 1]).astype(np.int64)


def _median_side(corners: Array) -> float:
    """The median of the longer sides in px; infinite without boxes."""
    return float(np.median((corners[:, 2:] - corners[:, :2] + 1).max(1))) if len(corners) else float("inf")


def _rectangle(canvas: Array, corners: Array, tint: Color, line: int) -> None:
    x1, y1, x2, y2 = (int(value) for value in corners)
    if line > 1:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), OUTLINE, line + 2)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), tint, line)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path  # imported here: it takes a fifth of a second

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


@lru_cache(maxsize=2048)
def _tag(text: str, tint: Color, max_size: int, width: int, height: int) -> Array | None:
    """The text on a background of `tint`, at most (height, width) px; None if it does not fit at the smallest size."""
    text = printable(text)
    for size in (max_size, max_size * 2 // 3, max_size // 2, MIN_FONT_SIZE):
        pad = max(1, size // 5)
        ascent, descent = font(size).getmetrics()
        w, h = round(font(size).getlength(text)) + 2 * pad + 1, ascent + descent + pad
        if w <= width and h <= height and size >= MIN_FONT_SIZE:
            break
    else:
        return None
    red, green, blue = tint
    fill = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)  # ITU-R BT.601 luma
    tag = Image.new("RGB", (w, h), tint)
    ImageDraw.Draw(tag).text((pad, pad // 2), text, fill=fill, font=font(size))
    return np.asarray(tag)


def _free_rect(corners: Array, w: int, h: int, width: int, height: int, occupied: Array) -> Rect:
    """The first position above, inside or below the box that overlaps no other tag; above if there is none."""
    x1, y1, x2, y2 = (int(value) for value in corners)
    left, right = max(0, min(x1, width - w)), max(0, min(x2 + 1 - w, width - w))
    candidates = [(left, y1 - h), (left, y1), (left, y2 + 1 - h), (left, y2 + 1), (right, y1 - h), (right, y2 + 1)]
    inside = [(x, y) for x, y in candidates if 0 <= y <= height - h]
    for x, y in inside:
        apart = (occupied[:, 0] >= x + w) | (occupied[:, 2] <= x) | (occupied[:, 1] >= y + h) | (occupied[:, 3] <= y)
        if apart.all():
            return x, y, x + w, y + h
    x, y = inside[0] if inside else (left, max(0, min(y1, height - h)))
    return x, y, x + w, y + h
