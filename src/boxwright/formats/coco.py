"""COCO JSON: `images`, `annotations` with xywh boxes, `categories`.

Labels are numbered in the order of the category ids, so COCO's 80 classes with ids 1 to 90 become 0 to 79, as in
pycocotools' `sorted(getCatIds())`. A box's area is the JSON's `area`, which for COCO is that of the outline.
"""

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.config import class_name_fault
from boxwright.data.dataset import Boxes, Dataset, Images, as_float32, paths_column
from boxwright.data.findings import orphan
from boxwright.data.index import Contents, read_indexed
from boxwright.data.layout import Extras, Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.data.text import can_be_path, decimals, write_lines
from boxwright.errors import InputError

MAX_ID_LENGTH = 256  # characters
Entries = Sequence[Mapping[str, Any]]


def find(root: Path) -> dict[str, Path]:
    """Split -> JSON file, for the folder of a data set or for a JSON file."""
    if root.suffix == ".json" and not root.is_dir():
        return {root.stem.removeprefix("instances_"): root}
    splits = {file.parent.name: file for file in sorted(root.glob("*/_annotations.coco.json"))}
    files = sorted((root / "annotations").glob("*.json")) + sorted(root.glob("instances_*.json"))
    files += [file for file in sorted(root.glob("*.json")) if file.stem in {"train", "val", "valid", "test"}]
    # COCO has other annotations in the same folder.
    others = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
    splits |= {file.stem.removeprefix("instances_"): file for file in files if not file.name.startswith(others)}
    return splits


def find_unlabeled(root: Path) -> dict[str, Path]:
    """Split -> JSON file with unlabeled images, such as COCO's test sets."""
    files = sorted((root / "annotations").glob("image_info_*.json")) + sorted(root.glob("image_info_*.json"))
    return {file.stem.removeprefix("image_info_"): file for file in files}


def read(source: Source) -> Dataset:
    """Read a JSON file, from its index if there is one.

    Raises InputError as `parse` and `to_dataset`, and if the categories differ from the names in a data YAML.
    """
    parser = (json_text, sys.modules[__name__])
    contents = read_indexed(source.path, lambda: parse(source.path), parser, source.cache)
    if source.names and source.names != contents.names:
        raise InputError(f"{source.path}: categories are {contents.names}, names in the data YAML {source.names}")
    return to_dataset(contents, source)


def read_unlabeled(source: Source) -> Dataset:
    """Read a JSON file without `annotations`, which may be missing."""
    return to_dataset(_contents(_load(source.path), [], source.path), source)


def parse(file: Path) -> Contents:
    """Parse a JSON file. Raises InputError if it has another structure, or if keys are missing or values invalid."""
    tree = _load(file)
    return _contents(tree, _entries(tree, "annotations", file), file)


def _contents(tree: Mapping[str, Any], labels: Entries, file: Path) -> Contents:
    entries, classes = (_entries(tree, key, file) for key in ("images", "categories"))
    names, category_ids = _categories(classes, file)
    ids, files, sizes = _images(entries, file)
    rows, image_ids = _boxes(labels, category_ids, file)
    owners = _lookup(ids, image_ids, file)
    orphan_rows = np.flatnonzero(owners < 0)
    orphans = tuple((row, image_ids[row].item(), int(rows.ids[row])) for row in orphan_rows.tolist())
    order = np.argsort(owners, kind="stable")[len(orphan_rows) :]
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners[order], minlength=len(ids)))]).astype(np.int64)
    return Contents(names, category_ids, ids, files, sizes, rows.take(order), starts, orphans)


def to_dataset(contents: Contents, source: Source) -> Dataset:
    """Convert the contents of a JSON file to a data set with the paths of its images.

    Without `source.images` they are searched in the usual folders. Raises InputError if they are not found.
    """
    file, root = source.path, source.root
    if root == file:
        root = file.parent.parent if file.parent.name == "annotations" else file.parent
    folder = os.fsencode(source.images or _image_folder(file, source.split, root, contents.files))
    prefix = os.path.join(folder, b"")  # noqa: PTH118  (bytes, of which there are 100,000s)
    paths = [name if os.path.isabs(name) else prefix + name for name in contents.files.tolist()]  # noqa: PTH117
    images = Images(contents.image_ids, np.array(paths, dtype=np.bytes_), contents.sizes, paths_column([str(file)]))
    orphans = tuple(
        orphan(source.split, f"{file} annotations[{row}]", image, label) for row, image, label in contents.orphans
    )
    return Dataset(
        contents.names, contents.category_ids, source.split, root, source.kind, images, contents.rows, contents.starts,
        orphans, entry="annotations[{}]",
    )  # fmt: skip


