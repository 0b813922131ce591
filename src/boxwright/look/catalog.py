"""List of the images of all splits of a labeled set, and filters over it.

    P images of all splits, T boxes of one split

An image's number in the list is its id for the page. Filters are operations on whole columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright import formats
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.sets import Sets, find_sets
from boxwright.data.split_names import canonical_name, canonical_names
from boxwright.errors import InputError

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # px of area, as in COCO


@dataclass(slots=True)
class OpenSplit:
    """A split of the set.

    Attributes:
        name: Name of the split, as in other commands.
        first: Id of its first image.
        dataset: Its labels.
        labels: (K + 2,) index in `Catalog.classes` of each of its classes, by label; -1 for labels below 0.
        message: Why it could not be opened; `dataset` is None then.
    """

    name: str
    first: int
    dataset: Dataset | None
    labels: NDArray[np.int64]
    message: str = ""

    def __len__(self) -> int:
        return 0 if self.dataset is None else len(self.dataset)


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of the list of images. "" or None for no condition.

    Attributes:
        split: Split of the images.
        name: Class of an object; that object also has `size`.
        size: Size of an object: small, medium or large.
    """

    split: str = ""
    name: str = ""
    size: str = ""


class Catalog:
    """All images of a set.

    Args:
        data: Address of the set, as the user wrote it.
        kind: Its layout, or `auto`.
        only: The only split to open; None for all.

    Raises:
        InputError: `data` is not a labeled set with boxes, or no split of it can be opened.
    """

    def __init__(self, data: str, kind: str = "auto", only: str | None = None) -> None:
        self.data, self.root = data, find_sets(data)
        self.kind, available = _layout(self.root, kind)
        faults = list[InputError]()
        found = list[tuple[str, Dataset | None, str]]()
        for name in [only] if only is not None else available:
            try:
                found.append((name, formats.open_boxes(self.root, name, self.kind), ""))
            except InputError as error:
                faults.append(error)
                found.append((name, None, str(error)))
        if len(faults) == len(found):
            raise faults[0]
        names = dict.fromkeys(name for _, dataset, _ in found if dataset is not None for name in dataset.names)
        self.classes: tuple[str, ...] = tuple(names)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.splits: list[OpenSplit] = []
        first = 0
        for name, dataset, message in found:
            own = () if dataset is None else dataset.names
            labels = np.array([*(numbers[each] for each in own), -1, -1], dtype=np.int64)  # labels -2 and -1 are last
            self.splits.append(OpenSplit(name, first, dataset, labels, message))
            first += len(self.splits[-1])
        self.count = first

    @property
    def layout(self) -> str:
        """Layout of the labels; for several sets, all of their layouts."""
        kinds = {split.dataset.kind for split in self.splits if split.dataset is not None}
        return ", ".join(sorted(kinds))

    def place(self, image: int) -> tuple[OpenSplit, Dataset, int]:
        """The split of an image, its labels, and the index there. Raises InputError for an invalid id."""
        for split in self.splits:
            if split.dataset is not None and split.first <= image < split.first + len(split):
                return split, split.dataset, image - split.first
        raise InputError(f"image {image}: there is none, needed an id below {self.count}")

    def name(self, image: int) -> str:
        """Path of an image, relative to the folder of the set if it is in it."""
        _, dataset, index = self.place(image)
        return dataset.short_path(index)

    def rows(self, image: int) -> Boxes:
        """The objects of an image."""
        _, dataset, index = self.place(image)
        return dataset.rows.take(np.arange(dataset.starts[index], dataset.starts[index + 1]))

    def replace_rows(self, image: int, rows: Boxes, deleted: Sequence[int] = ()) -> None:
        """Set the objects of an image. deleted: entries that were removed from the label file of all images."""
        split, dataset, index = self.place(image)
        start, end = int(dataset.starts[index]), int(dataset.starts[index + 1])
        old = dataset.rows
        if deleted:
            old = replace(old, entries=old.entries - np.searchsorted(sorted(deleted), old.entries))
        columns = {
            name: np.concatenate([getattr(old, name)[:start], getattr(rows, name), getattr(old, name)[end:]])
            for name in Boxes.__slots__
        }
        starts = dataset.starts.copy()
        starts[index + 1 :] += len(rows) - (end - start)
        split.dataset = replace(dataset, rows=Boxes(**columns), starts=starts)

    def read_again(self, split: OpenSplit) -> None:
        """Read the labels of a split whose files have changed. Raises InputError if its images or classes have, too."""
        old, new = split.dataset, formats.open_boxes(self.root, split.name, self.kind)
        assert old is not None
        if old.names != new.names or not np.array_equal(old.images.paths, new.images.paths):
            raise InputError(f"{new.label_file(0)}: has other images or classes now; start `boxwright look` again")
        split.dataset = new

    def select(self, filters: Filters) -> NDArray[np.bool_]:
        """(P,) images that match the filters. Raises InputError for an unknown split, class or size."""
        mask = np.zeros(self.count, dtype=bool)
        for split in self._chosen(filters.split):
            dataset = split.dataset  # replaced after a change of labels
            assert dataset is not None
            own = slice(split.first, split.first + len(dataset))
            if not filters.name and not filters.size:
                mask[own] = True
                continue
            rows = self.row_mask(split, dataset.rows, filters)
            counts = np.concatenate([[0], np.cumsum(rows)])
            mask[own] = np.diff(counts[dataset.starts]) > 0
        return mask

    def row_mask(self, split: OpenSplit, rows: Boxes, filters: Filters) -> NDArray[np.bool_]:
        """(T,) mask of the objects of a class and size."""
        mask = np.ones(len(rows), dtype=bool)
        if filters.name:
            mask &= split.labels[rows.labels] == self.class_number(filters.name)
        if filters.size:
            mask &= in_size(rows.areas, filters.size)
        return mask

    def class_number(self, name: str) -> int:
        """Index of a class. Raises InputError for an unknown class."""
        if name not in self.classes:
            raise InputError(f"class: there is no '{name[:60]}' in this set")
        return self.classes.index(name)

    def _chosen(self, name: str) -> Iterable[OpenSplit]:
        if name and name not in {split.name for split in self.splits}:
            raise InputError(f"split: there is no '{name[:60]}', needed {', '.join(s.name for s in self.splits)}")
        return [split for split in self.splits if split.dataset is not None and name in ("", split.name)]

    def object_counts(self, images: Sequence[int]) -> list[int]:
        """The number of objects of each image."""
        counts = []
        for image in images:
            _, dataset, index = self.place(image)
            counts.append(int(dataset.starts[index + 1] - dataset.starts[index]))
        return counts

    def by_split_and_name(self) -> Mapping[tuple[str, str], int]:
        """Canonical name of a split and short name -> id, of all images."""
        found: dict[tuple[str, str], int] = {}
        for split in self.splits:
            if split.dataset is not None:
                name = canonical_name(split.name)
                for index in range(len(split)):
                    key = name, split.dataset.short_path(index)
                    found.setdefault(key, split.first + index)
        return found


def _layout(root: Path | Sets, kind: str) -> tuple[str, list[str]]:
    """Layout, so that it is detected once instead of for each split, and splits. Several sets keep `kind`."""
    if isinstance(root, Sets):
        return kind, formats.splits(root, kind)
    sources = formats.find(root, kind)
    kinds = {source.kind for source in sources.values()}
    in_folder = root.is_dir() and any(source.data_file for source in sources.values())  # a YAML, read with `auto` only
    return kind if in_folder or len(kinds) > 1 else kinds.pop(), canonical_names(sources)


def in_size(areas: NDArray[np.float64], size: str) -> NDArray[np.bool_]:
    """Mask of the areas, px, in a size range. Raises InputError if `size` is not in `SIZES`."""
    if size not in SIZES:
        raise InputError(f"size: found '{size[:20]}', needed {', '.join(SIZES)}")
    low, high = SIZES[size]
    mask: NDArray[np.bool_] = (areas >= low) & (areas < high)
    return mask
