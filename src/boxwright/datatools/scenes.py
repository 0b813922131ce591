"""Synthetic aerial images with labeled cars, trucks and storage tanks, the data set of the demo.

    K corners of an outline, N objects of a scene; coordinates are (x, y) px of the output image

A scene is a pure function of (seed, index), drawn with 2x supersampling. Roofs, trees (which also occlude objects),
lane markings and shadows are distractors.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.arrays import Array
from boxwright.images.draw import encode_image
from boxwright.json_text import JsonObject
from boxwright.progress import track

NAMES = ("car", "truck", "tank")
SUPERSAMPLING = 2  # drawn pixels per output pixel, in each direction
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
GRASS = ((96, 122, 62), (118, 134, 74), (142, 138, 88), (158, 140, 104), (84, 108, 66), (128, 118, 84))
PAINTS = ((232, 232, 230), (40, 42, 48), (168, 30, 34), (38, 70, 140), (176, 180, 184), (214, 196, 70), (60, 110, 84))
ROOFS = ((150, 84, 66), (128, 128, 132), (170, 160, 148), (96, 74, 66))


@dataclass(frozen=True)
class RenderedScene:
    """image: (size, size, 3) uint8 RGB. boxes: (N, 4) float64 xyxy px, clipped. labels: (N,) indices into NAMES."""

    image: Array
    boxes: Array
    labels: Array


@dataclass(frozen=True)
class Item:
    """An object or distractor: its kind, its outline (K, 2) px, and a function that paints it."""

    kind: str  # one of NAMES, or roof
    outline: Array
    height: float  # px, the length of its shadow
    paint: Callable[[Array], None]


def write_dataset(folder: Path, train: int = 240, val: int = 60, size: int = 256, seed: int = 0) -> Path:
    """Render `train` + `val` scenes into a new COCO data set: images/, annotations/train.json and val.json.

    The folder is written atomically.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scenes-", dir=folder.parent) as temporary:
        tmp = Path(temporary) / "data"
        for name in ("images", "annotations"):
            (tmp / name).mkdir(parents=True)
        progress = iter(track(range(train + val), train + val, "rendering scenes"))
        for split, count in (("train", train), ("val", val)):
            documents = [_write_scene(tmp / "images", next(progress), size, seed) for _ in range(count)]
            _write_json(tmp / "annotations" / f"{split}.json", documents)
        next(progress, None)
        tmp.rename(folder)
    return folder


def rendered_images(count: int, channels: int) -> list[Array]:
    """Images of the first scenes, (size, size, channels) uint8: RGB, or red, green and blue in turn."""
    colors = np.arange(channels) % 3
    return [np.ascontiguousarray(render(0, index).image[..., colors]) for index in range(count)]


def render(seed: int, index: int, size: int = 256) -> RenderedScene:
    """Render a scene of `size` x `size` px. The same arguments give the same pixels."""
    rng = np.random.default_rng([seed, index])
    image = _ground(rng, size)
    occupied, paved = np.zeros((2, size, size), np.uint8)
    roads = [_road(rng, size) for _ in range(rng.integers(1, 3))]
    for road, width in roads:
        _draw_road(image, road, width)
        cv2.polylines(paved, [np.round(road).astype(np.int32)], False, 1, int(width) + 6)
    buildings = [*_tanks(rng, size), *_roofs(rng, size)]
    vehicles = [*_traffic(rng, roads), *_parked(rng, size)]
    items = [item for item in buildings if _reserve(occupied, item.outline, paved)]
    items += [item for item in vehicles if _reserve(occupied, item.outline)]
    objects = [item for item in items if item.kind in NAMES]
    _draw_items(rng, image, items)
    _draw_trees(rng, image, objects)
    outlines = [item.outline for item in objects]
    boxes = [np.concatenate([o.min(axis=0), o.max(axis=0)]).clip(0, size) for o in outlines]
    labels = [NAMES.index(item.kind) for item in objects]
    return RenderedScene(_finish(rng, image), np.array(boxes).reshape(-1, 4), np.array(labels, np.int64))


# --- files


def _write_scene(folder: Path, index: int, size: int, seed: int) -> tuple[JsonObject, list[JsonObject]]:
    """Write the image of a scene; returns its COCO entry and annotations (without ids)."""
    scene = render(seed, index, size)
    name = f"{index:06d}.jpg"
    (folder / name).write_bytes(encode_image(scene.image, ".jpg", 92))
    rows = []
    for (x1, y1, x2, y2), label in zip(scene.boxes.round(2).tolist(), scene.labels.tolist(), strict=True):
        w, h = round(x2 - x1, 2), round(y2 - y1, 2)
        row = {"image_id": index + 1, "category_id": label + 1, "bbox": [x1, y1, w, h], "area": w * h, "iscrowd": 0}
        rows.append(row)
    return {"id": index + 1, "file_name": name, "width": size, "height": size}, rows


