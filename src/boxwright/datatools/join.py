"""Several splits of one data set as one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from boxwright.arrays import Array
from boxwright.data.dataset import Boxes, Dataset, Images, paths_column
from boxwright.data.layout import Extras
from boxwright.errors import InputError


def join(parts: Sequence[tuple[Dataset, Extras]]) -> tuple[Dataset, Extras]:
    """The images of all splits, in their order. Ids are numbered anew from 1 if two splits share one.

    Raises InputError if two splits have different classes, or one has annotations without an image.
    """
    datasets = [dataset for dataset, _ in parts]
    first = datasets[0]
    for dataset in datasets:
        if (dataset.names, dataset.category_ids) != (first.names, first.category_ids):
            raise InputError(
                f"{first.root}: classes of {dataset.split} differ from those of {first.split}, so they cannot be "
                "divided together; make them the same"
            )
    if len(parts) == 1:
        return parts[0]
    rows = Boxes(*(np.concatenate([getattr(each.rows, name) for each in datasets]) for name in Boxes.__slots__))
    rows = replace(rows, ids=_unique_ids(rows.ids))
    labeled = [each.images.labeled for each in datasets]
    images = Images(
        labeled=None
        if all(column is None for column in labeled)
        else np.concatenate(
            [
                np.ones((len(each), len(each.names)), dtype=bool) if column is None else column
                for each, column in zip(datasets, labeled, strict=True)
            ]
        ),
        ids=_unique_ids(np.concatenate([each.images.ids for each in datasets])),
        paths=paths_column([each.path(index) for each in datasets for index in range(len(each))]),
        sizes=np.concatenate([each.images.sizes for each in datasets]),
        label_files=paths_column([each.label_file(index) for each in datasets for index in range(len(each))]),
    )
    starts = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(each.starts) for each in datasets]))])
    joined = replace(first, images=images, rows=rows, starts=starts.astype(np.int64), findings=())
    extras = Extras(
        [keys for _, each in parts for keys in each.rows],
        [keys for _, each in parts for keys in each.images],
        parts[0][1].classes,
        parts[0][1].dataset,
    )
    return joined, extras


def _unique_ids(ids: Array) -> Array:
    return ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1)
