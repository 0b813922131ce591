"""One split of a data set into the files of each layout.

    P pictures, T boxes in all, N boxes of one picture

A writer puts the labels where the reader of that layout looks for them and says where the pictures go. Numbers are
written with as many digits as bring back the same float32.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright import json_text
from boxwright.data.dataset import Dataset, as_float32
from boxwright.data.extras import Extras, Keys
from boxwright.data.voc import others
from boxwright.errors import InputError

TAG = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)  # of an XML element
FAR = 1e12  # px; further away is no corner of anything
SPACE = re.compile(r"\s+")
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what no XML can hold


@dataclass(frozen=True, slots=True)
class Split:
    """What is written. pictures: P names without folders shared by all of them. sizes (P, 2) (height, width) px."""

    dataset: Dataset
    extras: Extras
    pictures: list[PurePosixPath]
    sizes: NDArray[np.int64]

    def rows(self, index: int) -> range:
        """The rows of picture `index`."""
        return range(int(self.dataset.starts[index]), int(self.dataset.starts[index + 1]))


@dataclass(frozen=True, slots=True)
class Layout:
    """What a layout can hold beside pictures, boxes and classes.

    write(split, folder): writes the labels and returns the pictures' places in `folder`. flat: the pictures of a
    split, unlike those of others, share a folder and differ in their names without suffix. named: a label file for
    each picture. row_keys, image_keys: which Extras; None: any. back(key, value): such a value as the reader finds it.
    """

    write: Callable[[Split, Path], list[Path]]
    crowd: bool = False
    difficult: bool = False
    numbers: bool = False  # areas, and ids of pictures, boxes and classes
    flat: bool = False
    named: bool = True
    row_keys: frozenset[str] | None = frozenset()
    image_keys: frozenset[str] | None = frozenset()
    back: Callable[[str, Any], Any] = lambda _, value: value


def coco(split: Split, folder: Path) -> list[Path]:
    """annotations/{split}.json; `difficult` is a key of the annotations where the set has any such object."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    box = _float64(rows.xyxy)
    box[:, 2:] = np.round(box[:, 2:] - box[:, :2], 12)  # the digits that a subtraction of decimals makes up go
    columns = (rows.ids, dataset.images.ids[dataset.owners()], rows.categories, box, rows.areas, rows.crowd)
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    annotations = [
        further | dict(zip(keys, values, strict=True))
        for *values, further in zip(*(column.astype(_plain(column)).tolist() for column in columns),
                                    split.extras.rows, strict=True)
    ]  # fmt: skip
    if rows.difficult.any():
        for annotation, hard in zip(annotations, rows.difficult.tolist(), strict=True):
            annotation["difficult"] = int(hard)
    images = [
        {"id": image_id, "file_name": str(path), "height": height, "width": width} | further
        for image_id, path, (height, width), further in zip(
            dataset.images.ids.tolist(), split.pictures, split.sizes.tolist(), split.extras.images, strict=True
        )
    ]
    classes = split.extras.classes or [{} for _ in dataset.names]
    categories = [
        {"id": number, "name": one} | further
        for number, one, further in zip(dataset.category_ids, dataset.names, classes, strict=True)
    ]
    tree = split.extras.whole | {"images": images, "annotations": annotations, "categories": categories}
    _write(folder / "annotations" / f"{name}.json", json_text.dumps(tree) + "\n")
    return [folder / "images" / name / path for path in split.pictures]


def yolo_txt(split: Split, folder: Path) -> list[Path]:
    """labels/{split}/*.txt. A crowd region is no object and cannot be written."""
    rows, name = split.dataset.rows, split.dataset.split
    sides = split.sizes[split.dataset.owners()][:, ::-1]
    box = _float64(rows.xyxy)
    shares = np.concatenate([(box[:, :2] + box[:, 2:]) / 2 / sides, (box[:, 2:] - box[:, :2]) / sides], axis=1)
    words, labels, left_out = shares.tolist(), rows.labels.tolist(), rows.crowd.tolist()
    for index, path in enumerate(split.pictures):
        lines = [" ".join([str(labels[row]), *map(repr, words[row])]) for row in split.rows(index) if not left_out[row]]
        _write(folder / "labels" / name / path.with_suffix(".txt"), _joined(lines))
    _classes(split, folder)
    return [folder / "images" / name / path for path in split.pictures]


