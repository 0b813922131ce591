"""The images and labels of an audit: the splits of one data set, joined.

P images, T boxes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from boxwright import formats
from boxwright.data.dataset import Dataset
from boxwright.data.merge import join
from boxwright.data.sets import Root, shown
from boxwright.data.split_names import canonical_name
from boxwright.datatools.check import check
from boxwright.datatools.clean import UNUSABLE, Cleaning
from boxwright.datatools.groups import keys_of, keys_of_evaluation
from boxwright.errors import InputError
from boxwright.formats import open_boxes


@dataclass(frozen=True, slots=True)
class Subject:
    """Images with labels.

    Attributes:
        dataset: The images of all splits, one split after the other, with ids that may be new.
        splits: The names of the splits.
        split_of: (P,) index of each image's split.
        keys: P keys; images with the same key are copies, tiles of a scene or frames of a video.
        ids: (T,) ids of the boxes in their split.
        left_out: A line for each label and image that `--skip-bad` left out.
    """

    dataset: Dataset
    splits: tuple[str, ...]
    split_of: NDArray[np.int64]
    keys: tuple[str, ...]
    ids: NDArray[np.int64]
    left_out: tuple[str, ...] = ()

    def paths(self) -> list[str]:
        """The files of the images."""
        return [self.dataset.path(index) for index in range(len(self.dataset))]


def open_subject(
    root: Root, splits: Sequence[str] = (), kind: str = "auto", by: str = "image", *, skip_bad: bool = False
) -> Subject:
    """Open splits of a data set.

    Args:
        root: The data set.
        splits: Names of splits; () for all.
        kind: The layout; `auto` detects it.
        by: Images that stay together, as in `groups.keys_of`.
        skip_bad: Drop labels and images that cannot be used.

    Raises:
        InputError: It cannot be read, has no image, has labels that cannot be used, or consists of several sets.
    """
    found = formats.splits(root, kind)
    names = [name if name in found else canonical_name(name) for name in dict.fromkeys(splits)] or found
    datasets, keys, left_out = [], list[str](), list[str]()
    for name in names:
        complete = open_boxes(root, name, kind).without_group()
        if complete.members is not None:
            raise InputError(f"{shown(root)}: lists several sets, needed one; audit each by itself")
        of_images = keys_of_evaluation(complete) if by == "image" else keys_of(complete, by)
        numbered = replace(complete, images=replace(complete.images, ids=np.arange(len(complete))))
        cleaning = Cleaning(skip_bad, kinds=UNUSABLE)
        clean, lines = cleaning.apply(numbered, check(numbered), shown(root))
        kept = clean.images.ids
        keys += [of_images[index] for index in kept.tolist()]
        datasets.append(replace(clean, images=replace(clean.images, ids=complete.images.ids[kept])))
        left_out += lines
    if not sum(map(len, datasets)):
        raise InputError(f"{shown(root)}: holds no image, needed some")
    return Subject(
        join(datasets) if len(datasets) > 1 else datasets[0],
        tuple(names),
        np.repeat(np.arange(len(datasets)), [len(dataset) for dataset in datasets]),
        tuple(keys),
        np.concatenate([dataset.rows.ids for dataset in datasets]),
        tuple(left_out),
    )
