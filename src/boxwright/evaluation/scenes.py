"""A detector on tiles, scored on the whole scenes that these were cut from.

I tiles, S scenes, K classes
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from boxwright import json_text
from boxwright.data.dataset import Dataset, Sample
from boxwright.datatools.placement import Placement, placements
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import finish, predict_dataset, report_folder, scored
from boxwright.files import atomic_write
from boxwright.images.windows import Window
from boxwright.metrics import voc
from boxwright.metrics.coco import Metrics
from boxwright.metrics.voc import VocMetrics
from boxwright.predict.merge import merge
from boxwright.predict.predictor import Predictor
from boxwright.progress import track
from boxwright.tasks.detect import Prediction
from boxwright.types import Detections

TASK2 = "Task2_{}.txt"  # of a class


@dataclass(frozen=True, slots=True)
class SceneMetrics:
    """tiles: COCO's numbers, each tile by itself. scenes: VOC's numbers after merging. kit: the same with overlaps as
    DOTA's development kit measures them, both end pixels counted, for comparison with published numbers.

    covered: the share of the px of scenes with tiles that these show. untiled: scenes without any tile. Where no tile
    is, nothing was looked for, and nothing wrong could be found.
    """

    tiles: Metrics
    scenes: VocMetrics
    kit: VocMetrics
    covered: float
    untiled: int

    def __str__(self) -> str:
        told = f"{self.scenes.info['scenes']} whole scenes after merging, average precision at IoU 0.50"
        if self.covered < 1:
            told += f"; tiles show {self.covered:.1%} of their px, and the rest was not searched"
        if self.untiled:
            told += f"; scenes without any tile: {self.untiled}"
        kit = f"with both end pixels counted, as DOTA's kit does: VOC07 {self.kit.ap07:.3f}, VOC12 {self.kit.ap12:.3f}"
        return "\n".join([str(self.tiles), "", told, "", str(self.scenes), kit])


def evaluate(
    predictor: Predictor[Prediction],
    tiles: Dataset,
    scenes: Dataset,
    out: str | Path | None = None,
    threshold: float | None = None,
) -> SceneMetrics:
    """COCO's numbers of `predictor` on tiles, and VOC's on the scenes that the tiles were cut from.

    tiles: as `boxwright data tile` writes them. scenes: their scenes with the labels that count; a scene and a tile
    belong together by the name of the scene's file without suffix. Every scene counts, also one without tiles.
    threshold: lowest score that counts, None for the recipe's. out: a folder for what evaluating the tiles writes,
    scenes.json with VOC's numbers, and `Task2_CLASS.txt` as DOTA's server takes them.

    Raises InputError for tiles that do not say where they lie or belong to other scenes, for other classes than the
    scenes', and as `evaluate`.
    """
    task, recipe = predictor.task, predictor.recipe
    places, labels = placements(tiles), _same_classes(tiles, scenes)
    tiles, scenes = scored(predictor, tiles), scored(predictor, scenes)
    truth = [scenes[index] for index in range(len(scenes))]
    names = [Path(sample.path).stem for sample in truth]
    groups = _tiles_of(names, places, tiles, scenes)
    _same_sizes(truth, groups, places)
    if out is not None:
        _writable(scenes, names)
    place, examples = None, None
    if out is not None:
        written = (*task.report_files, "scenes.json", *map(TASK2.format, scenes.names))
        place, examples = report_folder(out, written, [tiles, scenes]), task.examples(tiles, recipe)
    args = task.evaluation_args(tiles, recipe, threshold)
    found = predict_dataset(predictor, tiles, args, examples)
    metrics = finish(predictor, tiles, args, found, place, examples)
    found = [replace(one, labels=labels[one.labels], names=scenes.names) for one in found]
    merged = whole_scenes(found, places, groups, args.nms.iou)
    covered, untiled = _covered(places, groups), sum(not group for group in groups)
    looked = {"labels": str(scenes.root), "scenes": len(scenes), "covered": covered, "untiled": untiled}
    result = voc.score(truth, merged, scenes.names, info=metrics.info | looked)
    # The kit counts the last px itself, here and on its server, which `Detect.aligned` adds where the recipe says so.
    last = int(recipe.evaluate.plus_one)
    named = [replace(one, boxes=one.boxes - one.boxes.new_tensor([0, 0, last, last])) for one in merged]
    kit = voc.score(truth, named, scenes.names, plus_one=True)
    if place is not None:
        json_text.write(place / "scenes.json", {**result.to_json(), "development_kit": kit.to_json()}, indent=1)
        write_task2(place, names, named, scenes.names)
    return SceneMetrics(metrics, result, kit, covered, untiled)


def whole_scenes(
    found: Sequence[Detections],
    places: Sequence[Placement],
    groups: Sequence[Sequence[int]],
    iou: float,
) -> list[Detections]:
    """Detections of each scene in its own px.

    found: of each tile, in the tile's px, where `places` say that it lies. groups: the tiles of each scene. iou: as in
    `merge`, which makes one of the detections of an object in several tiles.
    """
    merged = []
    for group in track(groups, len(groups), "merge", "scenes"):
        moved = [replace(found[index], boxes=places[index].to_scene(found[index].boxes)) for index in group]
        windows = [places[index].window for index in group]
        merged.append(merge(moved, windows, places[group[0]].scene_size, iou) if group else Detections.empty())
    return merged


def write_task2(place: Path, scenes: Sequence[str], found: Sequence[Detections], names: Sequence[str]) -> None:
    """One `Task2_CLASS.txt` a class, also where nothing was found, with lines `scene score x1 y1 x2 y2` in px."""
    for label, name in enumerate(names):
        with atomic_write(place / TASK2.format(name)) as tmp, tmp.open("w", encoding="utf-8") as file:
            for scene, given in zip(scenes, found, strict=True):
                mine = given[given.labels == label]
                for score, box in zip(mine.scores.tolist(), mine.boxes.tolist(), strict=True):
                    file.write(f"{scene} {score:.6f} " + " ".join(f"{edge:.2f}" for edge in box) + "\n")


def _tiles_of(names: Sequence[str], places: Sequence[Placement], tiles: Dataset, scenes: Dataset) -> list[list[int]]:
    """The tiles of each scene. InputError where two scenes have one name, or a tile's scene is not among them."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(places):
        groups[one.scene].append(index)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InputError(
            f"{scenes.root}: {len(twice)} names are those of two scenes ({', '.join(twice[:5])}); rename one"
        )
    if strange := sorted(set(groups) - set(names)):
        raise InputError(
            f"{tiles.root}: {len(strange)} of the {len(groups)} scenes of its tiles ({', '.join(strange[:5])}) are not "
            f"in split {scenes.split} of {scenes.root}; name the folder and split that the tiles were cut from"
        )
    return [groups[name] for name in names]


