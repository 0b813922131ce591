"""The interface of a layout of labels, which each module in `formats` implements.

P images, T boxes in total
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.source import Source
from boxwright.json_text import JsonObject

Labels = TypeVar("Labels", Dataset, ClassSet)  # for detection or for classification
Keys = JsonObject  # key -> a JSON value


@dataclass(frozen=True, slots=True)
class Extras:
    """Information in label files besides boxes and classes: outlines, ground sample distances, licenses.

    Training does not need it, so `Layout.read` does not load it; only conversions do. The `segmentation` of a row is
    its outline as in COCO: a list of polygons [x1, y1, x2, y2, ...] px, or a mask.
    """

    rows: list[Keys]  # T
    images: list[Keys]  # P
    classes: list[Keys] = field(default_factory=list)
    dataset: Keys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Split:
    """A split to write. images: P file names relative to their common folder. sizes: (P, 2) (height, width) px."""

    dataset: Dataset
    extras: Extras
    images: list[PurePosixPath]
    sizes: NDArray[np.int64]

    def rows(self, index: int) -> range:
        """The rows of image `index`."""
        return range(int(self.dataset.starts[index]), int(self.dataset.starts[index + 1]))

    def objects(self, index: int) -> list[int]:
        """The rows of image `index` that are not crowd regions."""
        return [row for row in self.rows(index) if not self.dataset.rows.crowd[row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The writer of a layout, and the features that it supports besides images, boxes and classes.

    Labels are written where `Layout.find` finds them, with enough digits to restore the same float32.
    """

    write: Callable[[Split, Path], list[Path]]  # writes the labels into a folder, returns the paths for the images
    # the same for boxes of a predictor, with their `score` in the Extras; None: as labels
    write_predictions: Callable[[Split, Path], list[Path]] | None = None
    crowd: bool = False
    ignored: bool = False  # ignore regions
    labeled: bool = False  # which classes were looked for in an image
    difficult: bool = False
    outlines: bool = False  # quadrilaterals instead of boxes
    flat: bool = False  # the images of a split are in one folder, with names that differ without suffix
    file_per_image: bool = True
    class_list: bool = True  # one file lists the classes of all splits
    class_name: Callable[[str], str] = lambda name: name  # the supported form of a name
    needs_box: bool = False  # without boxes, the layout could not be detected
    unsupported: frozenset[str] = frozenset()  # additional kinds of findings (`check`) that cannot be written
    row_keys: frozenset[str] | None = frozenset()  # the supported Extras; None: any
    image_keys: frozenset[str] | None = frozenset()
    # the value of an extra key after write and read
    read_back: Callable[[str, object], object] = lambda key, value: value


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout(Generic[Labels]):
    """A layout of labels: the `LAYOUT` of a module in `formats`, whose name is that of the module."""

    dataset_type: type[Labels]
    expected: str  # the files that `find` looks for, for messages
    find: Callable[[Path], Mapping[str, Path]]  # folder or file of a data set -> {split: `Source.path`}; {}: no match
    read: Callable[[Source], Labels]
    accepts: Callable[[Path], bool] = lambda path: False  # whether a path in a data YAML is certainly of this layout
    fallback: bool = False  # other matching layouts take precedence
    aliases: Mapping[str, str] = field(default_factory=dict)  # split -> the split that replaces it
    has_ids: bool = False  # files contain areas, and ids of images, boxes and classes
    find_unlabeled: Callable[[Path], Mapping[str, Path]] = lambda root: {}  # as `find`, for images without labels
    read_unlabeled: Callable[[Source], Labels] | None = None  # None: `read`, and the labels are dropped
    extras: Callable[[Labels], Extras] | None = None
    writer: Writer | None = None
