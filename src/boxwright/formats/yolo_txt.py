"""YOLO text labels: one file per image, one line per box: `class x y w h`, center and size as fractions of the image.

Images are in a folder (`images/train` with `labels/train`, `train/images` with `train/labels`, flat `images` with
`labels`, or with their labels beside them) or in a list of paths (`train.txt`). A line may also contain the class and
an outline (`x1 y1 x2 y2 x3 y3 ...`), whose box is read; or a box and a confidence; or a box and keypoints. There are
no ids, so images and boxes are numbered from 1 (annotation id 0 would mean "unmatched" in pycocotools).
"""

import codecs
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from boxwright.data import data_file, text, yolo_labels
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.findings import Finding, FindingList, orphan
from boxwright.data.layout import Extras, Keys, Layout, Split, Writer
from boxwright.data.listing import listing
from boxwright.data.locate import Locator
from boxwright.data.outlines import areas_of
from boxwright.data.source import Source
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.data.yolo_labels import LabelFinder
from boxwright.errors import InputError
from boxwright.files import read_input
from boxwright.images.header import SUFFIXES, read_headers
from boxwright.progress import track

MAX_BYTES = 1 << 24  # of a label file; a box takes about 40
CVAT_FOLDER = re.compile(r"obj_(.+)_data")  # obj_train_data
# Splits whose images count as without objects if no label files exist; those of `test` count as unlabeled.
EACH_SPLIT = {"train", "val"}
MANY_FOLDERS = 20  # folders, each of which may contain a split
_Entry = tuple[str, tuple[str, bool]]  # an image, its label file and whether that exists


def find(root: Path) -> dict[str, Path]:
    """Split -> folder of images or list file. Lists have precedence."""
    if not root.is_dir():
        return {}
    splits: dict[str, Path] = {}
    flat: Path | None = None
    for images in yolo_labels.image_folders(root):
        labels = [folder for folder in yolo_labels.label_folders(root) if yolo_labels.can_hold_labels(folder)]
        if not labels:
            continue
        if not listing(images).by_suffix().keys().isdisjoint(SUFFIXES):
            flat = images
            continue
        inner = text.subfolders(images)
        labeled = [folder for folder in inner if any((place / folder.name).is_dir() for place in labels)]
        splits |= _with_unlabeled(labeled, {folder.name: folder for folder in inner})
    outer = {
        folder.name: images
        for folder in text.subfolders(root)
        for images in yolo_labels.image_folders(folder)
        if canonical_name(folder.name) in STANDARD or not _has_splits(images)
    }
    splits |= _with_unlabeled([images for images in outer.values() if _has_labels(images.parent)], outer)
    if lists := text.find_lists(root, "yolo_txt"):  # folders are needed only for splits without a list
        further = {*STANDARD} - {canonical_name(name) for name in lists}
        splits = {name: path for name, path in splits.items() if canonical_name(name) in further} | lists
    if flat and not splits:
        splits["all"] = flat
    return splits or _find_beside(root)


def read(source: Source) -> Dataset:
    """Read a folder or a list, whose paths are relative to the list or to the root, unless `source` names a folder.

    The header of every image is read, since boxes are relative to its size; boxes of an unreadable image are NaN. Lines
    that cannot be read become findings. Raises InputError if there are no class names, no images, or no label file in
    any split.
    """
    classes = text.numbered_classes(source)
    found, finder = FindingList(source.split), LabelFinder()
    entries: list[_Entry] = []
    for path in (source.path, *source.more):
        entries += _images(path, source, finder, found, len(entries))
    paths, labels = [image for image, _ in entries], [label for _, label in entries]
    if not paths:
        raise InputError(f"{source.path}: holds no image, needed {', '.join(SUFFIXES)}")
    headers = list(track(read_headers(paths, decode=None), len(paths), "reading image sizes"))
    if all(header.missing for header in headers):
        raise InputError(
            f"{source.path}: none of its {len(paths)} images exists, the first is "
            f"{os.path.relpath(paths[0], source.root)[-60:]}; name their folder with 'images' in a data YAML"
        )
    if not any(exists for _, exists in labels):
        if not any(_is_labeled(path, source) for path in source.others):
            first = os.path.relpath(labels[0][0], source.root)[-60:]
            raise InputError(f"{source.path}: no image has a label file; looked for {first}, ...")
        found.note("no image of this split has a label file; all are read as images without objects", str(source.path))
    _note_shared(entries, found)
    sizes = np.array([header.size for header in headers], dtype=np.int64)
    rows, counts = read_labels(paths, labels, keypoints_of(source), found)
    boxes = rows.boxes(np.repeat(sizes, counts, axis=0), tuple(classes))
    files = [file for file, _ in labels]
    dataset = Dataset.without_ids(source, tuple(classes.values()), paths, files, boxes, counts)
    return replace(
        dataset,
        category_ids=tuple(classes),
        images=replace(dataset.images, sizes=sizes),
        findings=found.all(),
        relative=True,
    )


