"""Parquet files with images and boxes, as in data sets of Hugging Face: columns `image` and `objects`.

`image` is a struct {bytes, path}, or the bytes; `objects` has the lists `bbox` and `category`, or is a list of structs
with these fields. Files are `train-00000-of-00002.parquet`, `train.parquet`, or all files in a folder `train`. If
categories are numbers, their names are in the schema (`ClassLabel`). Images are read from the files
(`archives/parquet.py`), not copied.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwright import json_text
from boxwright.archives.parquet import image_column, make_parquet_mirror, open_parquet
from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.dataset import Dataset
from boxwright.data.entries import found, number, numbers, sequence, size_of
from boxwright.data.layout import Layout
from boxwright.data.listing import listing
from boxwright.data.source import Source
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.errors import InputError
from boxwright.images.header import read_header

SUFFIX = ".parquet"
SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<count>\d+)")
BOXES = ("bbox", "bboxes", "boxes", "box")  # names of the fields of `objects`; the first that exists is used
CLASSES = ("category", "categories", "category_id", "label", "labels", "class", "classes")
AREAS = ("area",)
BATCH = 1024  # rows of labels that are read together
SAMPLE = 200  # images whose sizes are compared with boxes, to detect the form of a box
LIKELY, UNLIKELY = 0.9, 0.75  # fractions of boxes within their image
WAYS = ("xywh", "xyxy")


def find(root: Path) -> dict[str, Path]:
    """Split -> its first file, or its folder."""
    if root.is_file():
        return {_split_of(root) or "all": root} if root.suffix == SUFFIX else {}
    splits: dict[str, Path] = {}
    for folder in (root, root / "data"):
        names = sorted(listing(folder).names) if folder.is_dir() else []
        files = [folder / name for name in names if name.endswith(SUFFIX)]
        for file in files:
            splits.setdefault(_split_of(file), file)
        if files:
            break
    if "" in splits:  # names without a split, such as 0000.parquet
        splits = {"all": splits[""], **{name: file for name, file in splits.items() if name}}
    for folder in text.subfolders(root):
        if canonical_name(folder.name) in STANDARD and _files_of(folder):
            splits.setdefault(folder.name, folder)
    return splits


def collect(source: Source) -> Builder:
    """Read the labels of a split. Raises InputError if columns are missing, or the form of boxes is ambiguous."""
    builder = Builder(source, entry="row {}")
    files = [file for path in (source.path, *source.more) for file in _files_of(path)]
    opened = [open_parquet(file, str(file)) for file in files]
    for file, table in zip(files, opened, strict=True):
        image_column(table.schema_arrow, str(file))
        has_numbers = _check_objects(table.schema_arrow, str(file))
    builder.classes = _class_names(opened[0].schema_arrow)
    names = dict(enumerate(builder.classes))
    if has_numbers and not names:
        names = text.numbered_classes(source)
    paths = make_parquet_mirror(str(files[0].parent), files)
    way = source.bbox or _way(files, opened, paths)
    for file, table, images in zip(files, opened, paths, strict=True):
        for row, values in _rows(table):
            _add(builder, f"{file} row {row}", row, images[row], values, (file, way, names))
    return builder


def _add(
    builder: Builder, place: str, row: int, path: str, values: Mapping[str, Any],
    how: tuple[Path, str, Mapping[int, str]],
) -> None:  # fmt: skip
    """Add the image of a row and its boxes."""
    file, way, names = how
    if not path:
        builder.error(place, "has no bytes of an image; leave the row out, or embed the images")
        return
    size = size_of(values.get("height"), values.get("width"))
    image = builder.add_image(path, str(file), size, place=place)
    try:
        objects = list(_objects(values["objects"]))
    except ValueError as fault:
        builder.error(place, str(fault), image)
        return
    for index, entry in enumerate(objects):
        try:
            box = _corners(entry["bbox"], way)
            name = _name(entry["category"], names)
            area = None if entry.get("area") is None else number(entry["area"], "area")
        except ValueError as fault:
            builder.error(f"{place} objects[{index}]", str(fault), image)
            continue
        builder.add_box(image, name, box, row, area=area)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """The boxes of a row under the names bbox, category, area. Raises ValueError."""
    if value is None:
        return
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
        for entry in entries:
            yield {name: entry.get(_first(keys, entry)) for name, keys in _FIELDS.items()}
        return
    assert isinstance(value, dict)  # `_check_objects` has checked the schema
    columns = {name: value.get(_first(keys, value)) for name, keys in _FIELDS.items()}
    lists = {name: sequence(column, name) for name, column in columns.items() if column is not None}
    if not lists.get("bbox"):
        return
    if len({len(values) for values in lists.values()}) > 1:
        counts = ", ".join(f"{len(values)} of {name}" for name, values in lists.items())
        raise ValueError(f"objects: found {counts}, needed equally many")
    for values in zip(*lists.values(), strict=True):
        yield {"category": None, **dict(zip(lists, values, strict=True))}


_FIELDS = {"bbox": BOXES, "category": CLASSES, "area": AREAS}


def _first(names: Sequence[str], values: Mapping[str, Any]) -> str:
    return next((name for name in names if name in values), names[0])


def _corners(value: object, way: str) -> tuple[float, float, float, float]:
    values = sequence(value, "bbox")
    if len(values) != 4:
        raise ValueError(f"bbox: found {len(values)} numbers, needed 4")
    a, b, c, d = numbers(dict(zip("abcd", values, strict=True)), *"abcd")
    return (a, b, a + c, b + d) if way == "xywh" else (a, b, c, d)


def _name(value: object, names: Mapping[int, str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"category: {found(value)}, needed a class")
    if value not in names:
        raise ValueError(f"category: {found(value)}, needed one of {len(names)} classes from 0")
    return names[value]


def _rows(file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number, without the image."""
    columns = [name for name in ("height", "width") if name in file.schema_arrow.names]
    row = 0
    for batch in file.iter_batches(BATCH, columns=["objects", *columns], use_threads=False):
        for values in batch.to_pylist():
            yield row, values
            row += 1