def _write_json(path: Path, documents: list[tuple[dict[str, object], list[dict[str, object]]]]) -> None:
    rows = [row for _, rows in documents for row in rows]
    tree = {
        "info": {"description": "scenes rendered by boxwright"},
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
        "images": [image for image, _ in documents],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, 1)],
    }
    path.write_text(json.dumps(tree), encoding="utf-8")


# --- drawing with subpixel outlines


def _fill(image: Array, outline: Array, color: npt.ArrayLike) -> None:
    """Half a drawn pixel is subtracted, since the origin of OpenCV is the center of the first pixel."""
    points = np.round((outline * SUPERSAMPLING - 0.5) * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(image, [points], tuple(float(c) for c in np.atleast_1d(color)), cv2.LINE_AA, SHIFT)


def _oblong(center: Array, angle: float, length: float, width: float, corner: float = 0.0) -> Array:
    """Outline of a rectangle rotated by `angle` (radians), with corners beveled by `corner` px."""
    a, b, c = length / 2, width / 2, corner
    points = np.array(
        [[a - c, -b], [a, c - b], [a, b - c], [a - c, b], [c - a, b], [-a, b - c], [-a, c - b], [c - a, -b]]
    )
    outline: Array = center + points @ _rotation(angle)
    return outline


def _rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _disc(center: Array, radius: float, lobes: Array | None = None) -> Array:
    """Outline of a circle; `lobes` (48,) are factors of the radius in each direction."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radii = radius * (1 if lobes is None else lobes)
    return center + np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _reserve(occupied: Array, outline: Array, excluded: Array | int = 0) -> bool:
    """Mark the outline as occupied; returns False if it is occupied, excluded, or half outside the image."""
    mask = np.zeros_like(occupied)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
    low, high = outline.min(axis=0), outline.max(axis=0)
    inside = np.clip(high, 0, len(occupied)) - np.clip(low, 0, len(occupied))
    dilated: Array = cv2.dilate(mask, np.ones((5, 5), np.uint8))
    if inside.prod() < 0.5 * (high - low).prod() or (dilated & (occupied | excluded)).any():
        return False
    occupied |= mask
    return True


# --- the ground


def _clouds(rng: np.random.Generator, size: int, cells: int) -> Array:
    """(size, size) float32 smooth noise with mean 0 and about `cells` bumps per side."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _ground(rng: np.random.Generator, size: int) -> Array:
    """Fields with different colors and furrows, and noise at three scales."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    seeds = rng.uniform(0, size, (rng.integers(3, 7), 2)).astype(np.float32)
    plot = np.argmin([(x - sx) ** 2 + (y - sy) ** 2 for sx, sy in seeds], axis=0)
    image = np.zeros((size, size, 3), np.float32)
    for number in range(len(seeds)):
        angle, period, depth = rng.uniform(0, np.pi), rng.uniform(4, 10), rng.uniform(0, 7)
        mask = plot == number
        furrows = depth * np.sin((x[mask] * np.cos(angle) + y[mask] * np.sin(angle)) * (2 * np.pi / period))
        color = np.array(GRASS[rng.integers(len(GRASS))]) + rng.normal(0, 6, 3)
        image[mask] = color + furrows[:, None]
    for depth, cells in ((7, 6), (5, 40), (5, size)):
        image += depth * _clouds(rng, size, cells)[..., None]
    return cv2.resize(np.clip(image, 0, 255).astype(np.uint8), None, fx=SUPERSAMPLING, fy=SUPERSAMPLING)


def _road(rng: np.random.Generator, size: int) -> tuple[Array, float]:
    """A curve (64, 2) from one side of the image to another, and its width in px."""
    angle = rng.uniform(0, 2 * np.pi)
    ends = [size / 2 + 0.8 * size * np.array([np.cos(t), np.sin(t)]) for t in (angle, angle + rng.uniform(2.2, 4.1))]
    middle = rng.uniform(0.25 * size, 0.75 * size, 2)
    t = np.linspace(0, 1, 64)[:, None]
    return (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * middle + t**2 * ends[1], float(rng.uniform(36, 46))


def _draw_road(image: Array, road: Array, width: float) -> None:
    points = [np.round(road * SUPERSAMPLING * (1 << SHIFT)).astype(np.int32)]
    for wide, color in ((width + 5, (140, 134, 118)), (width, (98, 99, 102)), (width - 4, (104, 105, 108))):
        cv2.polylines(image, points, False, color, int(wide * SUPERSAMPLING), cv2.LINE_AA, SHIFT)
    for start in range(0, len(road) - 1, 2):
        piece = [points[0][start : start + 2]]
        cv2.polylines(image, piece, False, (205, 203, 190), SUPERSAMPLING, cv2.LINE_AA, SHIFT)


# --- objects and distractors


def _vehicle(rng: np.random.Generator, kind: str, center: Array, angle: float) -> Item:
    paint = np.array(PAINTS[rng.integers(len(PAINTS))]) + rng.normal(0, 8, 3)
    if kind == "car":
        length, width = rng.uniform(21, 27), rng.uniform(10, 12)
        return Item(
            kind, _oblong(center, angle, length, width, 2.5), 4, _car_paint(center, angle, length, width, paint)
        )
    length, width = rng.uniform(42, 56), rng.uniform(13, 15.5)
    box = np.array(PAINTS[rng.integers(len(PAINTS))]) * 0.4 + 130
    return Item(kind, _oblong(center, angle, length, width), 9, _truck_paint(center, angle, length, width, paint, box))


def _car_paint(center: Array, angle: float, length: float, width: float, paint: Array) -> Callable[[Array], None]:
    ahead = np.array([np.cos(angle), np.sin(angle)])

    def draw(image: Array) -> None:
        _fill(image, _oblong(center, angle, length, width, 2.5), paint * 0.8)
        _fill(image, _oblong(center, angle, length - 2, width - 2, 2), paint)
        _fill(image, _oblong(center - 0.06 * length * ahead, angle, 0.62 * length, width - 2.4, 1.5), (30, 36, 44))
        _fill(image, _oblong(center - 0.07 * length * ahead, angle, 0.36 * length, width - 3, 1), paint * 0.92 + 14)

    return draw


def _truck_paint(
    center: Array, angle: float, length: float, width: float, paint: Array, box: Array
) -> Callable[[Array], None]:
    ahead = np.array([np.cos(angle), np.sin(angle)])

    def draw(image: Array) -> None:
        _fill(image, _oblong(center, angle, length - 2, width - 4), (46, 46, 50))
        _fill(image, _oblong(center - 0.12 * length * ahead, angle, 0.76 * length, width), box * 0.82)
        _fill(image, _oblong(center - 0.12 * length * ahead, angle, 0.76 * length - 2, width - 3), box)
        for along in (-0.36, -0.2, -0.04, 0.12):
            _fill(image, _oblong(center + along * length * ahead, angle, 0.8, width - 3), box * 0.86)
        _fill(image, _oblong(center + 0.4 * length * ahead, angle, 0.2 * length, width - 1, 2), paint)
        _fill(image, _oblong(center + 0.44 * length * ahead, angle, 0.07 * length, width - 3, 1), (30, 36, 44))

    return draw


def _traffic(rng: np.random.Generator, roads: list[tuple[Array, float]]) -> Iterator[Item]:
    """Cars and trucks in the right lane."""
    for road, width in roads:
        for _ in range(rng.integers(4, 10)):
            at, side = rng.integers(4, len(road) - 4), rng.choice([-1.0, 1.0])
            along = (road[at + 1] - road[at - 1]) * side
            angle = float(np.arctan2(along[1], along[0]))
            lane = np.array([-np.sin(angle), np.cos(angle)]) * width * rng.uniform(0.23, 0.27)
            yield _vehicle(rng, "truck" if rng.random() < 0.4 else "car", road[at] + lane, angle + rng.normal(0, 0.03))


def _parked(rng: np.random.Generator, size: int) -> Iterator[Item]:
    """A row of parked cars, and a few single vehicles."""
    angle, start = rng.uniform(0, np.pi), rng.uniform(0.15 * size, 0.85 * size, 2)
    step = np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(17, 21)
    for number in range(rng.integers(0, 6)):
        yield _vehicle(rng, "car", start + number * step + rng.normal(0, 0.7, 2), angle + np.pi * rng.integers(2))
    for _ in range(rng.integers(0, 3)):
        kind = "truck" if rng.random() < 0.6 else "car"
        yield _vehicle(rng, kind, rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi))


def _tanks(rng: np.random.Generator, size: int) -> Iterator[Item]:
    """Tanks of the same size on a square grid."""
    radius, angle = rng.uniform(11, 27), rng.uniform(0, np.pi / 2)
    corner, step = rng.uniform(0.1 * size, 0.9 * size, 2), radius * rng.uniform(2.3, 2.8)
    color = np.array([214, 212, 206]) + rng.normal(0, 12) + rng.normal(0, 3, 3)
    for number in range(rng.integers(1, 6)):
        cell = np.array([number % 2, number // 2]) * step
        center = corner + cell @ _rotation(angle)
        yield Item("tank", _disc(center, radius), 0.7 * radius, _tank_paint(center, radius, color, angle))


def _tank_paint(center: Array, radius: float, color: Array, angle: float) -> Callable[[Array], None]:
    def draw(image: Array) -> None:
        _fill(image, _disc(center, radius), color * 0.62)
        for ring, light in ((0.93, 0.94), (0.6, 1.0), (0.25, 1.05)):
            _fill(image, _disc(center, radius * ring), np.minimum(color * light, 255))
        _fill(image, _oblong(center, angle, 1.86 * radius, 1.4), color * 0.74)
        _fill(image, _disc(center, 0.12 * radius), color * 0.55)

    return draw


def _roofs(rng: np.random.Generator, size: int) -> Iterator[Item]:
    for _ in range(rng.integers(0, 4)):
        center, angle = rng.uniform(0, size, 2), rng.uniform(0, np.pi)
        length, width = rng.uniform(34, 70), rng.uniform(26, 40)
        color = np.array(ROOFS[rng.integers(len(ROOFS))]) + rng.normal(0, 8, 3)
        yield Item("roof", _oblong(center, angle, length, width), 12, _roof_paint(center, angle, length, width, color))


def _roof_paint(center: Array, angle: float, length: float, width: float, color: Array) -> Callable[[Array], None]:
    across = np.array([-np.sin(angle), np.cos(angle)])

    def draw(image: Array) -> None:
        _fill(image, _oblong(center, angle, length, width), color * 0.78)
        _fill(image, _oblong(center + 0.25 * width * across, angle, length, width / 2), color * 1.08)
        _fill(image, _oblong(center, angle, length, 1.2), color * 0.6)

    return draw


def _draw_items(rng: np.random.Generator, image: Array, items: list[Item]) -> None:
    """Draw all shadows before the items, since shadows fall on the ground only."""
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    shadow = np.zeros(image.shape[:2], np.uint8)
    for item in items:
        points = np.concatenate([item.outline, item.outline + item.height * direction]).astype(np.float32)
        _fill(shadow, cv2.convexHull(points)[:, 0], 255)
    light = 1 - rng.uniform(0.35, 0.55) * cv2.GaussianBlur(shadow, (5, 5), 0)[..., None] / np.float32(255)
    image[:] = (image * light).astype(np.uint8)
    for item in items:
        item.paint(image)


def _draw_trees(rng: np.random.Generator, image: Array, objects: list[Item]) -> None:
    """Draw trees that do not cover the center of an object."""
    size = len(image) / SUPERSAMPLING
    for _ in range(rng.integers(4, 22)):
        center, radius = rng.uniform(0, size, 2), rng.uniform(5, 13)
        if any(np.hypot(*(item.outline.mean(axis=0) - center)) < 1.22 * radius + 6 for item in objects):
            continue
        lobes = 1 + 0.22 * np.repeat(rng.uniform(-1, 1, 12), 4)
        green = np.array([52, 82, 40]) + rng.normal(0, 9, 3)
        for share, light, shift in ((1.0, 0.62, 1.4), (1.0, 1.0, 0.0), (0.66, 1.2, -1.2), (0.3, 1.38, -2.0)):
            _fill(image, _disc(center + shift, radius * share, np.roll(lobes, int(40 * share))), green * light)


def _finish(rng: np.random.Generator, image: Array) -> Array:
    """Downsample, and simulate a camera: blur, exposure, tint and noise."""
    output: Array = cv2.resize(image, None, fx=1 / SUPERSAMPLING, fy=1 / SUPERSAMPLING, interpolation=cv2.INTER_AREA)
    output = cv2.GaussianBlur(output.astype(np.float64), (0, 0), rng.uniform(0.2, 0.7))
    output = output * rng.uniform(0.82, 1.15) * rng.uniform(0.95, 1.05, 3) + rng.uniform(-6, 12)
    output = np.clip(output + rng.normal(0, rng.uniform(2, 6), output.shape), 0, 255)
    return output.astype(np.uint8)
