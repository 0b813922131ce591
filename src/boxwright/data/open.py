"""Data sets of boxes and of classes, opened by one call."""

from pathlib import Path

from boxwright.data import Dataset
from boxwright.data import open_dataset as open_boxes
from boxwright.data.class_dataset import ClassSet
from boxwright.data.classes import FINDERS, holds_classes, open_classes
from boxwright.recipe import Recipe


def open_dataset(root: str | Path, split: str = "train", kind: str = "auto") -> Dataset | ClassSet:
    """Open one split of a data set.

    Args:
        root: A folder, a COCO JSON, or a YAML file that says what lies where (docs/data.md).
        split: `train`, `val`, `test`, or another that the folder holds.
        kind: The layout; `auto` finds it out.

    Returns:
        A `Dataset` of boxes, or a `ClassSet` where pictures lie in one folder a class.

    Raises:
        InputError: When nothing or more than one thing is found, and for files that cannot be read.
    """
    if kind in FINDERS or (kind == "auto" and holds_classes(root)):
        return open_classes(root, split, kind)
    return open_boxes(root, split, kind)


def open_labelled(root: str | Path, split: str, recipe: Recipe) -> Dataset | ClassSet:
    """One split of the kind of data set that the recipe's task needs, as `recipe.data` says. Raises InputError as
    `open_dataset` does."""
    if recipe.model.task == "classify":
        return open_classes(root, split, recipe.data.kind)
    return open_boxes(root, split, recipe.data.kind, recipe.data.cache)
