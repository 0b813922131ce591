"""What the editors of layouts share: boxes, changes, and replacing spans of a text so that all else stays as it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import AnyStr

from boxwright.data.dataset import Boxes, Dataset

Box = tuple[float, float, float, float]  # xyxy px
DIGITS = 2  # decimals of px, of boxes from a page


class EditError(ValueError):
    """Why a label file cannot be changed as wanted: a line without the name of the file."""


@dataclass(frozen=True, slots=True)
class Target:
    """The image whose labels are changed. size: its (height, width) px as displayed."""

    dataset: Dataset
    index: int
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one object.

    Attributes:
        entry: Its number in the label file, as in `Boxes.entries`; None for a new object.
        box: Where it is now; None for no change.
        label: Its class, in label order; None for no change. Without both, the object is deleted.
    """

    entry: int | None
    box: Box | None
    label: int | None

    @property
    def deletes(self) -> bool:
        return self.box is None and self.label is None


@dataclass(frozen=True, slots=True)
class Edited:
    """A label file with changes.

    Attributes:
        content: The file.
        rows: The objects of the image, of a file that holds other images as well.
        deleted: Entries that are no more, with which the numbers of those after them have changed.
    """

    content: bytes
    rows: Boxes | None = None
    deleted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Editor:
    """How labels of a layout are changed: the `EDITOR` of a module in `editors`, whose name is that of the layout.

    Attributes:
        edit: Target, content of the label file (b"" if there is none), changes -> the changed file. Raises EditError.
        read: Target, label file -> objects and what cannot be read, of a layout with a label file per image. Raises
            EditError if the file as a whole cannot be read. None: one file holds all images.
        creates: Whether an image without a label file gets one.
    """

    edit: Callable[[Target, bytes, Sequence[Change]], Edited]
    read: Callable[[Target, Path], tuple[Boxes, list[str]]] | None = None
    creates: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a text from `start` to before `end`, which `text` replaces."""

    start: int
    end: int
    text: str | bytes


def box_of(value: object) -> Box | None:
    """A box of JSON; None for anything else than four finite numbers."""
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) in (int, float) for number in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def spliced(content: AnyStr, spans: Sequence[Span]) -> AnyStr:
    """The content with the spans, which do not overlap, replaced; those at the same place in their order."""
    parts, place = [], 0
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        assert isinstance(span.text, type(content))
        assert span.start >= place
        parts += [content[place : span.start], span.text]
        place = span.end
    parts.append(content[place:])
    return content[:0].join(parts)


def mapped(values: Sequence[float], old: Box, new: Box) -> list[float]:
    """The coordinates x y x y ... of an outline with the box `old`, moved and scaled to the box `new`.

    Raises EditError for an outline without area.
    """
    if not (old[2] > old[0] and old[3] > old[1]):
        raise EditError("its outline has no area, so it cannot take another box; delete it, and add a box")
    factors = [(new[axis + 2] - new[axis]) / (old[axis + 2] - old[axis]) for axis in (0, 1)]
    return [new[place % 2] + (value - old[place % 2]) * factors[place % 2] for place, value in enumerate(values)]


def number(value: float, digits: int = DIGITS) -> str:
    """A number as text: at most so many decimals, no exponent, no -0."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