def _way(files: Sequence[Path], opened: Sequence[Any], paths: Sequence[Sequence[str]]) -> str:
    """Whether the boxes of a split are `xywh` or `xyxy` px, from those of some images.

    A box that extends beyond its image, or has no area, is wrong. Raises InputError if both forms or neither fit.
    """
    counts, valid, areas = 0, dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)
    each = zip(opened, paths, strict=True)
    rows = ((images[row], values) for table, images in each for row, values in _rows(table))
    used, small = 0, True
    for path, values in rows:
        if used >= SAMPLE:
            break
        boxes = _valid_boxes(values["objects"])
        if not path or not boxes:
            continue
        height, width = size_of(values.get("height"), values.get("width"))
        if height < 0:
            height, width = read_header(path, decode=None).size
        if height < 0:
            continue
        used += 1
        for (a, b, c, d), area in boxes:
            counts += 1
            small = small and max(a, b, c, d) <= 1
            corners = {"xywh": (a + c, b + d, c * d), "xyxy": (c, d, (c - a) * (d - b))}
            for way, (right, bottom, extent) in corners.items():
                inside = a >= -1 and b >= -1 and right <= width + 1 and bottom <= height + 1
                valid[way] += inside and right > a and bottom > b
                areas[way] += area is not None and abs(extent - area) <= 0.01 * abs(area) + 1e-6
    return _decided(str(files[0]), counts, valid, areas, small=small)


def _decided(title: str, count: int, valid: Mapping[str, int], areas: Mapping[str, int], *, small: bool) -> str:
    """The form of boxes, from the numbers of valid ones. small: whether no number is above 1."""
    if not count:
        return WAYS[0]
    if small:
        raise InputError(f"{title}: the numbers of boxes are at most 1, as in fractions of the image; needed px")
    for way, other in (WAYS, WAYS[::-1]):
        by_area = areas[way] >= LIKELY * count and areas[other] < UNLIKELY * count
        if by_area or (valid[way] >= LIKELY * count and valid[other] < UNLIKELY * count):
            return way
    raise InputError(
        f"{title}: boxes may be [x, y, width, height] ({valid['xywh']} of {count} fit their image) or [x1, y1, x2, y2] "
        f"({valid['xyxy']}); write bbox: xywh or bbox: xyxy into a data YAML"
    )


