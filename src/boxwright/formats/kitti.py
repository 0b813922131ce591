"""KITTI's object labels: one file per image, one line per object with 15 columns.

The columns are class, truncated, occluded, alpha, box (x1 y1 x2 y2 px from 0, edges), dimensions (3), location (3) and
rotation_y; columns besides class and box are -1, -10 or -1000 if unknown. `DontCare` is a region in which objects were
not labeled: an ignore region. A split is a folder with `image_2` + `label_2`, or `images` (or `data`) +
`labels`, or a list of names of `training` in `ImageSets`. There are no ids, so images and boxes are numbered from 1.
"""

import math
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from boxwright.data import contents, text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.progress import track

IGNORED = "DontCare"
IMAGE_FOLDERS = {"label_2": ("image_2",), "labels": ("images", "data")}  # folder of labels -> of images
# Column -> count of numbers, value if unknown; in this order, with the box between alpha and dimensions.
COLUMNS = {
    "truncated": (1, -1), "occluded": (1, -1), "alpha": (1, -10), "dimensions": (3, -1), "location": (3, -1000),
    "rotation_y": (1, -10),
}  # fmt: skip
SPACE = re.compile(r"\s+")


def find(root: Path) -> dict[str, Path]:
    """Split -> folder of labels, or list of names."""
    splits = {folder.name: labels for folder in text.subfolders(root) if (labels := _labels_in(folder))}
    for labels in (root / "labels", root / "label_2"):
        splits |= {f.name: f for f in text.subfolders(labels) if _images_of(f).is_dir() and contents.holds_kitti(f)}
    if own := _labels_in(root):
        splits["all"] = own
    if "training" in splits:
        lists = [file for file in sorted((root / "ImageSets").glob("*.txt")) if _is_list(file, splits["training"])]
        splits |= {file.stem: file for file in lists}
        if lists:
            del splits["training"]
        if {"train", "val", "trainval"} <= {file.stem for file in lists}:
            train, val, both = ({line for _, line in text.lines(splits[name])} for name in ("train", "val", "trainval"))
            if both == train | val:  # a duplicate of both
                del splits["trainval"]
    return splits


def collect(source: Source, keys: bool = True) -> Builder:
    """Collect a folder of labels, searched recursively, or a list. keys: also collect the Extras."""
    path = source.path
    labels = path if path.is_dir() else source.root / "training" / "label_2"
    folder = source.images or _images_of(labels)
    images = {os.path.splitext(os.path.relpath(file, folder))[0]: file for file in text.walk(folder, SUFFIXES)}  # noqa: PTH122
    found = [file for file in text.walk(labels, (".txt",)) if Path(file).name not in text.NAME_FILES]
    files = {os.path.splitext(os.path.relpath(file, labels))[0]: file for file in found}  # noqa: PTH122
    if not path.is_dir():
        names = [line for _, line in text.lines(path)]
        images = {name: images.get(name, str(folder / f"{name}.png")) for name in names}
        files = {name: files[name] for name in names if name in files}
    if not images.keys() & files.keys():
        raise InputError(f"{path}: none of {len(images)} images in {folder} has a label file; looked for NAME.txt")
    builder = Builder(source)
    for name, image in track(images.items(), len(images), f"reading labels of {source.split}"):
        index = builder.add_image(image, files.get(name, str(labels / f"{name}.txt")))
        if name in files:
            for number, line in builder.lines(files[name], index):
                _add_line(builder, index, line, (files[name], number), keys)
        else:
            builder.note("an image without a label file was read as one without objects", image)
    for name in files.keys() - images.keys():
        builder.orphan(files[name], name)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}/label_2/*.txt, without crowd regions. White space in class names becomes `-`."""
    rows, name = split.dataset.rows, split.dataset.split
    names, boxes = [_class_name(name) for name in split.dataset.names], text.shortest_decimals(rows.xyxy)
    ignored, crowd = rows.ignored.tolist(), rows.crowd.tolist()
    for index, path in enumerate(split.images):
        lines = []
        for row in split.rows(index):
            if ignored[row] or not crowd[row]:
                keys = split.extras.rows[row]
                words = [_word(value) for key in COLUMNS for value in _values(key, keys.get(key))]
                label = IGNORED if ignored[row] else names[rows.labels[row]]
                lines.append(" ".join([label, *words[:3], *boxes[row], *words[3:]]))
        text.write_lines(folder / name / "label_2" / path.with_suffix(".txt"), lines)
    text.write_lines(folder / "classes.txt", names)
    return [folder / name / "image_2" / path for path in split.images]


def _add_line(builder: Builder, image: int, line: str, place: tuple[str, int], keys: bool) -> None:
    """Add a line, or report its fault. place: label file, line number."""
    file, number = place
    words = line.split()
    if len(words) not in (15, 16) or not all(map(contents.is_number, words[1:])):
        builder.error(f"{file} line {number}", f"found '{line[:40]}', needed a class and 14 numbers", image)
        return
    if len(words) == 16:
        builder.note("a score in column 16 was not used", f"{file} line {number}")
    values = [float(word) for word in words[1:15]]
    name = None if words[0].casefold() == IGNORED.casefold() else words[0]
    further = _keys(values[:3] + values[7:]) if keys else None
    builder.add_box(image, name, values[3:7], number, keys=further)


def _keys(values: list[float]) -> Keys:
    """The values of COLUMNS that are known."""
    keys: Keys = {}
    for key, (count, unknown) in COLUMNS.items():
        own, values = values[:count], values[count:]
        if own != [unknown] * count:
            keys[key] = own if count > 1 else own[0]
    return keys


def _values(key: str, value: Any) -> list[float]:
    """The numbers of a column."""
    count, unknown = COLUMNS[key]
    numbers = value if isinstance(value, list) else [value]
    try:
        values = [float(number) for number in numbers]
    except (TypeError, ValueError):
        return [unknown] * count
    return values if len(values) == count and all(map(math.isfinite, values)) else [unknown] * count


def _word(value: float) -> str:
    return repr(value).removesuffix(".0")


def _read_back(key: str, value: object) -> object:
    values = _values(key, value)
    count, unknown = COLUMNS[key]
    return None if values == [unknown] * count else values if count > 1 else values[0]


def _class_name(name: str) -> str:
    """A class name without white space, which separates columns, and different from that of ignore regions."""
    return SPACE.sub("-", name if name.casefold() != IGNORED.casefold() else f"{name}_")


def _labels_in(folder: Path) -> Path | None:
    """The folder of labels of a split; None if there is none."""
    for name in IMAGE_FOLDERS:
        labels = folder / name
        if labels.is_dir() and _images_of(labels).is_dir() and (name == "label_2" or contents.holds_kitti(labels)):
            return labels
    return None


def _images_of(labels: Path) -> Path:
    """training/label_2 -> training/image_2, labels/train -> images/train."""
    base, inner = (labels, "") if labels.name in IMAGE_FOLDERS else (labels.parent, labels.name)
    folders = [base.parent / name / inner for name in IMAGE_FOLDERS.get(base.name, ("images",))]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _is_list(file: Path, labels: Path) -> bool:
    """Whether the first name in a list is that of a label file."""
    first = next(text.lines(file), (0, ""))[1]
    return bool(first) and text.can_be_path(first) and (labels / f"{first}.txt").is_file()


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="image_2 + label_2, or images + labels with KITTI's 15 columns, in a folder per split or without",
    find=find,
    read=read_with(partial(collect, keys=False)),
    extras=extras_with(collect),
    writer=Writer(write=write, ignored=True, class_name=_class_name, row_keys=frozenset(COLUMNS), read_back=_read_back),
)
