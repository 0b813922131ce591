"""A labeled set of images as a few flat arrays, whatever files it came from.

    P images, T boxes in all, N boxes of one image

Columns instead of an object for each box: 118,287 images with 860,001 boxes take some 70 MB, and worker processes
share them after a fork. Nothing is repaired or dropped here: faulty rows stay as they were read, so that `check` can
name them and `skip_bad` can leave them out.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its labels.

    image_id: the data set's own id. path: the image's file. size: (height, width) px of the image as displayed,
    that is with its EXIF orientation applied; None where the data set does not say. boxes (N, 4) float32 xyxy px of
    the original image. labels (N,) int64 from 0, -1 where the category is unknown. crowd (N,) bool. areas (N,)
    float64 px, of the object's outline where the data set knows it, else of the box. annotation_ids (N,) int64.
    difficult (N,) bool: hard to recognize, as DOTA and VOC mark it; neither asked for nor punished in their evaluation.
    """

    image_id: int | str
    path: str
    size: tuple[int, int] | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    annotation_ids: NDArray[np.int64]
    difficult: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A label that belongs to no image of the set: it cannot be a row, and is kept so that `check` names it."""

    place: str  # the label file and, where it holds several labels, the entry in it
    image_id: int | str
    annotation_id: int | None


@dataclass(frozen=True, slots=True)
class Images:
    """Columns with one entry an image. sizes (P, 2) int64 (height, width), -1 where not declared."""

    ids: Array  # (P,) int64 or unicode
    paths: Array  # (P,) bytes as the file system has them
    sizes: NDArray[np.int64]
    label_files: Array  # (P,) bytes: the file whose lines are the image's labels; (1,) when one file holds all

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Columns with one entry a box, in the images' order."""

    xyxy: NDArray[np.float32]  # (T, 4) px
    labels: NDArray[np.int64]  # (T,) -1: unknown category
    categories: NDArray[np.int64]  # (T,) the data set's own category id, also where it is unknown
    crowd: NDArray[np.bool_]  # (T,)
    areas: NDArray[np.float64]  # (T,) px
    ids: NDArray[np.int64]  # (T,) annotation ids
    places: NDArray[np.int64]  # (T,) entry (from 0; VOC's objects from 1) or line (from 1) in the label file
    difficult: NDArray[np.bool_]  # (T,) as in Sample

    def __len__(self) -> int:
        return len(self.xyxy)

    @classmethod
    def without_ids(cls, xyxy: NDArray[np.float64], labels: Sequence[int] | Array, places: Sequence[int]) -> "Boxes":
        """Rows of a layout without ids, which count from 1 (0 would mean "unmatched" to pycocotools).

        Categories are the labels, areas those of the boxes; no object is crowd or difficult.
        """
        flags, column = np.zeros(len(xyxy), dtype=bool), np.array(labels, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
        ids, rows = np.arange(1, len(xyxy) + 1), np.array(places, dtype=np.int64)
        return cls(as_float32(xyxy), column, column, flags, areas, ids, rows, flags)

    def pick(self, chosen: NDArray[np.int64]) -> "Boxes":
        """Those rows, in that order."""
        return Boxes(*(getattr(self, name)[chosen] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split. names: classes in label order. category_ids: the data set's own ids in label order.

    kind: the layout it was read from. starts (P + 1,): rows starts[i]:starts[i + 1] of `rows` belong to image i.
    entry: how messages name a label by its number in the label file. relative: boxes are fractions of the image's size,
    and NaN where the image cannot be read.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    split: str
    root: Path
    kind: str
    images: Images
    rows: Boxes
    starts: NDArray[np.int64]
    orphans: tuple[Orphan, ...] = ()
    entry: str = "line {}"
    relative: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        rows, part = self.rows, slice(self.starts[index], self.starts[index + 1])
        height, width = self.images.sizes[index].tolist()
        return Sample(
            image_id=self.images.ids[index].item(),
            path=self.path(index),
            size=None if height < 0 else (height, width),
            boxes=rows.xyxy[part],
            labels=rows.labels[part],
            crowd=rows.crowd[part],
            areas=rows.areas[part],
            annotation_ids=rows.ids[part],
            difficult=rows.difficult[part],
        )

    def path(self, index: int) -> str:
        """The image's file."""
        return os.fsdecode(self.images.paths[index].item())

    def source(self, index: int) -> str:
        """What a predictor takes for that image: its file."""
        return self.path(index)

    def folders(self) -> set[str]:
        """Those in which the images lie."""
        return {os.path.dirname(self.path(index)) for index in range(len(self))}  # noqa: PTH120  (100,000s)

    def label_file(self, index: int) -> str:
        """The file that holds the labels of that image."""
        files = self.images.label_files
        return os.fsdecode(files[index if len(files) > 1 else 0].item()) if len(files) else ""

    def label_paths(self) -> list[str]:
        """All files with labels."""
        return [self.label_file(index) for index in range(len(self.images.label_files))]

    def place(self, index: int, row: int) -> str:
        """Where row `row` (of all T), a label of image `index`, stands in its file."""
        return f"{self.label_file(index)} {self.entry.format(self.rows.places[row])}"

    def image_indices(self) -> NDArray[np.int64]:
        """(T,) the image that each row belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "Dataset":
        """Those images, in that order, with their labels."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.repeat(self.starts[:-1][chosen] - starts[:-1], counts) + np.arange(starts[-1])
        images = Images(
            ids=self.images.ids[chosen],
            paths=self.images.paths[chosen],
            sizes=self.images.sizes[chosen],
            label_files=self.images.label_files[chosen]
            if len(self.images.label_files) > 1
            else self.images.label_files,
        )
        return replace(self, images=images, rows=self.rows.pick(rows), starts=starts)

    def without_rows(self, bad: NDArray[np.bool_]) -> "Dataset":
        """The same images without the labels where `bad` (T,) is true."""
        kept = np.concatenate([[0], np.cumsum(~bad)])
        return replace(self, rows=self.rows.pick(np.flatnonzero(~bad)), starts=kept[self.starts])


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` indices below `length`, the first and the last among them; all where there are no more."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()  # type: ignore[no-any-return]


def paths_column(paths: Sequence[str]) -> Array:
    """Paths as one array of bytes (trailing NULs, which no path has, are what NumPy pads with)."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def as_float32(values: Array) -> NDArray[np.float32]:
    """Numbers of any size as float32; what does not fit becomes infinite, which `check` reports."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
