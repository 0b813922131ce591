"""A data set for classification in columns, independent of its layout on disk.

P images, C classes, h x w px of an image
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.members import Members
from boxwright.errors import InputError


@dataclass(frozen=True, slots=True)
class ClassSample:
    """One image and its class."""

    image_id: int  # index in the data set
    path: str  # of its file, for CIFAR with the index of the record
    label: int
    pixels: NDArray[np.uint8] | None = None  # (h, w, 3) RGB if the image is not a separate file

    def image(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB. Raises InputError if the file is not a readable image."""
        from boxwright.images.decode import read_image  # imports torch, which opening a data set does not need

        return read_image(self.path) if self.pixels is None else self.pixels


@dataclass(frozen=True, slots=True)
class ClassSet:
    """One split of a data set for classification."""

    names: tuple[str, ...]  # classes in label order
    split: str
    root: Path  # the folder or file that was opened
    kind: str  # name of the layout
    paths: Array  # (P,) bytes, as in the file system
    labels: NDArray[np.int64]  # (P,)
    pixels: NDArray[np.uint8] | None = None  # (P, 3, h, w) RGB if all images are in one file
    unused: tuple[str, ...] = ()  # files in the folders of images that are not images, for `check`
    class_folders: bool = False  # there is a folder of images per class
    members: Members | None = None  # the sets, if it was merged from several (`data/merge.py`)
    notes: tuple[str, ...] = ()  # changes by `class_map` and by merging sets

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ClassSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        pixels = None if self.pixels is None else self.pixels[index].transpose(1, 2, 0)
        return ClassSample(index, self.path(index), int(self.labels[index]), pixels)

    def path(self, index: int) -> str:
        """The file of an image, for CIFAR with the index of the record."""
        return os.fsdecode(self.paths[index].item())

    def source(self, index: int) -> str | Array:
        """The input of a predictor: the file of an image, or (h, w, 3) uint8 RGB if it is not a separate file."""
        return self.path(index) if self.pixels is None else self.pixels[index].transpose(1, 2, 0)

    def label_paths(self) -> list[str]:
        """An empty list, since there are no label files."""
        return []

    def folders(self) -> set[str]:
        """The folders of the images and, with a folder per class, their parent folders."""
        inner = {os.path.dirname(self.path(index)) for index in range(len(self))}  # noqa: PTH120  (1,000,000s)
        return inner | ({os.path.dirname(folder) for folder in inner} if self.class_folders else set())  # noqa: PTH120

    def counts(self) -> NDArray[np.int64]:
        """(C,) number of images of each class."""
        return np.bincount(self.labels, minlength=len(self.names))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "ClassSet":
        """The data set of the images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        pixels = None if self.pixels is None else self.pixels[chosen]
        members = self.members and self.members.take(chosen)
        return replace(self, paths=self.paths[chosen], labels=self.labels[chosen], pixels=pixels, members=members)

    def with_split(self, split: str) -> "ClassSet":
        """The same images, as the split `split`."""
        return replace(self, split=split)

    def ordered(self, names: Sequence[str]) -> "ClassSet":
        """The same images with labels in the order of `names`, which may contain more classes.

        Raises InputError if a class of the data set is not in `names`.
        """
        label_of = {name: label for label, name in enumerate(names)}
        if missing := [name for name in self.names if name not in label_of]:
            sets = self.members.sets if self.members else ()
            title = next((member.title for member in sets if missing[0] in member.dataset.names), self.root)
            raise InputError(
                f"{title}: class {missing[0]} of split {self.split} ({len(missing)} in total) is not one of the "
                f"{len(label_of)} known classes ({_few(names)}); rename its folder, or use weights for these classes"
            )
        order = np.array([label_of[name] for name in self.names], dtype=np.int64)
        return replace(self, names=tuple(names), labels=order[self.labels])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
