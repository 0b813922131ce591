"""Evaluation of a detector on scenes, from its detections on their tiles.

K classes
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from boxwright import json_text
from boxwright.data.dataset import Dataset, Sample
from boxwright.data.sets import Root
from boxwright.datatools.placement import Placement, placements
from boxwright.datatools.val_fraction import name_to_train_on
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import predict_dataset, report_folder, score_and_write, to_score
from boxwright.files import atomic_write
from boxwright.formats import open_boxes, splits
from boxwright.images.windows import Window
from boxwright.json_text import JsonObject
from boxwright.metrics import voc
from boxwright.metrics.coco import Metrics
from boxwright.metrics.resampling import after
from boxwright.metrics.voc import VocMetrics
from boxwright.predict.merge import merge
from boxwright.predict.predictor import Predictor
from boxwright.progress import track
from boxwright.tasks.detect import Prediction
from boxwright.types import Detections

TASK2 = "Task2_{}.txt"  # file of a class


@dataclass(frozen=True, slots=True)
class SceneMetrics:
    """Metrics of tiles and scenes.

    Attributes:
        tiles: COCO metrics of the tiles.
        scenes: VOC metrics of the scenes after merging.
        kit: VOC metrics with the IoU of DOTA's development kit, whose boxes include both end pixels, for comparison
            with published results.
        covered: Fraction of the px of tiled scenes that their tiles cover. The rest has no detections.
        untiled: Number of scenes without tiles.
    """

    tiles: Metrics
    scenes: VocMetrics
    kit: VocMetrics
    covered: float
    untiled: int

    def to_json(self) -> JsonObject:
        """The content of metrics.json, of the tiles, and of scenes.json."""
        return {"tiles": self.tiles.to_json(), "scenes": self.scenes_to_json()}

    def scenes_to_json(self) -> JsonObject:
        """The content of scenes.json."""
        return {**self.scenes.to_json(), "development_kit": self.kit.to_json()}

    def __str__(self) -> str:
        title = f"{self.scenes.info['scenes']} whole scenes after merging, average precision at IoU 0.50"
        if self.covered < 1:
            title += f"; tiles show {self.covered:.1%} of their px, and the rest was not searched"
        if self.untiled:
            title += f"; scenes without any tile: {self.untiled}"
        values = (f"{key} {value:.3f}{after(key, self.kit.intervals)}" for key, value in self.kit.summary.items())
        kit = f"with both end pixels counted, as DOTA's kit does: {', '.join(values)}"
        return "\n".join([str(self.tiles), "", title, "", str(self.scenes), kit])


def open_scenes(root: Root, split: str, part: Dataset | None = None) -> Dataset:
    """Open the labeled scenes of a split.

    Args:
        root: The data set of scenes.
        split: The split.
        part: The tiles, if they are one of the two parts of `data.val_fraction`: the scenes are then those of these
            tiles, from the split that is trained on.
    """
    scenes = open_boxes(root, split if part is None else name_to_train_on(splits(root))).without_group()
    if part is None:
        return scenes
    tiled = {position.scene for position in placements(part)}
    indices = [index for index in range(len(scenes)) if Path(scenes.path(index)).stem in tiled]
    return scenes.subset(indices).with_split(split)


def evaluate(
    predictor: Predictor[Prediction],
    tiles: Dataset,
    scenes: Dataset,
    out: str | Path | None = None,
    threshold: float | None = None,
    intervals: bool = True,
) -> SceneMetrics:
    """Evaluate `predictor` on tiles with COCO metrics, and on their scenes with VOC metrics.

    Args:
        predictor: The detector.
        tiles: The tiles, as written by `boxwright data tile`.
        scenes: The labeled scenes. Tiles refer to a scene by the name of its file without suffix. Scenes without tiles
            are scored, too.
        out: A folder for the files of the tiles' evaluation, scenes.json with VOC metrics, and `Task2_CLASS.txt` for
            DOTA's server; None to write nothing.
        threshold: Minimum score; None for the recipe's.
        intervals: Whether to compute a 95 % interval of each AP, by a bootstrap over scenes.

    Raises:
        InputError: The tiles have no position, belong to other scenes, or have other classes; and as `evaluate`.
    """
    task, recipe = predictor.task, predictor.recipe
    positions, labels = placements(tiles), _map_labels(tiles, scenes)
    tiles, scenes = to_score(predictor, tiles), to_score(predictor, scenes)
    truth = [scenes[index] for index in range(len(scenes))]
    names = [Path(sample.path).stem for sample in truth]
    groups = _group_tiles(names, positions, tiles, scenes)
    _check_sizes(truth, groups, positions)
    if out is not None:
        _check_names(scenes, names)
    file_names = (*task.report_files, "scenes.json", *map(TASK2.format, scenes.names))
    examples = None if out is None else task.examples(tiles, recipe)
    args = task.evaluation_args(tiles, recipe, threshold)
    with nullcontext() if out is None else report_folder(out, file_names, [tiles, scenes]) as folder:
        results = predict_dataset(predictor, tiles, args, examples)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(position.scene for position in positions))}
        of_tiles = np.array([numbers[position.scene] for position in positions], np.int64) if intervals else None
        of_scenes = np.arange(len(truth)) if intervals else None
        metrics = score_and_write(predictor, tiles, args, results, folder, examples, of_tiles)
        results = [replace(result, labels=labels[result.labels], names=scenes.names) for result in results]
        merged = merge_scenes(results, positions, groups, args.nms.iou)
        covered, untiled = _covered(positions, groups), sum(not group for group in groups)
        info = {"labels": str(scenes.root), "scenes": len(scenes), "covered": covered, "untiled": untiled}
        scene_metrics = voc.score(truth, merged, scenes.names, info=metrics.info | info, groups=of_scenes)
        # The kit and its server add the last px themselves: subtract what `Detect.with_dataset_labels` has added.
        last = int(recipe.evaluate.plus_one)
        inclusive = [
            replace(result, boxes=result.boxes - result.boxes.new_tensor([0, 0, last, last])) for result in merged
        ]
        kit = voc.score(truth, inclusive, scenes.names, plus_one=True, groups=of_scenes)
        found = SceneMetrics(metrics, scene_metrics, kit, covered, untiled)
        if folder is not None:
            json_text.write(folder / "scenes.json", found.scenes_to_json(), indent=1)
            write_task2(folder, names, inclusive, scenes.names)
    return found


def merge_scenes(
    detections: Sequence[Detections], positions: Sequence[Placement], groups: Sequence[Sequence[int]], iou: float
) -> list[Detections]:
    """Merge the detections of tiles into detections of their scenes, in px of the scenes.

    Args:
        detections: The detections of each tile, in px of the tile.
        positions: The position of each tile in its scene.
        groups: Indices of the tiles of each scene.
        iou: As in `merge`.
    """
    merged = []
    for group in track(groups, len(groups), "merge", "scenes"):
        moved = [replace(detections[i], boxes=positions[i].to_scene(detections[i].boxes)) for i in group]
        windows = [positions[i].window for i in group]
        merged.append(merge(moved, windows, positions[group[0]].scene_size, iou) if group else Detections.empty())
    return merged


def write_task2(folder: Path, scenes: Sequence[str], detections: Sequence[Detections], names: Sequence[str]) -> None:
    """Write a `Task2_CLASS.txt` for each class, with lines `scene score x1 y1 x2 y2` in px."""
    for label, name in enumerate(names):
        with atomic_write(folder / TASK2.format(name)) as tmp, tmp.open("w", encoding="utf-8") as file:
            for scene, result in zip(scenes, detections, strict=True):
                of_class = result[result.labels == label]
                for score, box in zip(of_class.scores.tolist(), of_class.boxes.tolist(), strict=True):
                    file.write(f"{scene} {score:.6f} " + " ".join(f"{edge:.2f}" for edge in box) + "\n")


def _group_tiles(
    names: Sequence[str], positions: Sequence[Placement], tiles: Dataset, scenes: Dataset
) -> list[list[int]]:
    """The tiles of each scene. Raises InputError if two scenes have the same name, or a tile's scene is missing."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, position in enumerate(positions):
        groups[position.scene].append(index)
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InputError(
            f"{scenes.root}: {len(repeated)} names are those of two scenes ({', '.join(repeated[:5])}); rename one"
        )
    if missing := sorted(set(groups) - set(names)):
        raise InputError(
            f"{tiles.root}: {len(missing)} of the {len(groups)} scenes of its tiles ({', '.join(missing[:5])}) are not "
            f"in split {scenes.split} of {scenes.root}; name the folder and split that the tiles were cut from"
        )
    return [groups[name] for name in names]


