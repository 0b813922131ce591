"""The report of a data check, as text and JSON."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from boxwright import json_text
from boxwright.data.findings import TITLES, Finding
from boxwright.errors import InputError, one_line, titled
from boxwright.json_text import JsonObject

T = TypeVar("T")
MAX_PRINTED = 20  # findings of a kind; the JSON file has all
HEADER = re.compile(rb'\{\s*"errors": \d+,\s*"notes": \d+,\s*"checked": ')  # of files that `write` has written
ENDING = re.compile(r"\[(?:([^|\]]*)\|)?([^|\]]*)\]")
UNITS = {"boxes": "box[es]", "classes": "class[es]"}
FIELDS = ("kind", "level", "split", "file", "image", "image_id", "annotation_id", "text", "leave_out")  # of the JSON


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The findings of a data check.

    Attributes:
        findings: The findings, in the order of TITLES, then of the data set.
        checked: Split -> number of images, and of boxes or classes.
        unit: `boxes` or `classes`.
        title: The layout and location of each data set, one line each.
    """

    findings: tuple[Finding, ...] = ()
    checked: dict[str, tuple[int, int]] = field(default_factory=dict)
    unit: str = "boxes"
    title: str = ""

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "note")

    def __add__(self, other: "CheckReport") -> "CheckReport":
        return CheckReport(self.findings + other.findings, self.checked | other.checked, self.unit, self.title)

    def raise_on_errors(self, root: str | Path, kinds: Collection[str] = TITLES, *, skippable: bool = False) -> None:
        """Raise InputError with the first error of these kinds in the data set `root`. skippable: name --skip-bad."""
        if errors := [finding for finding in self.errors if finding.kind in kinds]:
            skip = " or --skip-bad" if skippable else ""
            raise InputError(
                f"{root}: {pluralize(len(errors), 'error[s]')}, the first: {errors[0].brief(root)}; "
                f"see `boxwright data check`, repair{skip}"
            )

    def left_out(self) -> list[str]:
        """A line for each label and image that `skip_bad` leaves out."""
        return [one_line(f"left out the {finding.leave_out}: {finding}") for finding in self.errors]

    def _counts(self, images: int, others: int) -> str:
        return f"{pluralize(images, 'image[s]')}, {pluralize(others, UNITS[self.unit])}"

    def to_json(self) -> JsonObject:
        """The content of the JSON file."""
        return {
            "errors": len(self.errors),
            "notes": len(self.notes),
            "checked": {split: {"images": n, self.unit: count} for split, (n, count) in self.checked.items()},
            "findings": [{field: _titled(getattr(finding, field)) for field in FIELDS} for finding in self.findings],
        }

    def write(self, file: Path) -> None:
        """Write the JSON file. Raises InputError if it cannot be written, and as `reject_other_files`."""
        reject_other_files(file)
        json_text.write(file, self.to_json(), indent=1)

    def __str__(self) -> str:
        lines = [*map(one_line, self.title.splitlines())]
        lines += [one_line(f"{split}: {self._counts(*counts)}") for split, counts in self.checked.items()]
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.level, finding.kind].append(finding)
        for level, kind in sorted(groups, key=lambda key: (key[0], list(TITLES).index(key[1]))):
            group = groups[level, kind]
            lines.append(f"{level}: {pluralize(len(group), TITLES[kind])}")
            lines += [one_line(f"  {finding}") for finding in group[:MAX_PRINTED]]
            if len(group) > MAX_PRINTED:
                lines.append(f"  and {len(group) - MAX_PRINTED} more")
        lines.append(f"{pluralize(len(self.errors), 'error[s]')}, {pluralize(len(self.notes), 'note[s]')}")
        return "\n".join(lines)


def _titled(value: object) -> object:
    return titled(value) if isinstance(value, str) else value


def pluralize(count: int, phrase: str) -> str:
    """The number and `agreeing(count, phrase)`. Example: 1 box, 2 boxes."""
    return f"{count} {agreeing(count, phrase)}"


def agreeing(count: int, phrase: str) -> str:
    """A phrase in singular or plural. Its endings are in brackets: `box[es]`, `entr[y|ies] that [is|are] read`."""
    return ENDING.sub(lambda match: (match[1] or "") if count == 1 else match[2], phrase)


def reject_other_files(file: Path) -> None:
    """Raise InputError if `file` does not end in .json, and as `json_text.reject_other_files`."""
    if file.suffix != ".json":
        raise InputError(f"{file}: needed a name that ends in .json for the report of a check")
    json_text.reject_other_files(file, HEADER, "a report of a check")


def check_all(
    report: CheckReport,
    sets: Sequence[T],
    check: Callable[[T], CheckReport],
    check_splits: Callable[[T, T], CheckReport],
) -> CheckReport:
    """`report` with the findings of `check` in each split and of `check_splits` in each pair of splits."""
    for dataset in sets:
        report += check(dataset)
    for first, second in itertools.combinations(sets, 2):
        report += check_splits(first, second)
    return report
