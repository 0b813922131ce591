"""Pascal VOC and its relatives: one XML file per image, with `object` elements that contain `name` and `bndbox`.

The XML files are in `Annotations` with the images in `JPEGImages` (or `annotations` and `images`), or beside the images
(LabelImg, Roboflow), with a folder per split or with lists of image names `ImageSets/Main/{split}.txt`; without either,
there is one split `all`. VOC's pixel coordinates start at 1 and are inclusive: xmin 1, xmax 640 is 0 to 640 here.
Rotated boxes (roLabelImg's `robndbox`) have edges, as here. There are no ids, so images and boxes are numbered from 1.
"""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from boxwright import xml_text
from boxwright.data import contents, text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.listing import listing
from boxwright.data.locate import Locator
from boxwright.data.outlines import area_of, bounds_of, rotated_corners
from boxwright.data.source import Source
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.progress import track

TAG = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)  # of an XML element
ROW_KEYS = frozenset({"pose", "truncated", "occluded", "part", "actions", "point"})
IMAGE_KEYS = frozenset({"folder", "source", "owner", "segmented", "depth"})
SIDES = ("xmin", "ymin", "xmax", "ymax")
ROTATED = ("cx", "cy", "w", "h", "angle")  # px, and radians clockwise on the screen
DIFFICULT = {"": False, "0": False, "1": True, "unspecified": False, "false": False, "true": True}
MARKED = re.compile(
    r'(\S+|".*")\s+-?[01]'
)  # a line in the list of a class: an image name and whether it shows the class
ROOT = re.compile(rb"<annotation[\s>]")
XML_FOLDERS = {"annotations", "annotation", "xmls", "xml"}
IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img"}
MAX_FOLDERS = 50  # folders that `find` searches for XML files
MAX_HEADS = 5  # XML files that `find` reads per folder


def find(root: Path) -> dict[str, Path]:
    """Split -> list of names, or folder of XML files; if there is only a single set in a subfolder, its splits."""
    if not root.is_dir():
        return {}
    splits = _splits(root)
    inner = [folder for folder in text.subfolders(root) if folder.name.casefold() in IMAGE_FOLDERS or _is_set(folder)]
    if len(inner) == 1 and splits.keys() <= {inner[0].name} and canonical_name(inner[0].name) not in STANDARD:
        return _splits(inner[0])
    return splits


def _splits(root: Path) -> dict[str, Path]:
    folders = [f for f in text.subfolders(root) if f.name.casefold() not in XML_FOLDERS | IMAGE_FOLDERS][:MAX_FOLDERS]
    sets = {folder.name: xmls for folder in folders if (xmls := _xmls_in(folder))}
    splits = {name: xmls for name, xmls in sets.items() if canonical_name(name) in STANDARD or _is_set(root / name)}
    own = _xmls_in(root) or (root if sets and not splits else None)  # folders that are not splits: one split `all`
    if own is not None:
        lists = [file for file in sorted((root / "ImageSets" / "Main").glob("*.txt")) if _is_plain(file, own)]
        inner = [folder for folder in text.subfolders(own) if canonical_name(folder.name) in STANDARD and own != root]
        splits |= {file.stem: file for file in lists} or {f.name: f for f in inner} or {"all": own}
    if {"train", "val", "trainval"} <= splits.keys():
        train, val, both = (_names(splits[split]) for split in ("train", "val", "trainval"))
        if both == train | val:  # a duplicate of both
            del splits["trainval"]
    return splits


def collect(source: Source, keys: bool = True) -> Builder:
    """Collect a list of names or a folder of XML files, searched recursively. keys: also collect the Extras.

    The image of an XML file is the one with the same name (of several, `filename` selects one), else `filename`.
    """
    path, root = source.path, source.root
    if path.is_dir():
        top, files = path, text.walk(path, (".xml",))
    else:
        set_folder = path.parent.parent.parent  # of ImageSets/Main/train.txt
        top = _xmls_in(set_folder) or _xmls_in(root) or root / "Annotations"
        files = [str(top / f"{name}.xml") for name in _listed(path, top)]
    if not files:
        raise InputError(f"{path}: names no image, needed XMLs in Annotations or their names in a list")
    images = _Images(top, source.images)
    base = source.images or root
    builder = Builder(source, Locator([base], root), "object[{}]")
    for file in track(files, len(files), f"reading labels of {source.split}"):
        try:
            tree, fault = xml_text.read(file, "annotation"), ""
        except xml_text.XmlError as error:
            tree, fault = ET.Element("annotation"), str(error)
        size, unusual = _size(tree)
        written = tree.findtext("filename", "").strip()
        candidates = images.paths(file, written)
        name = os.path.relpath(candidates[0], base)
        image = builder.add_image(name, file, size, _image_keys(tree) if keys else None)
        if len(candidates) > 1:
            builder.ambiguous(file, written, candidates, image)
        if fault:
            builder.error(file, fault, image)
        if unusual:
            builder.note(unusual, file)
        for number, element in enumerate(tree.findall("object"), 1):
            add_object(builder, image, element, (file, number), keys)
    for extra in sorted(images.all() - {*builder.paths}) if path.is_dir() else ():
        builder.note("an image without an XML file is not in the data set", extra)
    return builder


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
                if xml_text.INVALID.search(element.text):
                    raise InputError(
                        f"{tag} '{element.text[:60]}': has bytes or characters that XML cannot hold; rename it"
                    )


