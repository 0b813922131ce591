"""Validation splits held out in memory: `data.val_fraction` of a data set without `val`.

The division depends only on the images and labels, so a resumed run and a later evaluation use the same one. It does
not depend on the seed, so runs with different seeds are compared on the same images.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.sets import Root, find_sets, shown
from boxwright.datatools.groups import group, keys_of
from boxwright.datatools.split import assign
from boxwright.errors import InputError
from boxwright.formats import YAML, splits
from boxwright.recipe import DataConfig, Recipe

logger = logging.getLogger(__name__)

Labels = TypeVar("Labels", Dataset, ClassSet)
PARTS = ("train", "val")


def open_split(open_named: Callable[[str], Labels], root: Root, split: str, config: DataConfig) -> Labels:
    """Open a split.

    Args:
        open_named: Opens a split of the data set by name.
        root: The data set.
        split: With `data.val_fraction` and no split `val` in the data set, `train` and `val` are the two parts of
            `train`, or of its only split.
        config: The section of the recipe.

    Raises:
        InputError: As `open_named`, or there are too few images to divide.
    """
    source = divided_split(root, split, config)
    if source is None:
        return open_named(split)
    dataset = open_named(source)
    sources = [dataset.source(index) for index in range(len(dataset))]
    groups = group(keys_of(dataset), sources, config.cache)
    part_of = assign(dataset, groups, {"train": 1 - config.val_fraction, "val": config.val_fraction})
    indices = np.flatnonzero(part_of == PARTS.index(split))
    if split == "val":
        logger.info(
            "val: %d of the %d images of %s (data.val_fraction %g)",
            len(indices), len(dataset), source, config.val_fraction,
        )  # fmt: skip
    return dataset.subset(indices).with_split(split)


def divided_split(root: Root, split: str, config: DataConfig) -> str | None:
    """The name of the split that `open_split` divides; None if `split` is in the data set as such."""
    if not config.val_fraction or split not in PARTS:
        return None
    names = splits(root, config.kind)
    return None if "val" in names else name_to_train_on(names)


def name_to_train_on(names: list[str]) -> str:
    """The split `train`, or the only split of a data set, such as `all`, unless that is `val` or `test`."""
    return names[0] if len(names) == 1 and names[0] not in ("val", "test") else "train"


def names_to_open(recipe: Recipe) -> tuple[str, str | None]:
    """The names of the splits to train on and to validate; None for no validation.

    Raises InputError if training evaluates and there is neither a split `val` nor `data.val_fraction`, and if there are
    both. The message names the two ways to create one.
    """
    data, root = recipe.data, recipe.data.root
    names, title = splits(root, data.kind), shown(root)
    if "val" in names and data.val_fraction:
        raise InputError(f"{title}: has a split val, needed none with --val-fraction; leave one of them out")
    # a file of labels serves as any split
    path = find_sets(root)
    is_file = isinstance(path, Path) and not path.is_dir() and path.suffix not in YAML
    if "val" in names or data.val_fraction or is_file:
        return PARTS
    if recipe.train.evaluate_every:
        raise InputError(
            f"{title}: holds only {', '.join(names)}, needed train and val; use --val-fraction 0.1, or "
            "`boxwright data split DIR -o NEW --parts train=0.8,val=0.2`"
        )
    return name_to_train_on(names), None
