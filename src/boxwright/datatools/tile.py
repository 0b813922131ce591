"""A data set of large images (scenes) cut into tiles: images of windows, with a COCO JSON of what is in each.

    N boxes of a scene; x, y px, from the left and top of the scene or of the tile

What becomes of an object in a tile depends on how much of it the tile shows, as a share of the box's area inside the
scene. From `min_visible` on, it is an object of the tile, with the box of the part that is shown. Below, that part is
neither object nor background (COCO's `iscrowd`: half a ship teaches neither "ship" nor "no ship"), or is left out with
cut `drop`. What is less than a px of the tile wide or high then is left out in any case.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.data.dataset import Dataset, Sample
from boxwright.datatools.check import OUTSIDE_TOLERANCE, check, skip_bad
from boxwright.datatools.report import Finding, Report
from boxwright.errors import InputError, printable
from boxwright.files import atomic_write, check_outside, make_folder, read_bytes
from boxwright.formats import open_boxes
from boxwright.formats import splits as splits_of
from boxwright.images.budget import MAX_PIXELS
from boxwright.images.draw import encode_image
from boxwright.images.header import read_header
from boxwright.images.windows import Pixels, Window, grid, open_scene
from boxwright.progress import track

MAX_DEVIATION = 0.1  # by which a tile may miss `window` since it shows whole px of the scene, as a share of it
PLACES = 3  # decimals of a px in the JSON
QUALITY = {".png": 3, ".jpg": 95}
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cutting:
    """How scenes are cut.

    window: the side of a tile in px. overlap: the share of a tile that the next one repeats, in [0, 1). scales: px of a
    tile for one px of the scene; each scene is cut once for each. min_visible, cut: see the top of this file. empty:
    also write tiles without an object. format: of the images; jpg has a tenth of the bytes and loses a little.
    """

    window: int = 600
    overlap: float = 0.2
    scales: tuple[float, ...] = (1.0,)
    min_visible: float = 0.7
    cut: Literal["ignore", "drop"] = "ignore"
    empty: bool = True
    format: Literal["png", "jpg"] = "png"

    def __post_init__(self) -> None:
        if not 1 <= self.window <= math.isqrt(MAX_PIXELS):
            raise InputError(f"window: found {self.window}, needed 1 to {math.isqrt(MAX_PIXELS)} px")
        grid((1, 1), self.window, self.overlap)  # says what is wrong with the overlap before any scene is read
        if bad := [scale for scale in self.scales if not (0 < scale < math.inf and self.window / scale < math.inf)]:
            raise InputError(f"scale: found {bad[0]}, needed a factor above 0, such as 0.5")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scale: found {list(self.scales)}, needed one or more, and each once")
        for scale in self.scales:
            side = self._side(scale)
            if abs(side * scale - self.window) > MAX_DEVIATION * self.window:
                raise InputError(
                    f"scale: found {scale}, with which a tile shows {self.window / scale:.3g} px of the scene, and the "
                    f"nearest whole number makes one of {side * scale:g} px, needed {self.window}; use a smaller scale"
                )
        if not 0 <= self.min_visible <= 1:
            raise InputError(f"min_visible: found {self.min_visible}, needed a share from 0 to 1, such as 0.7")

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
    """The tiles of some scenes, and what became of their objects (crowd regions are none)."""

    tiles: list[tuple[Entry, list[Entry]]] = field(default_factory=list)  # COCO's `images` entry, its `annotations`
    written: int = 0  # of the tiles; the others were there already
    left_empty: int = 0  # windows without an object that became no tile
    objects: int = 0
    nowhere: int = 0  # objects of which no tile shows `min_visible`
    at_edge: int = 0  # objects that reach out of their scene by more than a px, and are cut at its edge
    dropped: int = 0  # parts below `min_visible` that are in no JSON

    @classmethod
    def of(cls, cuts: Iterable["Cut"]) -> "Cut":
        """All of them as one."""
        parts = list(cuts)
        tiles = [tile for part in parts for tile in part.tiles]
        counters = [counter.name for counter in fields(cls) if counter.name != "tiles"]
        return cls(tiles, **{name: sum(getattr(part, name) for part in parts) for name in counters})

    def lines(self) -> list[str]:
        """For people."""
        boxes = [box for _, found in self.tiles for box in found]
        crowd = sum(box["iscrowd"] for box in boxes)
        return [
            f"{len(self.tiles)} tiles: {self.written} written, {len(self.tiles) - self.written} there already"
            + (f"; {self.left_empty} windows without an object left out" if self.left_empty else ""),
            f"{self.objects} objects in the scenes, {self.nowhere} of them in no tile to min_visible"
            + (f", {self.at_edge} cut at the scene's edge" if self.at_edge else ""),
            f"{len(boxes)} boxes in the tiles: {len(boxes) - crowd} objects, {crowd} to ignore; "
            f"{self.dropped} cut parts below min_visible dropped",
        ]


def tile(
    source: str | Path,
    out: str | Path,
    cutting: Cutting,
    splits: Sequence[str] = (),
    *,
    workers: int = 0,
    skip_faulty: bool = False,
) -> str:
    """Cut the splits of a data set (none named: all it has) into the folder `out`; a report for people.

    Writes images/SPLIT/ and annotations/SPLIT.json. A tile that is there, made from the same scene, stays as it is.
    workers: threads, each with one scene; 0: one a core, four at most. skip_faulty: leave out what `data check` calls
    an error. Boxes that reach out of their scene are cut at its edge, and are no error here.
    Raises InputError for faulty labels and images, before anything is written.
    """
    ours, theirs = Path(out).resolve(), Path(source).resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(f"{out}: holds the scenes or lies among them ({source}); choose a folder beside theirs")
    lines = []
    checked = {split: _checked(open_boxes(source, split), skip_faulty) for split in splits or splits_of(source)}
    for split, (dataset, _) in checked.items():
        scenes = dataset.folders()
        for place in (out, Path(out) / "images" / split):
            check_outside(place, scenes)
    for split, (dataset, left_out) in checked.items():
        cut = _cut_split(dataset, Path(out), cutting, workers or min(4, os.cpu_count() or 1))
        _write_json(dataset, cut, cutting, make_folder(Path(out) / "annotations") / f"{split}.json")
        lines += left_out
        lines += [f"{split}: {len(dataset)} scenes", *(f"  {line}" for line in cut.lines())]
    return "\n".join(map(printable, lines))


def cut_boxes(boxes: NDArray[np.float64], window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (N, 4) xyxy px of the scene -> their parts in the window (N, 4), px of the scene, and the share of each
    box's area that is in it (N,), 0 for those outside.
    """
    x1, y1, x2, y2 = window.xyxy
    parts = np.clip(boxes, [x1, y1, x1, y1], [x2, y2, x2, y2])
    inside = (parts[:, 2:] - parts[:, :2]).prod(axis=1)
    return parts, inside / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _checked(dataset: Dataset, skip: bool) -> tuple[Dataset, list[str]]:
    """The data set without faults, and a line for each thing left out. InputError for faults without `skip`."""

    def partly_inside(fault: Finding) -> bool:
        if fault.kind != "outside" or fault.row is None or fault.index is None:
            return False
        (x1, y1, x2, y2), (h, w) = dataset.rows.xyxy[fault.row].tolist(), _size(dataset, fault.index)
        return bool(x1 < w and y1 < h and x2 > 0 and y2 > 0)

    report = Report(tuple(fault for fault in check(dataset, scenes=True).errors if not partly_inside(fault)))
    if not skip:
        report.raise_on_errors(dataset.root, skippable=True)
    sound = skip_bad(dataset, report)
    seen: dict[str, str] = {}
    for path in map(sound.path, range(len(sound))):
        if (other := seen.setdefault(Path(path).stem, path)) != path:
            raise InputError(f"{path}: its tiles would take the names of those of {other}; rename one of the two")
    return sound, report.left_out()


