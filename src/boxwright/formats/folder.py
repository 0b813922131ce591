"""Images in one folder per class, such as `train/cat/1.jpg`."""

import os
from itertools import chain
from pathlib import Path

import numpy as np

from boxwright.config import class_name_fault
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.data.layout import Layout
from boxwright.data.source import Source
from boxwright.data.split_names import canonical_name
from boxwright.data.text import subfolders, walk
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.progress import track

SPLITS = {"train", "val", "test"}


def find(root: Path) -> dict[str, Path]:
    """Split -> the parent of its class folders."""
    splits = {
        entry.name: entry for entry in subfolders(root) if canonical_name(entry.name) in SPLITS and class_folders(entry)
    }
    if splits:
        return splits
    files = (file for name in class_folders(root) for file in os.listdir(root / name))  # noqa: PTH208
    return {"all": root} if any(file.lower().endswith(SUFFIXES) for file in files) else {}


def read(source: Source) -> ClassSet:
    """Read a split; its folders are the classes, sorted by name.

    Raises InputError if splits have different classes, if a class has no image in a training split, and if a split has
    no image.
    """
    folder, split = source.path, source.split
    classes = class_folders(folder)
    for other in source.others:
        _same_classes(folder, classes, other, class_folders(other))
    files = [
        [str(file) for file in walk(folder / name, ("",))]
        for name in track(classes, len(classes), f"looking for images of {split}", "classes")
    ]
    images = [[file for file in each if file.lower().endswith(SUFFIXES)] for each in files]
    counts = [len(each) for each in images]
    if canonical_name(split) in {"train", "all"} and 0 in counts:
        empty = folder / classes[counts.index(0)]
        raise InputError(
            f"{empty}: holds no image ({counts.count(0)} classes without images), needed one or more; put images "
            "there, remove the class from all splits, or move the folder if it is no class"
        )
    if not any(counts):
        raise InputError(f"{folder}: its {len(classes)} class folders hold no image; put {', '.join(SUFFIXES)} there")
    unused = [file for file in chain(*files) if not file.lower().endswith(SUFFIXES)]
    unused += sorted(str(entry) for entry in folder.iterdir() if entry.is_file())
    labels = np.repeat(np.arange(len(classes)), counts)
    paths = paths_column([*chain(*images)])
    return ClassSet(
        tuple(classes), split, source.root, source.kind, paths, labels, unused=tuple(unused), class_folders=True
    )


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders. Raises InputError for an invalid class name."""
    names = [entry.name for entry in subfolders(folder) if not entry.name.startswith(".")]
    for name in names:
        if fault := class_name_fault(name):
            raise InputError(f"{folder / name}: {fault}")
    return names


def _same_classes(first: Path, classes: list[str], second: Path, others: list[str]) -> None:
    for folder, own, other, theirs in ((first, classes, second, others), (second, others, first, classes)):
        if missing := sorted(set(own) - set(theirs)):
            raise InputError(
                f"{folder / missing[0]}: {other} has no folder for this class ({len(missing)} missing), and a class's "
                "label is the index of its folder; make them the same in all splits (an empty folder will do for val, "
                "test)"
            )


# a fallback, since ImageNet and much detection data also consist of folders of images
LAYOUT = Layout(
    dataset_type=ClassSet,
    expected="train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg (the split `all`)",
    find=find,
    read=read,
    fallback=True,
)
