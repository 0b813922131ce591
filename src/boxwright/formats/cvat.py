"""CVAT for images 1.1: one XML with all images, `annotations.xml`, and the images in `images`.

A split is a subset named in the XML, a separate XML, or a folder with an XML; otherwise there is one split `all`.
Coordinates are px from 0, edges. Rotated boxes, polygons, ellipses and masks are read as the boxes around them; points,
polylines, cuboids and skeletons have no box and are errors. CVAT for video has tracks, which are not read.
"""

import html
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from boxwright import xml_text
from boxwright.config import class_name_fault
from boxwright.data import contents, text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.listing import listing
from boxwright.data.locate import Locator
from boxwright.data.outlines import area_of, bounds_of, corners_of, rotated_corners
from boxwright.data.source import Source
from boxwright.data.split_names import canonical_name
from boxwright.errors import InputError
from boxwright.files import open_regular

FILE = "annotations.xml"
ROOT = re.compile(rb"<annotations[\s>]")
SUBSET = re.compile(rb"""<image\s[^<>]*?\bsubset=["']([^"'<>]*)["']""")  # of one image
TASK_SUBSET = re.compile(rb"<subset>([^<>]+)</subset>")  # of all images without a subset
MAX_HEADS = 20  # XML files that are read per folder
MAX_FOLDERS = 50  # folders that `find` searches
CHUNK, MAX_TAG = 1 << 20, 1 << 12  # bytes
SIDES = ("xtl", "ytl", "xbr", "ybr")
GEOMETRY = {*SIDES, "label", "points", "rotation", "cx", "cy", "rx", "ry", "left", "top", "width", "height", "rle"}
DEFAULTS = {"occluded": "0", "source": "manual", "z_order": "0"}  # attribute -> default value, which is left out
ROW_KEYS = frozenset({*DEFAULTS, "group_id", "attributes", "segmentation"})


@dataclass(frozen=True, slots=True)
class _Shape:
    box: Sequence[float]  # xyxy px
    outline: list[float] | None = None  # x1, y1, x2, y2, ... px
    note: str = ""  # how it was read


def find(root: Path) -> dict[str, Path]:
    """Split -> XML file, which may contain several splits."""
    if not root.is_dir():
        return _subsets(root) if root.suffix.lower() == ".xml" and ROOT.search(contents.head(root)) else {}
    own = _files(root)
    if len(own) == 1:
        return _subsets(own[0])
    found = {folder.name: _files(folder) for folder in text.subfolders(root)[:MAX_FOLDERS]} if not own else {}
    return {file.stem: file for file in own} or {name: files[0] for name, files in found.items() if len(files) == 1}


