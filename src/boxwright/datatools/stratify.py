"""Assignment of groups of images to splits, so that every split has its share of each class.

The order is that of the iterative stratification of K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the Stratification of
Multi-Label Data", ECML PKDD 2011: the class with the fewest images left is distributed first. There an example goes to
the split that still needs most images of its class. A group may be large and contain many classes, so here it goes to
the split where Pearson's chi-squared of the numbers of images, by class and in total, rises least.

P images, G groups, K splits, C classes; images without a box count as an additional class
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Table:
    """Nonzero numbers of images of each class in each group.

    groups, labels, counts: columns, sorted by group. starts: (G + 1,) the rows of each group.
    """

    groups: Rows
    labels: Rows
    counts: Rows
    starts: Rows


def stratify(dataset: Dataset | ClassSet, groups: Rows, shares: Sequence[float], seed: int = 0) -> Rows:
    """Assign images to splits.

    Args:
        dataset: P images with labels.
        groups: (P,) images with the same number stay together; there are at least K groups.
        shares: K fractions of the images, with the sum 1.
        seed: Seed of the order of otherwise equal groups.

    Returns:
        (P,) the index of each image's split. Every split has at least one group.
    """
    _, groups = np.unique(groups, return_inverse=True)
    groups = groups.reshape(-1)
    images, labels, classes = image_classes(dataset)
    sizes = np.bincount(groups)
    table = _tabulate(groups[images], labels, len(sizes), classes)
    split_of = _distribute(table, sizes, np.array(shares, dtype=np.float64), classes, seed)
    _fill_empty(split_of, sizes, np.array(shares) * len(groups))
    return split_of[groups]


def image_classes(dataset: Dataset | ClassSet) -> tuple[Rows, Rows, int]:
    """Images and the classes that they contain, one pair per row, and the number of classes including "no box".

    Crowd regions and labels of unknown categories do not count.
    """
    count = len(dataset.names)
    if isinstance(dataset, ClassSet):
        return np.arange(len(dataset)), dataset.labels, count
    valid = (dataset.rows.labels >= 0) & ~dataset.rows.crowd
    pairs = np.stack([dataset.image_indices(), dataset.rows.labels], axis=1)[valid]
    pairs = np.unique(pairs, axis=0).reshape(-1, 2)
    bare = np.setdiff1d(np.arange(len(dataset)), pairs[:, 0])
    pairs = np.concatenate([pairs, np.stack([bare, np.full(len(bare), count)], axis=1)])
    return pairs[:, 0], pairs[:, 1], count + 1


def _tabulate(groups: Rows, labels: Rows, total: int, classes: int) -> _Table:
    keys, counts = np.unique(groups * classes + labels, return_counts=True)
    groups = keys // classes
    return _Table(groups, keys % classes, counts, np.searchsorted(groups, np.arange(total + 1)))


def _distribute(table: _Table, sizes: Rows, shares: NDArray[np.float64], classes: int, seed: int) -> Rows:
    """(G,) the split of each group."""
    left = np.bincount(table.labels, table.counts, minlength=classes)  # images of each class not yet assigned
    expected, total = shares[:, None] * left, shares * sizes.sum()  # (K, C), (K,) images
    need, room = expected.copy(), total.copy()  # images that are still missing
    random = np.random.default_rng(seed).permutation(len(sizes))
    split_of = np.full(len(sizes), -1)
    # by class; within a class, groups with most of its images first, while the splits have room for them
    order = np.lexsort((random[table.groups], -table.counts, table.labels))
    starts = np.searchsorted(table.labels[order], np.arange(classes + 1))
    while (left > 0).any():
        label = int(np.where(left > 0, left, np.inf).argmin())
        for group in table.groups[order[starts[label] : starts[label + 1]]].tolist():
            if split_of[group] >= 0:
                continue
            own = slice(table.starts[group], table.starts[group + 1])
            labels, counts, size = table.labels[own], table.counts[own], sizes[group]
            # (missing - count)^2 / expected is lower than missing^2 / expected by:
            gain = (counts * (2 * need[:, labels] - counts) / expected[:, labels]).sum(axis=1)
            gain += size * (2 * room - size) / total
            chosen = int(gain.round(6).argmax())  # rounded, so that the first split wins ties
            split_of[group] = chosen
            need[chosen, labels] -= counts
            left[labels] -= counts
            room[chosen] -= size
    return split_of


def _fill_empty(split_of: Rows, sizes: Rows, wanted: NDArray[np.float64]) -> None:
    """Move the smallest group of the split with the largest surplus to each split without a group, in place."""
    for split in range(len(wanted)):
        if (split_of == split).any():
            continue
        surplus = np.bincount(split_of, sizes, minlength=len(wanted)) - wanted
        surplus[np.bincount(split_of, minlength=len(wanted)) < 2] = -np.inf
        donors = np.flatnonzero(split_of == surplus.argmax())
        split_of[donors[sizes[donors].argmin()]] = split
