"""Entries of a COCO JSON in other forms than COCO's: readable ones are converted and noted, others are faults."""

import math
import re
from collections.abc import Callable, Mapping

from boxwright.data.findings import Finding
from boxwright.data.text import can_be_path
from boxwright.json_text import JsonObject

Entry = JsonObject
Note = Callable[[str], None]
MAX_ID_LENGTH = 256  # characters
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
TEXT_NUMBERS = "numbers are written as text"


class EntryError(Exception):
    """An entry that cannot be read."""


class Remarks:
    """Collects findings. Their `file` is the position in the file; split and paths are not yet set."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._notes: dict[str, tuple[int, str]] = {}  # text -> count, first place

    def error(self, place: str, fault: str, index: int | None = None) -> None:
        """Report an entry that cannot be read. index: of its image."""
        self.findings.append(Finding("unreadable_label", "", place, fault, index=index))

    def note(self, what: str, place: str, count: int = 1) -> None:
        """Report unusual entries that were read; equal notes are counted."""
        before, first = self._notes.get(what, (0, place))
        self._notes[what] = (before + count, first)

    def all(self) -> tuple[Finding, ...]:
        """The errors, and one finding for each kind of note."""
        notes = []
        for what, (count, place) in self._notes.items():
            more = f" ({count} times, here first)" if count > 1 else ""
            notes.append(Finding("unusual", "", place, what + more))
        return (*self.findings, *notes)


def image(entry: Entry, note: Note) -> Entry:
    """An entry of `images`. Its id is an integer of 64 bits or a text."""
    cleaned: JsonObject = {"id": _id(entry, "id"), "file_name": entry.get("file_name")}
    name = cleaned["file_name"]
    if not isinstance(name, str):
        raise EntryError(f"file_name: {_found(entry, 'file_name')}, needed a text")
    if not can_be_path(name):
        raise EntryError(f"file_name: {shown(name)} cannot be a path; correct it")
    sides = {key: _number(entry[key], note) for key in ("height", "width") if key in entry}
    if all(side is not None and side.is_integer() and 0 < side < 2**31 for side in sides.values()):
        cleaned |= {key: int(side or 0) for key, side in sides.items()}
    else:
        note("height or width is not a number of px; the size is taken from the image")
    return cleaned


def annotation(entry: Entry, note: Note, category_ids: Mapping[str, int], text_ids: bool) -> Entry:
    """An entry of `annotations`. Its id is None if it is missing or not an integer of 64 bits.

    Args:
        entry: The entry.
        note: Called with each note about the entry.
        category_ids: The id of each category in the file, as text -> its id in the data set.
        text_ids: Whether ids of images are texts.
    """
    cleaned: JsonObject = {"id": None if isinstance(entry.get("id"), str) else integer(entry.get("id"))}
    cleaned["image_id"] = _image_id(entry, note, text_ids)
    category = id_text(entry.get("category_id"))
    if isinstance(entry.get("category_id"), str):
        note("category_id is written as text")
    if category is not None and category in category_ids:
        cleaned["category_id"] = category_ids[category]
    elif any(text != str(number) for text, number in category_ids.items()) or small_integer(category) is None:
        raise EntryError(f"category_id: {_found(entry, 'category_id')}, needed the id of a category")
    else:
        cleaned["category_id"] = small_integer(category)
    cleaned["bbox"] = _box(entry, note)
    for key in ("iscrowd", "difficult", "ignore"):
        cleaned[key] = _flag(entry, key, note)
    area = _number(entry.get("area"), note)
    if area is not None:
        cleaned["area"] = area
    elif "area" in entry:
        note("area is null or not a number; that of the box is used")
    return cleaned


def integer(value: object) -> int | None:
    """A whole number of at most 64 bits, which may be written as 3.0; None for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def small_integer(text: str | None) -> int | None:
    """The integer of at most 64 bits whose decimal form is `text`; None if there is none."""
    if text is None or len(text) > 20 or not re.fullmatch(r"-?\d+", text, re.ASCII) or str(int(text)) != text:
        return None
    return integer(int(text))


def id_text(value: object) -> str | None:
    """An id as text, equal for 1, 1.0 and "1"; None if `value` is not an id."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        return str(value) if abs(value) < 10**MAX_ID_LENGTH else None
    return value if isinstance(value, str) and is_id_text(value) else None


def is_id_text(text: str) -> bool:
    """Whether a text can be an id. NumPy drops NULs at the end."""
    return 0 < len(text) <= MAX_ID_LENGTH and text[-1] != "\0"


def shown(value: object) -> str:
    """A value of a file in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _found(entry: Entry, key: str) -> str:
    return f"found {shown(entry[key])}" if key in entry else "missing"


def _id(entry: Entry, key: str) -> int | str:
    text = id_text(entry.get(key))
    if text is None:
        raise EntryError(
            f"{key}: {_found(entry, key)}, needed a whole number or a text of 1 to {MAX_ID_LENGTH} letters"
        )
    number = None if isinstance(entry[key], str) else small_integer(text)
    return text if number is None else number


def _image_id(entry: Entry, note: Note, text_ids: bool) -> int | str:
    value = _id(entry, "image_id")
    if text_ids:
        return str(value)
    if isinstance(value, int):
        return value
    number = small_integer(value)
    if number is None:
        raise EntryError(f"image_id: {_found(entry, 'image_id')}, needed the id of an image")
    note("image_id is written as text")
    return number


def _box(entry: Entry, note: Note) -> list[float]:
    """[x, y, width, height] of an entry; without `bbox`, of its outline."""
    values = entry.get("bbox")
    if values in (None, []) and (outline := _outline(entry.get("segmentation"))):
        note("no bbox; the box is that of the outline")
        return outline
    numbers = [_number(value, note) for value in values] if isinstance(values, list) and len(values) == 4 else []
    if not numbers or None in numbers:
        raise EntryError(f"bbox: {_found(entry, 'bbox')}, needed [x, y, width, height] or an outline")
    return [number for number in numbers if number is not None]


def _outline(polygons: object) -> list[float] | None:
    """The box of polygons [x1, y1, x2, y2, ...] as [x, y, width, height]; None for anything else."""
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        return None
    if not all(len(polygon) % 2 == 0 and all(type(v) in (int, float) for v in polygon) for polygon in polygons):
        return None
    xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    if not xs:
        return None
    return [_as_float(value) for value in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]


def _flag(entry: Entry, key: str, note: Note) -> int:
    """The value of a key that is 0 or 1; null or missing means 0."""
    value = entry.get(key)
    if value is None:
        if key in entry:
            note(f"{key} is null; read as 0")
        return 0
    number = float(value) if isinstance(value, bool) else _number(value, note)
    if number not in (0, 1):
        raise EntryError(f"{key}: found {shown(value)}, needed 0 or 1")
    return int(number)


def _number(value: object, note: Note) -> float | None:
    """A number, which may be NaN, or written as text; None for anything else."""
    if isinstance(value, str):
        if len(value) > MAX_ID_LENGTH or not NUMBER.fullmatch(value.strip()):
            return None
        note(TEXT_NUMBERS)
        return float(value)
    return _as_float(value) if isinstance(value, int | float) and type(value) is not bool else None


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # more than 308 digits
        return math.inf if value > 0 else -math.inf
