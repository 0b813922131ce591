"""LabelMe: a JSON file beside each image, with `shapes` of `label`, `points` and `shape_type`.

Also written by AnyLabeling and X-AnyLabeling. A rectangle has two opposite corners in any order. Polygons and
circles become their enclosing boxes, and polygons are kept as outlines; other shapes have no box and are reported. The
folder of a split contains both images and JSON files; `imagePath` is often a path of another machine, so an image
beside its JSON file has precedence.
"""

import math
import os
import re
from pathlib import Path

from boxwright import json_text
from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.contents import json_keys
from boxwright.data.dataset import Dataset
from boxwright.data.entries import Corners, mapping, outline, sequence, size_of, string, value_of
from boxwright.data.label_files import candidates, folders_in
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.locate import Locator
from boxwright.data.outlines import bounds_of
from boxwright.data.source import Source
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.progress import track

MAX_BYTES = 1 << 27  # of a file, most of which is the image as base64 text
SNIFFED = 5  # JSON files that are read per folder to detect the layout
OUTLINES = {"polygon": 3, "rotation": 4, "oriented_rectangle": 4}  # shape -> smallest number of points
ROW_KEYS = frozenset({"group_id", "description", "flags"})
IMAGE_KEYS = frozenset({"flags"})


def find(root: Path) -> dict[str, Path]:
    """Split -> folder with the name of the split; without such folders, `root` is the split `all`."""
    if root.is_file():
        return {"all": root} if _is_labelme(root) else {}
    splits = {folder.name: folder for folder in folders_in(root) if _holds_labels(folder)}
    if any(canonical_name(name) in STANDARD for name in splits):
        return splits
    if any(canonical_name(inner.name) in STANDARD for folder in splits.values() for inner in folders_in(folder)):
        return {}  # a folder of data sets
    return {"all": root} if splits or _holds_labels(root) else {}


def collect(source: Source) -> Builder:
    """Read the JSON files of a split. Images without one are not used, since they are not labeled yet."""
    folder = source.path if source.path.is_dir() else source.path.parent
    base = source.images or folder
    files = text.walk(source.path, (".json",)) if source.path.is_dir() else [str(source.path)]
    builder = Builder(source, Locator([base], folder), "shapes[{}]")
    used = set()
    for file in track(files, len(files), f"reading labels of {source.split}"):
        try:
            tree = load(Path(file))
            shapes = sequence(tree.get("shapes", []), "shapes")
        except ValueError as fault:
            builder.error(file, str(fault))
            continue
        if "shapes" not in tree:
            builder.note("JSON without the key 'shapes', which is not a LabelMe file, is not used", file)
            continue
        flags = tree.get("flags")
        name = _image(Path(file), tree.get("imagePath"), base)
        used |= {os.path.normpath(base / name), str(Path(file).with_suffix(""))}
        size = size_of(tree.get("imageHeight"), tree.get("imageWidth"))
        image = builder.add_image(name, file, size, {"flags": flags} if flags else {})
        for index, shape in enumerate(shapes):
            add_shape(builder, image, f"{file} shapes[{index}]", index, shape)
    for path in text.walk(source.path, SUFFIXES) if source.path.is_dir() else []:
        if not {os.path.normpath(path), os.path.splitext(path)[0]} & used:  # noqa: PTH122  (100,000s of them)
            builder.note("image without a JSON file, which is not labeled yet, is not used", path)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write a JSON file beside each image, and the class names."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    boxes = text.decimals(rows.xyxy).tolist()
    for index, path in enumerate(split.images):
        height, width = split.sizes[index].tolist()
        shapes = [
            {"label": dataset.names[rows.labels[row]], "points": [boxes[row][:2], boxes[row][2:]], "group_id": None,
             "description": "", "shape_type": "rectangle", "flags": {}, "mask": None}
            | {key: value for key, value in split.extras.rows[row].items() if key in ROW_KEYS}
            for row in split.objects(index)
        ]  # fmt: skip
        tree = {
            "version": "5.5.0", "flags": split.extras.images[index].get("flags", {}), "shapes": shapes,
            "imagePath": path.name, "imageData": None, "imageHeight": height, "imageWidth": width,
        }  # fmt: skip
        text.write_lines(folder / name / path.with_suffix(".json"), [json_text.dumps(tree, indent=2)])
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / name / path for path in split.images]


