"""A data set collected image by image and box by box, for layouts whose files name images and classes.

T boxes in total
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from boxwright.config import class_name_fault
from boxwright.data import text
from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.findings import Finding, orphan
from boxwright.data.layout import Extras, Keys
from boxwright.data.locate import Locator
from boxwright.data.source import Source
from boxwright.errors import InputError


@dataclass(slots=True)
class _Row:
    image: int
    name: str | None
    xyxy: tuple[float, float, float, float]
    entry: int
    crowd: bool
    difficult: bool
    area: float | None
    keys: Keys


class Builder:
    """Collects a split.

    Args:
        source: The split.
        locator: Finds the images that `add_image` names; None if all names are paths of files.
        entry: Format of a box's position in its label file, for messages.
    """

    def __init__(self, source: Source, locator: Locator | None = None, entry: str = "line {}") -> None:
        self.source = source
        self.classes: list[str] = []  # declared in the label files, in label order
        self.paths: list[str] = []  # of the images
        self._locator, self._entry = locator, entry
        self._label_files: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._image_keys: list[Keys] = []
        self._rows: list[_Row] = []
        self._findings: list[Finding] = []
        self._notes: dict[str, tuple[int, str]] = {}  # text -> count, first place

    def add_image(
        self, name: str, label_file: str, size: tuple[int, int] = (-1, -1), keys: Keys | None = None, place: str = ""
    ) -> int:
        """Add an image and return its index.

        Args:
            name: Path of the image; with a locator, its name in the label file.
            label_file: File of its labels.
            size: (height, width) px; -1 if unknown.
            keys: Additional fields, as in `Extras.images`.
            place: Position at which the label file names the image; default: the label file.
        """
        index, place = len(self.paths), place or label_file
        written, candidates = name, tuple[str, ...]()
        if not text.can_be_path(name):
            self.error(place, f"image name '{name[:60]}' cannot be a path; correct it")
            name = "?"
        elif self._locator is not None:
            located = self._locator.locate(name)
            if located.elsewhere:
                self.note("image is not at the named path; found by the last part of the name", place)
            name, candidates = located.path, located.candidates
        self.paths.append(name)
        if candidates:
            self.ambiguous(place, written, candidates, index)
        self._label_files.append(label_file)
        self._sizes.append(size if min(size) > 0 else (-1, -1))
        self._image_keys.append({} if keys is None else keys)
        return index

    def add_box(
        self,
        image: int,
        name: str | None,
        xyxy: Sequence[float],
        entry: int,
        *,
        crowd: bool = False,
        difficult: bool = False,
        area: float | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Add a box.

        Args:
            image: Index of its image.
            name: Class of the box; None for an ignore region, where objects of any class may be.
            xyxy: The box in px of the image.
            entry: Position of the box in the label file.
            crowd: Whether it is a crowd region.
            difficult: Whether it is marked as difficult.
            area: Area of the outline in px; default: of the box.
            keys: Additional fields, as in `Extras.rows`.
        """
        if name is None:
            crowd = True
        elif fault := class_name_fault(name) if name else "empty class name":
            self.error(f"{self._label_files[image]} {self._entry.format(entry)}", fault, image)
            return
        x1, y1, x2, y2 = xyxy
        self._rows.append(_Row(image, name, (x1, y1, x2, y2), entry, crowd, difficult, area, keys or {}))

    def error(self, place: str, fault: str, image: int | None = None) -> None:
        """Report a label that cannot be read. image: index of its image, if that is known."""
        path = "" if image is None else self.paths[image]
        self._findings.append(Finding("unreadable_label", self.source.split, place, fault, path, index=image))

    def ambiguous(self, place: str, name: str, candidates: Sequence[str], image: int) -> None:
        """Report that the image `name` at index `image` may be several files."""
        first, second = (os.path.relpath(file, self.source.root) for file in candidates[:2])
        fault = f"'{name[-60:]}' may be {first} or {second}; write the path"
        path = self.paths[image]
        self._findings.append(Finding("ambiguous_image", self.source.split, place, fault, path, index=image))

    def lines(self, file: str, image: int | None = None) -> Iterator[tuple[int, str]]:
        """`text.lines` of the label file of an image; errors of reading are reported."""
        try:
            yield from text.lines(Path(file))
        except InputError as error:
            place, _, fault = str(error).removeprefix(file).partition(": ")
            self.error(file + place, fault, image)

    def orphan(self, place: str, image: str) -> None:
        """Report labels without an image."""
        self._findings.append(orphan(self.source.split, place, image))

    def note(self, what: str, place: str) -> None:
        """Report an unusual entry that was read; equal notes are counted."""
        count, first = self._notes.get(what, (0, place))
        self._notes[what] = (count + 1, first)

    def note_text(self, values: object, place: str) -> None:
        """Note numbers that are written as text among the coordinates `values` of a JSON file."""
        inner = [*values.values()] if isinstance(values, dict) else values if isinstance(values, list) else []
        if any(isinstance(value, str) for value in inner):
            self.note("number written as text", place)
            return
        for value in inner:
            self.note_text(value, place)

    def has_error(self) -> bool:
        """Whether there are labels that cannot be read."""
        return any(finding.level == "error" for finding in self._findings)

    def first_note(self) -> str:
        """The first note; "" if there is none."""
        return next(iter(self._notes), "")

    def class_names(self) -> set[str]:
        """The classes of all boxes."""
        return {row.name for row in self._rows if row.name is not None}

    def dataset(self, names: Sequence[str]) -> Dataset:
        """The data set with the classes `names`, in label order. Boxes of other classes get the label -1."""
        self._rows.sort(key=lambda row: row.image)  # stable
        undefined = tuple(sorted(self.class_names() - {*names}))
        numbers: dict[str | None, int] = {name: label for label, name in enumerate(names)}
        numbers |= {name: -1 - index for index, name in enumerate(undefined)}
        numbers[None] = 0  # of ignore regions, set below
        categories = np.array([numbers[row.name] for row in self._rows], dtype=np.int64)
        xyxy = np.array([row.xyxy for row in self._rows], dtype=np.float64).reshape(-1, 4)
        rows = Boxes.without_ids(xyxy, np.maximum(categories, -1), [row.entry for row in self._rows])
        areas = [np.nan if row.area is None else row.area for row in self._rows]
        rows = replace(
            rows,
            categories=categories,
            areas=np.where(np.isnan(areas), rows.areas, areas),
            crowd=np.array([row.crowd for row in self._rows], dtype=bool),
            difficult=np.array([row.difficult for row in self._rows], dtype=bool),
        ).as_ignored(np.array([row.name is None for row in self._rows], dtype=bool))
        counts = np.bincount([row.image for row in self._rows], minlength=len(self.paths)).tolist()
        label_files = self._label_files if len(set(self._label_files)) > 1 else self._label_files[:1]
        dataset = Dataset.without_ids(self.source, tuple(names), self.paths, label_files, rows, counts)
        sizes = np.array(self._sizes, dtype=np.int64).reshape(-1, 2)
        return replace(
            dataset,
            images=replace(dataset.images, sizes=sizes),
            findings=self._all_findings(),
            undefined=undefined,
            entry=self._entry,
        )

    def extras(self, dataset: Dataset) -> Extras:
        """The additional fields of `dataset`, which was read from the same files and may be a subset."""
        self._rows.sort(key=lambda row: row.image)
        rows = [self._rows[number - 1].keys for number in dataset.rows.ids.tolist()]
        return Extras(rows, [self._image_keys[number - 1] for number in dataset.images.ids.tolist()])

    def _all_findings(self) -> tuple[Finding, ...]:
        notes = []
        for what, (count, place) in self._notes.items():
            more = f" ({count} times, here first)" if count > 1 else ""
            notes.append(Finding("unusual", self.source.split, place, what + more))
        return (*self._findings, *notes)