def collect(source: Source, keys: bool = True) -> Builder:
    """Collect a subset of an XML file, or the whole file if it has only one. keys: also collect the Extras."""
    file, subsets = source.path, _subsets(source.path)
    wanted = _wanted(file, subsets, source.split)
    base = source.images or file.parent / "images"
    folders = [base / name for name in wanted or ()] + [base, file.parent]
    builder = Builder(source, Locator(folders, file.parent if source.root == file else source.root))
    used: set[str] = set()
    try:
        for child in xml_text.children(file, "annotations"):
            if child.tag == "track":
                raise InputError(f"{file}: CVAT's XML for video (tracks); export the task as 'CVAT for images 1.1'")
            if child.tag == "meta":
                builder.classes = _classes(child, file)
            if child.tag == "image":
                used.update(shape.get("label", "") for shape in child)
                if (subset := child.get("subset", "") or "all") not in subsets and len(subsets) > 1:
                    builder.error(f"{file} line {child.get(xml_text.LINE)}", "an image without a subset; name one")
                if wanted is None or subset in wanted:
                    _add_image(builder, child, str(file), keys)
    except xml_text.XmlError as error:
        raise InputError(f"{file}: {error}") from error
    if wanted and not builder.classes:  # the same in all splits
        builder.classes = sorted(used)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}/annotations.xml, with quadrilaterals as polygons, without crowd regions."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    outlines, boxes = corners_of(dataset, split.extras), corners_of(dataset, None)
    tree = ET.Element("annotations")
    ET.SubElement(tree, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(tree, "meta"), "task")
    for key, value in {"name": name, "size": len(dataset), "mode": "annotation", "subset": name}.items():
        ET.SubElement(task, key).text = str(value)
    labels = ET.SubElement(task, "labels")
    for label in dataset.names:
        ET.SubElement(ET.SubElement(labels, "label"), "name").text = label
    for index, path in enumerate(split.images):
        height, width = map(str, split.sizes[index].tolist())
        image = ET.SubElement(tree, "image", id=str(index), name=str(path), width=width, height=height)
        for row in split.rows(index):
            if rows.crowd[row]:
                continue
            keys, words = split.extras.rows[row], outlines[row]
            plain = {key: text.value_text(keys[key]) for key in (*DEFAULTS, "group_id") if key in keys}
            shape = {"label": dataset.names[rows.labels[row]]} | DEFAULTS | plain
            if words == boxes[row]:
                element = ET.SubElement(image, "box", shape | dict(zip(SIDES, words[:2] + words[4:6], strict=True)))
            else:
                points = ";".join(f"{x},{y}" for x, y in zip(words[::2], words[1::2], strict=True))
                element = ET.SubElement(image, "polygon", shape | {"points": points})
            for key, value in _attributes(keys.get("attributes")).items():
                ET.SubElement(element, "attribute", name=key).text = value
    ET.indent(tree)
    written = ET.tostring(tree, encoding="unicode")
    if found := xml_text.INVALID.search(written):
        around = written[max(0, found.start() - 20) : found.end() + 20]
        raise InputError(f"{dataset.root}: {around!r} has characters that XML cannot hold; correct that name or value")
    text.write_lines(folder / name / FILE, [written])
    return [folder / name / "images" / path for path in split.images]


def _read_back(key: str, value: object) -> object:
    if key == "segmentation":
        return value
    if key == "attributes":
        return _attributes(value) or None
    written = text.value_text(value)
    return None if written == DEFAULTS.get(key) else written


def _attributes(value: object) -> dict[str, str]:
    """Name -> value of CVAT's attributes."""
    pairs = value.items() if isinstance(value, dict) else ()
    return {str(key): text.value_text(item).strip() for key, item in pairs}


def _add_image(builder: Builder, element: ET.Element, file: str, keys: bool) -> None:
    place = f"{file} line {element.get(xml_text.LINE)}"
    height, width = (element.get(side, "") for side in ("height", "width"))
    sizes = [int(side) if side.isascii() and side.isdigit() and len(side) < 10 else -1 for side in (height, width)]
    image = builder.add_image(element.get("name", ""), file, (sizes[0], sizes[1]), place=place)
    for child in element:
        line = int(child.get(xml_text.LINE, "0"))
        where = f"{file} line {line}"
        if child.tag == "tag":
            builder.note("a tag of an image was not read", where)
            continue
        read = SHAPES.get(child.tag)
        try:
            if read is None:
                raise ValueError("has no box; delete it, or draw a box")
            shape = read(child)
        except ValueError as error:
            builder.error(where, f"'{child.tag[:40]}' {error}", image)
            continue
        if shape.note:
            builder.note(shape.note, where)
        area = None if shape.outline is None else area_of(shape.outline)
        further = _keys(child, shape) if keys else None
        builder.add_box(image, child.get("label", ""), shape.box, line, area=area, keys=further)


def _keys(element: ET.Element, shape: _Shape) -> Keys:
    keys: Keys = {
        key: value
        for key, value in element.attrib.items()
        if key not in GEOMETRY and key != xml_text.LINE and value != DEFAULTS.get(key)
    }
    if named := {str(child.get("name")): (child.text or "").strip() for child in element.iterfind("attribute")}:
        keys["attributes"] = named
    return keys | ({} if shape.outline is None else {"segmentation": [shape.outline]})


def _numbers(element: ET.Element, names: Sequence[str]) -> list[float]:
    """The values of attributes. Raises ValueError with the fault."""
    words = [element.get(name, "") for name in names]
    if not all(contents.is_number(word) and math.isfinite(float(word)) for word in words):
        found = ", ".join(f"{name} '{word[:12]}'" for name, word in zip(names, words, strict=True))
        raise ValueError(f"has {found}, needed numbers")
    return [float(word) for word in words]


