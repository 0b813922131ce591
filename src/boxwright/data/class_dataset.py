"""A set of images with one class each as flat arrays, whatever files it came from.

P images, C classes, h x w px of an image
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import Array
from boxwright.errors import InputError


@dataclass(frozen=True, slots=True)
class ClassSample:
    """One image and its class.

    image_id: place in the data set. path: its file, for CIFAR with the record in it. label: from 0.
    pixels: (h, w, 3) uint8 RGB where the image has no file of its own; None: `path` is to be decoded.
    """

    image_id: int
    path: str
    label: int
    pixels: NDArray[np.uint8] | None = None

    def image(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB. Raises InputError when the file cannot be read as an image."""
        from boxwright.images.canvas import read_image  # brings torch, which opening a data set can do without

        return read_image(self.path) if self.pixels is None else self.pixels


@dataclass(frozen=True, slots=True)
class ClassSet:
    """One split. names: classes in label order. kind: the layout it was read from.

    paths (P,) bytes as the file system has them. labels (P,) int64. pixels (P, 3, h, w) uint8 RGB where all images
    lie in one file. unused: files among the images that are none, kept so that `check` names them. class_folders:
    images lie in one folder a class.
    """

    names: tuple[str, ...]
    split: str
    root: Path
    kind: str
    paths: Array
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8] | None = None
    unused: tuple[str, ...] = ()
    class_folders: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ClassSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        pixels = None if self.pixels is None else self.pixels[index].transpose(1, 2, 0)
        return ClassSample(index, self.path(index), int(self.labels[index]), pixels)

    def path(self, index: int) -> str:
        """The image's file, and in CIFAR's the record."""
        return os.fsdecode(self.paths[index].item())

    def source(self, index: int) -> str | Array:
        """What a predictor takes for that image: its file, or (h, w, 3) uint8 RGB where it has none of its own."""
        return self.path(index) if self.pixels is None else self.pixels[index].transpose(1, 2, 0)

    def label_paths(self) -> list[str]:
        """All files with labels: none that are not images."""
        return []

    def folders(self) -> set[str]:
        """Those in which the images lie, and where folders are classes, those that hold these."""
        inner = {os.path.dirname(self.path(index)) for index in range(len(self))}  # noqa: PTH120  (1,000,000s)
        return inner | ({os.path.dirname(place) for place in inner} if self.class_folders else set())  # noqa: PTH120

    def counts(self) -> NDArray[np.int64]:
        """(C,) images of each class."""
        return np.bincount(self.labels, minlength=len(self.names))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "ClassSet":
        """Those images, in that order."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        pixels = None if self.pixels is None else self.pixels[chosen]
        return replace(self, paths=self.paths[chosen], labels=self.labels[chosen], pixels=pixels)

    def ordered(self, names: Sequence[str]) -> "ClassSet":
        """The same images with labels that count in the order of `names`, which may hold further classes.

        Raises InputError for a class of the set that is not among `names`.
        """
        places = {name: label for label, name in enumerate(names)}
        if missing := [name for name in self.names if name not in places]:
            raise InputError(
                f"{self.root}: class {missing[0]} of split {self.split} ({len(missing)} such) is none of the "
                f"{len(places)} known classes ({_few(names)}); rename its folder, or take weights for these classes"
            )
        order = np.array([places[name] for name in self.names], dtype=np.int64)
        return replace(self, names=tuple(names), labels=order[self.labels])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
