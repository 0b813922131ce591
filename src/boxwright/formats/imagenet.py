"""ImageNet as downloaded: one folder per class, named by WordNet id, and a flat validation folder."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.data.layout import Layout
from boxwright.data.source import Source
from boxwright.data.text import lines
from boxwright.errors import InputError
from boxwright.formats.folder import class_folders
from boxwright.formats.folder import read as read_folders
from boxwright.recipe import class_names

WORDNET_ID = re.compile(r"n\d{8}")
DATA_FOLDERS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # in the archives of image-net.org and Kaggle
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
# Label files of the flat validation folder: the devkit's, a number from 1 in ImageNet's order per line; Kaggle's; and
# Caffe's, the image and a number from 0 in the order of the WordNet ids.
DEVKIT, KAGGLE, CAFFE = "ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "val.txt"
TRUTH_FOLDERS = ("", "ILSVRC2012_devkit_t12/data", "devkit/data", "data", "val")


def find(root: Path) -> dict[str, Path]:
    """Split -> its folder, in the folder structure of any of the archives.

    Raises InputError if one split is ImageNet's and the other contains a folder with another name.
    """
    for folder in (root / name for name in DATA_FOLDERS):
        splits, invalid = {}, []
        for split in ("train", "val"):
            classes = class_folders(folder / split)
            flat = split == "val" and not classes and any((folder / split).glob("ILSVRC2012_val_*"))
            others = [folder / split / name for name in classes if not WORDNET_ID.fullmatch(name)]
            invalid += others
            if flat or (classes and not others):
                splits[split] = folder / split
        if splits and invalid:
            raise InputError(
                f"{invalid[0]}: not named after a WordNet id such as n01440764, unlike the folders in "
                f"{', '.join(map(str, splits.values()))} ({len(invalid)} in total), needed only ImageNet's classes; "
                "move it away, or use kind folder (data.kind in a recipe) for your own data"
            )
        if splits:
            return splits
    return {}


def read(source: Source) -> ClassSet:
    """Read a split; classes are in the order of their WordNet ids, with the names of the recipes.

    Raises InputError as `folder.read`, and if the labels of a flat validation folder are missing or do not match.
    """
    if not class_folders(source.path):
        return _flat(source)
    with_folders = tuple(other for other in source.others if class_folders(other))
    dataset = read_folders(replace(source, others=with_folders))
    names = imagenet_names()
    if unknown := [name for name in dataset.names if name not in names]:
        raise InputError(
            f"{source.path / unknown[0]}: not one of ImageNet's 1000 classes ({len(unknown)} in total); use kind "
            "folder (data.kind in a recipe) for your own data"
        )
    return replace(dataset, names=tuple(names[name] for name in dataset.names))


def imagenet_names() -> dict[str, str]:
    """WordNet id -> name, in ImageNet's order, which Darknet uses, too."""
    return dict(zip(class_names("imagenet_wordnet_ids"), class_names("imagenet_darknet"), strict=True))


def _flat(source: Source) -> ClassSet:
    """Read the flat validation folder, with the labels from their file."""
    folder, names = source.path, imagenet_names()
    train_classes = [name for other in source.others for name in class_folders(other)]
    classes = sorted(train_classes or names)
    files = sorted(entry.name for entry in folder.iterdir())
    images = [name for name in files if VALIDATION.fullmatch(name)]
    unused = tuple(str(folder / name) for name in files if not VALIDATION.fullmatch(name) and (folder / name).is_file())
    truth, file = _truth(source.root, folder)
    numbers = {wordnet_id: label for label, wordnet_id in enumerate(classes)}
    labels = []
    for name in images:
        wordnet_id = truth.get(name.rpartition(".")[0])
        if wordnet_id not in numbers:
            named = "nothing" if wordnet_id is None else f"class {wordnet_id}, which is not in train"
            raise InputError(
                f"{folder / name}: {file} says {named} of this image; needed one of {len(numbers)} classes"
            )
        labels.append(numbers[wordnet_id])
    columns = paths_column([str(folder / name) for name in images]), np.array(labels, np.int64)
    ordered_names = tuple(names[wordnet_id] for wordnet_id in classes)
    return ClassSet(ordered_names, source.split, source.root, source.kind, *columns, unused=unused)


def _truth(root: Path, folder: Path) -> tuple[dict[str, str], Path]:
    """Image name without suffix -> WordNet id, and the file with the labels."""
    folders = [base / name for base in (root, folder.parent) for name in TRUTH_FOLDERS]
    files = [parent / name for name in (DEVKIT, KAGGLE, CAFFE) for parent in folders if (parent / name).is_file()]
    if not files:
        raise InputError(
            f"{folder}: images without class folders, and none of {DEVKIT}, {KAGGLE}, {CAFFE} in {root} with "
            "their classes; put one there"
        )
    file = files[0]
    parse = {DEVKIT: _devkit_line, KAGGLE: _kaggle_line, CAFFE: _caffe_line}[file.name]
    ids = list(imagenet_names())
    valid_ids = set(ids)
    result = {}
    for number, line in lines(file):
        if file.name == KAGGLE and line.startswith("ImageId"):
            continue
        try:
            image, wordnet_id = parse(number, line, ids)
        except (ValueError, IndexError):
            wordnet_id = image = ""
        if wordnet_id not in valid_ids:
            raise InputError(
                f"{file} line {number}: '{line[:60]}' is not one of ImageNet's 1000 classes; fetch it again"
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


def _at(ids: list[str], index: int) -> str:
    if index < 0:
        raise IndexError(index)
    return ids[index]


LAYOUT = Layout(
    dataset_type=ClassSet,
    expected=f"train/n01440764/*.JPEG, and val/*.JPEG beside {DEVKIT}, {KAGGLE} or {CAFFE}",
    find=find,
    read=read,
)
