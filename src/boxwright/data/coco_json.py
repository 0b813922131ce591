"""Parsing a COCO JSON to columns.

A file in COCO's form is converted column by column. Only if that fails, its entries are read one by one: other forms
that some tools write are converted and noted, and faulty entries are left out and reported.

    P images, T boxes in total, K classes
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.config import class_name_fault
from boxwright.data import coco_entries, labeled_classes
from boxwright.data.coco_entries import Entry, EntryError, Remarks, shown
from boxwright.data.coco_index import Contents
from boxwright.data.dataset import Boxes, as_float32, paths_column
from boxwright.data.findings import orphan
from boxwright.data.text import can_be_path
from boxwright.errors import InputError
from boxwright.json_text import JsonObject

Entries = Sequence[Entry]
Ids = Mapping[str, int]  # the id of a category in the file, as text -> its id in the data set
UNUSUAL = (AttributeError, KeyError, OverflowError, TypeError, ValueError)  # of entries in another form
MISSING = float("nan")  # compared by identity
SIDES = ("height", "width")
TILE_KEYS = ("scene", "offset", "scale")  # of an image that `data tile` has written


def parse(file: Path) -> Contents:
    """Parse a JSON file. Raises InputError if it has another structure, or if its categories are invalid."""
    tree = load(file)
    return to_contents(tree, entries(tree, "annotations", file), file)


def load(file: Path, *, outlines: bool = False) -> JsonObject:
    """The JSON object in a file. outlines: keep the outlines of annotations with a box. Raises InputError if it is not
    a JSON object."""
    tree = json_text.read(file, None if outlines else _without_outline)
    if not isinstance(tree, dict):
        raise InputError(
            f"{file}: holds a {type(tree).__name__}, needed an object with images, annotations, categories"
        )
    return tree


def entries(tree: Mapping[str, object], key: str, file: Path) -> Entries:
    """The list `key` of a JSON. Raises InputError if it is missing or not a list."""
    values = tree.get(key)
    if not isinstance(values, list):
        keys = ", ".join(itertools.islice(tree, 5)) or "no keys"
        found = f"found {type(values).__name__}" if key in tree else f"missing (found {keys[:60]})"
        raise InputError(f"{file}: key '{key}': {found}, needed a list; COCO JSON has images, annotations, categories")
    return values


def to_contents(tree: Mapping[str, object], labels: Entries, file: Path) -> Contents:
    """The content of a JSON with the annotations `labels`. Raises InputError as `parse`."""
    remarks = Remarks()
    classes = entries(tree, "categories", file)
    names, category_ids, by_text = categories(classes, file, remarks)
    images = entries(tree, "images", file)
    numbers, ids, files, sizes = _images(images, file, remarks)
    rows, image_ids = _boxes(labels, category_ids, by_text, ids, remarks)
    owners = _lookup(ids, image_ids)
    orphans = np.flatnonzero(owners < 0)
    for row in orphans.tolist():
        entry, image_id = f"annotations[{rows.entries[row]}]", image_ids[row].item()
        remarks.findings.append(orphan("", entry, image_id, int(rows.ids[row])))
    order = np.argsort(owners, kind="stable")[len(orphans) :]
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners[order], minlength=len(ids)))]).astype(np.int64)
    listed = [images[number] for number in numbers.tolist()]
    labeled = labeled_classes.of_coco(listed, names, category_ids, (owners[order], rows.labels[order]), str(file))
    return Contents(
        names, category_ids, ids, files, sizes, numbers, rows.take(order), starts, remarks.all(),
        _group_class(classes, names), labeled, any({*TILE_KEYS} <= entry.keys() for entry in listed),
    )  # fmt: skip


def categories(
    classes: Entries, file: Path, remarks: Remarks | None = None
) -> tuple[tuple[str, ...], tuple[int, ...], Ids]:
    """Names and ids in label order, which is ascending order of ids.

    Ids that are not 64-bit numbers are replaced by 1 to K in the order of the file. Raises InputError for an invalid
    category; skipping it would shift the labels of others.
    """
    remarks = remarks or Remarks()
    if not classes:
        raise InputError(f"{file}: categories: empty, needed at least one {{id, name}}")
    names, raw = [], []
    for number, entry in enumerate(classes):
        place = f"{file} categories[{number}]"
        if not isinstance(entry, dict):
            raise InputError(f"{place}: found {shown(entry)}, needed an object")
        for key in ("id", "name"):
            if key not in entry:
                raise InputError(f"{place}: key '{key}' missing (found {', '.join(entry)[:60] or 'no keys'})")
        name = entry["name"]
        if type(name) is int:
            remarks.note("a class name is a number; read as text", f"categories[{number}]")
            name = str(name)
        if not isinstance(name, str):
            raise InputError(f"{place}.name: found {shown(name)}, needed a text")
        if fault := class_name_fault(name) if name.strip() else "empty, needed the class's name":
            raise InputError(f"{place}.name: {fault}")
        names.append(name)
        raw.append(coco_entries.id_text(entry["id"]))
        if raw[-1] is None:
            raise InputError(f"{place}.id: found {shown(entry['id'])}, needed a whole number")
        if isinstance(entry["id"], str):
            remarks.note("ids of categories are written as text", f"categories[{number}]")
    if repeated := [text for text, count in Counter(raw).items() if count > 1]:
        first, second = [number for number, text in enumerate(raw) if text == repeated[0]][:2]
        raise InputError(
            f"{file} categories[{second}].id: {repeated[0]} is also that of categories[{first}]; give it another id"
        )
    ids = [coco_entries.small_integer(text) for text in raw]
    if None in ids:
        remarks.note(
            "ids of categories are not 64-bit numbers; classes are numbered in the order of the file", "categories"
        )
        ids = list(range(1, len(raw) + 1))
    by_text = {str(text): int(number or 0) for text, number in zip(raw, ids, strict=True)}
    order = sorted(range(len(raw)), key=lambda index: by_text[str(raw[index])])
    return tuple(names[index] for index in order), tuple(by_text[str(raw[index])] for index in order), by_text


def _without_outline(entry: JsonObject) -> JsonObject:
    """Drop outlines while parsing, to save memory: they are most of a file, and needed only if there is no box."""
    if "segmentation" in entry and entry.get("bbox"):
        del entry["segmentation"]
    return entry


def _group_class(classes: Entries, names: tuple[str, ...]) -> int | None:
    """The label of the class that is the `supercategory` of all others; None if there is none."""
    parents = Counter(entry.get("supercategory") for entry in classes if isinstance(entry.get("supercategory"), str))
    own = {entry["name"]: entry.get("supercategory") for entry in classes}
    found = [name for name in parents if name in own and parents[name] - (own[name] == name) == len(names) - 1 > 0]
    return names.index(found[0]) if len(found) == 1 else None


def _images(values: Entries, file: Path, remarks: Remarks) -> tuple[NDArray[np.int64], Array, Array, NDArray[np.int64]]:
    """Entry numbers, ids, file names and sizes, as in Contents."""
    try:
        return np.arange(len(values)), *_image_columns(values, file)
    except UNUSUAL:
        numbers, cleaned = _clean(values, "images", coco_entries.image, remarks)
        if any(isinstance(entry["id"], str) for entry in cleaned):
            cleaned = [entry | {"id": str(entry["id"])} for entry in cleaned]
        return np.array(numbers, dtype=np.int64), *_image_columns(cleaned, file)


def _image_columns(values: Entries, file: Path) -> tuple[Array, Array, NDArray[np.int64]]:
    if not values:
        raise InputError(f"{file}: images: empty or all faulty, needed at least one {{id, file_name}}")
    ids, names = ([entry[key] for entry in values] for key in ("id", "file_name"))
    if not all(map(can_be_path, names)):
        raise ValueError("no path")
    sides = [_integers([entry.get(key, -1) for entry in values]) for key in SIDES]
    sizes = np.stack(sides, axis=1)
    for index in np.flatnonzero((sizes < 1).any(axis=1)).tolist():
        if any(side < 1 and key in values[index] for key, side in zip(SIDES, sizes[index].tolist(), strict=True)):
            raise ValueError("no size")
    sizes[(sizes < 0).any(axis=1)] = -1
    return _ids(ids), paths_column(names), sizes


def _boxes(
    values: Entries, category_ids: tuple[int, ...], by_text: Ids, image_ids: Array, remarks: Remarks
) -> tuple[Boxes, Array]:
    """The rows in the file's order, and their image ids."""
    is_text = image_ids.dtype.kind == "U"
    try:
        if any(text != str(number) for text, number in by_text.items()):
            raise ValueError("other category ids")
        return _box_columns(values, np.arange(len(values)), category_ids, is_text)
    except UNUSUAL:
        by_image: dict[str, int] = {}

        def clean(entry: Entry, note: Callable[[str], None]) -> Entry:
            return coco_entries.annotation(entry, note, by_text, is_text)

        def image_of(entry: Entry) -> int | None:
            if not by_image:
                by_image.update({str(image_id): index for index, image_id in enumerate(image_ids.tolist())})
            return by_image.get(coco_entries.id_text(entry.get("image_id")) or "")

        numbers, cleaned = _clean(values, "annotations", clean, remarks, image_of)
        unnumbered = [number for number, entry in zip(numbers, cleaned, strict=True) if entry["id"] is None]
        if unnumbered:
            what = "annotation ids are missing or not 64-bit numbers; boxes are renumbered"
            remarks.note(what, f"annotations[{unnumbered[0]}]", len(unnumbered))
            cleaned = [entry | {"id": number + 1} for number, entry in zip(numbers, cleaned, strict=True)]
        return _box_columns(cleaned, np.array(numbers, dtype=np.int64), category_ids, is_text)


