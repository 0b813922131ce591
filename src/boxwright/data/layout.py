"""What a module in `formats` says about its layout of labels, and what its functions are given.

P images, T boxes in all, N boxes of one image
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Boxes, Dataset, Images, paths_column

Labels = TypeVar("Labels", Dataset, ClassSet)  # boxes, or one class an image
Keys = dict[str, Any]  # key -> a JSON value


@dataclass(frozen=True, slots=True)
class Source:
    """One split that was found.

    path: what `find` or a data YAML names for it, `others` the same of the other splits. names and images (the folder
    that relative paths start from): as a data YAML says, else () and None. cache: folder of indexes; None: the user's.
    """

    kind: str
    path: Path
    split: str
    root: Path
    names: tuple[str, ...] = ()
    images: Path | None = None
    others: tuple[Path, ...] = ()
    cache: str | Path | None = None

    def without_ids(
        self, names: tuple[str, ...], paths: Sequence[str], files: Sequence[str], rows: Boxes, counts: Sequence[int]
    ) -> Dataset:
        """A data set whose files have no ids and do not say sizes: images count from 1, categories from 0.

        names: classes in label order. paths: P, of the images. files: of labels, P, or the one of all. counts: P, rows
        of each image.
        """
        sizes = np.full((len(paths), 2), -1, dtype=np.int64)
        images = Images(np.arange(1, len(paths) + 1), paths_column(paths), sizes, paths_column(files))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Dataset(names, tuple(range(len(names))), self.split, self.root, self.kind, images, rows, starts)


@dataclass(frozen=True, slots=True)
class Extras:
    """What files say beyond what detectors learn from: outlines, ground sample distances, licenses.

    Learning needs none of it, so `read` leaves it in the files; a conversion reads it from there.

    rows: T, images: P, classes: as many as there are, each the extra keys of that item, in the data set's order.
    A row's `segmentation` is its outline as COCO writes it: a list of polygons [x1, y1, x2, y2, ...] px, or a mask.
    dataset: extra keys of the data set itself.
    """

    rows: list[Keys]
    images: list[Keys]
    classes: list[Keys] = field(default_factory=list)
    dataset: Keys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Split:
    """What is written. images: P names without folders shared by all of them. sizes: (P, 2) (height, width) px."""

    dataset: Dataset
    extras: Extras
    images: list[PurePosixPath]
    sizes: NDArray[np.int64]

    def rows(self, index: int) -> range:
        """The rows of image `index`."""
        return range(int(self.dataset.starts[index]), int(self.dataset.starts[index + 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """How a layout is written, and what it can hold beside images, boxes and classes.

    Labels go where `find` looks for them, with as many digits as bring back the same float32.
    """

    write: Callable[[Split, Path], list[Path]]  # writes the labels into a folder, returns where the images go
    crowd: bool = False
    difficult: bool = False
    outlines: bool = False  # quadrilaterals in place of upright boxes
    flat: bool = False  # the images of a split share a folder, and differ in their names without suffix
    file_per_image: bool = True
    class_list: bool = True  # the classes of all splits are the lines of one file
    class_name: Callable[[str], str] = lambda name: name  # as it can be written
    needs_box: bool = False  # without any box the files cannot be told from those of another layout
    refused: frozenset[str] = frozenset()  # further kinds of findings (`check`) that cannot be written
    row_keys: frozenset[str] | None = frozenset()  # the Extras that are written; None: any
    image_keys: frozenset[str] | None = frozenset()
    read_back: Callable[[str, Any], Any] = lambda key, value: value  # the value of an extra key after write and read


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout(Generic[Labels]):
    """A layout of labels. Each module in `formats` holds one as `LAYOUT`; the module's name is the layout's."""

    holds: type[Labels]
    looked_for: str  # what `find` looks for, for people
    find: Callable[[Path], Mapping[str, Path]]  # a data set's folder or file -> split -> `Source.path`; {}: not of this
    read: Callable[[Source], Labels]
    accepts: Callable[[Path], bool] = lambda path: False  # whether a path in a data YAML can only be of this layout
    fallback: bool = False  # others that are found come before it
    aliases: Mapping[str, str] = field(default_factory=dict)  # names of splits -> those that stand for them
    numbered: bool = False  # files hold areas, and ids of images, boxes and classes
    find_unlabeled: Callable[[Path], Mapping[str, Path]] = lambda root: {}  # as `find`, lists of images without labels
    read_unlabeled: Callable[[Source], Labels] | None = None  # None: `read`, and the labels are dropped
    extras: Callable[[Labels], Extras] | None = None
    writer: Writer | None = None
