"""Cutting a data set of large images (scenes) into tiles with COCO labels.

    N boxes of a scene

A box is labeled in a tile if the tile shows at least `min_visible` of its area in the scene, and is clipped to the
tile. Other boxes become ignore regions (COCO's `iscrowd`), since half a ship is neither a ship nor background, or are
left out with cut `drop`. Truncated boxes less than a px wide or high are always left out.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.data import labeled_classes
from boxwright.data.dataset import ANY_CLASS, Dataset, Sample
from boxwright.datatools import band_tiles
from boxwright.datatools.check import OUTSIDE_TOLERANCE, check
from boxwright.datatools.clean import Cleaning, clip_boxes, image_size
from boxwright.errors import InputError, printable
from boxwright.files import atomic_write, check_outside, make_folder, read_bytes, write_bytes
from boxwright.formats import open_boxes
from boxwright.formats import splits as splits_of
from boxwright.images.bands import BandNumbers
from boxwright.images.budget import MAX_PIXELS
from boxwright.images.draw import encode_image
from boxwright.images.windows import Pixels, Window, grid, open_scene
from boxwright.json_text import JsonObject
from boxwright.progress import track

MAX_DEVIATION = 0.1  # of `window`, by which the size of a tile may differ, since it shows whole px of the scene
DECIMALS = 3  # decimals of a px in the JSON
QUALITY = {".png": 3, ".jpg": 95}
Entry = JsonObject


@dataclass(frozen=True, slots=True)
class Cutting:
    """Settings for cutting scenes into tiles.

    Attributes:
        window: Side of the tiles in px.
        overlap: Overlap of neighboring tiles as a fraction of the side, in [0, 1).
        scales: px of a tile per px of the scene; each scene is cut once per scale.
        min_visible: Minimum visible fraction of a labeled box.
        cut: Whether other boxes are ignored or dropped.
        empty: Write tiles without objects, too.
        format: Format of the images; jpg is lossy, with a tenth of the size.
        bands: Write TIFF files with the samples of these bands, from 1, instead of images of RGB.
    """

    window: int = 600
    overlap: float = 0.2
    scales: tuple[float, ...] = (1.0,)
    min_visible: float = 0.7
    cut: Literal["ignore", "drop"] = "ignore"
    empty: bool = True
    format: Literal["png", "jpg"] = "png"
    bands: BandNumbers | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.window <= math.isqrt(MAX_PIXELS):
            raise InputError(f"window: found {self.window}, needed 1 to {math.isqrt(MAX_PIXELS)} px")
        grid((1, 1), self.window, self.overlap)  # raises InputError for an invalid overlap before a scene is read
        if bad := [scale for scale in self.scales if not (0 < scale < math.inf and self.window / scale < math.inf)]:
            raise InputError(f"scale: found {bad[0]}, needed a factor above 0, such as 0.5")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scale: found {list(self.scales)}, needed one or more, and each once")
        for scale in self.scales:
            side = self._side(scale)
            if abs(side * scale - self.window) > MAX_DEVIATION * self.window:
                raise InputError(
                    f"scale: found {scale}: a tile would show {self.window / scale:.3g} px of the scene, and the "
                    f"nearest whole number gives one of {side * scale:g} px, needed {self.window}; use a smaller scale"
                )
        if self.bands is not None and self.format != "png":
            raise InputError(f"--format {self.format}: found with --bands, which writes TIFF; leave one out")
        if not 0 <= self.min_visible <= 1:
            raise InputError(f"min_visible: found {self.min_visible}, needed a fraction from 0 to 1, such as 0.7")

    def _side(self, scale: float) -> int:
        """px of the scene along a tile."""
        return max(1, round(self.window / scale))

    def windows(self, size: tuple[int, int]) -> Iterator[tuple[float, Window]]:
        """The scale and the window (px of the scene) of each tile of a scene of `size` (height, width) px."""
        for scale in self.scales:
            for window in grid(size, self._side(scale), self.overlap):
                yield scale, window


@dataclass(frozen=True)
class Cut:
    """The tiles of scenes, and counts of their objects, without crowd regions.

    Attributes:
        tiles: Entries of COCO's `images`, with their `annotations`.
        written: Number of new tiles.
        left_empty: Number of windows without objects that were not written.
        objects: Number of objects in the scenes.
        nowhere: Number of objects that are not labeled in any tile.
        at_edge: Objects clipped because they extend beyond their scene by more than a px.
        dropped: Truncated boxes that were left out.
    """

    tiles: list[tuple[Entry, list[Entry]]] = field(default_factory=list)
    written: int = 0
    left_empty: int = 0
    objects: int = 0
    nowhere: int = 0
    at_edge: int = 0
    dropped: int = 0

    @classmethod
    def of(cls, cuts: Iterable["Cut"]) -> "Cut":
        """Concatenate the results of several scenes."""
        results = list(cuts)
        tiles = [tile for result in results for tile in result.tiles]
        counters = [counter.name for counter in fields(cls) if counter.name != "tiles"]
        return cls(tiles, **{name: sum(getattr(result, name) for result in results) for name in counters})

    def lines(self) -> list[str]:
        """A summary for the user."""
        boxes = [box for _, found in self.tiles for box in found]
        crowd = sum(box["iscrowd"] for box in boxes)
        return [
            f"{len(self.tiles)} tiles: {self.written} written, {len(self.tiles) - self.written} there already"
            + (f"; {self.left_empty} windows without an object left out" if self.left_empty else ""),
            f"{self.objects} objects in the scenes, {self.nowhere} of them in no tile with min_visible"
            + (f", {self.at_edge} clipped at the scene's edge" if self.at_edge else ""),
            f"{len(boxes)} boxes in the tiles: {len(boxes) - crowd} objects, {crowd} to ignore; "
            f"{self.dropped} truncated below min_visible dropped",
        ]


def tile(
    source: str | Path,
    out: str | Path,
    cutting: Cutting,
    splits: Sequence[str] = (),
    *,
    workers: int = 0,
    skip_faulty: bool = False,
    kind: str = "auto",
) -> str:
    """Cut a data set into tiles: images/SPLIT/ and annotations/SPLIT.json. Existing tiles of a scene are kept.

    Boxes that extend beyond their scene are clipped to it.

    Args:
        source: The data set.
        out: The folder for the tiles.
        cutting: How scenes are cut.
        splits: The splits to cut; () for all.
        workers: Scenes in parallel; 0 for one per core, at most four.
        skip_faulty: Leave out labels and images with errors.
        kind: The layout of the data set; `auto` detects it.

    Returns:
        A summary for the user.

    Raises:
        InputError: Labels or images have errors; raised before anything is written.
    """
    target, root = Path(out).resolve(), Path(source).resolve()
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise InputError(f"{out}: holds the scenes or lies among them ({source}); choose another folder")
    lines = []
    names, rgb = splits or splits_of(source, kind), cutting.bands is None
    checked = {split: _checked(open_boxes(source, split, kind), skip_faulty, rgb) for split in names}
    for split, (dataset, _) in checked.items():
        scenes = dataset.folders()
        for folder in (out, Path(out) / "images" / split):
            check_outside(folder, scenes)
    for split, (dataset, left_out) in checked.items():
        cut = _cut_split(dataset, Path(out), cutting, workers or min(4, os.cpu_count() or 1))
        _write_json(dataset, cut, cutting, make_folder(Path(out) / "annotations") / f"{split}.json")
        lines += left_out
        lines += [f"{split}: {len(dataset)} scenes", *(f"  {line}" for line in cut.lines())]
    return "\n".join(map(printable, lines))


def cut_boxes(boxes: NDArray[np.float64], window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clip boxes (N, 4) xyxy px of the scene to a window.

    Returns:
        The clipped boxes (N, 4) in px of the scene, and the visible fraction (N,) of each box's area.
    """
    x1, y1, x2, y2 = window.xyxy
    clipped = np.clip(boxes, [x1, y1, x1, y1], [x2, y2, x2, y2])
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    return clipped, visible / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _checked(dataset: Dataset, skip: bool, rgb: bool) -> tuple[Dataset, list[str]]:
    """The data set without errors, and a line for each item left out. Raises InputError for errors without `skip`."""
    report = check(dataset, scenes=True, rgb=rgb)
    _, report, _ = clip_boxes(dataset, report)  # boxes are clipped to each tile
    dataset, left_out = Cleaning(skip).apply(dataset, report)
    seen = dict[str, str]()
    for path in map(dataset.path, range(len(dataset))):
        if (other := seen.setdefault(Path(path).stem, path)) != path:
            raise InputError(f"{path}: its tiles would have the same names as those of {other}; rename one of the two")
    return dataset, left_out