def read_with(collect: Callable[[Source], Builder]) -> Callable[[Source], Dataset]:
    """Make `Layout.read` from a function that collects a split.

    Class names come from the data YAML, else from a file of names in the root, else from declarations in the label
    files, else from the boxes of all splits, sorted.
    """

    def read(source: Source) -> Dataset:
        builder = collect(source)
        root = source.root if source.root.is_dir() else source.root.parent
        names = source.names or text.find_class_names(root) or tuple(builder.classes)
        if not names:
            found = builder.class_names()
            for other in source.others:
                found |= collect(replace(source, path=other, others=())).class_names()
            names = tuple(sorted(found))
        if not names and not builder.has_error():  # errors are reported as for other data sets
            noted = f" ({note})" if (note := builder.first_note()) else ""
            remedy = f"write the class names into {root / 'classes.txt'}"
            raise InputError(f"{source.path}: no label has a class{noted}; {remedy}")
        return builder.dataset(names)

    return read


def extras_with(collect: Callable[[Source], Builder]) -> Callable[[Dataset], Extras]:
    """Make `Layout.extras` from a function that collects a split."""

    def extras(dataset: Dataset) -> Extras:
        assert dataset.origin is not None  # set by `formats`, which opened it
        return collect(dataset.origin).extras(dataset)

    return extras
