"""ImageNet as downloaded: one folder a class, named after WordNet ids, but for the flat validation folder."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.data.layout import Layout, Source
from boxwright.data.text import lines
from boxwright.errors import InputError
from boxwright.formats.folder import class_folders
from boxwright.formats.folder import read as read_folders
from boxwright.recipe import class_names

WORDNET_ID = re.compile(r"n\d{8}")
HOMES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # as image-net.org's archives and Kaggle's unpack
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
# The truth of the flat validation folder: the devkit's, with a number from 1 in ImageNet's own order on each line;
# Kaggle's; and Caffe's, with the image and a number from 0 in the order of the WordNet ids.
DEVKIT, KAGGLE, CAFFE = "ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "val.txt"
TRUTH_HOMES = ("", "ILSVRC2012_devkit_t12/data", "devkit/data", "data", "val")


def find(root: Path) -> dict[str, Path]:
    """Split -> its folder, in any of the places where the archives unpack.

    Raises InputError where one split is ImageNet's and the other has a folder of another name.
    """
    for home in (root / name for name in HOMES):
        found, foreign = {}, []
        for split in ("train", "val"):
            inside = class_folders(home / split)
            flat = split == "val" and not inside and any((home / split).glob("ILSVRC2012_val_*"))
            others = [home / split / name for name in inside if not WORDNET_ID.fullmatch(name)]
            foreign += others
            if flat or (inside and not others):
                found[split] = home / split
        if found and foreign:
            raise InputError(
                f"{foreign[0]}: not named after a WordNet id, as n01440764, unlike the folders in "
                f"{', '.join(map(str, found.values()))} ({len(foreign)} such), needed only ImageNet's classes; move it "
                "away, or say kind folder (data.kind in a recipe) for a set of one's own"
            )
        if found:
            return found
    return {}


def read(source: Source) -> ClassSet:
    """The images of a split, classes in the order of their WordNet ids, under the names of recipes.

    Raises InputError as `folder.read` does, and for a validation folder whose truth is absent or says something else.
    """
    if not class_folders(source.path):
        return _flat(source)
    with_folders = tuple(other for other in source.others if class_folders(other))
    found = read_folders(replace(source, others=with_folders))
    names = imagenet_names()
    if unknown := [name for name in found.names if name not in names]:
        raise InputError(
            f"{source.path / unknown[0]}: none of ImageNet's 1000 classes ({len(unknown)} such); say kind folder "
            "(data.kind in a recipe) for a set of one's own"
        )
    return replace(found, names=tuple(names[name] for name in found.names))


def imagenet_names() -> dict[str, str]:
    """WordNet id -> name, in the order of ImageNet's own numbers, which is Darknet's, too."""
    return dict(zip(class_names("imagenet_wordnet_ids"), class_names("imagenet_darknet"), strict=True))


def _flat(source: Source) -> ClassSet:
    """ImageNet's validation images, in the order of their numbers, with the truth from its own file."""
    place, names = source.path, imagenet_names()
    trained = [name for other in source.others for name in class_folders(other)]
    classes = sorted(trained or names)
    files = sorted(entry.name for entry in place.iterdir())
    images = [name for name in files if VALIDATION.fullmatch(name)]
    unused = tuple(str(place / name) for name in files if not VALIDATION.fullmatch(name) and (place / name).is_file())
    truth, file = _truth(source.root, place)
    numbers = {wordnet_id: label for label, wordnet_id in enumerate(classes)}
    labels = []
    for name in images:
        wordnet_id = truth.get(name.rpartition(".")[0])
        if wordnet_id not in numbers:
            named = "nothing" if wordnet_id is None else f"class {wordnet_id}, which is not in train"
            raise InputError(f"{place / name}: {file} says {named} of this image; needed one of {len(numbers)} classes")
        labels.append(numbers[wordnet_id])
    paths = paths_column([str(place / name) for name in images])
    chosen = tuple(names[wordnet_id] for wordnet_id in classes)
    return ClassSet(chosen, source.split, source.root, source.kind, paths, np.array(labels, np.int64), unused=unused)


def _truth(root: Path, folder: Path) -> tuple[dict[str, str], Path]:
    """Image's name without suffix -> WordNet id, and the file that says so."""
    homes = [base / name for base in (root, folder.parent) for name in TRUTH_HOMES]
    files = [home / name for name in (DEVKIT, KAGGLE, CAFFE) for home in homes if (home / name).is_file()]
    if not files:
        raise InputError(
            f"{folder}: images without class folders, and none of {DEVKIT}, {KAGGLE}, {CAFFE} in {root} to tell "
            "their classes; put one there"
        )
    file = files[0]
    reads = {DEVKIT: _devkit_line, KAGGLE: _kaggle_line, CAFFE: _caffe_line}[file.name]
    ids = list(imagenet_names())
    known = set(ids)
    result = {}
    for number, line in lines(file):
        if file.name == KAGGLE and line.startswith("ImageId"):
            continue
        try:
            image, wordnet_id = reads(number, line, ids)
        except (ValueError, IndexError):
            wordnet_id = image = ""
        if wordnet_id not in known:
            raise InputError(
                f"{file} line {number}: '{line[:60]}' names none of ImageNet's 1000 classes; fetch it anew"
            )
        result[image] = wordnet_id
    return result, file


def _devkit_line(number: int, line: str, ids: list[str]) -> tuple[str, str]:
    return f"ILSVRC2012_val_{number:08d}", _at(ids, int(line) - 1)


def _kaggle_line(number: int, line: str, ids: list[str]) -> tuple[str, str]:
    image, _, rest = line.partition(",")
    return image, rest.split()[0]


def _caffe_line(number: int, line: str, ids: list[str]) -> tuple[str, str]:
    image, label = line.split()
    return Path(image).stem, _at(sorted(ids), int(label))


def _at(ids: list[str], place: int) -> str:
    if place < 0:
        raise IndexError(place)
    return ids[place]


LAYOUT = Layout(
    dataset_type=ClassSet,
    expected=f"train/n01440764/*.JPEG, and val/*.JPEG beside {DEVKIT}, {KAGGLE} or {CAFFE}",
    find=find,
    read=read,
)