def _box(element: ET.Element) -> _Shape:
    x1, y1, x2, y2 = _numbers(element, SIDES)
    (degrees,) = _numbers(element, ["rotation"]) if "rotation" in element.attrib else (0.0,)
    if degrees == 0:
        return _Shape((x1, y1, x2, y2))
    corners = rotated_corners((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, math.radians(degrees))
    return _Shape(bounds_of(corners), corners, "a rotated box was read as the upright box around it")


def _polygon(element: ET.Element) -> _Shape:
    words = re.split("[,;]", element.get("points", ""))
    if len(words) < 6 or len(words) % 2 or not all(map(contents.is_number, words)):
        raise ValueError(f"has points '{element.get('points', '')[:30]}', needed x,y;x,y;x,y;...")
    points = [float(word) for word in words]
    return _Shape(bounds_of(points), points, "a polygon was read as the box around it")


def _ellipse(element: ET.Element) -> _Shape:
    cx, cy, rx, ry = _numbers(element, ("cx", "cy", "rx", "ry"))
    (degrees,) = _numbers(element, ["rotation"]) if "rotation" in element.attrib else (0.0,)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    width, height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)  # half of the box
    box = (cx - width, cy - height, cx + width, cy + height)
    return _Shape(box, note="an ellipse was read as the box around it, without its outline")


def _mask(element: ET.Element) -> _Shape:
    left, top, width, height = _numbers(element, ("left", "top", "width", "height"))
    box = (left, top, left + width, top + height)
    return _Shape(box, note="a mask was read as the box around it, without its pixels")


SHAPES: dict[str, Callable[[ET.Element], _Shape]] = {
    "box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask,
}  # fmt: skip


def _classes(meta: ET.Element, file: Path) -> list[str]:
    """The labels of a task or project, without labels of the parts of skeletons."""
    names: dict[str, None] = {}
    for label in meta.iterfind(".//labels/label"):
        name = label.findtext("name", "").strip()
        if not label.findtext("parent", "").strip():
            if fault := class_name_fault(name) if name else "empty class name":
                raise InputError(f"{file} line {label.get(xml_text.LINE)}: {fault}; correct the label")
            names[name] = None
    return list(names)


def _wanted(file: Path, subsets: Collection[str], split: str) -> set[str] | None:
    """The subset of the XML for a split; None for all images. Raises InputError if there is none."""
    if len(subsets) < 2:
        return None
    canonical = canonical_name(split)
    wanted = {name for name in subsets if name == split} or {n for n in subsets if canonical_name(n) == canonical}
    if not wanted:
        raise InputError(f"{file}: no subset '{split}'; it has {', '.join(subsets)[:80]}; name one of them")
    return wanted


def _subsets(file: Path) -> dict[str, Path]:
    """Subset named in an XML file -> the file. Images without a subset are the split `all`."""
    names: dict[str, None] = {}
    start = b""
    try:
        with open_regular(file) as opened:
            while chunk := opened.read(CHUNK):
                names |= dict.fromkeys(_decoded(match[1]) for match in SUBSET.finditer(start + chunk))
                start = (start + chunk)[-MAX_TAG:]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    if not names and (match := TASK_SUBSET.search(contents.head(file).partition(b"<image")[0])):
        names[_decoded(match[1])] = None
    return dict.fromkeys((name or "all" for name in names), file) or {"all": file}


def _decoded(name: bytes) -> str:
    return html.unescape(name.decode("utf-8", "replace")).strip()


def _files(folder: Path) -> list[Path]:
    """CVAT's XML files directly in a folder."""
    if ROOT.search(contents.head(folder / FILE)):
        return [folder / FILE]
    xmls = [folder / name for name in listing(folder).by_suffix().get(".xml", [])[:MAX_HEADS]]
    return sorted(file for file in xmls if ROOT.search(contents.head(file)))


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="annotations.xml of CVAT for images 1.1 with images, or such a folder per split",
    find=find,
    read=read_with(partial(collect, keys=False)),
    accepts=lambda path: path.suffix.lower() == ".xml" and bool(ROOT.search(contents.head(path))),
    extras=extras_with(collect),
    writer=Writer(write=write, outlines=True, file_per_image=False, row_keys=ROW_KEYS, read_back=_read_back),
)