def _check_sizes(truth: Sequence[Sample], groups: Sequence[Sequence[int]], positions: Sequence[Placement]) -> None:
    """Raise InputError if a scene and its tiles declare different sizes of the scene."""
    for sample, group in zip(truth, groups, strict=True):
        declared = {positions[index].scene_size for index in group} | ({sample.size} if sample.size else set())
        if len(declared) > 1:
            sizes = " and ".join(f"{width} x {height}" for height, width in sorted(declared))
            raise InputError(f"{sample.path}: this scene and its tiles have {sizes} px; cut the tiles again")


def _map_labels(tiles: Dataset, scenes: Dataset) -> torch.Tensor:
    """(K,) int64: the scenes' label for each label of the tiles."""
    if set(tiles.names) != set(scenes.names):
        differ = sorted(set(tiles.names) ^ set(scenes.names))
        raise InputError(
            f"{tiles.root}: its classes are not those of {scenes.root} ({', '.join(differ[:5])} are in one only); "
            "cut the tiles again, or name the folder that they were cut from"
        )
    return torch.tensor([scenes.names.index(name) for name in tiles.names])


def _check_names(scenes: Dataset, names: Sequence[str]) -> None:
    """Raise InputError for names that Task2 files cannot store: columns are separated by spaces, classes name files."""
    for name in (*names, *scenes.names):
        if any(character.isspace() or character in "/\\\0" for character in name):
            raise InputError(
                f"{scenes.root}: '{name}': Task2 files hold no name with white space or slashes; rename it"
            )


def _covered(positions: Sequence[Placement], groups: Sequence[Sequence[int]]) -> float:
    """Fraction of the px of tiled scenes that their tiles cover."""
    tiled = [[positions[index] for index in group] for group in groups if group]
    shown = sum(_union_area([position.window for position in group]) for group in tiled)
    return shown / sum(math.prod(group[0].scene_size) for group in tiled)


def _union_area(windows: Sequence[Window]) -> int:
    """Number of px in the union of windows, by the cumulative sums of a 2-D difference array over their edges."""
    edges = np.array([window.xyxy for window in windows]).reshape(-1, 4)
    x, columns = np.unique(edges[:, 0::2], return_inverse=True)
    y, rows = np.unique(edges[:, 1::2], return_inverse=True)
    counts = np.zeros((len(y), len(x)), np.int64)
    for row, column, step in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
        np.add.at(counts, (rows.reshape(-1, 2)[:, row], columns.reshape(-1, 2)[:, column]), step)
    over = counts.cumsum(0).cumsum(1) > 0
    return int((np.diff(y)[:, None] * np.diff(x))[over[:-1, :-1]].sum())
