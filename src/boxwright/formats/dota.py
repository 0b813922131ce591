"""DOTA's `labelTxt`: one file per scene, one line per object, `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, corners in px.

A split is a folder with `images` and `labelTxt` (or `labelTxt-v1.5` etc., or mmrotate's `annfiles`); a scene and its
labels have the same name.
The box is the enclosing box of the four corners, the area that of the quadrilateral. The first lines may be
`imagesource:...` and `gsd:...`, the ground sample distance in meters. `difficult` is 0, 1, or 2, which ImgSplit.py of
DOTA's development kit writes for truncated objects and which counts as difficult. There are no ids, so scenes and boxes
are numbered from 1.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from boxwright.data import text
from boxwright.data.builder import Builder, extras_with, read_with
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Keys, Layout, Split, Writer
from boxwright.data.outlines import area_of, bounds_of, corners_of
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.recipe import class_names

FOLDER = "labelTxt"  # prefix of the folders of labels
HEADER = re.compile(r"(imagesource|gsd)\s*:(.*)", re.IGNORECASE)
VERSIONS = {"1.0": "dota10", "1.5": "dota15", "2.0": "dota20"}  # version -> list of class names
IMAGE_KEYS = ("imagesource", "gsd")
SPACE = re.compile(r"\s+")
Row = tuple[list[float], str, int]  # x1, y1, ..., y4; class; difficult, 0 to 2


def find(root: Path) -> dict[str, Path]:
    """Split -> folder of labels. Raises InputError if a split has several folders."""
    splits = {}
    for folder in (root, *text.subfolders(root)):
        if (folder / "images").is_dir() and (labels := _labels_in(folder)):
            splits["all" if folder == root else folder.name] = labels
    if "all" in splits:  # images/train and labelTxt/train
        inner = {f.name: f for f in text.subfolders(splits["all"]) if (root / "images" / f.name).is_dir()}
        splits = inner or splits
    return splits


def collect(source: Source, keys: bool = True) -> Builder:
    """Collect the scenes of a split; label folders are searched recursively. keys: also collect the Extras.

    Class names come from `source`, else from the usual files in the root, else from DOTA's version in the folder's
    name, else from the oldest version of DOTA with all classes in use. If none is DOTA's, they are the classes in use.
    Scenes are in `images` beside the labels by default; a scene without a label file has no boxes.
    """
    path, root = source.path, source.root
    folder = source.images or _images_of(path)
    scenes = _by_stem(folder, SUFFIXES)
    files = _by_stem(path, (".txt",))
    if not scenes:
        raise InputError(f"{folder}: holds no scene, needed {', '.join(SUFFIXES)}")
    if not scenes.keys() & files.keys():
        raise InputError(f"{path}: no scene has a label file; looked for {min(scenes)}.txt, ...")
    builder = Builder(source)
    if not (source.names or text.find_class_names(root)):
        builder.classes = list(_class_list(path, root))
    for stem, scene in scenes.items():
        header: Keys = {}
        image = builder.add_image(scene, files.get(stem, str(path / f"{stem}.txt")), keys=header)
        for number, line in builder.lines(files[stem], image) if stem in files else ():
            if match := HEADER.fullmatch(line):
                header[match[1].lower()] = match[2].strip()
            elif (row := _parse(line)) is None:
                fault = f"found '{line[:40]}', needed eight numbers, a class, and 0, 1 or 2 (difficult)"
                builder.error(f"{files[stem]} line {number}", fault, image)
            else:
                quad, name, mark = row
                further = {"segmentation": [quad]} | ({"dota_difficult": mark} if mark == 2 else {}) if keys else None
                box, area = bounds_of(quad), area_of(quad)
                builder.add_box(image, name, box, number, difficult=mark > 0, area=area, keys=further)
    for stem in files.keys() - scenes.keys():
        builder.orphan(files[stem], stem)
    return builder


def write(split: Split, folder: Path) -> list[Path]:
    """Write {split}/labelTxt/*.txt. White space in class names becomes `-`; crowd regions become difficult."""
    dataset, rows, name = split.dataset, split.dataset.rows, split.dataset.split
    words, names = corners_of(dataset, split.extras), [_class_name(label) for label in dataset.names]
    cut = np.array([keys.get("dota_difficult") == 2 for keys in split.extras.rows], dtype=bool)
    difficult = (rows.difficult | rows.crowd).astype(int) + (rows.difficult & cut)
    for index, path in enumerate(split.images):
        keys = split.extras.images[index]
        lines = [f"{key}:{_read_back(key, keys[key])}" for key in IMAGE_KEYS if key in keys]
        lines += [" ".join([*words[row], names[rows.labels[row]], str(difficult[row])]) for row in split.rows(index)]
        text.write_lines(folder / name / "labelTxt" / f"{path.stem}.txt", lines)
    text.write_lines(folder / "classes.txt", names)
    return [folder / name / "images" / path.name for path in split.images]


def _class_name(name: str) -> str:
    """A class name without white space, which separates columns."""
    return SPACE.sub("-", name)


def _read_back(key: str, value: object) -> object:
    """A text field on one line; `segmentation` and `dota_difficult` are not text."""
    return SPACE.sub(" ", text.value_text(value)).strip() if key in IMAGE_KEYS else value


def _parse(line: str) -> Row | None:
    """Parse a line; None if it is invalid. As in DOTA's development kit, `difficult` is 0 by default."""
    words = line.split()
    try:
        quad = [float(word) for word in words[:8]]
    except ValueError:
        return None
    if len(quad) != 8 or len(words) not in (9, 10) or words[9:] not in ([], ["0"], ["1"], ["2"]):
        return None
    return quad, words[8], int(words[9]) if len(words) == 10 else 0


def _class_list(source: Path, root: Path) -> tuple[str, ...]:
    """DOTA's classes of the version; each list extends the previous one. () if other classes are in use."""
    top = source if _holds_labels(source) else source.parent
    for version, listed in VERSIONS.items():
        if version in top.name:
            return class_names(listed)
    used = {
        row[1]
        for folder in {source, root / top.name, *root.glob(f"*/{top.name}")}
        for file in text.walk(folder, (".txt",))
        for _, line in Builder(Source("dota", folder, "", root)).lines(file)
        if not HEADER.fullmatch(line) and (row := _parse(line))
    }
    lists = [class_names(listed) for listed in VERSIONS.values()]
    if used and not used & {*lists[-1]}:
        return ()
    return next((names for names in lists if used <= {*names}), lists[0])


