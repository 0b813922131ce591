"""Images without objects that are added to a training set: `data.background`, `boxwright train --background`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.members import Member, Members
from boxwright.data.merge import join
from boxwright.data.source import Source
from boxwright.data.text import walk
from boxwright.errors import InputError
from boxwright.images.header import SUFFIXES
from boxwright.remote.folders import local_data

SPLIT = "background"  # name of the split in findings


def open_background(folders: Sequence[str], datasets: Sequence[Dataset]) -> Dataset:
    """The images in and below the folders, each once, as a split with the classes of the training set.

    Args:
        folders: One or more folders.
        datasets: The training set, then other splits, which must contain none of the images either.

    Raises:
        InputError: A folder is missing or has no images, or one of its images is in a data set.
    """
    files: dict[tuple[int, int] | str, str] = {}
    for folder in folders:
        path = local_data(folder, folder)
        if not path.is_dir():
            raise InputError(f"--background {folder}: there is no such folder; needed one of images without objects")
        found = walk(path, SUFFIXES)
        if not found:
            raise InputError(f"--background {folder}: holds no image ({', '.join(SUFFIXES)}); leave it out")
        files = dict(zip(map(_identity, found), found, strict=True)) | files
    for dataset in datasets:
        paths = map(dataset.path, range(len(dataset)))
        if common := next((path for path in paths if _identity(path) in files), None):
            raise InputError(f"--background: holds {common} of {dataset.split}, needed images of no split; move it")
    training, images = datasets[0], sorted(files.values())
    source = Source("images", Path(folders[0]), SPLIT, Path(", ".join(folders)))
    rows = Boxes.without_ids(np.zeros((0, 4)), (), ())
    background = Dataset.without_ids(source, training.names, images, [""], rows, [0] * len(images))
    ids = -background.images.ids  # negative, so that the ids of the training set stay
    return replace(background, category_ids=training.category_ids, images=replace(background.images, ids=ids))


def with_background(training: Dataset, background: Dataset) -> Dataset:
    """The images of the training set, followed by those without objects, which have weight 1."""
    joined = join([training, background])
    if training.members is None:
        return joined
    sets, places = training.members.sets, training.members.places
    first = sum(len(member.dataset) for member in sets)
    members = Members((*sets, Member(SPLIT, background)), np.concatenate([places, first + np.arange(len(background))]))
    return replace(joined, members=members)


def _identity(path: str) -> tuple[int, int] | str:
    """A key that is equal for all links to a file; the path of a missing file."""
    try:
        status = os.stat(path)  # noqa: PTH116  (100,000s)
    except OSError:
        return path
    return status.st_dev, status.st_ino