def extras(dataset: Dataset) -> Extras:
    """The outlines of a data set, as `segmentation`."""
    keypoints = keypoints_of(dataset.origin) if dataset.origin else 0
    rows: list[Keys] = [{} for _ in range(len(dataset.rows))]
    entries = dataset.rows.entries.tolist()
    for index in range(len(dataset)):
        own = range(int(dataset.starts[index]), int(dataset.starts[index + 1]))
        lines = _lines(dataset.label_file(index)) if own else []
        width_height = dataset.images.sizes[index, ::-1]
        for row in own:
            values = numbers_of(lines[entries[row] - 1], keypoints)
            if is_outline(values, keypoints):
                outline = np.array(values[1:]).reshape(-1, 2) * width_height
                rows[row]["segmentation"] = [outline.reshape(-1).tolist()]
    return Extras(rows, [{} for _ in range(len(dataset))])


def write(split: Split, folder: Path) -> list[Path]:
    """Write labels/{split}/*.txt, without crowd regions, `classes.txt` and `data.yaml`."""
    rows, name = split.dataset.rows, split.dataset.split
    sides = split.sizes[split.dataset.image_indices()][:, ::-1]
    box = text.decimals(rows.xyxy)
    relative = np.concatenate([(box[:, :2] + box[:, 2:]) / 2 / sides, (box[:, 2:] - box[:, :2]) / sides], axis=1)
    words, labels, crowd = relative.tolist(), rows.labels.tolist(), rows.crowd.tolist()
    for index, path in enumerate(split.images):
        lines = [" ".join([str(labels[row]), *map(repr, words[row])]) for row in split.rows(index) if not crowd[row]]
        text.write_lines(folder / "labels" / name / path.with_suffix(".txt"), lines)
    written = sorted(path.name for path in (folder / "labels").iterdir())
    write_names(folder, split.dataset.names, {name: f"images/{name}" for name in written})
    return [folder / "images" / name / path for path in split.images]


def write_names(folder: Path, names: Sequence[str], images: Mapping[str, str]) -> None:
    """Write `classes.txt`, for label tools, and `data.yaml`, for Ultralytics' programs.

    A set with a split that such a file cannot name, since its splits are train, val and test, has none.

    images: Split -> the folder or list of its images, relative to `folder`.
    """
    text.write_lines(folder / "classes.txt", names)
    file = folder / "data.yaml"
    if all(name in STANDARD for name in images):
        content = {name: images[name] for name in STANDARD if name in images} | {"names": dict(enumerate(names))}
        file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