def _labels_in(folder: Path) -> Path | None:
    found = list(filter(_holds_labels, text.subfolders(folder)))
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds {' and '.join(entry.name for entry in found)}, needed one; name it in a data YAML, for "
            f"example 'kind: dota' and 'train: {folder.name}/{found[0].name}'"
        )
    return found[0] if found else None


def _holds_labels(folder: Path) -> bool:
    """Whether a folder has the name of a folder of labels."""
    return folder.name.startswith(FOLDER) or folder.name == "annfiles"


def _images_of(labels: Path) -> Path:
    """train/labelTxt -> train/images, labelTxt/train -> images/train."""
    if _holds_labels(labels):
        return labels.parent / "images"
    return labels.parent.parent / "images" / labels.name


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix -> file, sorted. Raises InputError if two files have the same name."""
    files: dict[str, str] = {}
    for file in text.walk(folder, suffixes):
        stem = Path(file).stem
        if stem in files:
            raise InputError(f"{file}: {files[stem]} has the same name, needed one file per scene; move one away")
        files[stem] = file
    return dict(sorted(files.items()))


LAYOUT = Layout(
    dataset_type=Dataset,
    expected="images + labelTxt (or annfiles), {split}/images + {split}/labelTxt, or images/{split} + labelTxt/{split}",
    find=find,
    read=read_with(partial(collect, keys=False)),
    extras=extras_with(collect),
    writer=Writer(
        write=write,
        difficult=True,
        outlines=True,
        flat=True,
        class_name=_class_name,
        # corners have no order, so a box of negative size would become positive
        unsupported=frozenset({"negative_size"}),
        row_keys=frozenset({"segmentation", "dota_difficult"}),
        image_keys=frozenset(IMAGE_KEYS),
        read_back=_read_back,
    ),
)
