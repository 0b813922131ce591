"""CreateML JSON (Apple; also exported by Roboflow): a list of images with annotations, per split.

An annotation has a `label` and `coordinates` of the center x, y and the width and height, px. Sizes of images are not
in the file, which is beside the images.
"""

from pathlib import Path

import numpy as np

from boxwright import json_text
from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.contents import json_keys
from boxwright.data.dataset import Dataset
from boxwright.data.entries import mapping, numbers, sequence, string, value_of
from boxwright.data.label_files import find_files
from boxwright.data.layout import Layout, Split, Writer
from boxwright.data.locate import locator
from boxwright.data.source import Source
from boxwright.errors import InputError

FILE_NAME = "_annotations.createml.json"  # as Roboflow names it
IMAGE_KEYS = ("image", "imagefilename")  # Apple's documentation has both forms
LABEL_KEYS = ("annotations", "annotation")


def find(root: Path) -> dict[str, Path]:
    """Split -> JSON file, in `root` or in a folder per split."""
    return find_files(root, (".json",), _is_createml)


def collect(source: Source) -> Builder:
    """Read a JSON file. Raises InputError if it is not a list."""
    file = source.path
    tree = json_text.read(file)
    if not isinstance(tree, list):
        raise InputError(f"{file}: found {type(tree).__name__}, needed a list of images, as in CreateML")
    builder = Builder(source, locator(source, file), "annotation {}")
    number = 0  # index of the annotation in the file
    for index, value in enumerate(tree):
        place = f"{file} [{index}]"
        try:
            entry = mapping(value, "the image")
            name = string(value_of(entry, _key(entry, IMAGE_KEYS)), "image")
            annotations = sequence(value_of(entry, _key(entry, LABEL_KEYS)), "annotations")
        except ValueError as fault:
            builder.error(place, str(fault))
            continue
        image = builder.add_image(name, str(file), place=place)
        for annotation in annotations:
            number += 1
            _add(builder, image, f"{file} annotation {number}", number, annotation)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}/_annotations.createml.json beside the images."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    box = text.decimals(rows.xyxy)
    values = np.concatenate([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], axis=1).tolist()
    tree = [
        {
            "image": str(path),
            "annotations": [
                {
                    "label": dataset.names[rows.labels[row]],
                    "coordinates": dict(zip(("x", "y", "width", "height"), values[row], strict=True)),
                }
                for row in split.objects(index)
            ],
        }
        for index, path in enumerate(split.images)
    ]
    text.write_lines(folder / name / FILE_NAME, [json_text.dumps(tree)])
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / name / path for path in split.images]


def _add(builder: Builder, image: int, place: str, number: int, value: object) -> None:
    """Add an annotation, or report its fault."""
    try:
        annotation = mapping(value, "the annotation")
        label = string(value_of(annotation, "label"), "label")
        coordinates = mapping(value_of(annotation, "coordinates"), "coordinates")
        x, y, width, height = numbers(coordinates, "x", "y", "width", "height")
    except ValueError as fault:
        builder.error(place, str(fault), image)
        return
    builder.note_text(coordinates, place)
    builder.add_box(image, label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), number)


def _key(entry: dict[str, object], keys: tuple[str, ...]) -> str:
    return next((key for key in keys if key in entry), keys[0])


def _is_createml(file: Path) -> bool:
    start, keys = json_keys(file)
    entry = keys.get(2, set())
    return start == "[" and bool(entry & {*IMAGE_KEYS}) and bool(entry & {*LABEL_KEYS}) and "data" not in entry


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="{split}/_annotations.createml.json, or another CreateML JSON",
    find=find,
    read=read_with(collect),
    accepts=lambda path: path.is_file() and bool(find(path)),
    extras=extras_with(collect),
    writer=Writer(write=write, file_per_image=False),
)