@dataclass(slots=True)
class _Rows:
    """The lines of all label files. table: class, x, y, w, h. outlines: row -> xyxy and area as fractions."""

    table: list[list[float]] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    outlines: dict[int, tuple[list[float], float]] = field(default_factory=dict)

    def boxes(self, sizes: NDArray[np.int64], ids: Sequence[int]) -> Boxes:
        """The rows in px. sizes: (T, 2) (height, width) px of the image of each row. ids: class ids, ascending."""
        values = np.array(self.table, dtype=np.float64).reshape(-1, 5)
        width_height = sizes[:, ::-1].astype(np.float64)
        width_height = np.where(width_height < 0, np.nan, width_height)
        outlined = np.array([*self.outlines], dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            center, side = values[:, 1:3] * width_height, values[:, 3:5] * width_height
            xyxy = np.concatenate([center - side / 2, center + side / 2], axis=1)
            areas = side[:, 0] * side[:, 1]
            scale = width_height[outlined]
            corners = np.array([box for box, _ in self.outlines.values()]).reshape(-1, 2, 2) * scale[:, None]
            areas[outlined] = np.array([area for _, area in self.outlines.values()]) * scale.prod(axis=1)
        xyxy[outlined] = corners.reshape(-1, 4)
        categories = values[:, 0].astype(np.int64)
        labels = text.labels_of(categories, ids)
        return replace(Boxes.without_ids(xyxy, labels, self.entries), categories=categories, areas=areas)


def _with_unlabeled(labeled: Sequence[Path], folders: dict[str, Path]) -> dict[str, Path]:
    """The folders of labeled splits, and folders of `EACH_SPLIT` without labels."""
    return {
        name: folder
        for name, folder in folders.items()
        if folder in labeled or (labeled and canonical_name(name) in EACH_SPLIT)
    }


def _has_splits(images: Path) -> bool:
    """Whether a folder of images is divided into splits, so that the folder around it is a data set."""
    return any(canonical_name(folder.name) in STANDARD for folder in text.subfolders(images))


def _has_labels(folder: Path) -> bool:
    return any(map(yolo_labels.can_hold_labels, yolo_labels.label_folders(folder)))


def _find_beside(root: Path) -> dict[str, Path]:
    """Split -> folder of images with their labels beside them."""
    if yolo_labels.has_labels_beside(root):
        return {"all": root}
    folders = text.subfolders(root)
    limit = None if len(folders) <= MANY_FOLDERS else yolo_labels.MAX_ENTRIES
    return {
        CVAT_FOLDER.sub(r"\1", folder.name): folder
        for folder in folders
        if yolo_labels.has_labels_beside(folder, limit)
    }


def _images(path: Path, source: Source, finder: LabelFinder, found: FindingList, first: int = 0) -> list[_Entry]:
    """The images of a folder or list with their labels. first: index of the first image in the split."""
    if path.is_dir():
        files = text.walk(path, ("",))
        images = [(file, finder.find(file)) for file in files if file.lower().endswith(SUFFIXES)]
        _report_orphans(path, files, {label for _, (label, _) in images}, finder, found)
        return images
    listed: list[_Entry] = []
    lines = list(text.lines(path, "surrogateescape"))
    locator = Locator(_bases(path, source, lines[0][1] if lines else ""), source.images or source.root)
    for number, name in lines:
        place = f"{path} line {number}"
        if not text.can_be_path(name):
            found.error(place, f"'{name[:60]}' cannot be the path of an image; correct it")
            continue
        located = locator.locate(name)
        if located.elsewhere:
            found.note("image is not at the path in the list; found by the last parts of its path", place)
        if located.candidates:
            first_file, second_file = (os.path.relpath(file, source.root) for file in located.candidates[:2])
            fault = f"'{name[-60:]}' may be {first_file} or {second_file}; write the path"
            found.add(Finding("ambiguous_image", found.split, place, fault, located.path, index=first + len(listed)))
        label = finder.find(located.path)
        if not label[1] and source.images is not None:
            label = _label_of_list(name, path, source.root, finder) or label
        listed.append((located.path, label))
    return listed


def _note_shared(entries: Sequence[_Entry], found: FindingList) -> None:
    """Note label files of several images, whose names differ only in the suffix."""
    first: dict[str, str] = {}
    for image, (label, exists) in entries:
        if exists and first.setdefault(label, image) != image:
            found.note("label file of several images, read for each of them", label)


def _label_of_list(name: str, file: Path, root: Path, finder: LabelFinder) -> tuple[str, bool] | None:
    """The labels of the image `name` of a list if they are beside the list, not the images, as CVAT exports them."""
    parts = [part for part in re.split(r"[/\\]+", name) if part not in ("", ".", "..")]
    places = (base.joinpath(*parts[start:]) for start in range(len(parts)) for base in (file.parent, root))
    return next((label for place in places if (label := finder.find(str(place)))[1]), None)


def _bases(path: Path, source: Source, name: str) -> list[Path]:
    """The folders that the paths of a list may start at. name: the first path."""
    if source.images is not None:
        return [source.images]
    folder, first = path.parent, re.split(r"[/\\]", name)[0]
    above = [folder.parent] if first == folder.name and not (folder / first).exists() else []  # as Darknet's lists
    return [*above, folder, source.root]


def _is_labeled(path: Path, source: Source) -> bool:
    """Whether an image of another split has a label file."""
    finder = LabelFinder()
    return any(exists for _, (_, exists) in _images(path, source, finder, FindingList(source.split)))


def keypoints_of(source: Source) -> int:
    """Count of the numbers of keypoints in a line, from the data YAML that was opened or that is in the folder."""
    if source.keypoints or not source.root.is_dir():
        return source.keypoints
    files = (source.root / name for name in text.NAME_FILES if text.is_yaml(Path(name)))
    return next((data_file.read(file).keypoints for file in files if file.is_file()), 0)


def read_labels(
    images: Sequence[str], labels: Sequence[tuple[str, bool]], keypoints: int, found: FindingList
) -> tuple[_Rows, list[int]]:
    """The rows, and their number per image."""
    rows, counts = _Rows(), []
    for index, (file, exists) in enumerate(labels):
        first = len(rows.table)
        try:
            lines = _lines(file) if exists else []
        except InputError as error:
            found.error(file, str(error).removeprefix(f"{file}: "), images[index], index)
            lines = []
        for number, line in enumerate(lines, 1):
            values = numbers_of(line, keypoints)
            if len(values) == 5:
                rows.table.append(values)
            elif not values:
                if line.strip():
                    found.error(f"{file} line {number}", _fault(line, keypoints), images[index], index)
                continue
            elif is_outline(values, keypoints):
                _add_outline(rows, values)
                found.note("outline, read as the box around it", f"{file} line {number}")
            else:
                rows.table.append(values[:5])
                what = "sixth number (confidence)" if len(values) == 6 else "keypoints after the box"
                found.note(f"{what}, ignored", f"{file} line {number}")
            rows.entries.append(number)
        counts.append(len(rows.table) - first)
    return rows, counts


def _add_outline(rows: _Rows, values: Sequence[float]) -> None:
    points = np.array(values[1:]).reshape(-1, 2)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    rows.outlines[len(rows.table)] = [x1, y1, x2, y2], float(areas_of(points[None])[0])
    rows.table.append([values[0], 0.0, 0.0, 0.0, 0.0])


def _lines(file: str) -> list[bytes]:
    """The lines of a label file. Raises InputError if it cannot be read."""
    content = read_input(file, ", needed the labels of one image as text", MAX_BYTES)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(codecs.BOM_UTF8).splitlines()


def numbers_of(line: bytes, keypoints: int) -> list[float]:
    """The numbers of a line: a box, an outline, a box with a confidence or with keypoints; [] for anything else."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return []
    count = len(values)
    if count < 5 or not values[0].is_integer() or abs(values[0]) >= 2**63 or b"_" in line:
        return []
    if count == 5 or (keypoints and count == 5 + keypoints) or (count == 6 and 0 <= values[5] <= 1):
        return values
    return values if count % 2 and all(map(np.isfinite, values)) else []


def is_outline(values: Sequence[float], keypoints: int) -> bool:
    return len(values) > 6 and not (keypoints and len(values) == 5 + keypoints)


def _fault(line: bytes, keypoints: int) -> str:
    also = f", or {5 + keypoints} with keypoints" if keypoints else ""
    return (
        f"found '{line.strip()[:40].decode(errors='replace')}', needed five numbers: class x y width height (or class "
        f"and the x y of an outline{also})"
    )


def _report_orphans(
    folder: Path, files: Sequence[str], expected: set[str], finder: LabelFinder, found: FindingList
) -> None:
    """Report label files without an image. files: all files in the folder of images."""
    stems = {os.path.splitext(file)[0]: file for file in files if not file.lower().endswith(".txt")}  # noqa: PTH122
    for place, _ in finder.places(str(folder)):
        beside = Path(place) == folder
        texts = [f for f in files if f.lower().endswith(".txt")] if beside else text.walk(Path(place), (".txt",))
        for file in texts:
            name, stem = os.path.basename(file), os.path.splitext(file)[0]  # noqa: PTH119, PTH122
            if file in expected or name in text.NAME_FILES or (beside and not yolo_labels.has_label(file)):
                continue
            image = stems.get(str(folder / os.path.relpath(stem, place)), "")
            if image.lower().endswith(SUFFIXES):
                found.note("not read, since the image has another label file", file)
            elif image:
                fault = f"its image {os.path.basename(image)} is not in a supported format; save it as PNG or JPEG"  # noqa: PTH119
                found.add(Finding("unknown_image", found.split, file, fault))
            else:
                found.add(orphan(found.split, file, os.path.basename(stem)))  # noqa: PTH119


def _accepts(path: Path) -> bool:
    if not path.is_dir():
        return text.list_kind(path) == "yolo_txt"
    places = [Path(place) for place, _ in LabelFinder().places(str(path))]
    return all(yolo_labels.can_hold_labels(place) for place in places if place.is_dir())


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="images/{split} + labels/{split}, {split}/images + {split}/labels, images + labels, or {split}.txt",
    find=find,
    read=read,
    accepts=_accepts,
    extras=extras,
    writer=Writer(write=write),
)
