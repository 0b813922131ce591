"""The report of a data check, as text and JSON."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from boxwright import json_text
from boxwright.errors import InputError, printable
from boxwright.files import open_regular

T = TypeVar("T")
MAX_NAMED = 3  # errors in a message
HEADER = re.compile(rb'\{\s*"errors": \d+,\s*"notes": \d+,\s*"checked": ')  # of files that `write` has written

TITLES = {  # errors
    "not_finite": "boxes or areas that are no finite numbers",
    "negative_size": "boxes of negative width or height",
    "zero_area": "boxes without area",
    "outside": "boxes outside their image",
    "negative_area": "negative areas",
    "unknown_category": "labels of a category that is not defined",
    "duplicate_annotation_id": "annotation ids used before",
    "duplicate_box": "boxes given twice",
    "unknown_image": "labels of an image that is not there",
    "duplicate_image_id": "image ids used twice",
    "missing_image": "missing images",
    "unreadable_image": "unreadable images",
    "size_differs": "images of another size than declared",
    "labeled_unrotated": "EXIF-rotated images whose declared size is that before the rotation",
    "classes_differ": "classes unlike those of another split",
    # notes
    "class_map": "classes and splits of sets, and what `class_map` changed",
    "near_duplicate": "boxes of one class that nearly coincide",
    "rotated": "EXIF-rotated images (labels must refer to the image as displayed)",
    "no_boxes": "images without boxes",
    "image_twice": "images listed twice",
    "shared_image": "images in two splits",
    "class_without_box": "classes without a box",
    "class_without_image": "classes without an image",
    "not_a_image": "files among the images that are none, and are not used",
}
NOTES = [*TITLES][[*TITLES].index("class_map") :]
FIELDS = ("kind", "level", "split", "file", "image", "image_id", "annotation_id", "text", "leave_out")  # of the JSON


@dataclass(frozen=True, slots=True)
class Finding:
    """An error or a note of a data check.

    Attributes:
        kind: A key of TITLES.
        split: Of the data set.
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
        """What `skip_bad` leaves out because of it."""
        if self.level == "error" and (self.row is not None or self.kind == "unknown_image"):
            return "label"
        return "image" if self.level == "error" and self.index is not None else "nothing"

    def __str__(self) -> str:
        parts = [self.split, self.file, f"image {self.image}" if self.image else ""]
        parts += [f"image id {self.image_id}"] if self.image_id is not None else []
        parts += [f"annotation id {self.annotation_id}"] if self.annotation_id is not None else []
        return printable(", ".join(part for part in parts if part) + f": {self.text}")


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of a data check.

    Attributes:
        findings: In the order of TITLES, then of the data set.
        checked: Split -> number of images, and of boxes or classes.
        unit: `boxes` or `classes`.
    """

    findings: tuple[Finding, ...] = ()
    checked: dict[str, tuple[int, int]] = field(default_factory=dict)
    unit: str = "boxes"

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "note")

    def __add__(self, other: "Report") -> "Report":
        return Report(self.findings + other.findings, self.checked | other.checked, self.unit)

    def raise_on_errors(self, root: str | Path, kinds: Collection[str] = TITLES, *, skippable: bool = False) -> None:
        """Raise InputError with the first errors of these kinds in the data set `root`; skippable: name --skip-bad."""
        if errors := [finding for finding in self.errors if finding.kind in kinds]:
            first = "; ".join(map(str, errors[:MAX_NAMED]))
            skip = ", or leave them out with --skip-bad" if skippable else ""
            raise InputError(
                f"{root}: {len(errors)} faults in the labels and images ({first}); see them all with `boxwright data "
                f"check {root}`, then repair them{skip}"
            )

    def left_out(self) -> list[str]:
        """A line for each label and image that `skip_bad` leaves out."""
        return [f"left out the {finding.leave_out}: {finding}" for finding in self.errors]

    def to_json(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {
            "errors": len(self.errors),
            "notes": len(self.notes),
            "checked": {split: {"images": n, self.unit: count} for split, (n, count) in self.checked.items()},
            "findings": [{field: getattr(finding, field) for field in FIELDS} for finding in self.findings],
        }

    def write(self, file: Path) -> None:
        """Write the JSON file. Raises InputError if it cannot be written, and as `reject_other_files`."""
        reject_other_files(file)
        json_text.write(file, self.to_json(), indent=1)

    def __str__(self) -> str:
        lines = [f"{printable(split)}: {n} images, {count} {self.unit}" for split, (n, count) in self.checked.items()]
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.level, finding.kind].append(finding)
        for level, kind in sorted(groups, key=lambda key: (key[0], list(TITLES).index(key[1]))):
            group = groups[level, kind]
            lines.append(f"{level}: {len(group)} {TITLES[kind]}")
            lines += [f"  {finding}" for finding in group]
        lines.append(f"{len(self.errors)} errors, {len(self.notes)} notes")
        return "\n".join(lines)


def reject_other_files(file: Path) -> None:
    """Raise InputError if `file` does not end in .json, or exists and is not a report."""
    if file.suffix != ".json":
        raise InputError(f"{file}: needed a name that ends in .json for the report of a check")
    try:
        with open_regular(file) as opened:
            start = opened.read(200)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{file}: cannot be replaced ({error.strerror}); name another file") from error
    if not HEADER.match(start):
        raise InputError(f"{file}: is there already and no report of a check; name another file")


def check_all(
    report: Report, sets: Sequence[T], check: Callable[[T], Report], check_splits: Callable[[T, T], Report]
) -> Report:
    """`report` with the findings of `check` in each split and of `check_splits` in each pair of splits."""
    for dataset in sets:
        report += check(dataset)
    for first, second in itertools.combinations(sets, 2):
        report += check_splits(first, second)
    return report
