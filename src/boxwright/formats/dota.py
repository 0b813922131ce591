"""DOTA's `labelTxt`: one file per scene, one line per object, `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, corners in px.

A split is a folder with `images` and `labelTxt` (or `labelTxt-v1.5` etc.); a scene and its labels have the same name.
The box is the enclosing box of the four corners, the area that of the quadrilateral. The first lines may be
`imagesource:...` and `gsd:...`, the ground sample distance in meters. `difficult` is 0, 1, or 2, which ImgSplit.py of
DOTA's development kit writes for truncated objects, and which counts as difficult. There are no ids, so scenes and
boxes are numbered from 1.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.data import text
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.findings import orphan
from boxwright.data.layout import Extras, Keys, Layout, Split, Writer
from boxwright.data.outlines import areas_of, corners_of
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.recipe import class_names

FOLDER = "labelTxt"  # prefix of the folders of labels
HEADER = re.compile(r"(imagesource|gsd)\s*:(.*)", re.IGNORECASE)
VERSIONS = {"1.0": "dota10", "1.5": "dota15", "2.0": "dota20"}  # version -> list of class names
IMAGE_KEYS = ("imagesource", "gsd")
SPACE = re.compile(r"\s+")
Row = tuple[list[float], str, int]  # x1, y1, ..., y4; class; difficult, 0 to 2


def find(root: Path) -> dict[str, Path]:
    """Split -> folder of labels. Raises InputError if a split has several."""
    splits = {}
    for folder in (root, *text.subfolders(root)):
        if (folder / "images").is_dir() and (labels := _labels_in(folder)):
            splits["all" if folder == root else folder.name] = labels
    if "all" in splits:  # images/train and labelTxt/train
        inner = {f.name: f for f in text.subfolders(splits["all"]) if (root / "images" / f.name).is_dir()}
        splits = inner or splits
    return splits


def read(source: Source) -> Dataset:
    """Read the scenes of a split; label folders are searched recursively.

    Class names are from `source`, else from the usual files in the root, else DOTA's for the version in the folder's
    name, else DOTA's for the oldest version with all classes in use. Scenes are in `images` beside the labels by
    default; a scene without a label file has no boxes. Raises InputError for an invalid line and for an unknown class.
    """
    path, root = source.path, source.root
    folder = source.images or _images_of(path)
    classes = source.names or text.find_class_names(root) or class_names(VERSIONS[_version(path, root)])
    numbers = {name: label for label, name in enumerate(classes)}
    scenes = _by_stem(folder, SUFFIXES)
    files = _by_stem(path, (".txt",))
    if not scenes:
        raise InputError(f"{folder}: holds no scene, needed {', '.join(SUFFIXES)}")
    if not scenes.keys() & files.keys():
        raise InputError(f"{path}: no scene has a file of labels; looked for {min(scenes)}.txt and so on")
    corners: list[list[float]] = []
    labels: list[int] = []
    difficult: list[bool] = []
    entries: list[int] = []
    counts: list[int] = []
    for stem in scenes:
        first = len(corners)
        for number, (quad, name, mark) in _objects(files.get(stem)):
            corners.append(quad)
            labels.append(_label(name, numbers, files[stem], number))
            difficult.append(mark > 0)
            entries.append(number)
        counts.append(len(corners) - first)
    label_files = [files.get(stem, str(path / f"{stem}.txt")) for stem in scenes]
    quads = np.array(corners, dtype=np.float64).reshape(-1, 4, 2)
    xyxy = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    rows = Boxes.without_ids(xyxy, labels, entries)
    rows = replace(rows, areas=areas_of(quads), difficult=np.array(difficult, dtype=bool))
    orphans = tuple(orphan(source.split, files[stem], stem) for stem in files if stem not in scenes)
    return replace(
        Dataset.without_ids(source, classes, [*scenes.values()], label_files, rows, counts), findings=orphans
    )


def extras(dataset: Dataset) -> Extras:
    """The quadrilaterals as outlines, and `imagesource` and `gsd` of the scenes; difficult 2 as `dota_difficult`."""
    files = [dataset.label_file(index) for index in range(len(dataset))]
    existing = [file if os.path.isfile(file) else None for file in files]  # noqa: PTH113  (100,000s of them)
    rows: list[Keys] = []
    for index, file in enumerate(existing):
        objects = {number: (quad, mark) for number, (quad, _, mark) in _objects(file)}
        for entry in dataset.rows.entries[dataset.starts[index] : dataset.starts[index + 1]].tolist():
            quad, mark = objects[entry]
            rows.append({"segmentation": [quad]} | ({"dota_difficult": mark} if mark == 2 else {}))
    return Extras(rows, [_header(file) if file else {} for file in existing])


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}/labelTxt/*.txt. White space in class names becomes `-`; crowd regions become difficult."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    words, names = corners_of(dataset, split.extras), [_class_name(label) for label in dataset.names]
    cut = np.array([keys.get("dota_difficult") == 2 for keys in split.extras.rows], dtype=bool)
    difficult = (rows.difficult | rows.crowd).astype(int) + (rows.difficult & cut)
    for index, path in enumerate(split.images):
        keys = split.extras.images[index]
        lines = [f"{key}:{_read_back(key, keys[key])}" for key in IMAGE_KEYS if key in keys]
        lines += [" ".join([*words[row], names[rows.labels[row]], str(difficult[row])]) for row in split.rows(index)]
        text.write_lines(folder / name / "labelTxt" / f"{path.stem}.txt", lines)
    text.write_lines(folder / "classes.txt", names)
    return [folder / name / "images" / path.name for path in split.images]


def _class_name(name: str) -> str:
    """A class name without white space, which separates columns."""
    return SPACE.sub("-", name)


def _read_back(key: str, value: Any) -> Any:
    """A text field on one line; `segmentation` and `dota_difficult` are not text."""
    return SPACE.sub(" ", text.value_text(value)).strip() if key in IMAGE_KEYS else value


def _objects(file: str | None) -> Iterator[tuple[int, Row]]:
    """The objects of a label file, with their line numbers."""
    for number, line in text.lines(Path(file)) if file else ():
        if not HEADER.fullmatch(line):
            yield number, _parse(line, file, number)


def _parse(line: str, file: str | None, number: int) -> Row:
    """Parse a line. As in DOTA's development kit, `difficult` is 0 by default."""
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
        newer = [version for version in VERSIONS.values() if name in class_names(version)]
        hint = f"'names: {newer[0]}' in a data YAML" if newer else "names in a data YAML or classes.txt"
        raise InputError(f"{file} line {number}: class '{name}' is not one of {', '.join(numbers)}; say {hint}")
    return numbers[name]


