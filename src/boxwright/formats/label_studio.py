"""Label Studio: its exports JSON and JSON-MIN, with boxes in percent of the image.

Of the annotations of a task (by several people), the first one that was not canceled is used. Tasks without annotations
are not used, since they are not labeled. Rotated rectangles and polygons become their enclosing boxes and are kept as
outlines. Images may have the name in the file or the name before the upload, without the prefix of eight hex digits.
Class names are in the order of `label_config.xml` if that is beside the file.
"""

import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from boxwright import json_text
from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.contents import head, json_keys
from boxwright.data.dataset import Dataset
from boxwright.data.entries import mapping, numbers, outline, sequence, size_of, string, value_of
from boxwright.data.label_files import by_split, candidates
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.locate import QUERY, Locator, locator
from boxwright.data.outlines import bounds_of
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES, read_header

UPLOADS = re.compile(r"/data/upload/(?:\d+/)?")  # the folder of uploaded files on the server
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # the name of an uploaded file
CONFIG = "label_config.xml"
LABELS = ("rectanglelabels", "polygonlabels", "labels")
WITHOUT_BOX = ("choices", "textarea", "rating", "number", "taxonomy", "pairwise", "relation")  # answers to questions
URL = "/data/local-files/?d="  # of images in a folder that Label Studio serves


@dataclass(frozen=True, slots=True)
class _Task:
    """A labeled image. regions: values in percent, with their positions in the file."""

    place: str
    image: str
    regions: list[tuple[str, object]]


def find(root: Path) -> dict[str, Path]:
    """Split -> JSON file. A JSON-MIN beside a JSON is a short form of it, and is not used."""
    kinds = {file: _kind(file) for file in candidates(root, (".json",))}
    files = [file for file, kind in kinds.items() if kind == "json"]
    return by_split(files or [file for file, kind in kinds.items() if kind == "json-min"], root)


def collect(source: Source) -> Builder:
    """Read a JSON file. Raises InputError if it is not a list."""
    file = source.path
    tree = json_text.read(file)
    if not isinstance(tree, list):
        raise InputError(f"{file}: found {type(tree).__name__}, needed a list of tasks, as Label Studio exports")
    images = locator(source, file)
    builder = Builder(source, images, "result {}")
    builder.classes = _classes(file)
    number = 0  # index of the result in the file
    for task in (_min_tasks if _kind(file) == "json-min" else _tasks)(tree, builder, file):
        name = _file_name(task.image, images)
        sizes = [_size(value) for _, value in task.regions]
        size = next((size for size in sizes if size[0] > 0), (-1, -1))
        image = builder.add_image(name, str(file), size, place=task.place)
        if task.regions and size[0] < 0:
            size = read_header(images.locate(name).path, decode=None).size
        for place, value in task.regions:
            number += 1
            _add(builder, image, place, number, value, size)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}.json, to import where Label Studio serves the folder, and label_config.xml."""
    return _write(split, folder, lambda results: {"annotations": [{"result": results}]})


def write_predictions(split: Split, folder: Path) -> list[Path]:
    """Write {split}.json with predictions, which people accept or correct; their scores sort the tasks."""

    def predicted(results: list[Keys]) -> Keys:
        mean = sum(result["score"] for result in results) / max(1, len(results))
        return {"predictions": [{"model_version": "boxwright", "score": mean, "result": results}]}

    return _write(split, folder, predicted)


def _write(split: Split, folder: Path, labeled: Callable[[list[Keys]], Keys]) -> list[Path]:
    """Write the tasks. labeled: makes the members of a task from its results."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    boxes = text.decimals(rows.xyxy).tolist()
    tasks = []
    for index, path in enumerate(split.images):
        height, width = split.sizes[index].tolist()
        results = [
            {
                "id": f"box{row}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
                "original_width": width, "original_height": height, "image_rotation": 0,
                "value": _percent(boxes[row], width, height)
                | {"rotation": 0, "rectanglelabels": [dataset.names[rows.labels[row]]]},
            }
            | {key: value for key, value in split.extras.rows[row].items() if key == "score"}
            for row in split.objects(index)
        ]  # fmt: skip
        url = URL + quote(f"images/{name}/{path}")
        tasks.append({"id": index + 1, "data": {"image": url}} | labeled(results))
    text.write_lines(folder / f"{name}.json", [json_text.dumps(tasks)])
    text.write_lines(folder / CONFIG, [_config(dataset.names)])
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / "images" / name / path for path in split.images]


