"""VGG Image Annotator (VIA) 1 and 2: projects, and annotations exported as JSON or CSV.

Regions are rectangles, polygons, circles and ellipses; all but rectangles become their enclosing boxes, and polygons
are kept as outlines. The class is one of the attributes of a region, whose names are chosen by the user.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright import json_text
from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.contents import json_keys
from boxwright.data.csv_rows import first_row, rows
from boxwright.data.dataset import Dataset
from boxwright.data.entries import Corners, found, mapping, number, numbers, sequence, string, value_of
from boxwright.data.label_files import find_files
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.locate import locator
from boxwright.data.outlines import bounds_of
from boxwright.data.source import Source
from boxwright.errors import InputError

METADATA = "_via_img_metadata"
CLASS_KEYS = ("class", "label", "category", "name", "class_name", "classname", "object", "type")
COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}


@dataclass(frozen=True, slots=True)
class _Region:
    """A region. shape, attributes: JSON values. entry: the position in the file."""

    place: str
    entry: int
    shape: object
    attributes: object


@dataclass(frozen=True, slots=True)
class _Image:
    place: str
    name: str
    regions: list[_Region]


def find(root: Path) -> dict[str, Path]:
    """Split -> JSON or CSV file."""
    return find_files(root, (".json", ".csv"), _is_via)


def collect(source: Source) -> Builder:
    """Read a JSON or CSV file. Raises InputError if the class of a region may be one of several attributes."""
    file = source.path
    is_csv = file.suffix.lower() == ".csv"
    builder = Builder(source, locator(source, file), "line {}" if is_csv else "region {}")
    images = [*(_from_csv(file, builder) if is_csv else _from_json(file, builder))]
    regions = [region for image in images for region in image.regions]
    key = _class_key(regions, file)
    if any(isinstance(region.attributes, dict) and len(region.attributes) > 1 for region in regions):
        builder.note(f"of several attributes, '{key[:40]}' is used as the class", str(file))
    for image in images:
        index = builder.add_image(image.name, str(file), place=image.place)
        for region in image.regions:
            _add(builder, index, region, key)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write a project {split}.json, with the class as the attribute `class`."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    boxes = text.decimals(rows.xyxy).tolist()
    images: Keys = {}
    for index, path in enumerate(split.images):
        file = f"images/{name}/{path}"
        regions = []
        for row in split.objects(index):
            x1, y1, x2, y2 = boxes[row]
            shape = {"name": "rect", "x": x1, "y": y1, "width": round(x2 - x1, 12), "height": round(y2 - y1, 12)}
            label = {"class": dataset.names[rows.labels[row]]}
            regions.append({"shape_attributes": shape, "region_attributes": label})
        images[f"{file}-1"] = {"filename": file, "size": -1, "regions": regions, "file_attributes": {}}
    options = {"type": "dropdown", "description": "", "options": dict.fromkeys(dataset.names, ""),
               "default_options": {}}  # fmt: skip
    tree = {
        "_via_settings": {"ui": {}, "core": {"default_filepath": ""}, "project": {"name": name}},
        METADATA: images,
        "_via_attributes": {"region": {"class": options}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [*images],
    }
    text.write_lines(folder / f"{name}.json", [json_text.dumps(tree)])
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / "images" / name / path for path in split.images]


def _from_json(file: Path, builder: Builder) -> Iterator[_Image]:
    """The images of a project, or of annotations exported as JSON."""
    tree = json_text.read(file)
    entries = tree.get(METADATA, tree) if isinstance(tree, dict) else None
    if not isinstance(entries, dict):
        raise InputError(f"{file}: {found(entries)}, needed an object of images, as exported by VIA")
    number = 0
    for key, value in entries.items():
        place = f"{file} {key[:60]}"
        try:
            entry = mapping(value, "the image")
            name = string(value_of(entry, "filename"), "filename")
            regions = value_of(entry, "regions")
            regions = [*regions.values()] if isinstance(regions, dict) else sequence(regions, "regions")
        except ValueError as fault:
            builder.error(place, str(fault))
            continue
        image = _Image(place, name, [])
        for index, region in enumerate(regions):
            number += 1
            parts = region if isinstance(region, dict) else {}
            position = f"{place} regions[{index}]"
            shape, attributes = parts.get("shape_attributes"), parts.get("region_attributes")
            image.regions.append(_Region(position, number, shape, attributes))
        yield image


def _from_csv(file: Path, builder: Builder) -> Iterator[_Image]:
    """The images of annotations exported as CSV: one row per region, or one with an empty region."""
    lines = rows(file)
    columns = [column.lstrip("#") for column in next(lines, (0, []))[1]]
    images: dict[str, _Image] = {}
    for line, fields in lines:
        place = f"{file} line {line}"
        if len(fields) != len(columns):
            builder.error(place, f"found {len(fields)} columns, needed {len(columns)} as in the first line")
            continue
        row = dict(zip(columns, fields, strict=True))
        image = images.setdefault(row["filename"], _Image(place, row["filename"], []))
        try:
            shape, attributes = (
                json_text.parse(row[key] or "{}", key) for key in ("region_shape_attributes", "region_attributes")
            )
        except InputError as fault:
            image.regions.append(_Region(place, line, str(fault), {}))
            continue
        if shape != {}:
            image.regions.append(_Region(place, line, shape, attributes))
    yield from images.values()


def _class_key(regions: Sequence[_Region], file: Path) -> str:
    """The attribute with the class: the only one, the only one of all regions, or one with a usual name."""
    attributes = [region.attributes for region in regions if isinstance(region.attributes, dict)]
    counts = Counter(key for values in attributes for key, value in values.items() if value not in ("", {}, None))
    if len(counts) < 2:
        return next(iter(counts), CLASS_KEYS[0])
    complete = [key for key, count in counts.items() if count == len(regions)]
    usual = [key for key in counts if key.lower() in CLASS_KEYS]
    if chosen := next((keys for keys in (usual, complete) if len(keys) == 1), []):
        return str(chosen[0])
    raise InputError(
        f"{file}: the class may be any attribute of {', '.join(counts)[:60]}; rename the right one to 'class'"
    )


def _add(builder: Builder, image: int, region: _Region, key: str) -> None:
    """Add a region, or report its fault."""
    try:
        shape = mapping(region.shape, "shape_attributes")
        attributes = mapping(region.attributes, "region_attributes")
        label = _label(attributes.get(key, ""), key)
        box, polygon = _box(shape)
    except ValueError as fault:
        builder.error(region.place, str(fault), image)
        return
    keys: Keys = {name: value for name, value in attributes.items() if name not in (key, "segmentation")}
    if (kind := shape["name"]) != "rect":
        builder.note(f"{kind} read as its enclosing box", region.place)
    builder.note_text({name: value for name, value in shape.items() if name != "name"}, region.place)
    if polygon:
        keys["segmentation"] = [polygon]
    builder.add_box(image, label, box, region.entry, keys=keys)


def _label(value: object, key: str) -> str:
    """The class: a text, or the checked one of several check boxes."""
    if isinstance(value, dict):
        checked = [str(name) for name, is_checked in value.items() if is_checked]
        if len(checked) != 1:
            raise ValueError(f"attribute '{key[:20]}': {len(checked)} values are checked, needed one")
        return checked[0]
    if not (label := string(value, f"attribute '{key[:20]}'")):
        raise ValueError(f"attribute '{key[:20]}' is empty, needed the class")
    return label


def _box(shape: Keys) -> tuple[Corners, list[float]]:
    """The box of a shape, and its polygon or []."""
    kind = string(value_of(shape, "name"), "name")
    if kind == "rect":
        x, y, width, height = numbers(shape, "x", "y", "width", "height")
        return (x, y, x + width, y + height), []
    if kind == "polygon":
        xs, ys = (sequence(value_of(shape, f"all_points_{axis}"), f"all_points_{axis}") for axis in "xy")
        if len(xs) != len(ys) or len(xs) < 3:
            raise ValueError(f"polygon of {len(xs)} x and {len(ys)} y, needed three or more of both")
        polygon = [number(value, "all_points") for pair in zip(xs, ys, strict=True) for value in pair]
        return bounds_of(polygon), polygon
    if kind == "circle":
        x, y, radius = numbers(shape, "cx", "cy", "r")
        return (x - radius, y - radius, x + radius, y + radius), []
    if kind == "ellipse":
        x, y, rx, ry = numbers(shape, "cx", "cy", "rx", "ry")
        angle = number(shape.get("theta", 0), "theta")  # radians
        width = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
        height = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
        return (x - width, y - height, x + width, y + height), []
    raise ValueError(f"shape '{kind[:20]}' has no box, needed rect, polygon, circle or ellipse; draw its box")


def _is_via(file: Path) -> bool:
    if file.suffix.lower() == ".csv":
        return {column.lstrip("#") for column in first_row(file)} >= COLUMNS
    start, keys = json_keys(file)
    return start == "{" and (METADATA in keys.get(1, ()) or {"filename", "regions"} <= keys.get(2, set()))


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="a project of VIA, or its export as JSON or CSV",
    find=find,
    read=read_with(collect),
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
    writer=Writer(write=write, file_per_image=False),
)