def image_entries(file: Path) -> Entries:
    """The entries of `images` with all keys. Raises InputError as `parse`."""
    return _entries(_load(file), "images", file)


def extras(dataset: Dataset) -> Extras:
    """All keys of the JSON file that are not in the data set, such as outlines."""
    file = Path(dataset.label_file(0))
    tree = _load(file, outlines=True)
    known = {
        "images": {"id", "file_name", "height", "width"},
        "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult"},
        "categories": {"id", "name"},
    }
    extra = {
        key: [{name: value for name, value in entry.items() if name not in names} for entry in tree[key]]
        for key, names in known.items()
    }
    categories = dict(zip((entry["id"] for entry in tree["categories"]), extra["categories"], strict=True))
    return Extras(
        [extra["annotations"][index] for index in dataset.rows.entries.tolist()],
        extra["images"],
        [categories[number] for number in dataset.category_ids],
        {key: value for key, value in tree.items() if key not in known},
    )


def write(split: Split, folder: Path) -> list[Path]:
    """Write annotations/{split}.json, with the key `difficult` if there are difficult objects."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    box = decimals(rows.xyxy)
    box[:, 2:] = np.round(box[:, 2:] - box[:, :2], 12)  # without the rounding error of the subtraction
    columns = (
        rows.ids,
        dataset.images.ids[dataset.image_indices()],
        rows.categories,
        box,
        rows.areas,
        rows.crowd.astype(int),
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    annotations = [
        extra | dict(zip(keys, values, strict=True))
        for *values, extra in zip(*(column.tolist() for column in columns), split.extras.rows, strict=True)
    ]
    if rows.difficult.any():
        for annotation, difficult in zip(annotations, rows.difficult.tolist(), strict=True):
            annotation["difficult"] = int(difficult)
    images = [
        {"id": image_id, "file_name": str(path), "height": height, "width": width} | extra
        for image_id, path, (height, width), extra in zip(
            dataset.images.ids.tolist(), split.images, split.sizes.tolist(), split.extras.images, strict=True
        )
    ]
    classes = split.extras.classes or [{} for _ in dataset.names]
    categories = [
        {"id": number, "name": label} | extra
        for number, label, extra in zip(dataset.category_ids, dataset.names, classes, strict=True)
    ]
    tree = split.extras.dataset | {"images": images, "annotations": annotations, "categories": categories}
    write_lines(folder / "annotations" / f"{name}.json", [json_text.dumps(tree)])
    return [folder / "images" / name / path for path in split.images]


def _load(file: Path, *, outlines: bool = False) -> Mapping[str, Any]:
    tree = json_text.read(file, None if outlines else _without_outline)
    if not isinstance(tree, dict):
        raise InputError(
            f"{file}: holds a {type(tree).__name__}, needed an object with images, annotations, categories"
        )
    return tree


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop outlines while parsing, to save memory: they are most of a file and are not used."""
    entry.pop("segmentation", None)
    return entry


def _entries(tree: Mapping[str, Any], key: str, file: Path) -> Entries:
    entries = tree.get(key)
    if not isinstance(entries, list):
        found = f"found {type(entries).__name__}" if key in tree else f"missing (found {', '.join(tree) or 'no keys'})"
        raise InputError(f"{file}: key '{key}': {found}, needed a list; COCO JSON has images, annotations, categories")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{file} {key}[{index}]: found {_shown(entry)}, needed an object")
    return entries


