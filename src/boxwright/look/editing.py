"""Shared by the editors of layouts: boxes, changes, and replacement of spans of a text without changing the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import AnyStr

from boxwright.data.dataset import Boxes, Dataset
from boxwright.json_text import is_number

Box = tuple[float, float, float, float]  # xyxy px
DIGITS = 2  # decimals of px, for boxes from the page


class EditError(ValueError):
    """A label file cannot be changed as requested. The message does not contain the file's name."""


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
        entry: Index in the label file, as in `Boxes.entries`; None for a new object.
        box: New box; None for no change.
        label: New class, in label order; None for no change. Without box and label, the object is deleted.
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
        content: Content of the file.
        rows: Objects of the image, for a file that holds other images as well.
        deleted: Removed entries, which shift the indices of later ones.
    """

    content: bytes
    rows: Boxes | None = None
    deleted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Editor:
    """Editor of the labels of a layout: the `EDITOR` of a module in `editors` that is named after the layout.

    Attributes:
        edit: Target, content of the label file (b"" if there is none), changes -> the changed file. Raises EditError.
        read: Target, label file -> objects, and messages about entries that cannot be read; for layouts with a label
            file per image. Raises EditError if the whole file cannot be read. None: one file holds all images.
        creates: Whether an image without a label file gets one.
    """

    edit: Callable[[Target, bytes, Sequence[Change]], Edited]
    read: Callable[[Target, Path], tuple[Boxes, list[str]]] | None = None
    creates: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """Replacement of the part of a text from `start` to before `end` by `text`."""

    start: int
    end: int
    text: str | bytes


def box_of(value: object) -> Box | None:
    """Box from JSON; None if it is not four finite numbers."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        return None
    x1, y1, x2, y2 = map(float, value)
    return x1, y1, x2, y2


def spliced(content: AnyStr, spans: Sequence[Span]) -> AnyStr:
    """The content with the spans, which do not overlap, replaced; insertions at the same position keep their order."""
    parts, place = [], 0
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        assert isinstance(span.text, type(content))
        assert span.start >= place
        parts += [content[place : span.start], span.text]
        place = span.end
    parts.append(content[place:])
    return content[:0].join(parts)


def mapped(values: Sequence[float], old: Box, new: Box) -> list[float]:
    """Coordinates x y x y ... of an outline with the box `old`, moved and scaled to the box `new`.

    Raises EditError for an outline without area.
    """
    if not (old[2] > old[0] and old[3] > old[1]):
        raise EditError("its outline has no area, so it cannot take another box; delete it, and add a box")
    factors = [(new[axis + 2] - new[axis]) / (old[axis + 2] - old[axis]) for axis in (0, 1)]
    return [new[place % 2] + (value - old[place % 2]) * factors[place % 2] for place, value in enumerate(values)]


def number(value: float, digits: int = DIGITS) -> str:
    """A number as text, with at most `digits` decimals, no exponent and no -0."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