def _cut_split(dataset: Dataset, out: Path, cutting: Cutting, workers: int) -> Cut:
    images = make_folder(out / "images" / dataset.split)
    sizes = [image_size(dataset, index) for index in range(len(dataset))]

    def cut_scene(index: int) -> Cut:
        sample = dataset[index]
        keys = labeled_classes.to_coco(sample.labeled, dataset.names)
        return _cut_scene(sample, sizes[index], keys, dataset.category_ids, images, cutting)

    with ThreadPoolExecutor(workers) as pool:
        scenes = pool.map(cut_scene, range(len(dataset)))
        return Cut.of(track(scenes, len(dataset), f"cutting {dataset.split}", "scenes"))


def _cut_scene(
    sample: Sample, size: tuple[int, int], keys: Entry, category_ids: Sequence[int], images: Path, cutting: Cutting
) -> Cut:
    """Cut one scene and write the images of its tiles. keys: additional keys of each tile's entry in `images`."""
    (h, w), objects = size, ~sample.crowd
    boxes = np.clip(sample.boxes.astype(np.float64), 0, [w, h, w, h])
    over_edge = (np.abs(boxes - sample.boxes) > OUTSIDE_TOLERANCE).any(axis=1)
    labeled = np.zeros(len(boxes), dtype=bool)  # in some tile
    tiles, files, left_empty, dropped = [], [], 0, 0
    for scale, window in cutting.windows(size):
        tile_boxes = _tile_boxes(boxes, sample.crowd, window, scale, cutting)
        if not cutting.empty and not tile_boxes.labeled.any():
            left_empty += 1
            continue
        labeled |= tile_boxes.labeled
        dropped += int((objects & (tile_boxes.visible > 0) & ~tile_boxes.kept).sum())
        name = f"{Path(sample.path).stem}__{window.x}_{window.y}_{window.width}x{window.height}"
        name += "" if scale == 1 else f"_x{scale}"
        name += f".{cutting.format}" if cutting.bands is None else f"{band_tiles.name(cutting.bands)}.tif"
        file = images / name
        files.append((file, scale, window))
        entry = _image(sample, size, file.name, scale, window) | keys
        tiles.append((entry, _annotations(sample, tile_boxes, category_ids)))
    return Cut(
        tiles,
        written=_write_images(sample.path, files, cutting.bands),
        left_empty=left_empty,
        objects=int(objects.sum()),
        nowhere=int((objects & ~labeled).sum()),
        at_edge=int((objects & over_edge).sum()),
        dropped=dropped,
    )


