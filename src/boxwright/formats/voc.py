"""Pascal VOC: one XML file per image, with `object` elements that contain `name` and `bndbox`.

The folder contains `Annotations`, `JPEGImages`, and lists of image names `ImageSets/Main/{split}.txt`; without lists
there is one split `all`. VOC's pixel coordinates start at 1 and are inclusive: xmin 1, xmax 640 is 0 to 640 here. There
are no ids, so images and boxes are numbered from 1.
"""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from boxwright.config import class_name_fault
from boxwright.data import text
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.layout import Extras, Keys, Layout, Split, Writer
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.files import open_regular
from boxwright.images.header import SUFFIXES
from boxwright.progress import track

TAG = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)  # of an XML element
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that XML cannot contain
ROW_KEYS = frozenset({"pose", "truncated", "occluded", "part", "actions", "point"})
IMAGE_KEYS = frozenset({"folder", "source", "owner", "segmented", "depth"})
MAX_BYTES = 1 << 24  # of a file; an object takes about 300
MAX_ELEMENTS = 1 << 19  # of a file, 150 bytes of memory each; an object has about ten
MAX_DEPTH = 32  # of nested elements; VOC has 5
SIDES = ("xmin", "ymin", "xmax", "ymax")
MARKED = re.compile(r"\S+\s+-?[01]")  # a line in the list of a class: an image name and whether it shows the class


@dataclass(frozen=True, slots=True)
class _Annotation:
    """The content of an XML file. size: (height, width) px, or -1. objects: class, xyxy px, difficult."""

    filename: str
    size: tuple[int, int]
    objects: list[tuple[str, list[float], bool]]


def find(root: Path) -> dict[str, Path]:
    """Split -> list of names, or folder of XML files."""
    splits = {f.name: f / "Annotations" for f in text.subfolders(root) if _is_set(f)}
    if _is_set(root):
        lists = [file for file in sorted((root / "ImageSets" / "Main").glob("*.txt")) if _is_plain(file, root)]
        splits |= {file.stem: file for file in lists} or {"all": root / "Annotations"}
    if {"train", "val", "trainval"} <= splits.keys():
        train, val, both = (_names(splits[split]) for split in ("train", "val", "trainval"))
        if both == train | val:  # a duplicate of both
            del splits["trainval"]
    return splits


def read(source: Source) -> Dataset:
    """Read a split, a list of names or a folder of XML files.

    Class names are from `source`, else from the usual files in the root, else all that occur in the XML files of all
    splits, sorted. Images are in `JPEGImages` beside the XML files by default. Raises InputError for an invalid XML
    file and for an unknown class.
    """
    path, root = source.path, source.root
    set_folder = path.parent.parent.parent  # of ImageSets/Main/train.txt
    folder = (set_folder if (set_folder / "Annotations").is_dir() else root) / "Annotations"
    if path.is_dir():
        folder, files = path, text.walk(path, (".xml",))
    else:
        files = [str(folder / f"{name}.xml") for name in _listed(path)]
    if not files:
        raise InputError(f"{path}: names no image, needed XMLs in Annotations or their names in a list")
    annotations = {file: _read(file) for file in track(files, len(files), f"reading labels of {source.split}")}
    classes = source.names or text.find_class_names(root) or _all_names(root, folder, annotations)
    if not classes:
        raise InputError(f"{folder}: no XML has an object; write the class names into {root / 'classes.txt'}")
    paths = _images(files, annotations, folder, source.images or folder.parent / "JPEGImages")
    sizes = np.array([annotations[file].size for file in files], dtype=np.int64)
    counts = [len(annotations[file].objects) for file in files]
    rows = _boxes(files, annotations, {name: label for label, name in enumerate(classes)})
    dataset = Dataset.without_ids(source, classes, paths, files, rows, counts)
    return replace(dataset, images=replace(dataset.images, sizes=sizes), entry="object[{}]")


def extras(dataset: Dataset) -> Extras:
    """All other elements of the XML files, such as pose, truncated and owner; an element with children is a dict."""
    rows: list[Keys] = []
    images: list[Keys] = []
    for index in range(len(dataset)):
        tree = _parse(dataset.label_file(index))
        objects = tree.findall("object")
        entries = dataset.rows.entries[dataset.starts[index] : dataset.starts[index + 1]].tolist()
        rows += [_other_keys(objects[entry - 1], {"name", "bndbox", "difficult"}) for entry in entries]
        images.append(_other_keys(tree, {"filename", "size", "object"}))
        if (depth := tree.findtext("size/depth", "3").strip()) != "3":
            images[-1]["depth"] = depth
    return Extras(rows, images)