def _read_back(key: str, value: object) -> object:
    tree = ET.Element("annotation")
    _fill(tree, {key: value})
    return _other_keys(ET.fromstring(ET.tostring(tree)), set()).get(key)


def add_object(builder: Builder, image: int, element: ET.Element, place: tuple[str, int], keys: bool) -> None:
    """Add an object, or report its fault. place: label file, number of the object from 1."""
    file, number = place
    where = f"{file} object[{number}]"
    name, mark = (element.findtext(tag, "").strip() for tag in ("name", "difficult"))
    rotated = element.find("robndbox")
    values = _numbers(element, "bndbox", SIDES) if rotated is None else _numbers(element, "robndbox", ROTATED)
    if not name:
        builder.error(where, "name: empty or missing, needed the object's class", image)
    elif mark.lower() not in DIFFICULT:
        builder.error(where, f"difficult: found '{mark[:20]}', needed 0 or 1", image)
    elif isinstance(values, str):
        builder.error(where, values, image)
    elif (count := len(element.findall("bndbox"))) > 1:
        builder.error(where, f"bndbox: found {count}, needed one per object", image)
    else:
        if mark not in ("", "0", "1"):
            builder.note(f"difficult '{mark}' was read as {int(DIFFICULT[mark.lower()])}", where)
        further = _other_keys(element, {"name", "bndbox", "robndbox", "difficult"}) if keys else {}
        difficult, area = DIFFICULT[mark.lower()], None
        if rotated is None:
            x1, y1, x2, y2 = values
            box: Sequence[float] = (x1 - 1, y1 - 1, x2, y2)
        else:
            corners = rotated_corners(values[0], values[1], values[2], values[3], values[4])
            box, area = bounds_of(corners), area_of(corners)
            further = {key: value for key, value in further.items() if key != "type"} | {"segmentation": [corners]}
            builder.note("a rotated box was read as the upright box around it", where)
        builder.add_box(image, name, box, number, difficult=difficult, area=area, keys=further)


def _numbers(element: ET.Element, tag: str, names: Sequence[str]) -> list[float] | str:
    """The numbers in the element `tag`, or a text with their fault."""
    texts = _texts(element, tag)
    words = [texts.get(name, "") for name in names]
    try:
        return [float(word) for word in words]
    except ValueError:
        found = ", ".join(f"{name} '{word[:20]}'" for name, word in zip(names, words, strict=True))
        return f"{tag}: found {found}, needed numbers"


def _texts(parent: ET.Element, tag: str) -> dict[str, str]:
    """Tag -> text of the elements in the children `tag` of an element, the first of each; faster than path queries."""
    texts: dict[str, str] = {}
    for element in parent.iterfind(tag):
        for child in element:
            texts.setdefault(child.tag, (child.text or "").strip())
    return texts


def _size(tree: ET.Element) -> tuple[tuple[int, int], str]:
    """(height, width) px, -1 if not declared, and a note if unusual. Some tools write 0 for unknown sizes."""
    texts = _texts(tree, "size")
    words = [texts.get(side, "") for side in ("height", "width")]
    try:
        height, width = (float(word or "0") for word in words)
    except ValueError:
        height = width = -1
    if not (0 <= height < 2**31 and 0 <= width < 2**31 and height == int(height) and width == int(width)):
        return (-1, -1), "an invalid size; that of the image was used"
    unusual = "" if all(word.isdigit() or not word for word in words) else "a size with decimals was read"
    return (int(height), int(width)) if height and width else (-1, -1), unusual


def _image_keys(tree: ET.Element) -> Keys:
    keys = _other_keys(tree, {"filename", "size", "object"})
    if (depth := tree.findtext("size/depth", "3").strip()) != "3":
        keys["depth"] = depth
    return keys


def _other_keys(element: ET.Element, excluded: set[str]) -> Keys:
    """The children of `element` except for the known ones; repeated ones as a list."""
    keys: Keys = {}
    for child in element:
        if child.tag not in excluded:
            keys.setdefault(child.tag, []).append(
                _other_keys(child, set()) if len(child) else (child.text or "").strip()
            )
    return {key: values[0] if len(values) == 1 else values for key, values in keys.items()}


