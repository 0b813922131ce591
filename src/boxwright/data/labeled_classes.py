"""The classes that were looked for in each image of a partly labeled data set; other objects may be there unlabeled.

P images, T boxes, K classes
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError

KEY = "labelled_classes"  # of a data YAML and of an image in a COCO JSON
COCO_KEYS = (KEY, "neg_category_ids", "not_exhaustive_category_ids")


def limit_classes(dataset: Dataset, names: Sequence[str], source: str) -> Dataset:
    """The data set with the classes looked for limited to `names`. Raises InputError for unknown names.

    source: The file that contains the names, for messages.
    """
    if unknown := [name for name in names if name not in dataset.names]:
        raise InputError(
            f"{source}: {KEY}: '{unknown[0][:40]}' is not a class, needed some of {', '.join(dataset.names)[:80]}"
        )
    labeled = np.tile(np.isin(dataset.names, names), (len(dataset), 1))
    if dataset.images.labeled is not None:
        labeled &= dataset.images.labeled
    return replace(dataset, images=replace(dataset.images, labeled=labeled))


def to_coco(labeled: NDArray[np.bool_] | None, names: Sequence[str]) -> dict[str, list[str]]:
    """The keys of an image in a COCO JSON from (K,) as in Sample; none if all classes were looked for."""
    return {} if labeled is None or labeled.all() else {KEY: list(itertools.compress(names, labeled.tolist()))}


def of_coco(
    entries: Sequence[Mapping[str, object]],
    names: Sequence[str],
    category_ids: Sequence[int],
    rows: tuple[Array, Array],
    file: str,
) -> NDArray[np.bool_] | None:
    """(P, K) whether a class was looked for in an image; None if none of the images has a list.

    `labelled_classes` lists them directly. With the lists of LVIS (Gupta et al. 2019) they are the classes of the
    image's boxes and `neg_category_ids`, without `not_exhaustive_category_ids`.

    Args:
        entries: The images of a COCO JSON.
        names: The class names.
        category_ids: Ids of the classes.
        rows: (T,) the image and the label of each box.
        file: Name of the file in messages.

    Raises:
        InputError: A list names an unknown class.
    """
    limited = [index for index, entry in enumerate(entries) if any(key in entry for key in COCO_KEYS)]
    if not limited:
        return None
    labeled = np.ones((len(entries), len(names)), dtype=bool)
    present = np.zeros_like(labeled)
    has_class = rows[1] >= 0
    present[rows[0][has_class], rows[1][has_class]] = True
    by_name: dict[int | str, int] = {name: label for label, name in enumerate(names)}
    by_id: dict[int | str, int] = {number: label for label, number in enumerate(category_ids)}
    for index in limited:
        named, absent, partial = (
            _class_mask(entries[index], key, lookup, f"{file} images[{index}].{key}")
            for key, lookup in zip(COCO_KEYS, (by_name, by_id, by_id), strict=True)
        )
        if named is not None:
            labeled[index] &= named
        if absent is not None:
            labeled[index] &= absent | present[index]
        if partial is not None:
            labeled[index] &= ~partial
    return labeled


def _class_mask(
    entry: Mapping[str, object], key: str, lookup: Mapping[int | str, int], place: str
) -> NDArray[np.bool_] | None:
    """(K,) whether the list `key` of an entry contains a class; None without the list."""
    if key not in entry:
        return None
    values = entry[key]
    if not isinstance(values, list):
        raise InputError(f"{place}: found {type(values).__name__}, needed a list of classes")
    mask = np.zeros(len(lookup), dtype=bool)
    for value in values:
        if type(value) not in (int, str) or value not in lookup:
            raise InputError(f"{place}: found {repr(value)[:40]}, needed classes of `categories`")
        mask[lookup[value]] = True
    return mask
