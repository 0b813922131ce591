"""Pictures in one folder a class, as `train/cat/1.jpg`; ImageNet as downloaded is such a set but for its validation.

P pictures, C classes
"""

import os
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np

from boxwright.config import class_name_fault
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.data.header import SUFFIXES
from boxwright.data.split_names import plain
from boxwright.data.text import folders, lines, walk
from boxwright.errors import InputError
from boxwright.progress import track
from boxwright.recipe import class_names

SPLITS = {"train", "val", "test"}
LOOKED_FOR = "train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg (the split `all`)"

WORDNET_ID = re.compile(r"n\d{8}")
IMAGENET_HOMES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # as image-net.org's archives and Kaggle's unpack
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
# The truth of the flat validation folder: the devkit's, with a number from 1 in ImageNet's own order on each line;
# Kaggle's; and Caffe's, with the picture and a number from 0 in the order of the WordNet ids.
DEVKIT, KAGGLE, CAFFE = "ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "val.txt"
TRUTH_HOMES = ("", "ILSVRC2012_devkit_t12/data", "devkit/data", "data", "val")
IMAGENET_LOOKED_FOR = f"train/n01440764/*.JPEG, and val/*.JPEG beside {DEVKIT}, {KAGGLE} or {CAFFE}"


def find(root: Path) -> dict[str, Path]:
    """Split -> the folder that holds its class folders."""
    found = {entry.name: entry for entry in folders(root) if plain(entry.name) in SPLITS and _class_folders(entry)}
    if found:
        return found
    inside = (file for name in _class_folders(root) for file in os.listdir(root / name))  # noqa: PTH208
    pictured = any(file.lower().endswith(SUFFIXES) for file in inside)
    return {"all": root} if pictured else {}


def read(folder: Path, split: str, root: Path, others: Mapping[str, Path]) -> ClassSet:
    """The pictures below `folder`, whose folders are the classes, in the order of their names.

    others: the folders of the other splits. Raises InputError where these have other classes, for a class without
    pictures in a split to train on, and for a split without pictures.
    """
    classes = _class_folders(folder)
    for place in others.values():
        _same_classes(folder, classes, place, _class_folders(place))
    files = [
        [str(file) for file in walk(folder / name, ("",))]
        for name in track(classes, len(classes), f"looking for pictures of {split}", "classes")
    ]
    pictures = [[file for file in each if file.lower().endswith(SUFFIXES)] for each in files]
    counts = [len(each) for each in pictures]
    if plain(split) in {"train", "all"} and 0 in counts:
        empty = folder / classes[counts.index(0)]
        raise InputError(
            f"{empty}: holds no picture ({counts.count(0)} such classes), needed some to learn from; put "
            f"{', '.join(SUFFIXES)} there, or remove the class from all splits"
        )
    if not any(counts):
        raise InputError(f"{folder}: its {len(classes)} class folders hold no picture; put {', '.join(SUFFIXES)} there")
    unused = [file for file in chain(*files) if not file.lower().endswith(SUFFIXES)]
    unused += sorted(str(entry) for entry in folder.iterdir() if entry.is_file())
    labels = np.repeat(np.arange(len(classes)), counts)
    return ClassSet(
        tuple(classes), split, root, "folder", paths_column([*chain(*pictures)]), labels, unused=tuple(unused)
    )


def _class_folders(folder: Path) -> list[str]:
    names = [entry.name for entry in folders(folder) if not entry.name.startswith(".")]
    for name in names:
        if fault := class_name_fault(name):
            raise InputError(f"{folder / name}: {fault}")
    return names


def _same_classes(first: Path, classes: list[str], second: Path, others: list[str]) -> None:
    for here, own, there, theirs in ((first, classes, second, others), (second, others, first, classes)):
        if more := sorted(set(own) - set(theirs)):
            raise InputError(
                f"{here / more[0]}: {there} has no folder for this class ({len(more)} such), and a class's number is "
                "its place among the folders; make them the same in all splits (an empty folder will do for val, test)"
            )


def find_imagenet(root: Path) -> dict[str, Path]:
    """Split -> its folder, in any of the places where the archives unpack.

    Raises InputError where one split is ImageNet's and the other has a folder of another name.
    """
    for home in (root / name for name in IMAGENET_HOMES):
        found, strays = {}, []
        for split in ("train", "val"):
            inside = _class_folders(home / split)
            flat = split == "val" and not inside and any((home / split).glob("ILSVRC2012_val_*"))
            others = [home / split / name for name in inside if not WORDNET_ID.fullmatch(name)]
            strays += others
            if flat or (inside and not others):
                found[split] = home / split
        if found and strays:
            raise InputError(
                f"{strays[0]}: not named after a WordNet id, as n01440764, unlike the folders in "
                f"{', '.join(map(str, found.values()))} ({len(strays)} such), needed only ImageNet's classes; move it "
                "away, or say kind folder (data.kind in a recipe) for a set of one's own"
            )
        if found:
            return found
    return {}


