"""Output manifests of SageMaker Ground Truth: a JSON object per line, one line per image.

`source-ref` is the address of the image in a bucket. The labels of a job are under its name: `annotations` with left,
top, width and height px. Their classes are in the `class-map` of the key `NAME-metadata`.
"""

from collections.abc import Mapping
from pathlib import Path

from boxwright import json_text
from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.contents import head
from boxwright.data.dataset import Dataset
from boxwright.data.entries import found, mapping, numbers, sequence, size_of, string, value_of
from boxwright.data.label_files import by_split, candidates
from boxwright.data.layout import Layout
from boxwright.data.locate import locator
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.json_text import JsonObject

SUFFIXES = (".manifest", ".jsonl")
TYPE = "groundtruth/object-detection"


def find(root: Path) -> dict[str, Path]:
    """Split -> manifest, in `root`, a subfolder, or `manifests/output` as in the bucket."""
    folders = [root, root / "manifests" / "output"] if root.is_dir() else [root]
    return by_split([file for folder in folders for file in candidates(folder, SUFFIXES) if _is_manifest(file)], root)


def collect(source: Source) -> Builder:
    """Read a manifest. Images whose labeling failed are not used."""
    file = source.path
    builder = Builder(source, locator(source, file))
    for number, line in text.lines(file):
        place = f"{file} line {number}"
        try:
            entry = mapping(json_text.parse(line, place), "the line")
            name = string(value_of(entry, "source-ref"), "source-ref")
            if (key := _label_key(entry)) is None:
                builder.note("image without labels of object detection, not used", place)
                continue
            if sum(_is_detection(entry, other) for other in entry) > 1:
                builder.note("labels of several jobs; the latest are used", place)
            labels, classes = mapping(entry[key], key), mapping(value_of(entry[f"{key}-metadata"], "class-map"), key)
            size = size_of(*_size(labels))
            annotations = sequence(value_of(labels, "annotations"), "annotations")
        except (ValueError, InputError) as fault:
            builder.error(place, str(fault).removeprefix(f"{place}: "))
            continue
        image = builder.add_image(name, str(file), size, place=place)
        for index, annotation in enumerate(annotations):
            _add(builder, image, f"{place} annotations[{index}]", number, annotation, classes)
    return builder


def _add(builder: Builder, image: int, place: str, number: int, value: object, classes: Mapping[str, object]) -> None:
    """Add an annotation, or report its fault."""
    try:
        annotation = mapping(value, "the annotation")
        class_id = str(value_of(annotation, "class_id"))
        if class_id not in classes:
            raise ValueError(f"class_id: {found(class_id)}, needed an id of the line's class-map")
        label = string(classes[class_id], "class-map")
        left, top, width, height = numbers(annotation, "left", "top", "width", "height")
    except ValueError as fault:
        builder.error(place, str(fault), image)
        return
    builder.note_text([annotation[key] for key in ("left", "top", "width", "height")], place)
    builder.add_box(image, label, (left, top, left + width, top + height), number)


def _label_key(entry: JsonObject) -> str | None:
    """The key of the latest labels of object detection; an adjustment repeats those of the first job."""
    keys = [key for key in entry if _is_detection(entry, key)]
    return max(keys, key=lambda key: str(entry[f"{key}-metadata"].get("creation-date", "")), default=None)


def _is_detection(entry: Mapping[str, object], key: str) -> bool:
    labels, metadata = entry.get(key), entry.get(f"{key}-metadata")
    return (
        isinstance(labels, dict)
        and isinstance(metadata, dict)
        and "annotations" in labels
        and metadata.get("type", TYPE) == TYPE
    )


def _size(labels: Mapping[str, object]) -> tuple[object, object]:
    """(height, width) px; None if absent."""
    sizes = labels.get("image_size")
    size = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], dict) else {}
    return size.get("height"), size.get("width")


def _is_manifest(file: Path) -> bool:
    start = head(file).lstrip()
    return start.startswith(b"{") and b'"source-ref"' in start


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="output.manifest of SageMaker Ground Truth",
    find=find,
    read=read_with(collect),
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
)
