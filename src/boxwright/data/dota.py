"""DOTA's `labelTxt`: one file a scene, one line an object, `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, corners in px.

    P scenes, T boxes in all

A split is a folder with `images` and `labelTxt` (or `labelTxt-v1.5` and the like); a scene and its labels bear the same
name. The box is the smallest upright one around the four corners, the area that of the quadrilateral. The first lines
may be `imagesource:...` and `gsd:...`, the ground sample distance in metres. `difficult` is 0, 1, or the 2 that DOTA's
own splitting tool (ImgSplit.py of its development kit) writes for what it cut below its threshold: difficult, too.
Such sets number nothing: scenes and boxes get ids counted from 1.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data import text
from boxwright.data.dataset import Boxes, Dataset, Images, Stray, as_float32, paths_column
from boxwright.data.extras import Extras, Keys
from boxwright.data.header import SUFFIXES
from boxwright.errors import InputError
from boxwright.recipe import class_names

LOOKED_FOR = "{split}/images + {split}/labelTxt, images/{split} + labelTxt/{split}, or images + labelTxt"
FOLDER = "labelTxt"  # how the name of a folder of labels begins
HEADER = re.compile(r"(imagesource|gsd)\s*:(.*)", re.IGNORECASE)
VERSIONS = {"1.0": "dota10", "1.5": "dota15", "2.0": "dota20"}  # DOTA's version -> its list of class names
Row = tuple[list[float], str, int]  # x1, y1, ..., y4; class; difficult, 0 to 2


def find(root: Path) -> dict[str, Path]:
    """Split -> folder of labels. InputError where a split has several."""
    found = {}
    for folder in (root, *text.folders(root)):
        if (folder / "images").is_dir() and (labels := _labels_in(folder)):
            found["all" if folder == root else folder.name] = labels
    if "all" in found:  # images/train and labelTxt/train
        inner = {f.name: f for f in text.folders(found["all"]) if (root / "images" / f.name).is_dir()}
        found = inner or found
    return found


def read(source: Path, split: str, root: Path, names: Sequence[str] = (), pictures: Path | None = None) -> Dataset:
    """The scenes of a split. source: its folder of labels, which may have folders in it.

    names: classes in label order; none: from the usual files in `root`, else DOTA's own of the version that the
    folder's name tells, else of the oldest version that knows every class of the set. pictures: the folder of the
    scenes; None: `images` beside the labels. A scene without a file of labels has no boxes.
    Raises InputError for a line that is no object and for a class that is not among the names.
    """
    classes = tuple(names) or text.listed_classes(root) or class_names(VERSIONS[_version(source, root)])
    numbers = {name: label for label, name in enumerate(classes)}
    scenes = _by_stem(pictures or _pictures_of(source), SUFFIXES)
    files = _by_stem(source, (".txt",))
    if not scenes:
        raise InputError(f"{pictures or _pictures_of(source)}: holds no scene, needed {', '.join(SUFFIXES)}")
    if not scenes.keys() & files.keys():
        raise InputError(f"{source}: no scene has a file of labels; looked for {min(scenes)}.txt and so on")
    corners: list[list[float]] = []
    labels: list[int] = []
    difficult: list[bool] = []
    places: list[int] = []
    starts = [0]
    for stem in scenes:
        for number, (quad, name, hard) in _objects(files.get(stem)):
            corners.append(quad)
            labels.append(_label(name, numbers, files[stem], number))
            difficult.append(hard > 0)
            places.append(number)
        starts.append(len(corners))
    images = Images(
        np.arange(1, len(scenes) + 1),
        paths_column(list(scenes.values())),
        np.full((len(scenes), 2), -1, dtype=np.int64),
        paths_column([files.get(stem, str(source / f"{stem}.txt")) for stem in scenes]),
    )
    quads = np.array(corners, dtype=np.float64).reshape(-1, 4, 2)
    rows = _boxes(quads, np.array(labels, dtype=np.int64), np.array(difficult, dtype=bool), np.array(places, np.int64))
    strays = tuple(Stray(files[stem], stem, None) for stem in files if stem not in scenes)
    counts = np.array(starts, dtype=np.int64)
    return Dataset(classes, tuple(range(len(classes))), split, root, "dota", images, rows, counts, strays)


def extras(dataset: Dataset) -> Extras:
    """The quadrilaterals as outlines, and `imagesource` and `gsd` of the scenes, from the files once more.

    A difficult of 2 is the key `dota_difficult`.
    """
    files = [dataset.label_file(index) for index in range(len(dataset))]
    there = [file if os.path.isfile(file) else None for file in files]  # noqa: PTH113  (100,000s of them)
    rows: list[Keys] = [
        {"segmentation": [quad]} | ({"dota_difficult": hard} if hard == 2 else {})
        for file in there
        for _, (quad, _, hard) in _objects(file)
    ]
    return Extras(rows, [_header(file) if file else {} for file in there])


def _boxes(
    quads: NDArray[np.float64], labels: NDArray[np.int64], difficult: NDArray[np.bool_], places: NDArray[np.int64]
) -> Boxes:
    """quads (T, 4, 2) px -> rows."""
    x, y = quads[..., 0], quads[..., 1]
    with np.errstate(over="ignore", invalid="ignore"):
        # the shoelace formula; a figure that crosses itself has the difference of its parts
        areas = np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
    xyxy = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    ids = np.arange(1, len(quads) + 1)
    crowd = np.zeros(len(quads), dtype=bool)
    return Boxes(as_float32(xyxy), labels, labels, crowd, areas, ids, places, difficult)


def _objects(file: str | None) -> Iterator[tuple[int, Row]]:
    """The objects of one file of labels, each with its line."""
    for number, line in text.lines(Path(file)) if file else ():
        if not HEADER.fullmatch(line):
            yield number, _parse(line, file, number)


def _parse(line: str, file: str | None, number: int) -> Row:
    """As the development kit of DOTA does, a line that does not say `difficult` is not."""
    words = line.split()
    try:
        quad = [float(word) for word in words[:8]]
    except ValueError:
        quad = []
    if len(quad) != 8 or len(words) not in (9, 10) or words[9:] not in ([], ["0"], ["1"], ["2"]):
        raise InputError(
            f"{file} line {number}: found '{line[:60]}', needed eight numbers, a class, and 0, 1 or 2 (difficult)"
        )
    return quad, words[8], int(words[9]) if len(words) == 10 else 0


def _header(file: str) -> Keys:
    matches = (HEADER.fullmatch(line) for _, line in text.lines(Path(file)))
    return {match[1].lower(): match[2].strip() for match in matches if match}


def _label(name: str, numbers: Mapping[str, int], file: str, number: int) -> int:
    if name not in numbers:
        newer = [one for one in VERSIONS.values() if name in class_names(one)]
        hint = f"'names: {newer[0]}' in a data YAML" if newer else "names in a data YAML or classes.txt"
        raise InputError(f"{file} line {number}: class '{name}' is not one of {', '.join(numbers)}; say {hint}")
    return numbers[name]


def _version(source: Path, root: Path) -> str:
    """Of the list of classes; each version's begins with the one before."""
    top = source if source.name.startswith(FOLDER) else source.parent
    for version in VERSIONS:
        if version in top.name:
            return version
    folders = {source, root / top.name, *root.glob(f"*/{top.name}")}
    used = {row[1] for folder in folders for file in text.walk(folder, (".txt",)) for _, row in _objects(file)}
    return next((version for version, name in VERSIONS.items() if used <= {*class_names(name)}), "1.0")


def _labels_in(folder: Path) -> Path | None:
    found = [entry for entry in text.folders(folder) if entry.name.startswith(FOLDER)]
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds {' and '.join(entry.name for entry in found)}, needed one; say which in a data YAML, for "
            f"example 'kind: dota' and 'train: {folder.name}/{found[0].name}'"
        )
    return found[0] if found else None


def _pictures_of(labels: Path) -> Path:
    """train/labelTxt -> train/images, labelTxt/train -> images/train."""
    if labels.name.startswith(FOLDER):
        return labels.parent / "images"
    return labels.parent.parent / "images" / labels.name


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix -> file, sorted. InputError where two files share a name."""
    found: dict[str, str] = {}
    for file in text.walk(folder, suffixes):
        stem = Path(file).stem
        if stem in found:
            raise InputError(f"{file}: {found[stem]} has the same name, needed one file a scene; move one away")
        found[stem] = file
    return dict(sorted(found.items()))