def _version(source: Path, root: Path) -> str:
    """The version of the class list; each list extends the previous one."""
    top = source if source.name.startswith(FOLDER) else source.parent
    for version in VERSIONS:
        if version in top.name:
            return version
    folders = {source, root / top.name, *root.glob(f"*/{top.name}")}
    used = {row[1] for folder in folders for file in text.walk(folder, (".txt",)) for _, row in _objects(file)}
    return next((version for version, name in VERSIONS.items() if used <= {*class_names(name)}), "1.0")


def _labels_in(folder: Path) -> Path | None:
    found = [entry for entry in text.subfolders(folder) if entry.name.startswith(FOLDER)]
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds {' and '.join(entry.name for entry in found)}, needed one; say which in a data YAML, for "
            f"example 'kind: dota' and 'train: {folder.name}/{found[0].name}'"
        )
    return found[0] if found else None


def _images_of(labels: Path) -> Path:
    """train/labelTxt -> train/images, labelTxt/train -> images/train."""
    if labels.name.startswith(FOLDER):
        return labels.parent / "images"
    return labels.parent.parent / "images" / labels.name


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix -> file, sorted. Raises InputError if two files have the same name."""
    files: dict[str, str] = {}
    for file in text.walk(folder, suffixes):
        stem = Path(file).stem
        if stem in files:
            raise InputError(f"{file}: {files[stem]} has the same name, needed one file a scene; move one away")
        files[stem] = file
    return dict(sorted(files.items()))


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}/images + {split}/labelTxt, images/{split} + labelTxt/{split}, or images + labelTxt",
    find=find,
    read=read,
    extras=extras,
    writer=Writer(
        write=write,
        difficult=True,
        outlines=True,
        flat=True,
        class_name=_class_name,
        # corners have no order, so a negative box would become a positive one
        unsupported=frozenset({"negative_size"}),
        row_keys=frozenset({"segmentation", "dota_difficult"}),
        image_keys=frozenset(IMAGE_KEYS),
        read_back=_read_back,
    ),
)
