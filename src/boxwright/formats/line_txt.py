"""One line per image: `path x1,y1,x2,y2,class[,crowd] ...`, corners in px, classes from 0, crowd 0 or 1.

The files are `train.txt`, `val.txt` etc., with the class names in a file beside them. If the first name is
`background`, as in the MindSpore zoo's Faster R-CNN, class 0 is skipped. Class -2 with crowd 1 is an ignore region.
There are no ids, so images and boxes are numbered from 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data import text
from boxwright.data.dataset import ANY_CLASS, Boxes, Dataset
from boxwright.data.layout import Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.errors import InputError


def find(root: Path) -> dict[str, Path]:
    """Split -> list file."""
    return text.find_lists(root, "line_txt")


def read(source: Source) -> Dataset:
    """Read a list. Paths are relative to the list or to the root, unless `source` names a folder.

    Raises InputError for an invalid line, and if there are no class names.
    """
    path, root = source.path, source.root
    numbered = text.numbered_classes(source)
    first = int(len(numbered) > 1 and numbered.get(0) == "background")
    classes, ids = tuple(numbered.values())[first:], tuple(numbered)[first:]
    paths: list[str] = []
    table: list[list[float]] = []
    entries: list[int] = []
    counts: list[int] = []
    for number, line in text.lines(path):
        match = text.LISTED_IMAGE.fullmatch(line)
        if match is None:
            raise InputError(f"{path} line {number}: found '{line[:60]}', needed an image's path and its boxes")
        paths.append(text.image_path(match[1], path, root, source.images))
        boxes = [_parse(word, path, number) for word in (match[2] or "").split()]
        table += boxes
        entries += [number] * len(boxes)
        counts.append(len(boxes))
    if not paths:
        raise InputError(f"{path}: empty, needed one image per line")
    rows = _boxes(table, entries, ids)
    return replace(Dataset.without_ids(source, classes, paths, [str(path)], rows, counts), category_ids=ids)


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}.txt. If the first class is `background`, the name is written twice, as the reader skips one."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    first = int(dataset.names[0] == "background" and len(dataset.names) > 1)
    words, labels, crowd = text.shortest_decimals(rows.xyxy), rows.labels + first, rows.crowd.tolist()
    labels = np.where(rows.ignored, ANY_CLASS, labels).tolist()
    lines = []
    for index, path in enumerate(split.images):
        boxes = [",".join([*words[row], str(labels[row]), *["1"] * crowd[row]]) for row in split.rows(index)]
        lines.append(" ".join([f"images/{name}/{path}", *boxes]))
    text.write_lines(folder / f"{name}.txt", lines)
    text.write_lines(folder / "classes.txt", ["background"] * first + [*dataset.names])
    return [folder / "images" / name / path for path in split.images]


def _boxes(table: list[list[float]], entries: list[int], ids: Sequence[int]) -> Boxes:
    values = np.array(table, dtype=np.float64).reshape(-1, 6)
    xyxy, categories = values[:, :4], values[:, 4].astype(np.int64)
    labels = text.labels_of(categories, ids)
    crowd = values[:, 5].astype(bool)
    rows = replace(Boxes.without_ids(xyxy, labels, entries), categories=categories, crowd=crowd)
    return rows.as_ignored(crowd & (categories == ANY_CLASS))


def _parse(word: str, file: Path, number: int) -> list[float]:
    """x1, y1, x2, y2, class, crowd."""
    try:
        values = [float(value) for value in word.split(",")]
    except ValueError:
        values = []
    if len(values) == 5:
        values.append(0.0)
    if len(values) != 6 or not values[4].is_integer() or abs(values[4]) >= 2**63 or values[5] not in (0.0, 1.0):
        raise InputError(
            f"{file} line {number}: found '{word[:60]}', needed x1,y1,x2,y2,class, optionally with ,0 or ,1 (crowd)"
        )
    return values


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}.txt with lines 'path x1,y1,x2,y2,class'",
    find=find,
    read=read,
    accepts=lambda path: text.list_kind(path) == "line_txt",
    writer=Writer(write=write, crowd=True, ignored=True, file_per_image=False, needs_box=True),
)