def load(file: Path) -> Keys:
    """The content of a JSON file without the copy of the image."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"has more than {MAX_BYTES >> 20} MiB, needed labels; save it without the image data")
    except OSError:
        pass  # read_input reports it
    try:
        return mapping(json_text.read(file, _without_image), "the file")
    except InputError as error:
        raise ValueError(str(error).removeprefix(f"{file}: ")) from error


def _without_image(entry: Keys) -> Keys:
    entry.pop("imageData", None)
    return entry


def add_shape(builder: Builder, image: int, place: str, index: int, value: object) -> None:
    """Add a shape, or report its fault."""
    try:
        shape = mapping(value, "the shape")
        label = string(value_of(shape, "label"), "label")
        kind = string(shape.get("shape_type") or "polygon", "shape_type")
        box, polygon = _box(kind, sequence(value_of(shape, "points"), "points"))
    except ValueError as fault:
        builder.error(place, str(fault), image)
        return
    keys = {key: shape[key] for key in ROW_KEYS if shape.get(key)}
    if kind != "rectangle":
        builder.note(f"{'circle' if kind == 'circle' else 'polygon'} read as its enclosing box", place)
    builder.note_text(shape["points"], place)
    if polygon:
        keys["segmentation"] = [polygon]
    builder.add_box(image, label, box, index, difficult=shape.get("difficult") is True, keys=keys)


def _box(kind: str, points: list[object]) -> tuple[Corners, list[float]]:
    """The box of a shape, and its polygon; [] for a rectangle or circle, which has its center and a point on it."""
    if kind == "rectangle":
        return bounds_of(outline(points, 2)), []
    if kind == "circle":
        if len(points) != 2:
            raise ValueError(f"circle of {len(points)} points, needed its center and a point on it; draw it again")
        x, y, *rim = outline(points, 2)
        radius = math.dist((x, y), rim)
        return (x - radius, y - radius, x + radius, y + radius), []
    if kind not in OUTLINES:
        raise ValueError(f"shape '{kind[:20]}' has no box, needed rectangle, polygon or circle; draw its box")
    polygon = outline(points, OUTLINES[kind])
    return bounds_of(polygon), polygon


def _image(file: Path, named: object, base: Path) -> str:
    """The image of a JSON file, relative to `base`: `imagePath`, else a file with its last part or the name of the JSON
    file, beside that or in `base`."""
    own = [file.stem + suffix for suffix in SUFFIXES]
    expected = named if isinstance(named, str) and text.can_be_path(named) else own[0]
    for name in (expected, *re.split(r"[/\\]", expected)[-1:], *own):
        for folder in (file.parent, base):
            if name and os.path.isfile(folder / name):  # noqa: PTH113  (False for a name too long)
                return os.path.relpath(folder / name, base)
    return expected


def _holds_labels(folder: Path) -> bool:
    """Whether the folder or a subfolder contains LabelMe files."""
    return any(_is_labelme(file) for file in candidates(folder, (".json",), SNIFFED))


def _is_labelme(file: Path) -> bool:
    start, keys = json_keys(file)
    top = keys.get(1, set())
    return file.suffix.lower() == ".json" and start == "{" and ("shapes" in top or "imageData" in top)


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="a LabelMe JSON beside each image",
    find=find,
    read=read_with(collect),
    accepts=lambda path: _holds_labels(path) if path.is_dir() else _is_labelme(path),
    extras=extras_with(collect),
    writer=Writer(write=write, row_keys=ROW_KEYS, image_keys=IMAGE_KEYS),
)