def _percent(box: list[float], width: int, height: int) -> dict[str, float]:
    x1, y1, x2, y2 = box
    return {"x": 100 * x1 / width, "y": 100 * y1 / height, "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height}  # fmt: skip


def _config(names: tuple[str, ...]) -> str:
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in names:
        ET.SubElement(labels, "Label", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def _tasks(tree: list[object], builder: Builder, file: Path) -> Iterator[_Task]:
    """The tasks of a JSON export."""
    for index, value in enumerate(tree):
        place = f"{file} [{index}]"
        try:
            task = mapping(value, "the task")
            image = _image_address(mapping(value_of(task, "data"), "data"))
            key = "annotations" if "annotations" in task else "completions"  # before version 1.0
            annotations = [mapping(entry, key) for entry in sequence(value_of(task, key), key)]
            valid = [entry for entry in annotations if not entry.get("was_cancelled")]
            results = sequence(value_of(valid[0], "result"), "result") if valid else []
        except ValueError as fault:
            builder.error(place, str(fault))
            continue
        if not valid:
            builder.note("task without labels, or skipped; its image is not used", place)
            continue
        if len(valid) > 1:
            builder.note("several annotations of one image; the first is used", place)
        position = f"{place} {key}[{annotations.index(valid[0])}] result"
        yield _Task(place, image, [(f"{position}[{number}]", result) for number, result in enumerate(results)])


def _min_tasks(tree: list[object], builder: Builder, file: Path) -> Iterator[_Task]:
    """The tasks of a JSON-MIN export, which has an entry per annotation, with regions under the name of a tag."""
    seen = set()
    for index, value in enumerate(tree):
        place = f"{file} [{index}]"
        try:
            entry = mapping(value, "the entry")
            image = _image_address(entry)
        except ValueError as fault:
            builder.error(place, str(fault))
            continue
        if (key := (str(entry.get("id")), image)) in seen:
            builder.note("several annotations of one image; the first is used", place)
            continue
        seen.add(key)
        lists = {key: value for key, value in entry.items() if isinstance(value, list)}
        regions: list[tuple[str, object]] = [
            (f"{place}.{key}[{number}]", region)
            for key, values in lists.items()
            for number, region in enumerate(values)
            if isinstance(region, dict)
        ]
        yield _Task(place, image, regions)


def _add(builder: Builder, image: int, place: str, number: int, value: object, size: tuple[int, int]) -> None:
    """Add a result, or report its fault."""
    try:
        result = mapping(value, "the result")
        if (kind := result.get("type")) in WITHOUT_BOX:
            builder.note(f"'{kind}' is not a box, and is not used", place)
            return
        region = mapping(result.get("value", result), "value")
        label = _label(region)
        corners, rotated = _corners(region, size)
        if result.get("image_rotation"):
            raise ValueError("image_rotation is not 0; label the image without rotating it")
    except ValueError as fault:
        builder.error(place, str(fault), image)
        return
    if rotated:
        builder.note(f"{rotated} read as its enclosing box", place)
    builder.note_text([region.get(key) for key in ("x", "y", "width", "height", "points")], place)
    box = bounds_of(corners) if rotated else (*corners[:2], *corners[4:6])  # which shows negative sizes
    builder.add_box(image, label, box, number, keys={"segmentation": [corners]} if rotated else None)


def _label(region: Keys) -> str:
    found = next((region[key] for key in LABELS if key in region), None)
    if found is None:
        raise ValueError(f"no class (found {', '.join(region)[:60]}), needed one of {', '.join(LABELS)}")
    labels = sequence(found, "labels")
    if len(labels) != 1:
        raise ValueError(f"has {len(labels)} classes, needed one; correct it in Label Studio")
    return string(labels[0], "labels[0]")


def _corners(region: Keys, size: tuple[int, int]) -> tuple[list[float], str]:
    """The corners of a region, px, and its kind if it is not an upright rectangle."""
    height, width = map(float, size) if size[0] > 0 else (math.nan, math.nan)
    if "points" in region:
        points = outline(sequence(region["points"], "points"))
        return [value * (height if axis % 2 else width) / 100 for axis, value in enumerate(points)], "polygon"
    x, y, w, h = numbers(region, "x", "y", "width", "height")
    x, y, w, h = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    (angle,) = numbers(region, "rotation") if "rotation" in region else (0.0,)
    if angle % 360 == 0:
        return [x, y, x + w, y, x + w, y + h, x, y + h], ""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))  # clockwise about the upper left corner
    sides = ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))
    return [value for dx, dy in sides for value in (x + cos * dx - sin * dy, y + sin * dx + cos * dy)], "rotated box"


def _size(value: object) -> tuple[int, int]:
    """(height, width) px of the image of a result; -1 if it is not in the file."""
    return size_of(value.get("original_height"), value.get("original_width")) if isinstance(value, dict) else (-1, -1)


def _image_address(entry: Mapping[str, object]) -> str:
    """The address of the image, under `image` or another name."""
    texts = {key: value for key, value in entry.items() if isinstance(value, str)}
    paths = [value for value in texts.values() if value.partition("?")[0].lower().endswith(SUFFIXES)]
    paths += [value for value in texts.values() if QUERY.match(value)]
    if "image" in texts or len(paths) == 1:
        return texts.get("image") or paths[0]
    raise ValueError(f"{len(paths)} addresses of images (found {', '.join(entry)[:60]}), needed the key 'image'")


def _file_name(address: str, images: Locator) -> str:
    """The name under which an image is found: as in the file, or before the upload."""
    name = unquote(QUERY.sub("", address)) if QUERY.match(address) else UPLOADS.sub("", address)
    located = images.locate(name)
    match = UPLOADED.fullmatch(re.split(r"[/\\]", unquote(name))[-1])
    if match is None or located.candidates or os.path.isfile(located.path):  # noqa: PTH113  (False for a name too long)
        return name
    return match[1]


def _classes(file: Path) -> list[str]:
    """The classes in the labeling configuration beside the file; [] if there is none."""
    config = file.parent / CONFIG
    if not config.is_file() or b"<!DOCTYPE" in (start := head(config)):  # no declarations of entities
        return []
    try:
        tree = ET.fromstring(start)
    except ET.ParseError:
        return []
    tags = [tag for tag in tree.iter() if tag.tag.endswith("Labels")]
    names = [label.get("value", "").strip() for tag in tags for label in tag.iter("Label")]
    return [*dict.fromkeys(name for name in names if name)]


def _kind(file: Path) -> str:
    start, keys = json_keys(file)
    task = keys.get(2, set())
    if start == "[" and "data" in task and task & {"annotations", "completions", "predictions"}:
        return "json"
    if (start == "[" and "annotation_id" in task) or (start == "[" and {"annotator", "lead_time"} <= task):
        return "json-min"
    return ""


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="a JSON or JSON-MIN export of Label Studio",
    find=find,
    read=read_with(collect),
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
    writer=Writer(write=write, write_predictions=write_predictions, file_per_image=False),
)