class _Images:
    """Finds the image of an XML file. top: the folder of the XML files. given: the folder of the images, or None."""

    def __init__(self, top: Path, given: Path | None) -> None:
        self._top, self._given = top, given
        self._folders: dict[str, list[Path]] = {}  # folder of XML files -> folders of their images
        self._listed: dict[str, dict[str, list[str]]] = {}  # folder -> its images by name without suffix

    def paths(self, file: str, filename: str) -> list[str]:
        """The path of the image, or several that match equally well; the expected path if there is none."""
        parent, name = os.path.split(file)
        stem, folders = os.path.splitext(name)[0], self._folders_of(parent)  # noqa: PTH122  (100,000s of them)
        filename = re.split(r"[/\\]", filename)[-1]
        for folder in map(str, folders):
            if names := self._by_stem(folder).get(stem):
                return [os.path.join(folder, each) for each in ([filename] if filename in names else names)]  # noqa: PTH118
        if filename.lower().endswith(SUFFIXES) and text.can_be_path(filename):
            return [next((str(f / filename) for f in folders if (f / filename).is_file()), str(folders[0] / filename))]
        return [str(folders[0] / f"{stem}{SUFFIXES[0]}")]

    def all(self) -> set[str]:
        """The images in the folders that were searched."""
        return {
            os.path.join(folder, name)  # noqa: PTH118
            for folder, stems in self._listed.items()
            for names in stems.values()
            for name in names
        }

    def _folders_of(self, name: str) -> list[Path]:
        """train/Annotations/x -> train/JPEGImages/x; also the folder of the XML files, and its parent."""
        if name not in self._folders:
            parent = Path(name)
            ups = [up for up in (parent, *parent.parents) if up.is_relative_to(self._top)]
            base = next((up for up in ups if up.name.casefold() in XML_FOLDERS), None)
            if base is None and self._top.parent.name.casefold() in XML_FOLDERS:
                base = self._top.parent  # annotations/train
            below = parent.relative_to(self._top) if parent.is_relative_to(self._top) else Path()
            folders = [self._given / below] if self._given else []
            if base is not None:
                inner = parent.relative_to(base)
                folders += [f / inner for f in text.subfolders(base.parent) if f.name.casefold() in IMAGE_FOLDERS]
                folders.append(base.parent / inner)
            self._folders[name] = [*folders, parent]
        return self._folders[name]

    def _by_stem(self, folder: str) -> dict[str, list[str]]:
        """Name without suffix -> the images in `folder` with that name, in the order of SUFFIXES."""
        if folder not in self._listed:
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208  (100,000s)
            found: dict[str, list[str]] = {}
            for name in names:
                if name.lower().endswith(SUFFIXES):
                    found.setdefault(os.path.splitext(name)[0], []).append(name)  # noqa: PTH122
            for same in found.values():
                same.sort(key=_rank)
            self._listed[folder] = found
        return self._listed[folder]


def _rank(name: str) -> int:
    return SUFFIXES.index(os.path.splitext(name)[1].lower())  # noqa: PTH122


def _is_set(folder: Path) -> bool:
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def _xmls_in(folder: Path) -> Path | None:
    """The folder of the XML files of a set: `Annotations` or similar, or `folder` itself; None if it is not a set."""
    if _is_set(folder):
        return folder / "Annotations"
    for inner in text.subfolders(folder):
        if inner.name.casefold() in XML_FOLDERS and any(
            map(_holds_xml, (inner, *text.subfolders(inner)[:MAX_FOLDERS]))
        ):
            return inner
    return folder if _holds_xml(folder) else None


def _holds_xml(folder: Path) -> bool:
    """Whether an XML file directly in `folder` has the outer element `annotation`."""
    xmls = [folder / name for name in listing(folder).by_suffix().get(".xml", [])[:MAX_HEADS]]
    return any(ROOT.search(contents.head(file).replace(b"\0", b"")) for file in xmls)


def _is_plain(file: Path, xmls: Path) -> bool:
    """Whether a file lists images; `Main` also contains a list per class, with 1, 0 or -1 after the names."""
    first = next(text.lines(file), (0, ""))[1]
    return bool(first) and (not MARKED.fullmatch(first) or os.path.isfile(xmls / f"{first}.xml"))  # noqa: PTH113


def _listed(source: Path, xmls: Path) -> list[str]:
    """The names in a list, in the form of names of XML files without suffix.

    Names may be in quotes, have the suffix of the image, or start with a folder; `#` starts a comment.
    """
    names = []
    for number, line in text.lines(source):
        if not text.can_be_path(line):
            raise InputError(f"{source} line {number}: {line[:60]!r} cannot be the name of an image")
        quoted = len(line) > 1 and line[0] == line[-1] == '"'
        name = line[1:-1] if quoted else line
        bare = os.path.splitext(name)[0] if name.lower().endswith(SUFFIXES) else name  # noqa: PTH122
        forms = (line, name, bare, re.split(r"[/\\]", bare)[-1])
        stem = next((form for form in forms if os.path.isfile(xmls / f"{form}.xml")), None)  # noqa: PTH113
        if stem or not line.startswith("#"):
            names.append(stem or bare)
    return names


def _names(source: Path) -> set[str]:
    """The names in a split: the lines of its list, or the XML files in its folder."""
    if source.is_dir():
        return {os.path.relpath(file, source) for file in text.walk(source, (".xml",))}
    return {line for _, line in text.lines(source)}


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="Annotations + JPEGImages, with ImageSets/Main/{split}.txt or without, or XMLs beside the images",
    find=find,
    read=read_with(partial(collect, keys=False)),
    extras=extras_with(collect),
    writer=Writer(write=write, difficult=True, row_keys=ROW_KEYS, image_keys=IMAGE_KEYS, read_back=_read_back),
)
