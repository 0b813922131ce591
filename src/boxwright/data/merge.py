"""Merging of several data sets, with classes matched by name, or of several splits of one."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.class_dataset import ClassSet
from boxwright.data.class_map import check_keys, common_names, in_order, lacking, map_classes
from boxwright.data.dataset import Boxes, Dataset, Images
from boxwright.data.layout import Labels
from boxwright.data.members import Member, Members
from boxwright.data.sets import SetConfig, Sets
from boxwright.data.split_names import STANDARD, canonical_name
from boxwright.errors import InputError, MissingSplitError

T = TypeVar("T", bound=np.generic)


def open_sets(
    found: Sets, split: str, open_split: Callable[[str, str], Labels], splits_of: Callable[[str], Sequence[str]]
) -> Labels:
    """Open several sets and merge them. A set without the split adds only its classes, and a note.

    Args:
        found: The sets.
        split: The split of each set.
        open_split: Opens a set's path and a split of it, without the set's `class_map`.
        splits_of: The splits of a set's path.

    Raises:
        InputError: A set cannot be opened, no set has the split, a class map has a class that its set lacks, or as in
            `concat`.
    """

    def all_names(entry: SetConfig) -> dict[str, None]:
        """The classes of all splits."""
        return {name: None for subset in splits_of(entry.path) for name in open_split(entry.path, subset).names}

    def all_new_names() -> dict[str, None]:
        """The classes of all sets, after their class maps."""
        return {entry.class_map.get(name, name): None for entry in found.sets for name in all_names(entry)}

    members, missing = [], []
    for entry in found.sets:
        try:
            _reject_other_split(entry.path, split, splits_of)
            dataset = open_split(entry.path, split)
        except MissingSplitError as error:
            missing.append(error)
            note = f"{entry.path}: has no split {split}"
            dataset = replace(open_split(entry.path, splits_of(entry.path)[0]).subset([]), split=split, notes=(note,))
        check_keys(entry.class_map, dataset.names, entry.path, partial(all_names, entry))
        members.append(Member(entry.path, map_classes(dataset, entry.class_map, entry.path), entry.weight))
    if len(missing) == len(members):
        raise missing[0]
    names = {name for member in members for name in member.dataset.names}
    check_keys(found.class_map, names, found.title, all_new_names)
    mapped = [replace(member, dataset=map_classes(member.dataset, found.class_map, member.title)) for member in members]
    result: Labels = concat(mapped, split, Path(found.title), found.names)
    return result


def _reject_other_split(path: str, split: str, splits_of: Callable[[str], Sequence[str]]) -> None:
    """Raise MissingSplitError if `path` is a file of labels whose name says another split, such as `train.json`.

    Alone, such a file serves as any split, but beside other sets its images would be in several splits.
    """
    own = [] if os.path.isdir(path) else splits_of(path)  # noqa: PTH112  (False for a name that is too long)
    if len(own) == 1 and own[0] in STANDARD and own[0] != canonical_name(split):
        raise MissingSplitError(f"{path}: no split '{split}'; it holds {own[0]}")


def concat(members: Sequence[Member], split: str, root: Path, names: tuple[str, ...] | None = None) -> Any:
    """Concatenate sets: the images of the first, then those of the second, ...

    Ids of images, annotations and categories are new (from 1, 1 and 0); `members` of the result has the original sets.
    Images were not searched for classes that their set lacks. Memory: twice that of the labels.

    Args:
        members: Sets of boxes, or sets of images with classes.
        split: Split of the result.
        root: Root of the result, for messages.
        names: The classes in label order; None for those of all sets, in order of first appearance.

    Raises:
        InputError: A set has a class that is not in `names`, or images in files are mixed with others.
    """
    found = common_names(members, names)
    datasets = [member.dataset for member in members]
    places = np.arange(sum(map(len, datasets)), dtype=np.int64)
    kind = ", ".join(dict.fromkeys(dataset.kind for dataset in datasets))
    notes = tuple(note for dataset in datasets for note in dataset.notes) + tuple(lacking(members, found))
    sets = Members(tuple(members), places)
    if isinstance(datasets[0], ClassSet):
        return _concat_classes(datasets, found, split, root, kind, sets, notes)
    images, rows, starts = _columns([_in_classes(dataset, found) for dataset in datasets])
    images, rows = replace(images, ids=places + 1), replace(rows, ids=np.arange(1, len(rows) + 1))
    return Dataset(found, tuple(range(len(found))), split, root, kind, images, rows, starts, members=sets, notes=notes)


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Concatenate several splits of a data set. Ids are renumbered from 1 if two splits share one.

    Raises InputError if two splits have different classes.
    """
    first = datasets[0]
    for dataset in datasets:
        if (dataset.names, dataset.category_ids) != (first.names, first.category_ids):
            raise InputError(
                f"{first.root}: classes of {dataset.split} differ from those of {first.split}, so the splits cannot "
                "be divided together; make them the same"
            )
    images, rows, starts = _columns(datasets)
    return replace(first, images=images, rows=rows, starts=starts, findings=())


