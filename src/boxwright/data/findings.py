"""Findings about faulty or unusual entries of a data set, by its reader and by `datatools/check.py`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from boxwright.errors import one_line

TITLES = {  # with plural endings in brackets, for `datatools.report.pluralize`; errors
    "not_finite": "box[es] or area[s] with numbers that are not finite",
    "negative_size": "box[es] of negative width or height",
    "zero_area": "box[es] without area",
    "outside": "box[es] outside [the|their] image",
    "negative_area": "negative area[s]",
    "unknown_category": "label[s] of a category that is not defined",
    "duplicate_box": "box[es] given twice",
    "unreadable_label": "label[s] that cannot be read",
    "unknown_image": "label[s] of an image that is not there",
    "duplicate_image_id": "image id[s] used twice",
    "ambiguous_image": "image name[s] that fit[s|] several files",
    "missing_image": "missing image[s]",
    "unreadable_image": "unreadable image[s]",
    "size_differs": "image[s] of another size than declared",
    "labeled_unrotated": "EXIF-rotated image[s] whose declared size is that before the rotation",
    "only_crowd": "split[s] of which every object is marked as a crowd region",
    "classes_differ": "split[s] with other classes than another split",
    # notes
    "unusual": "entr[y|ies] in an unusual form, and how [it was|they were] read",
    "duplicate_annotation_id": "label file[s] that use[s|] annotation ids twice",
    "class_map": "note[s] about sets: classes, splits and what `class_map` changed",
    "near_duplicate": "box[es] that nearly coincide[s|] with another of the class",
    "rotated": "EXIF-rotated image[s] (labels must refer to the image as displayed)",
    "not_rgb": "image[s] that [is|are] read only with `data.bands`",
    "no_boxes": "image[s] without boxes",
    "image_twice": "image[s] listed twice",
    "shared_image": "image[s] in two splits",
    "ignore_regions": "split[s] with ignore regions",
    "limited_classes": "split[s] with images that were not searched for all classes",
    "class_without_box": "split[s] with classes without a box",
    "class_without_image": "class[es] without an image",
    "not_a_image": "file[s] among the images that [is|are] not [an image|images], and [is|are] not used",
}
NOTES = [*TITLES][[*TITLES].index("unusual") :]


@dataclass(frozen=True, slots=True)
class Finding:
    """An error or a note of a data check.

    Attributes:
        kind: A key of TITLES.
        split: Split of the data set.
        file: The label file, and the position in it.
        text: The description.
        image: The image file.
        image_id: The data set's id.
        annotation_id: The data set's id.
        index: Index of the image in the data set.
        row: Index of the label in the data set.
    """

    kind: str
    split: str
    file: str
    text: str
    image: str = ""
    image_id: int | str | None = None
    annotation_id: int | None = None
    index: int | None = None
    row: int | None = None

    @property
    def level(self) -> Literal["error", "note"]:
        return "note" if self.kind in NOTES else "error"

    @property
    def leave_out(self) -> Literal["nothing", "label", "image"]:
        """The item that `skip_bad` leaves out because of this finding."""
        if self.level == "error" and (self.row is not None or self.kind in {"unknown_image", "unreadable_label"}):
            return "label"
        return "image" if self.level == "error" and self.index is not None else "nothing"

    def brief(self, root: str | Path) -> str:
        """Place relative to `root` and description."""
        place = self.image if self.image and self.row is None and self.kind != "unreadable_label" else self.file
        place = place.removeprefix(f"{root}{os.sep}")
        return f"{place}: {self.text}"

    def __str__(self) -> str:
        parts = [self.split, self.file, f"image {self.image}" if self.image else ""]
        parts += [f"image id {self.image_id}"] if self.image_id is not None else []
        parts += [f"annotation id {self.annotation_id}"] if self.annotation_id is not None else []
        return one_line(", ".join(part for part in parts if part) + f": {self.text}")


def orphan(split: str, place: str, image_id: int | str, annotation_id: int | None = None) -> Finding:
    """The finding of an annotation without an image. place: the label file, and the position in it."""
    return Finding("unknown_image", split, place, f"there is no image {image_id}", "", image_id, annotation_id)


class FindingList:
    """Collects the findings of a reader in a split."""

    def __init__(self, split: str) -> None:
        self.split = split
        self._findings: list[Finding] = []
        self._notes: dict[str, tuple[int, str]] = {}  # text -> count, first place

    def add(self, finding: Finding) -> None:
        self._findings.append(finding)

    def error(self, place: str, fault: str, image: str = "", index: int | None = None) -> None:
        """Report a label that cannot be read. image: its file, if it is known, with its index."""
        self.add(Finding("unreadable_label", self.split, place, fault, image, index=index))

    def note(self, what: str, place: str) -> None:
        """Report an unusual entry that was read; equal notes are counted."""
        count, first = self._notes.get(what, (0, place))
        self._notes[what] = (count + 1, first)

    def all(self) -> tuple[Finding, ...]:
        """All findings; equal notes are combined."""
        notes = [
            Finding("unusual", self.split, place, f"{what} ({count} times, here first)" if count > 1 else what)
            for what, (count, place) in self._notes.items()
        ]
        return (*self._findings, *notes)