def _valid_boxes(value: object) -> list[tuple[list[float], float | None]]:
    """Boxes of four numbers and their areas; faulty boxes are reported when they are read."""
    boxes = []
    try:
        for entry in _objects(value):
            four = entry["bbox"]
            if isinstance(four, list) and len(four) == 4 and all(type(n) in (int, float) for n in four):
                area = entry.get("area")
                boxes.append(([float(n) for n in four], float(area) if isinstance(area, int | float) else None))
    except ValueError:
        return []
    return boxes


def _check_objects(schema: Any, title: str) -> bool:
    """Whether classes are numbers. Raises InputError if the schema has no boxes with classes."""
    index = schema.get_field_index("objects")
    fields: dict[str, Any] = {}
    if index >= 0:
        kind = _inner(schema.field(index).type)
        fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
    names = [*fields]
    if not ({*names} & {*BOXES} and {*names} & {*CLASSES}):
        inside = f", objects with {', '.join(names)}"[:60] if names else ""
        raise InputError(
            f"{title}: found the columns {', '.join(schema.names)[:60]}{inside}, needed objects with bbox and category"
        )
    return str(_inner(fields[_first(CLASSES, fields)])).startswith(("int", "uint"))


def _inner(kind: Any) -> Any:
    """The type of the values of a list of any depth."""
    while not hasattr(kind, "get_field_index") and hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind


def _class_names(schema: Any) -> list[str]:
    """The names of a ClassLabel for `category` in the features that Hugging Face's library writes; [] if there is none.

    Raises InputError for features that are not JSON.
    """
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return []
    tree = json_text.parse(metadata, "schema of the Parquet file")
    for key in ("info", "features", "objects"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    names = _names_below(tree, inside=False)
    return [str(name) for name in names or ()]


def _names_below(tree: object, *, inside: bool) -> list[object] | None:
    """The `names` of the category's ClassLabel, at any depth, which depends on the version. inside: in its feature."""
    if isinstance(tree, list):
        return next(filter(None, (_names_below(value, inside=inside) for value in tree)), None)
    if not isinstance(tree, dict):
        return None
    if inside and tree.get("_type") == "ClassLabel" and isinstance(names := tree.get("names"), list):
        return names
    below = (_names_below(value, inside=inside or key in CLASSES) for key, value in tree.items())
    return next(filter(None, below), None)


def _split_of(file: Path) -> str:
    """The split in the name of a file; "" if there is none."""
    match = SHARD.fullmatch(file.stem)
    name = match["split"] if match else file.stem
    return "" if not match and name.isdecimal() else name


def _files_of(path: Path) -> list[Path]:
    """All files of a split: the files in its folder, or its shards. Raises InputError if one is missing."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder / name for name in os.listdir(folder) if name.endswith(SUFFIX))  # noqa: PTH208
    if path.is_dir():
        return files
    match = SHARD.fullmatch(path.stem)
    if match is None:
        return [file for file in files if not _split_of(file)] if not _split_of(path) else [path]
    shards = [file for file in files if (own := SHARD.fullmatch(file.stem)) and own["split"] == match["split"]]
    if len(shards) != int(match["count"]):
        raise InputError(f"{path}: found {len(shards)} of its {int(match['count'])} files; get the missing ones")
    return shards


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}-00000-of-00001.parquet with the columns image and objects (bbox, category)",
    find=find,
    read=read_with(collect),
    accepts=lambda path: bool(_files_of(path)) if path.is_dir() else path.suffix == SUFFIX and path.is_file(),
    extras=extras_with(collect),
)