@dataclass(frozen=True, slots=True)
class _TileBoxes:
    """The N boxes of a scene in one of its tiles."""

    boxes: NDArray[np.float64]  # (N, 4) xyxy px of the tile
    visible: NDArray[np.float64]  # (N,) visible fraction of the area
    labeled: NDArray[np.bool_]  # (N,) whether it is an object of the tile
    kept: NDArray[np.bool_]  # (N,) whether it is in the JSON, as an object or as an ignore region


def _tile_boxes(
    boxes: NDArray[np.float64], crowd: NDArray[np.bool_], window: Window, scale: float, cutting: Cutting
) -> _TileBoxes:
    """Apply the rules of the module's docstring to boxes (N, 4) in px of the scene, clipped to it."""
    clipped, visible = cut_boxes(boxes, window)
    clipped = (clipped - [window.x, window.y, window.x, window.y]) * scale
    sliver = (visible < 1) & ((clipped[:, 2:] - clipped[:, :2]) < 1).any(axis=1)
    valid = (visible > 0) & ~sliver
    labeled = valid & ~crowd & (visible >= cutting.min_visible)
    return _TileBoxes(clipped, visible, labeled, labeled | (valid & (crowd | (cutting.cut == "ignore"))))


def _image(sample: Sample, size: tuple[int, int], file: str, scale: float, window: Window) -> Entry:
    """The tile's entry in `images`, without its id."""
    height, width = (max(1, round(side * scale)) for side in (window.height, window.width))
    return {
        "file_name": file,
        "height": height,
        "width": width,
        "scene": Path(sample.path).stem,
        "scene_size": list(size),
        "offset": [window.x, window.y],
        "scale": scale,
    }


