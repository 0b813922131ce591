"""Distances of points from lines and polygons, in px with y downwards."""

from collections.abc import Sequence

import numpy as np

from boxwright.arrays import Array


def beside_line(line: Sequence[float], points: Array) -> Array:
    """Signed distances of points (N, 2) from the straight line through x1, y1, x2, y2: (N,), positive to the right when
    looking from the first point to the second on the image."""
    start, end = np.array(line, np.float64).reshape(2, 2)
    way = end - start
    distance: Array = (way[0] * (points[:, 1] - start[1]) - way[1] * (points[:, 0] - start[0])) / np.hypot(*way)
    return distance


def along_line(line: Sequence[float], point: Array) -> float:
    """Position along a line of the projection of a point (2,): 0 at the line's first point, 1 at its second."""
    start, end = np.array(line, np.float64).reshape(2, 2)
    way = end - start
    return float((point - start) @ way / (way @ way))


def inside_polygon(polygon: Sequence[float], points: Array) -> Array:
    """Distances of points (N, 2) from the border of a polygon x1, y1, x2, y2, ...: (N,), positive inside.

    If the polygon crosses itself, points with an odd number of crossings on a ray are inside.
    """
    starts = np.array(polygon, np.float64).reshape(-1, 2)
    ways = np.roll(starts, -1, axis=0) - starts
    relative = points[:, None] - starts  # (N, E, 2)
    length = np.maximum((ways**2).sum(1), np.finfo(np.float64).tiny)
    share = ((relative * ways).sum(2) / length).clip(0, 1)
    distance = np.hypot(*np.moveaxis(relative - share[:, :, None] * ways, 2, 0)).min(1)
    # a ray to the right crosses an edge whose ends lie above and below, if the edge is to the right at that height
    upper, lower = relative[:, :, 1] < 0, relative[:, :, 1] - ways[:, 1] < 0
    turn = ways[:, 0] * relative[:, :, 1] - ways[:, 1] * relative[:, :, 0]
    crossed = (upper != lower) & ((turn > 0) == (ways[:, 1] > 0))
    signed: Array = np.where(crossed.sum(1) % 2 == 1, distance, -distance)
    return signed