def _categories(entries: Entries, file: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not entries:
        raise InputError(f"{file}: categories: empty, needed at least one {{id, name}}")
    ids = _integers(_values(entries, "id", "categories", file), "id", "categories", file)
    names = _texts(_values(entries, "name", "categories", file), "name", "categories", file)
    for index, name in enumerate(names):
        if not name.strip():
            raise InputError(f"{file} categories[{index}].name: empty, needed the class's name")
        if fault := class_name_fault(name):
            raise InputError(f"{file} categories[{index}].name: {fault}")
    order = np.argsort(ids, kind="stable").tolist()
    for first, second in itertools.pairwise(order):
        if ids[first] == ids[second]:
            raise InputError(f"{file} categories[{second}].id: {ids[second]} is also that of categories[{first}]")
    return tuple(names[index] for index in order), tuple(int(ids[index]) for index in order)


def _images(entries: Entries, file: Path) -> tuple[Array, Array, NDArray[np.int64]]:
    """Ids, file names and sizes, as in Contents."""
    if not entries:
        raise InputError(f"{file}: images: empty, needed at least one {{id, file_name}}")
    ids = _ids(_values(entries, "id", "images", file), "id", "images", file)
    names = _texts(_values(entries, "file_name", "images", file), "file_name", "images", file)
    for index, name in enumerate(names):
        if not can_be_path(name):
            raise InputError(f"{file} images[{index}].file_name: {_shown(name)} cannot be a path")
    sides = []
    for key in ("height", "width"):
        values = _integers([entry.get(key, -1) for entry in entries], key, "images", file)
        bad = [index for index in np.flatnonzero(values < 1).tolist() if key in entries[index]]
        if bad:
            raise InputError(f"{file} images[{bad[0]}].{key}: found {values[bad[0]]}, needed 1 px or more")
        sides.append(values)
    sizes = np.stack(sides, axis=1)
    sizes[(sizes < 0).any(axis=1)] = -1
    return ids, paths_column(names), sizes


def _boxes(entries: Entries, category_ids: tuple[int, ...], file: Path) -> tuple[Boxes, Array]:
    """The rows in the file's order, and their image ids."""
    ids = _integers(_values(entries, "id", "annotations", file), "id", "annotations", file)
    image_ids = _ids(_values(entries, "image_id", "annotations", file), "image_id", "annotations", file)
    categories = _integers(_values(entries, "category_id", "annotations", file), "category_id", "annotations", file)
    xywh = _xywh(_values(entries, "bbox", "annotations", file), file)
    crowd, difficult = (_flags(entries, key, file) for key in ("iscrowd", "difficult"))
    with np.errstate(over="ignore", invalid="ignore"):
        areas = _numbers([entry.get("area", 0) for entry in entries], "area", "annotations", file)
        missing = np.array(["area" not in entry for entry in entries], dtype=bool)
        areas = np.where(missing, xywh[:, 2] * xywh[:, 3], areas)
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    defined = np.array(category_ids, dtype=np.int64)
    nearest = np.minimum(np.searchsorted(defined, categories), len(defined) - 1)
    labels = np.where(defined[nearest] == categories, nearest, -1).astype(np.int64)
    numbers = np.arange(len(entries), dtype=np.int64)
    return Boxes(as_float32(xyxy), labels, categories, crowd, areas, ids, numbers, difficult), image_ids


def _flags(entries: Entries, key: str, file: Path) -> NDArray[np.bool_]:
    """A key of the annotations that is 0 or 1; 0 if it is missing."""
    flags = [entry.get(key, 0) for entry in entries]
    values = _integers([int(flag) if type(flag) is bool else flag for flag in flags], key, "annotations", file)
    for index in np.flatnonzero((values != 0) & (values != 1)).tolist():
        raise InputError(f"{file} annotations[{index}].{key}: found {values[index]}, needed 0 or 1")
    return values.astype(bool)


def _xywh(values: list[Any], file: Path) -> NDArray[np.float64]:
    """(T, 4) boxes. Each must be four numbers, which may be NaN."""
    for index, value in enumerate(values):
        if not isinstance(value, list) or len(value) != 4 or not all(type(v) in (int, float) for v in value):
            raise InputError(f"{file} annotations[{index}].bbox: found {_shown(value)}, needed [x, y, width, height]")
    return _floats(values, "bbox", "annotations", file).reshape(-1, 4)


def _values(entries: Entries, key: str, where: str, file: Path) -> list[Any]:
    """The value of `key` in every entry."""
    try:
        return [entry[key] for entry in entries]
    except KeyError:
        index = next(index for index, entry in enumerate(entries) if key not in entry)
        raise InputError(
            f"{file} {where}[{index}]: key '{key}' missing (found {', '.join(entries[index]) or 'no keys'})"
        ) from None


def _texts(values: list[Any], key: str, where: str, file: Path) -> list[str]:
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{file} {where}[{index}].{key}: found {_shown(value)}, needed a text")
    return values


def _integers(values: list[Any], key: str, where: str, file: Path) -> NDArray[np.int64]:
    """Integers, which may be written as 3.0."""
    for index, value in enumerate(values):
        if (type(value) is not int and not (type(value) is float and value.is_integer())) or abs(value) >= 2**63:
            raise InputError(f"{file} {where}[{index}].{key}: found {_shown(value)}, needed a whole number")
    return np.array(values, dtype=np.int64)


def _numbers(values: list[Any], key: str, where: str, file: Path) -> NDArray[np.float64]:
    for index, value in enumerate(values):
        if type(value) is not int and type(value) is not float:
            raise InputError(f"{file} {where}[{index}].{key}: found {_shown(value)}, needed a number")
    return _floats(values, key, where, file)


def _floats(values: list[Any], key: str, where: str, file: Path) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise InputError(f"{file} {where}: a {key} has more than 308 digits, needed pixels") from error


def _ids(values: list[Any], key: str, where: str, file: Path) -> Array:
    """All integers or all strings; in a mixed column, 1 and "1" would be the same image."""
    if values and isinstance(values[0], str):
        texts = _texts(values, key, where, file)
        for index, text in enumerate(texts):
            if not text or len(text) > MAX_ID_LENGTH or text.endswith("\0"):
                raise InputError(
                    f"{file} {where}[{index}].{key}: found {_shown(text)}, needed 1 to {MAX_ID_LENGTH} letters"
                )
        return np.array(texts, dtype=np.str_)
    return _integers(values, key, where, file)


def _lookup(image_ids: Array, references: Array, file: Path) -> NDArray[np.int64]:
    """The index of each annotation's image, -1 for an orphan; the first, if two images have the same id."""
    if not len(references):
        return np.zeros(0, dtype=np.int64)
    if image_ids.dtype.kind != references.dtype.kind:
        raise InputError(
            f"{file}: images[0].id is {_shown(image_ids[0].item())}, annotations[0].image_id is "
            f"{_shown(references[0].item())}; needed both as numbers or both as texts"
        )
    order = np.argsort(image_ids, kind="stable")
    nearest = np.minimum(np.searchsorted(image_ids[order], references), len(order) - 1)
    return np.where(image_ids[order][nearest] == references, order[nearest], -1).astype(np.int64)


def _image_folder(file: Path, split: str, root: Path, names: Array) -> Path:
    """The usual folder with the most of a few sampled images, or of all images if none of the samples exist."""
    stem = file.stem.removeprefix("instances_").removeprefix("image_info_")
    stem = stem.replace("-dev", "")  # COCO's test-dev2017 is a subset of the images in test2017
    candidates = [stem, f"images/{stem}", split, f"images/{split}", "images", "."]
    folders = list(dict.fromkeys([*(root / name for name in candidates), file.parent, file.parent / "images"]))
    sample = names[np.linspace(0, len(names) - 1, 20).astype(int)]
    for column in (sample, names):
        files = [os.fsdecode(name) for name in column.tolist()]
        counts = [sum(map(os.path.isfile, map(folder.joinpath, files))) if folder.is_dir() else 0 for folder in folders]
        if max(counts):
            return folders[counts.index(max(counts))]
    raise InputError(
        f"{file}: none of its {len(names)} images ({_shown(os.fsdecode(names[0].item()))} and so on) is in "
        f"{', '.join(map(str, folders))}; move them there, or name their folder with the key 'images' of a data YAML"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="annotations/{split}.json or annotations/instances_{split}2017.json or {split}/_annotations.coco.json",
    find=find,
    read=read,
    accepts=lambda path: path.suffix == ".json",
    has_ids=True,
    find_unlabeled=find_unlabeled,
    read_unlabeled=read_unlabeled,
    extras=extras,
    writer=Writer(
        write=write, crowd=True, difficult=True, file_per_image=False, class_list=False, row_keys=None, image_keys=None
    ),
)