def _same_sizes(truth: Sequence[Sample], groups: Sequence[Sequence[int]], places: Sequence[Placement]) -> None:
    """InputError where a scene and its tiles do not speak of one size."""
    for sample, group in zip(truth, groups, strict=True):
        said = {places[index].scene_size for index in group} | ({sample.size} if sample.size else set())
        if len(said) > 1:
            sizes = " and ".join(f"{width} x {height}" for height, width in sorted(said))
            raise InputError(f"{sample.path}: this scene and its tiles speak of {sizes} px; cut the tiles again")


def _same_classes(tiles: Dataset, scenes: Dataset) -> torch.Tensor:
    """(K,) int64: the scenes' label of each of the tiles'."""
    if set(tiles.names) != set(scenes.names):
        differ = sorted(set(tiles.names) ^ set(scenes.names))
        raise InputError(
            f"{tiles.root}: its classes are not those of {scenes.root} ({', '.join(differ[:5])} are in one only); "
            "cut the tiles again, or name the folder that they were cut from"
        )
    return torch.tensor([scenes.names.index(name) for name in tiles.names])


def _writable(scenes: Dataset, names: Sequence[str]) -> None:
    """InputError where Task2 files cannot hold a name: its words are parted by spaces, and classes are file names."""
    for name in (*names, *scenes.names):
        if any(letter.isspace() or letter in "/\\\0" for letter in name):
            raise InputError(
                f"{scenes.root}: '{name}': Task2 files hold no name with white space or slashes; rename it"
            )


def _covered(places: Sequence[Placement], groups: Sequence[Sequence[int]]) -> float:
    """The share of the px of scenes with tiles that these show."""
    tiled = [[places[index] for index in group] for group in groups if group]
    shown = sum(_union([place.window for place in group]) for group in tiled)
    return shown / sum(math.prod(group[0].scene_size) for group in tiled)


def _union(windows: Sequence[Window]) -> int:
    """px that lie in some window: the plane is parted at every edge, and each part lies wholly in a window or beside.

    A window adds one at its upper left corner and so on; sums over rows and columns then count the windows over a part.
    """
    edges = np.array([window.xyxy for window in windows]).reshape(-1, 4)
    x, columns = np.unique(edges[:, 0::2], return_inverse=True)
    y, rows = np.unique(edges[:, 1::2], return_inverse=True)
    counts = np.zeros((len(y), len(x)), np.int64)
    for row, column, step in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
        np.add.at(counts, (rows.reshape(-1, 2)[:, row], columns.reshape(-1, 2)[:, column]), step)
    over = counts.cumsum(0).cumsum(1) > 0
    return int((np.diff(y)[:, None] * np.diff(x))[over[:-1, :-1]].sum())