def read_imagenet(folder: Path, split: str, root: Path, others: Mapping[str, Path]) -> ClassSet:
    """The pictures of a split, classes in the order of their WordNet ids, under the names of recipes.

    Raises InputError as `read` does, and for a validation folder whose truth is absent or says something else.
    """
    if not _class_folders(folder):
        return _flat(folder, split, root, others)
    with_folders = {name: other for name, other in others.items() if _class_folders(other)}
    found = read(folder, split, root, with_folders)
    names = imagenet_names()
    if unknown := [name for name in found.names if name not in names]:
        raise InputError(
            f"{folder / unknown[0]}: none of ImageNet's 1000 classes ({len(unknown)} such); say kind folder "
            "(data.kind in a recipe) for a set of one's own"
        )
    return ClassSet(
        tuple(names[name] for name in found.names), split, root, "imagenet", found.paths, found.labels,
        unused=found.unused,
    )  # fmt: skip


def imagenet_names() -> dict[str, str]:
    """WordNet id -> name, in the order of ImageNet's own numbers, which is Darknet's, too."""
    return dict(zip(class_names("imagenet_wordnet_ids"), class_names("imagenet_darknet"), strict=True))


def _flat(folder: Path, split: str, root: Path, others: Mapping[str, Path]) -> ClassSet:
    """ImageNet's validation pictures, in the order of their numbers, with the truth from its own file."""
    names = imagenet_names()
    trained = [name for other in others.values() for name in _class_folders(other)]
    classes = sorted(trained or names)
    files = sorted(entry.name for entry in folder.iterdir())
    pictures = [name for name in files if VALIDATION.fullmatch(name)]
    unused = tuple(str(folder / name) for name in files if not VALIDATION.fullmatch(name) and (folder / name).is_file())
    truth, file = _truth(root, folder)
    places = {wordnet_id: label for label, wordnet_id in enumerate(classes)}
    labels = []
    for name in pictures:
        wordnet_id = truth.get(name.rpartition(".")[0])
        if wordnet_id not in places:
            said = "nothing" if wordnet_id is None else f"class {wordnet_id}, which is not in train"
            raise InputError(
                f"{folder / name}: {file} says {said} of this picture; needed one of {len(places)} classes"
            )
        labels.append(places[wordnet_id])
    return ClassSet(
        tuple(names[one] for one in classes), split, root, "imagenet",
        paths_column([str(folder / name) for name in pictures]), np.array(labels, dtype=np.int64), unused=unused,
    )  # fmt: skip


def _truth(root: Path, folder: Path) -> tuple[dict[str, str], Path]:
    """Picture's name without suffix -> WordNet id, and the file that says so."""
    homes = [base / name for base in (root, folder.parent) for name in TRUTH_HOMES]
    files = [home / name for name in (DEVKIT, KAGGLE, CAFFE) for home in homes if (home / name).is_file()]
    if not files:
        raise InputError(
            f"{folder}: pictures without class folders, and none of {DEVKIT}, {KAGGLE}, {CAFFE} in {root} to tell "
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
            picture, wordnet_id = reads(number, line, ids)
        except (ValueError, IndexError):
            wordnet_id = picture = ""
        if wordnet_id not in known:
            raise InputError(
                f"{file} line {number}: '{line[:60]}' names none of ImageNet's 1000 classes; fetch it anew"
            )
        result[picture] = wordnet_id
    return result, file


def _devkit_line(number: int, line: str, ids: list[str]) -> tuple[str, str]:
    return f"ILSVRC2012_val_{number:08d}", _at(ids, int(line) - 1)


def _kaggle_line(number: int, line: str, ids: list[str]) -> tuple[str, str]:
    picture, _, rest = line.partition(",")
    return picture, rest.split()[0]


def _caffe_line(number: int, line: str, ids: list[str]) -> tuple[str, str]:
    picture, label = line.split()
    return Path(picture).stem, _at(sorted(ids), int(label))


def _at(ids: list[str], place: int) -> str:
    if place < 0:
        raise IndexError(place)
    return ids[place]
