"""A data set for detection in columns, independent of its layout on disk.

    P images, T boxes in total, N boxes of one image

With columns instead of objects, 118,287 images with 860,001 boxes take about 70 MB, which worker processes share after
a fork. Nothing is repaired or dropped: faulty rows are kept as read, for `check` to report and `skip_bad` to exclude.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.data.findings import Finding
from boxwright.data.members import Members
from boxwright.data.source import Source
from boxwright.errors import titled

ANY_CLASS = -2  # label and category of an ignore region: a crowd region of all classes


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its labels."""

    image_id: int | str
    path: str
    size: tuple[int, int] | None  # (height, width) px as displayed, with EXIF orientation applied; None: not declared
    boxes: NDArray[np.float32]  # (N, 4) xyxy px of the original image
    labels: NDArray[np.int64]  # (N,); -1 if the category is unknown, ANY_CLASS for ignore regions
    crowd: NDArray[np.bool_]  # (N,); true for ignore regions, too
    areas: NDArray[np.float64]  # (N,) px, of the outline if there is one, else of the box
    annotation_ids: NDArray[np.int64]  # (N,)
    difficult: NDArray[np.bool_]  # (N,) in DOTA and VOC; ignored in their evaluation
    labeled: NDArray[np.bool_] | None = None  # (K,) the classes that were looked for in the image; None: all

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class Images:
    """Columns with one entry per image; K is the number of classes. sizes: (height, width) px; -1 if not declared."""

    ids: Array  # (P,) int64 or unicode
    paths: Array  # (P,) bytes, as in the file system
    sizes: NDArray[np.int64]
    label_files: Array  # (P,) bytes: the label file of each image; (1,) if there is one for all
    labeled: NDArray[np.bool_] | None = None  # (P, K) as in Sample; None: all classes were looked for in all images

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Columns with one entry per box, in the order of the images."""

    xyxy: NDArray[np.float32]  # (T, 4) px
    labels: NDArray[np.int64]  # (T,) -1: unknown category; ANY_CLASS: ignore region
    categories: NDArray[np.int64]  # (T,) category id in the data set, also if it is unknown; ANY_CLASS as in labels
    crowd: NDArray[np.bool_]  # (T,)
    areas: NDArray[np.float64]  # (T,) px
    ids: NDArray[np.int64]  # (T,) annotation ids
    entries: NDArray[np.int64]  # (T,) entry (from 0; in VOC from 1) or line (from 1) in the label file
    difficult: NDArray[np.bool_]  # (T,) as in Sample

    def __len__(self) -> int:
        return len(self.xyxy)

    @classmethod
    def without_ids(cls, xyxy: NDArray[np.float64], labels: Sequence[int] | Array, entries: Sequence[int]) -> "Boxes":
        """Rows of a layout without ids. Ids start at 1, since 0 means "unmatched" in pycocotools.

        Categories equal the labels, areas are those of the boxes; no object is crowd or difficult.
        """
        flags, column = np.zeros(len(xyxy), dtype=bool), np.array(labels, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
        ids = np.arange(1, len(xyxy) + 1)
        return cls(as_float32(xyxy), column, column, flags, areas, ids, np.array(entries, dtype=np.int64), flags)

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """(T,) ignore regions, which have no class."""
        ignored: NDArray[np.bool_] = self.crowd & (self.labels == ANY_CLASS)
        return ignored

    def as_ignored(self, which: NDArray[np.bool_]) -> "Boxes":
        """The rows with ignore regions in place of those where the mask `which` (T,) is true."""
        return replace(
            self,
            labels=np.where(which, ANY_CLASS, self.labels),
            categories=np.where(which, ANY_CLASS, self.categories),
            crowd=self.crowd | which,
            difficult=self.difficult & ~which,
        )

    def take(self, indices: NDArray[np.int64]) -> "Boxes":
        """The rows at `indices`, in that order."""
        return Boxes(*(getattr(self, name)[indices] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of a data set for detection."""

    names: tuple[str, ...]  # classes in label order
    category_ids: tuple[int, ...]  # ids of the classes in the data set, in label order
    split: str
    root: Path  # the folder or file that was opened
    kind: str  # name of the layout
    images: Images
    rows: Boxes
    starts: NDArray[np.int64]  # (P + 1,): rows starts[i]:starts[i + 1] belong to image i
    findings: tuple[Finding, ...] = ()  # by the reader: unreadable labels, and unusual entries
    undefined: tuple[str, ...] = ()  # class names that are not in `names`; name i has the category -1 - i
    origin: Source | None = None  # the source that it was read from; set by `formats`
    entry: str = "line {}"  # format of `Boxes.entries` in messages
    group: int | None = None  # label of a class without boxes that is only the supercategory of all others
    relative: bool = False  # boxes are stored as fractions of the image size, and are NaN if the image cannot be read
    members: Members | None = None  # the sets, if it was merged from several (`data/merge.py`)
    notes: tuple[str, ...] = ()  # changes by `class_map` and by merging sets

    @classmethod
    def without_ids(
        cls,
        source: Source,
        names: tuple[str, ...],
        paths: Sequence[str],
        files: Sequence[str],
        rows: Boxes,
        counts: Sequence[int],
    ) -> "Dataset":
        """A data set of a layout without ids and image sizes. Image ids start at 1, category ids at 0.

        names: in label order. paths: P image files. files: P label files, or one for all. counts: P numbers of rows.
        """
        sizes = np.full((len(paths), 2), -1, dtype=np.int64)
        images = Images(np.arange(1, len(paths) + 1), paths_column(paths), sizes, paths_column(files))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(names, tuple(range(len(names))), source.split, source.root, source.kind, images, rows, starts)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        rows, own = self.rows, slice(self.starts[index], self.starts[index + 1])
        height, width = self.images.sizes[index].tolist()
        return Sample(
            image_id=self.images.ids[index].item(),
            path=self.path(index),
            size=None if height < 0 else (height, width),
            boxes=rows.xyxy[own],
            labels=rows.labels[own],
            crowd=rows.crowd[own],
            areas=rows.areas[own],
            annotation_ids=rows.ids[own],
            difficult=rows.difficult[own],
            labeled=None if self.images.labeled is None else self.images.labeled[index],
        )

    def path(self, index: int) -> str:
        """The file of an image."""
        return os.fsdecode(self.images.paths[index].item())

    def paths(self) -> list[str]:
        """The files of all images."""
        return [os.fsdecode(path) for path in self.images.paths.tolist()]

    def short_path(self, index: int) -> str:
        """The path of an image, relative to the folder of the data set if it is inside; for files of results."""
        path, root = self.path(index), self.root
        folder = str(root if not root.suffix or root.is_dir() else root.parent)
        return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else titled(path)

    def source(self, index: int) -> str:
        """The input of a predictor: the file of an image."""
        return self.path(index)

    def folders(self) -> set[str]:
        """The folders of the images."""
        return {os.path.dirname(path) for path in self.paths()}  # noqa: PTH120  (100,000s)

    def label_file(self, index: int) -> str:
        """The label file of an image."""
        files = self.images.label_files
        return os.fsdecode(files[index if len(files) > 1 else 0].item()) if len(files) else ""

    def label_paths(self) -> list[str]:
        """All label files."""
        return [self.label_file(index) for index in range(len(self.images.label_files))]

    def location(self, index: int, row: int) -> str:
        """Label file and entry of row `row` (of all T), which belongs to image `index`."""
        entry = self.members.place(index)[0].dataset.entry if self.members else self.entry
        return f"{self.label_file(index)} {entry.format(self.rows.entries[row])}"

    def own_id(self, index: int) -> int | str:
        """The id of an image in its set; the ids of several sets together are new."""
        if self.members is None:
            return self.images.ids[index].item()  # type: ignore[no-any-return]
        member, place = self.members.place(index)
        return member.dataset.own_id(place)  # type: ignore[no-any-return]

    def image_indices(self) -> NDArray[np.int64]:
        """(T,) the index of the image of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "Dataset":
        """The data set of the images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)])
        indices = np.repeat(self.starts[:-1][chosen] - starts[:-1], counts) + np.arange(starts[-1])
        images = Images(
            ids=self.images.ids[chosen],
            paths=self.images.paths[chosen],
            sizes=self.images.sizes[chosen],
            label_files=self.images.label_files[chosen]
            if len(self.images.label_files) > 1
            else self.images.label_files,
            labeled=None if self.images.labeled is None else self.images.labeled[chosen],
        )
        members = self.members and self.members.take(chosen)
        rows = self.rows.take(indices)
        findings = tuple(self._findings_of(chosen, starts))
        return replace(self, images=images, rows=rows, starts=starts, findings=findings, members=members)

    def _findings_of(self, chosen: NDArray[np.int64], starts: NDArray[np.int64]) -> Iterator[Finding]:
        """The findings for the images at `chosen`, whose rows begin at `starts` then, and those of no image."""
        places: dict[int, int] = {}
        for finding in self.findings:
            if (index := finding.index) is not None:
                places = places or {own: place for place, own in enumerate(chosen.tolist())}
                if (place := places.get(index)) is None:
                    continue
                row = None if finding.row is None else finding.row + int(starts[place] - self.starts[index])
                finding = replace(finding, index=place, row=row)
            yield finding

    def with_split(self, split: str) -> "Dataset":
        """The same images, as the split `split`."""
        return replace(self, split=split, findings=tuple(replace(finding, split=split) for finding in self.findings))

    def without_group(self) -> "Dataset":
        """The same images without the class `group`, which has no boxes; labels after it decrease by one."""
        if self.group is None:
            return self
        names, ids = ((*values[: self.group], *values[self.group + 1 :]) for values in (self.names, self.category_ids))
        rows = replace(self.rows, labels=self.rows.labels - (self.rows.labels > self.group))
        return replace(self, names=names, category_ids=ids, rows=rows, group=None)

    def without_rows(self, bad: NDArray[np.bool_]) -> "Dataset":
        """The same images without the rows where `bad` (T,) is true."""
        counts = np.concatenate([[0], np.cumsum(~bad)])
        return replace(self, rows=self.rows.take(np.flatnonzero(~bad)), starts=counts[self.starts])


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` indices below `length`, including the first and the last; all indices if there are fewer."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()  # type: ignore[no-any-return]


def paths_column(paths: Sequence[str]) -> Array:
    """Paths as one array of bytes. NumPy pads with NULs, which paths cannot contain."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def as_float32(values: Array) -> NDArray[np.float32]:
    """Values as float32. Overflow gives infinity, which `check` reports."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