def _box_columns(
    values: Entries, numbers: NDArray[np.int64], category_ids: tuple[int, ...], is_text: bool
) -> tuple[Boxes, Array]:
    ids, categories = (_integers([entry[key] for entry in values]) for key in ("id", "category_id"))
    image_ids = _ids([entry["image_id"] for entry in values], is_text)
    boxes = [entry["bbox"] for entry in values]
    if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
        raise ValueError("no box")
    xywh = _numbers([*itertools.chain.from_iterable(boxes)]).reshape(-1, 4)
    crowd, difficult, ignored = (_flags(values, key) for key in ("iscrowd", "difficult", "ignore"))
    areas = [entry.get("area", MISSING) for entry in values]
    missing = np.array([area is MISSING for area in areas], dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.where(missing, xywh[:, 2] * xywh[:, 3], _numbers(areas))
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    defined = np.array(category_ids, dtype=np.int64)
    nearest = np.minimum(np.searchsorted(defined, categories), len(defined) - 1)
    labels = np.where(defined[nearest] == categories, nearest, -1).astype(np.int64)
    rows = Boxes(as_float32(xyxy), labels, categories, crowd, stored, ids, numbers, difficult)
    return (rows.as_ignored(ignored) if ignored.any() else rows), image_ids


def _clean(
    values: Entries,
    where: str,
    clean: Callable[[Entry, Callable[[str], None]], Entry],
    remarks: Remarks,
    image_of: Callable[[Entry], int | None] = lambda entry: None,
) -> tuple[list[int], list[Entry]]:
    """The numbers of the readable entries, and the entries converted to COCO's form."""
    numbers, cleaned = [], []
    place = ""

    def note(what: str) -> None:
        remarks.note(what, place)

    for number, entry in enumerate(values):
        place = f"{where}[{number}]"
        try:
            if not isinstance(entry, dict):
                raise EntryError(f"found {shown(entry)}, needed an object")
            cleaned.append(clean(entry, note))
            numbers.append(number)
        except EntryError as fault:
            remarks.error(place, str(fault), image_of(entry) if isinstance(entry, dict) else None)
    return numbers, cleaned


def _flags(values: Entries, key: str) -> NDArray[np.bool_]:
    """The values, 0 or 1, of a key of the annotations; 0 if it is missing."""
    flags = [entry.get(key, 0) for entry in values]
    if not set(map(type, flags)) <= {int, bool} or (flags and not 0 <= min(flags) <= max(flags) <= 1):
        raise ValueError(key)
    return np.array(flags, dtype=bool)


def _integers(values: list[object]) -> NDArray[np.int64]:
    if not set(map(type, values)) <= {int}:
        raise ValueError("no integers")
    return np.array(values, dtype=np.int64)


def _numbers(values: list[object]) -> NDArray[np.float64]:
    if not set(map(type, values)) <= {int, float}:
        raise ValueError("no numbers")
    return np.array(values, dtype=np.float64)


def _ids(values: list[object], is_text: bool | None = None) -> Array:
    """Ids as all integers or all strings, by `is_text`, or by the first id if that is None."""
    if isinstance(values[0] if values else 0, str) if is_text is None else is_text:
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(values) or not all(map(coco_entries.is_id_text, texts)):
            raise ValueError("no texts")
        return np.array(texts, dtype=np.str_)
    return _integers(values)


def _lookup(image_ids: Array, references: Array) -> NDArray[np.int64]:
    """The index of each annotation's image, -1 for an orphan; the first image if two have the same id."""
    if not len(references):
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(image_ids, kind="stable")
    nearest = np.minimum(np.searchsorted(image_ids[order], references), len(order) - 1)
    return np.where(image_ids[order][nearest] == references, order[nearest], -1).astype(np.int64)