def _annotations(sample: Sample, tile_boxes: _TileBoxes, category_ids: Sequence[int]) -> list[Entry]:
    """The tile's entries in `annotations`, without ids. area: px of the tile, times the visible fraction."""
    rows, xyxy = np.flatnonzero(tile_boxes.kept), tile_boxes.boxes
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)[rows].round(DECIMALS)
    ratio = xywh[:, 2:].prod(axis=1) / (sample.boxes[rows, 2:] - sample.boxes[rows, :2]).prod(axis=1, dtype=np.float64)
    areas = (sample.areas[rows] * ratio).round(DECIMALS)
    return [
        {
            "category_id": category_ids[max(sample.labels[row], 0)],
            "bbox": box,
            "area": area,
            "iscrowd": int(not tile_boxes.labeled[row]),
            **({"ignore": 1} if sample.labels[row] == ANY_CLASS else {}),
            "difficult": int(sample.difficult[row]),
            "visible": round(float(tile_boxes.visible[row]), DECIMALS),
            "object": int(sample.annotation_ids[row]),
        }
        for row, box, area in zip(rows.tolist(), xywh.tolist(), areas.tolist(), strict=True)
    ]


def _write_images(path: str, files: Sequence[tuple[Path, float, Window]], bands: BandNumbers | None = None) -> int:
    """Write the tiles (file, scale, window) of a scene that are missing or have another time than it; returns their
    number."""
    time = Path(path).stat().st_mtime_ns
    missing = [entry for entry in files if not entry[0].is_file() or entry[0].stat().st_mtime_ns != time]
    if not missing:
        return 0
    with _open(path, bands) as encoded:
        for file, scale, window in missing:
            data = encoded(window, scale, file.suffix)
            with atomic_write(file) as tmp:
                tmp.write_bytes(data)
                os.utime(tmp, ns=(time, time))
    return len(missing)


@contextmanager
def _open(path: str, bands: BandNumbers | None) -> Iterator[Callable[[Window, float, str], bytes]]:
    """Yield a function that encodes the tile for a window, a scale and a suffix."""
    if bands is None:
        with open_scene(path) as scene:
            yield lambda window, scale, suffix: _encode(scene.read(window), scale, suffix)
    else:
        with band_tiles.open_samples(path, bands) as read:
            yield lambda window, scale, suffix: band_tiles.encode(*read(window), scale, path)


def _encode(pixels: Pixels, scale: float, suffix: str) -> bytes:
    """Encode a tile: RGB pixels of the scene, resized by exactly `scale` even if the tile's size is rounded."""
    if scale != 1:
        h, w = pixels.shape[:2]
        kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, None, fx=max(scale, 1 / w), fy=max(scale, 1 / h), interpolation=kind)  # type: ignore[assignment]
    return encode_image(pixels, suffix, QUALITY[suffix])


def _write_json(dataset: Dataset, cut: Cut, cutting: Cutting, file: Path) -> None:
    """Write the COCO JSON of a split, unless the file already has the same content."""
    if not cut.tiles:
        raise InputError(f"{dataset.root}: no window of {dataset.split} holds an object; write tiles without one, too")
    images: list[Entry] = []
    annotations: list[Entry] = []
    for number, (image, boxes) in enumerate(cut.tiles, 1):
        images.append({"id": number, **image})
        annotations += [{"id": len(annotations) + i, "image_id": number, **box} for i, box in enumerate(boxes, 1)]
    categories = [{"id": id, "name": name} for id, name in zip(dataset.category_ids, dataset.names, strict=True)]
    tree = {"info": {"tiles": asdict(cutting)}, "images": images, "annotations": annotations, "categories": categories}
    data = json_text.dumps(tree).encode()
    if file.exists() and not read_bytes(file).startswith(b'{"info": {"tiles": '):
        raise InputError(f"{file}: exists and does not list tiles; choose another folder")
    if not file.exists() or read_bytes(file) != data:
        write_bytes(file, data)
