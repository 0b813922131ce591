"""Outlines of labeled objects: polygons, and quadrilaterals of oriented boxes.

T boxes in total
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import Dataset, as_float32
from boxwright.data.layout import Extras, Keys
from boxwright.data.text import shortest_decimals

MAX_COORDINATE = 1e12  # px; larger values are invalid


def corners_of(dataset: Dataset, extras: Extras | None) -> list[list[str]]:
    """Corners x1, y1, ..., y4 px, as decimals, of each of T rows.

    They are the corners of the outline in `extras` if that is a quadrilateral with the bounds of the box,
    else of the box.
    """
    corners = shortest_decimals(dataset.rows.xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]])
    rows = extras.rows if extras else []
    outlines = {row: outline for row, keys in enumerate(rows) if (outline := quadrilateral(keys)) is not None}
    points = np.array([*outlines.values()], dtype=np.float64).reshape(-1, 4, 2)
    bounds = as_float32(np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1))
    fits = (bounds == dataset.rows.xyxy[[*outlines]]).all(axis=1) if outlines else []
    for (row, outline), fit in zip(outlines.items(), fits, strict=True):
        if fit:
            corners[row] = [repr(float(value)).removesuffix(".0") for value in outline]
    return corners


def areas_of(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, 4, 2) px -> (T,) by the shoelace formula; the difference of the two areas of a self-intersecting outline."""
    x, y = corners[..., 0], corners[..., 1]
    with np.errstate(over="ignore", invalid="ignore"):
        areas: NDArray[np.float64] = np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
    return areas


def bounds_of(points: Sequence[float]) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 around x1, y1, x2, y2, ...; NaN if a number is not finite, which `min` could skip."""
    if not all(map(math.isfinite, points)):
        return (math.nan,) * 4
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def area_of(points: Sequence[float]) -> float:
    """The area of the polygon x1, y1, x2, y2, ..., as in `areas_of`."""
    x, y = points[::2], points[1::2]
    following = zip(x, y, [*x[1:], x[0]], [*y[1:], y[0]], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for x1, y1, x2, y2 in following)) / 2


def rotated_corners(cx: float, cy: float, width: float, height: float, angle: float) -> list[float]:
    """x1, y1, ..., y4 px of a box rotated about its center by `angle` radians, clockwise on the screen."""
    cos, sin = (math.cos(angle), math.sin(angle)) if math.isfinite(angle) else (math.nan, math.nan)
    sides = ((-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2))
    return [value for x, y in sides for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)]


def quadrilateral(keys: Keys) -> list[float] | None:
    """x1, y1, ..., y4 px if the outline is a single polygon with four corners; else None."""
    outline = keys.get("segmentation")
    if not isinstance(outline, list) or len(outline) != 1 or not isinstance(outline[0], list) or len(outline[0]) != 8:
        return None
    valid = all(type(value) in (int, float) and abs(value) < MAX_COORDINATE for value in outline[0])
    return outline[0] if valid else None