def write(split: Split, folder: Path) -> list[Path]:
    """Write Annotations/*.xml and ImageSets/Main/{split}.txt. Crowd regions are written as difficult objects."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    box = text.decimals(rows.xyxy)
    box[:, :2] += 1  # VOC counts pixels from 1
    words, difficult = text.shortest_decimals(np.round(box, 12)), (rows.difficult | rows.crowd).astype(int).tolist()
    images = [PurePosixPath(name) / path for path in split.images]
    for index, path in enumerate(images):
        if path.stem != path.stem.rstrip():
            raise InputError(f"{dataset.path(index)}: VOC's lists cannot hold the space before the suffix; rename it")
        tree = ET.Element("annotation")
        keys = {key: value for key, value in split.extras.images[index].items() if key in IMAGE_KEYS}
        depth = keys.pop("depth", "3")
        height, width = split.sizes[index].tolist()
        _fill(tree, {"filename": path.name, "size": {"width": width, "height": height, "depth": depth}} | keys)
        for row in split.rows(index):
            keys = {key: value for key, value in split.extras.rows[row].items() if key in ROW_KEYS}
            corners = dict(zip(SIDES, words[row], strict=True))
            label = dataset.names[rows.labels[row]]
            _fill(tree, {"object": {"name": label, "difficult": difficult[row], "bndbox": corners} | keys})
        ET.indent(tree)
        text.write_lines(folder / "Annotations" / path.with_suffix(".xml"), [ET.tostring(tree, encoding="unicode")])
    text.write_lines(folder / "ImageSets" / "Main" / f"{name}.txt", [str(path.with_suffix("")) for path in images])
    text.write_lines(folder / "classes.txt", dataset.names)
    return [folder / "JPEGImages" / path for path in images]


def _fill(parent: ET.Element, values: Keys) -> None:
    """The inverse of `_other_keys`."""
    for tag, value in values.items():
        if not TAG.fullmatch(tag):
            raise InputError(f"key '{tag[:40]}': cannot be the name of an XML element")
        for item in value if isinstance(value, list) else [value]:
            element = ET.SubElement(parent, tag)
            if isinstance(item, dict):
                _fill(element, item)
            else:
                element.text = text.value_text(item)
                if NOT_XML.search(element.text):
                    raise InputError(f"key '{tag}': {element.text[:60]!r} has letters that no XML holds; mend it")


def _read_back(key: str, value: Any) -> Any:
    tree = ET.Element("annotation")
    _fill(tree, {key: value})
    return _other_keys(ET.fromstring(ET.tostring(tree)), set()).get(key)


def _boxes(files: Sequence[str], annotations: Mapping[str, _Annotation], numbers: Mapping[str, int]) -> Boxes:
    labels, corners, difficult, entries = [], [], [], []
    for file in files:
        for number, (name, box, is_difficult) in enumerate(annotations[file].objects, 1):
            if name not in numbers:
                raise InputError(
                    f"{file} object[{number}]: class '{name}' is not one of {', '.join(numbers)}; add it to "
                    "classes.txt or the names in the data YAML"
                )
            labels.append(numbers[name])
            corners.append(box)
            difficult.append(is_difficult)
            entries.append(number)
    xyxy = np.array(corners, dtype=np.float64).reshape(-1, 4)
    return replace(Boxes.without_ids(xyxy, labels, entries), difficult=np.array(difficult, dtype=bool))


def _read(file: str) -> _Annotation:
    tree = _parse(file)
    objects = [_object(element, f"{file} object[{index}]") for index, element in enumerate(tree.findall("object"), 1)]
    sides = [tree.findtext(f"size/{key}", "0").strip() for key in ("height", "width")]
    if not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
        raise InputError(f"{file}: size: found height '{sides[0][:20]}', width '{sides[1][:20]}', needed whole numbers")
    height, width = map(int, sides)
    size = (height, width) if height and width else (-1, -1)  # some tools write 0 for unknown sizes
    return _Annotation(tree.findtext("filename", "").strip(), size, objects)


def _object(element: ET.Element, location: str) -> tuple[str, list[float], bool]:
    name, difficult = element.findtext("name", "").strip(), element.findtext("difficult", "").strip() or "0"
    words = [element.findtext(f"bndbox/{side}", "").strip() for side in SIDES]
    if not name:
        raise InputError(f"{location}: name: empty or missing, needed the object's class")
    if fault := class_name_fault(name):
        raise InputError(f"{location}: name: {fault}")
    if difficult not in ("0", "1"):
        raise InputError(f"{location}: difficult: found '{difficult[:20]}', needed 0 or 1")
    try:
        x1, y1, x2, y2 = map(float, words)
    except ValueError:
        found = ", ".join(f"{side} '{word[:20]}'" for side, word in zip(SIDES, words, strict=True))
        raise InputError(f"{location}: bndbox: found {found}, needed four numbers") from None
    return name, [x1 - 1, y1 - 1, x2, y2], difficult == "1"


def _parse(file: str) -> ET.Element:
    """Parse an XML file to its root. Files that declare entities are rejected."""
    try:
        with open_regular(file) as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}), needed the labels of an image") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{file}: has more than {MAX_BYTES} bytes, needed the labels of one image")
    builder = _Builder()
    try:
        tree = ET.fromstring(data, ET.XMLParser(target=builder))
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that is not known
        raise InputError(f"{file}: not a VOC label file ({error}), needed XML without a document type") from error
    if tree.tag != "annotation":
        raise InputError(f"{file}: the outer element is '{tree.tag[:40]}', needed 'annotation'")
    return tree


class _Builder(ET.TreeBuilder):
    """Rejects document types, which can declare entities, and too many or too deeply nested elements."""

    depth = count = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"it declares the document type '{name[:40]}'")

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self.depth += 1
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise ValueError(f"it has more than {MAX_ELEMENTS:,} elements")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"elements in elements, {self.depth} deep")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self.depth -= 1
        return super().end(tag)


def _other_keys(element: ET.Element, known: set[str]) -> Keys:
    """The children of `element` except for the known ones; repeated ones as a list."""
    keys: Keys = {}
    for child in element:
        if child.tag not in known:
            keys.setdefault(child.tag, []).append(
                _other_keys(child, set()) if len(child) else (child.text or "").strip()
            )
    return {key: values[0] if len(values) == 1 else values for key, values in keys.items()}


def _all_names(root: Path, folder: Path, annotations: Mapping[str, _Annotation]) -> tuple[str, ...]:
    """The class names in the XML files of all splits, sorted."""
    folders = {folder, root / "Annotations", *root.glob("*/Annotations")}
    files = sorted({file for folder in folders for file in text.walk(folder, (".xml",))} - annotations.keys())
    rest = (_read(file) for file in track(files, len(files), "reading class names"))
    return tuple(sorted({name for annotation in (*annotations.values(), *rest) for name, _, _ in annotation.objects}))


def _images(files: Sequence[str], annotations: Mapping[str, _Annotation], folder: Path, images: Path) -> list[str]:
    """The path of each XML file's image: that of its name, selected by `filename`; else `filename`, even if missing."""
    paths, listed = [], dict[Path, dict[str, list[str]]]()
    for file in files:
        own = images / Path(file).relative_to(folder)
        if own.parent not in listed:
            listed[own.parent] = _by_stem(own.parent)
        same, filename = listed[own.parent].get(own.stem, []), Path(annotations[file].filename).name
        is_image = Path(filename).suffix.lower() in SUFFIXES
        if filename in same or (is_image and not same):
            paths.append(str(own.parent / filename))
        else:
            paths.append(str(own.parent / same[0] if same else own.with_suffix(SUFFIXES[0])))
    return paths


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """Name without suffix -> the images in `folder` with that name, in the order of SUFFIXES."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208  (names, of which there are 100,000s)
    found: dict[str, list[str]] = {}
    for suffix in SUFFIXES:
        for name in names:
            if name.lower().endswith(suffix):
                found.setdefault(Path(name).stem, []).append(name)
    return found


def _is_set(folder: Path) -> bool:
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def _is_plain(file: Path, root: Path) -> bool:
    """Whether a file lists images; `Main` also contains a list per class, with 1, 0 or -1 after the names."""
    first = next(text.lines(file), (0, ""))[1]
    return bool(first) and (not MARKED.fullmatch(first) or os.path.isfile(root / "Annotations" / f"{first}.xml"))  # noqa: PTH113


def _listed(source: Path) -> Iterator[str]:
    """The image names in a list."""
    for number, name in text.lines(source):
        if not text.can_be_path(name):
            raise InputError(f"{source} line {number}: {name[:60]!r} cannot be the name of an image")
        yield name


def _names(source: Path) -> set[str]:
    """The names in a split: the lines of its list, or the XML files in its folder."""
    if source.is_dir():
        return {os.path.relpath(file, source) for file in text.walk(source, (".xml",))}
    return {*_listed(source)}


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="Annotations + JPEGImages, with ImageSets/Main/{split}.txt or without, or these two in a folder a split",
    find=find,
    read=read,
    extras=extras,
    writer=Writer(write=write, difficult=True, row_keys=ROW_KEYS, image_keys=IMAGE_KEYS, read_back=_read_back),
)