def _size(dataset: Dataset, index: int) -> tuple[int, int]:
    """(height, width) px of an image, from its file where the data set does not say."""
    height, width = dataset.images.sizes[index].tolist()
    return (height, width) if height > 0 else read_header(dataset.path(index), decode=None).size


def _cut_split(dataset: Dataset, out: Path, cutting: Cutting, workers: int) -> Cut:
    images = make_folder(out / "images" / dataset.split)
    sizes = [_size(dataset, index) for index in range(len(dataset))]

    def cut_scene(index: int) -> Cut:
        return _cut_scene(dataset[index], sizes[index], dataset.category_ids, images, cutting)

    with ThreadPoolExecutor(workers) as pool:
        scenes = pool.map(cut_scene, range(len(dataset)))
        return Cut.of(track(scenes, len(dataset), f"cutting {dataset.split}", "scenes"))


def _cut_scene(
    sample: Sample, size: tuple[int, int], category_ids: Sequence[int], images: Path, cutting: Cutting
) -> Cut:
    """The tiles of one scene; their images are written."""
    (h, w), objects = size, ~sample.crowd
    boxes = np.clip(sample.boxes.astype(np.float64), 0, [w, h, w, h])
    over_edge = (np.abs(boxes - sample.boxes) > OUTSIDE_TOLERANCE).any(axis=1)
    shown = np.zeros(len(boxes), dtype=bool)  # objects that count in some tile
    tiles, files, left_empty, dropped = [], [], 0, 0
    for scale, window in cutting.windows(size):
        seen = _look(boxes, sample.crowd, window, scale, cutting)
        if not cutting.empty and not seen.counts.any():
            left_empty += 1
            continue
        shown |= seen.counts
        dropped += int((objects & (seen.visible > 0) & ~seen.kept).sum())
        name = f"{Path(sample.path).stem}__{window.x}_{window.y}_{window.width}x{window.height}"
        file = images / f"{name}{'' if scale == 1 else f'_x{scale}'}.{cutting.format}"
        files.append((file, scale, window))
        tiles.append((_image(sample, size, file.name, scale, window), _annotations(sample, seen, category_ids)))
    return Cut(
        tiles,
        written=_write_images(sample.path, files),
        left_empty=left_empty,
        objects=int(objects.sum()),
        nowhere=int((objects & ~shown).sum()),
        at_edge=int((objects & over_edge).sum()),
        dropped=dropped,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one tile shows of the N boxes of its scene.

    boxes (N, 4) xyxy px of the tile. visible (N,) share of the area. counts (N,): an object of the tile. kept (N,): in
    its JSON, as object or to ignore.
    """

    boxes: NDArray[np.float64]
    visible: NDArray[np.float64]
    counts: NDArray[np.bool_]
    kept: NDArray[np.bool_]


def _look(
    boxes: NDArray[np.float64], crowd: NDArray[np.bool_], window: Window, scale: float, cutting: Cutting
) -> _Seen:
    """The rule at the top of this file, for boxes (N, 4) in px of the scene and inside it."""
    parts, visible = cut_boxes(boxes, window)
    parts = (parts - [window.x, window.y, window.x, window.y]) * scale
    sliver = (visible < 1) & ((parts[:, 2:] - parts[:, :2]) < 1).any(axis=1)
    there = (visible > 0) & ~sliver
    counts = there & ~crowd & (visible >= cutting.min_visible)
    return _Seen(parts, visible, counts, counts | (there & (crowd | (cutting.cut == "ignore"))))


def _image(sample: Sample, size: tuple[int, int], file: str, scale: float, window: Window) -> Entry:
    """The tile's entry under `images`, but for its id."""
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


def _annotations(sample: Sample, seen: _Seen, category_ids: Sequence[int]) -> list[Entry]:
    """The tile's entries under `annotations`, but for their ids and the image's.

    area: the object's own in px of the tile, by the share that is seen. visible: that share. object: the label's id in
    the scene.
    """
    rows = np.flatnonzero(seen.kept)
    xywh = np.concatenate([seen.boxes[:, :2], seen.boxes[:, 2:] - seen.boxes[:, :2]], axis=1)[rows].round(PLACES)
    share = xywh[:, 2:].prod(axis=1) / (sample.boxes[rows, 2:] - sample.boxes[rows, :2]).prod(axis=1, dtype=np.float64)
    areas = (sample.areas[rows] * share).round(PLACES)
    return [
        {
            "category_id": category_ids[sample.labels[row]],
            "bbox": box,
            "area": area,
            "iscrowd": int(not seen.counts[row]),
            "difficult": int(sample.difficult[row]),
            "visible": round(float(seen.visible[row]), PLACES),
            "object": int(sample.annotation_ids[row]),
        }
        for row, box, area in zip(rows.tolist(), xywh.tolist(), areas.tolist(), strict=True)
    ]


def _write_images(path: str, files: Sequence[tuple[Path, float, Window]]) -> int:
    """Write the tiles of the scene at `path` (file, scale, window) that are not there yet; how many these were.

    A tile's name says which part of which scene it shows, and its file carries the time of the scene's file. So one
    with that name and time is what would be written again, and a scene whose tiles are all there is not opened.
    """
    time = Path(path).stat().st_mtime_ns
    due = [entry for entry in files if not entry[0].is_file() or entry[0].stat().st_mtime_ns != time]
    if not due:
        return 0
    with open_scene(path) as scene:
        for file, scale, window in due:
            data = _encode(scene.read(window), scale, file.suffix)
            with atomic_write(file) as tmp:
                tmp.write_bytes(data)
                os.utime(tmp, ns=(time, time))
    return len(due)


def _encode(pixels: Pixels, scale: float, suffix: str) -> bytes:
    """The file of a tile: RGB pixels of the scene, resized by exactly `scale`, however that rounds the tile's size."""
    if scale != 1:
        h, w = pixels.shape[:2]
        kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, None, fx=max(scale, 1 / w), fy=max(scale, 1 / h), interpolation=kind)  # type: ignore[assignment]
    return encode_image(pixels, suffix, QUALITY[suffix])


def _write_json(dataset: Dataset, cut: Cut, cutting: Cutting, file: Path) -> None:
    """The COCO JSON of a split's tiles, unless it is there already to the byte."""
    if not cut.tiles:
        raise InputError(f"{dataset.root}: no window of {dataset.split} holds an object; write tiles without one, too")
    images: list[Entry] = []
    annotations: list[Entry] = []
    for number, (image, boxes) in enumerate(cut.tiles, 1):
        images.append({"id": number, **image})
        annotations += [{"id": len(annotations) + at, "image_id": number, **box} for at, box in enumerate(boxes, 1)]
    categories = [{"id": id, "name": name} for id, name in zip(dataset.category_ids, dataset.names, strict=True)]
    tree = {"info": {"tiles": asdict(cutting)}, "images": images, "annotations": annotations, "categories": categories}
    data = json_text.dumps(tree).encode()
    if file.exists() and not read_bytes(file).startswith(b'{"info": {"tiles": '):
        raise InputError(f"{file}: is there already and does not list tiles; choose another folder")
    if not file.exists() or read_bytes(file) != data:
        with atomic_write(file) as tmp:
            tmp.write_bytes(data)
