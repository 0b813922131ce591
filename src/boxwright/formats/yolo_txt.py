"""YOLO text labels: one file per image, one line per box: `class x y w h`, center and size as fractions of the image.

Images are in a folder (`images/train` with `labels/train`, `train/images` with `train/labels`, or a flat `images` with
`labels`, the split `all`) or in a list of paths (`train.txt`), whose labels have `images` in the path replaced by
`labels`, or are beside the image. There are no ids, so images and boxes are numbered from 1 (annotation id 0 would mean
"unmatched" in pycocotools).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data import text
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.findings import Finding, orphan
from boxwright.data.layout import Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES, read_headers
from boxwright.progress import track


def find(root: Path) -> dict[str, Path]:
    """Split -> folder of images or list file. Lists have precedence."""
    images, labels = root / "images", root / "labels"
    flat = labels.is_dir() and images.is_dir() and any(f.suffix.lower() in SUFFIXES for f in images.iterdir())
    inner = [] if flat else [folder for folder in text.subfolders(images) if (labels / folder.name).is_dir()]
    splits = {folder.name: folder for folder in inner}
    splits |= {
        f.name: f / "images" for f in text.subfolders(root) if (f / "images").is_dir() and (f / "labels").is_dir()
    }
    splits |= text.find_lists(root, "yolo_txt")
    if flat and not splits:
        splits["all"] = images
    return splits


def read(source: Source) -> Dataset:
    """Read a folder or a list, whose paths are relative to the list or to the root, unless `source` names a folder.

    Reads the header of every image, since boxes are relative to its size; boxes of an unreadable image are NaN. Raises
    InputError for an invalid line, and if there are no class names.
    """
    path, root = source.path, source.root
    classes = text.class_names(root, source.names)
    if path.is_dir():
        paths = text.walk(path, SUFFIXES)
        label_files = [_label_file(image, path) for image in paths]
        orphans = _orphans(path, set(label_files), source.split)
    else:
        paths = [text.image_path(line, path, root, source.images) for _, line in text.lines(path)]
        label_files = [_label_file(image, None) for image in paths]
        orphans = ()
    if not paths:
        raise InputError(f"{path}: holds no image, needed {', '.join(SUFFIXES)}")
    if not any(os.path.isfile(file) for file in label_files):  # noqa: PTH113  (100,000s of them)
        raise InputError(f"{path}: no image has a label file; looked for {label_files[0]} and so on")
    headers = track(read_headers(paths, decode=None), len(paths), "reading image sizes")
    sizes = np.array([header.size for header in headers], dtype=np.int64)
    table, entries, counts = _read_labels(label_files)
    rows = _boxes(table, entries, np.repeat(sizes, counts, axis=0), len(classes))
    dataset = Dataset.without_ids(source, classes, paths, label_files, rows, counts)
    return replace(dataset, images=replace(dataset.images, sizes=sizes), findings=orphans, relative=True)


def write(split: Split, folder: Path) -> list[Path]:
    """Write labels/{split}/*.txt, without crowd regions."""
    rows, name = split.dataset.rows, split.dataset.split
    sides = split.sizes[split.dataset.image_indices()][:, ::-1]
    box = text.decimals(rows.xyxy)
    relative = np.concatenate([(box[:, :2] + box[:, 2:]) / 2 / sides, (box[:, 2:] - box[:, :2]) / sides], axis=1)
    words, labels, crowd = relative.tolist(), rows.labels.tolist(), rows.crowd.tolist()
    for index, path in enumerate(split.images):
        lines = [" ".join([str(labels[row]), *map(repr, words[row])]) for row in split.rows(index) if not crowd[row]]
        text.write_lines(folder / "labels" / name / path.with_suffix(".txt"), lines)
    text.write_lines(folder / "classes.txt", split.dataset.names)
    return [folder / "images" / name / path for path in split.images]


def _boxes(table: list[list[float]], entries: list[int], sizes: NDArray[np.int64], classes: int) -> Boxes:
    values = np.array(table, dtype=np.float64).reshape(-1, 5)
    width_height = sizes[:, ::-1].astype(np.float64)
    width_height = np.where(width_height < 0, np.nan, width_height)
    with np.errstate(over="ignore", invalid="ignore"):
        center, side = values[:, 1:3] * width_height, values[:, 3:5] * width_height
        xyxy = np.concatenate([center - side / 2, center + side / 2], axis=1)
        areas = side[:, 0] * side[:, 1]
    categories = values[:, 0].astype(np.int64)
    labels = np.where((categories >= 0) & (categories < classes), categories, -1)
    return replace(Boxes.without_ids(xyxy, labels, entries), categories=categories, areas=areas)


def _read_labels(files: Sequence[str]) -> tuple[list[list[float]], list[int], list[int]]:
    """Rows of (class, x, y, w, h), their line numbers, and the number of rows per file; 0 if a file is missing."""
    table: list[list[float]] = []
    entries: list[int] = []
    counts = []
    for file in files:
        first = len(table)
        if os.path.lexists(file):  # a missing file means no boxes; a broken link or folder raises an error
            for number, line in text.lines(Path(file)):
                table.append(_parse(line, file, number))
                entries.append(number)
        counts.append(len(table) - first)
    return table, entries, counts


def _parse(line: str, file: str, number: int) -> list[float]:
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != 5 or not values[0].is_integer() or abs(values[0]) >= 2**63:
        raise InputError(f"{file} line {number}: found '{line[:60]}', needed five numbers: class x y width height")
    return values


def _label_file(image: str, folder: Path | None) -> str:
    """The path of an image's labels. folder: the split's folder of images, if it is not a list."""
    if folder is None:
        return text.label_file(image)
    return str(_labels_of(folder) / Path(image).relative_to(folder).with_suffix(".txt"))


def _labels_of(folder: Path) -> Path:
    """images -> labels, images/train -> labels/train."""
    return folder.parent / "labels" if folder.name == "images" else folder.parent.parent / "labels" / folder.name


def _orphans(folder: Path, expected: set[str], split: str) -> tuple[Finding, ...]:
    """Label files without an image."""
    files = [file for file in text.walk(_labels_of(folder), (".txt",)) if file not in expected]
    return tuple(orphan(split, file, Path(file).stem) for file in files if Path(file).name not in text.NAME_FILES)


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="images/{split} + labels/{split}, {split}/images + {split}/labels, images + labels, or {split}.txt",
    find=find,
    read=read,
    accepts=lambda path: path.is_dir() or text.list_kind(path) == "yolo_txt",
    writer=Writer(write=write),
)