def line_txt(split: Split, folder: Path) -> list[Path]:
    """{split}.txt. Where the first class is called `background`, that name stands twice: the reader skips the first."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    first = int(dataset.names[0] == "background" and len(dataset.names) > 1)
    words, labels, crowd = _words(rows.xyxy), (rows.labels + first).tolist(), rows.crowd.tolist()
    lines = []
    for index, path in enumerate(split.pictures):
        boxes = [",".join([*words[row], str(labels[row]), *["1"] * crowd[row]]) for row in split.rows(index)]
        lines.append(" ".join([f"images/{name}/{path}", *boxes]))
    _write(folder / f"{name}.txt", _joined(lines))
    _classes(split, folder, ["background"] * first)
    return [folder / "images" / name / path for path in split.pictures]


def voc(split: Split, folder: Path) -> list[Path]:
    """Annotations/*.xml and ImageSets/Main/{split}.txt. A crowd region is written as a difficult object."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    box = _float64(rows.xyxy)
    box[:, :2] += 1  # VOC counts pixels from 1
    words, hard = _words(np.round(box, 12)), (rows.difficult | rows.crowd).astype(int).tolist()
    pictures = [PurePosixPath(name) / path for path in split.pictures]
    for index, path in enumerate(pictures):
        if path.stem != path.stem.rstrip():
            raise InputError(f"{dataset.path(index)}: VOC's lists cannot hold the space before the suffix; rename it")
        tree = ET.Element("annotation")
        further = {key: value for key, value in split.extras.images[index].items() if key in VOC_IMAGE}
        depth = further.pop("depth", "3")
        height, width = split.sizes[index].tolist()
        _fill(tree, {"filename": path.name, "size": {"width": width, "height": height, "depth": depth}} | further)
        for row in split.rows(index):
            kept = {key: value for key, value in split.extras.rows[row].items() if key in VOC_ROW}
            corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), words[row], strict=True))
            label = dataset.names[rows.labels[row]]
            _fill(tree, {"object": {"name": label, "difficult": hard[row], "bndbox": corners} | kept})
        ET.indent(tree)
        _write(folder / "Annotations" / path.with_suffix(".xml"), ET.tostring(tree, encoding="unicode") + "\n")
    _write(folder / "ImageSets" / "Main" / f"{name}.txt", _joined([str(path.with_suffix("")) for path in pictures]))
    _classes(split, folder)
    return [folder / "JPEGImages" / path for path in pictures]


def dota(split: Split, folder: Path) -> list[Path]:
    """{split}/labelTxt/*.txt. White space in the name of a class becomes `-`; crowd regions become difficult."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    words, names = quads(split.dataset, split.extras), dota_names(dataset.names)
    cut = np.array([further.get("dota_difficult") == 2 for further in split.extras.rows], dtype=bool)
    hard = (rows.difficult | rows.crowd).astype(int) + (rows.difficult & cut)
    for index, path in enumerate(split.pictures):
        further = split.extras.images[index]
        lines = [f"{key}:{_dota_back(key, further[key])}" for key in ("imagesource", "gsd") if key in further]
        lines += [" ".join([*words[row], names[rows.labels[row]], str(hard[row])]) for row in split.rows(index)]
        _write(folder / name / "labelTxt" / f"{path.stem}.txt", _joined(lines))
    _write(folder / "classes.txt", _joined(list(names)))
    return [folder / name / "images" / path.name for path in split.pictures]


def dota_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """A line of DOTA is split at white space."""
    return tuple(SPACE.sub("-", name) for name in names)


def quads(dataset: Dataset, extras: Extras) -> list[list[str]]:
    """The four corners of each row: those of its outline where this is a quadrilateral of that box, else the box's."""
    corners = dataset.rows.xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    words = _words(corners)
    outlines = {row: outline for row, further in enumerate(extras.rows) if (outline := quad(further)) is not None}
    points = np.array([*outlines.values()], dtype=np.float64).reshape(-1, 4, 2)
    bounds = as_float32(np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1))
    fits = (bounds == dataset.rows.xyxy[[*outlines]]).all(axis=1) if outlines else []
    for (row, outline), fit in zip(outlines.items(), fits, strict=True):
        if fit:
            words[row] = [repr(float(value)).removesuffix(".0") for value in outline]
    return words


def quad(further: Keys) -> list[float] | None:
    """x1, y1, ..., y4 px where the outline is one polygon of four corners."""
    outline = further.get("segmentation")
    if not isinstance(outline, list) or len(outline) != 1 or not isinstance(outline[0], list) or len(outline[0]) != 8:
        return None
    sound = all(type(value) in (int, float) and abs(value) < FAR for value in outline[0])
    return outline[0] if sound else None


def _voc_back(key: str, value: Any) -> Any:
    tree = ET.Element("annotation")
    _fill(tree, {key: value})
    return others(ET.fromstring(ET.tostring(tree)), set()).get(key)


def _dota_back(key: str, value: Any) -> Any:
    """One line of text; `segmentation` and `dota_difficult` are no text."""
    return SPACE.sub(" ", _text(value)).strip() if key in ("imagesource", "gsd") else value


VOC_ROW = frozenset({"pose", "truncated", "occluded", "part", "actions", "point"})
VOC_IMAGE = frozenset({"folder", "source", "owner", "segmented", "depth"})
LAYOUTS = {
    "coco": Layout(coco, crowd=True, difficult=True, numbers=True, named=False, row_keys=None, image_keys=None),
    "yolo_txt": Layout(yolo_txt),
    "line_txt": Layout(line_txt, crowd=True, named=False),
    "voc": Layout(voc, difficult=True, row_keys=VOC_ROW, image_keys=VOC_IMAGE, back=_voc_back),
    "dota": Layout(dota, difficult=True, flat=True, row_keys=frozenset({"segmentation", "dota_difficult"}),
                   image_keys=frozenset({"imagesource", "gsd"}), back=_dota_back),
}  # fmt: skip


def _float64(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The decimal number that each float32 is written as: 10.1 and not 10.100000381469727."""
    return values.astype(np.str_).astype(np.float64)


def _words(values: NDArray[Any]) -> list[list[str]]:
    """The shortest decimals that bring each number back."""
    return [[word.removesuffix(".0") for word in line] for line in values.astype(np.str_).tolist()]


def _plain(column: NDArray[Any]) -> Any:
    """Flags are written as 0 and 1."""
    return np.int64 if column.dtype == np.bool_ else column.dtype


def _fill(parent: ET.Element, values: Keys) -> None:
    """The inverse of how `voc.extras` reads elements."""
    for tag, value in values.items():
        if not TAG.fullmatch(tag):
            raise InputError(f"key '{tag[:40]}': cannot be the name of an XML element")
        for one in value if isinstance(value, list) else [value]:
            element = ET.SubElement(parent, tag)
            if isinstance(one, dict):
                _fill(element, one)
            else:
                element.text = _text(one)
                if NOT_XML.search(element.text):
                    raise InputError(f"key '{tag}': {element.text[:60]!r} has letters that no XML holds; mend it")


def _text(value: object) -> str:
    """Flags are written as 0 and 1, null as nothing."""
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)


def _classes(split: Split, folder: Path, before: list[str] | None = None) -> None:
    _write(folder / "classes.txt", _joined([*(before or []), *split.dataset.names]))


def _joined(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text(text, encoding="utf-8", newline="\n")
    except UnicodeEncodeError as error:
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise InputError(
            f"{file.name}: cannot hold '{line[:100]}', a name that is no UTF-8; rename that file, or convert to coco"
        ) from error