def _columns(datasets: Sequence[Dataset]) -> tuple[Images, Boxes, NDArray[np.int64]]:
    """The images and rows of data sets with the same classes, and where the rows of each image start."""
    rows = Boxes(*(_joined(getattr(dataset.rows, name) for dataset in datasets) for name in Boxes.__slots__))
    images = Images(
        ids=_unique_ids(_joined(dataset.images.ids for dataset in datasets)),
        paths=_joined(dataset.images.paths for dataset in datasets),
        sizes=_joined(dataset.images.sizes for dataset in datasets),
        label_files=_joined(_label_files(dataset) for dataset in datasets),
        labeled=_labeled(datasets),
    )
    starts = np.concatenate([[0], np.cumsum(_joined(np.diff(dataset.starts) for dataset in datasets))])
    return images, replace(rows, ids=_unique_ids(rows.ids)), starts.astype(np.int64)


def _unique_ids(ids: Array) -> Array:
    return ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1)


def _labeled(datasets: Sequence[Dataset]) -> NDArray[np.bool_] | None:
    """(P, K) the classes that were looked for in each image; None if all classes were in all images."""
    columns = [dataset.images.labeled for dataset in datasets]
    sizes = [(len(dataset), len(dataset.names)) for dataset in datasets]
    labeled: NDArray[np.bool_] = _joined(
        np.ones(size, dtype=bool) if column is None else column for column, size in zip(columns, sizes, strict=True)
    )
    return None if labeled.all() else labeled


def _in_classes(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """The data set with the classes `names`; its images were not searched for classes that it lacks. Ids of categories
    become the labels; unknown categories keep their ids."""
    own, order = dataset.rows.labels, in_order(dataset, names)
    labels = np.where(own >= 0, np.append(order, 0)[np.maximum(own, 0)], own)  # 0: for sets without classes, too
    rows = replace(dataset.rows, labels=labels, categories=np.where(own >= 0, labels, dataset.rows.categories))
    labeled = np.zeros((len(dataset), len(names)), dtype=bool)
    labeled[:, order] = True if dataset.images.labeled is None else dataset.images.labeled
    return replace(dataset, names=names, rows=rows, images=replace(dataset.images, labeled=labeled))


def _label_files(dataset: Dataset) -> Array:
    """(P,) the label file of each image."""
    files = dataset.images.label_files
    if len(files) > 1:
        return files
    return np.repeat(files if len(files) else np.array([b""]), len(dataset))


def _concat_classes(
    datasets: Sequence[ClassSet],
    names: tuple[str, ...],
    split: str,
    root: Path,
    kind: str,
    members: Members,
    notes: tuple[str, ...],
) -> ClassSet:
    shapes = {None if dataset.pixels is None else dataset.pixels.shape[1:] for dataset in datasets}
    if len(shapes) > 1:
        raise InputError(f"{root}: found images as separate files and in a single file (cifar10); needed one kind")
    pixels = None if shapes == {None} else _joined(dataset.pixels for dataset in datasets if dataset.pixels is not None)
    labels: NDArray[np.int64] = _joined(in_order(dataset, names)[dataset.labels] for dataset in datasets)
    paths = _joined(dataset.paths for dataset in datasets)
    unused = tuple(file for dataset in datasets for file in dataset.unused)
    folders = any(dataset.class_folders for dataset in datasets)
    return ClassSet(names, split, root, kind, paths, labels, pixels, unused, folders, members, notes)


def _joined(columns: Iterable[NDArray[T]]) -> NDArray[T]:
    return np.concatenate([*columns])
