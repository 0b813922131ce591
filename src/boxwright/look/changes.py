"""Changes of a request, checked against the objects and the image."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from boxwright.data.dataset import Boxes
from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.look.editing import DIGITS, Box, Change, Target, box_of

ACTIONS = ("set", "delete", "add")
MAX_CHANGES = 5000  # of one request
MARGIN = 0.05  # px that a side may lie outside the image, because of rounding
KEYS = {"action", "id", "box", "class"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested change, None if it changes nothing, and its entry in the journal."""

    change: Change | None
    journal: JsonObject


def checked(values: object, rows: Boxes, target: Target) -> list[Wanted]:
    """Check and parse the changes of a request.

    Args:
        values: Changes in the request.
        rows: Objects of the image; an id is an index in them.
        target: The image.

    Raises:
        InputError: An object or a class does not exist, or a box is invalid or outside the image.
    """
    if not isinstance(values, list) or not 0 < len(values) <= MAX_CHANGES:
        raise InputError(f"changes: needed a list of 1 to {MAX_CHANGES}")
    found, used = list[Wanted](), set[int]()
    for number, value in enumerate(values):
        where = f"changes[{number}]"
        if not isinstance(value, dict) or value.get("action") not in ACTIONS or not value.keys() <= KEYS:
            raise InputError(f"{where}: needed an object with action ({', '.join(ACTIONS)}), id, box and class")
        if value["action"] == "add":
            found.append(_added(value, where, target))
            continue
        place = value.get("id")
        if type(place) is not int or not 0 <= place < len(rows) or place in used:
            raise InputError(f"{where}.id: needed the id of an object of this image, each once")
        used.add(place)
        found.append(_of_object(value, where, target, rows, place))
    return found


def _added(value: Mapping[str, object], where: str, target: Target) -> Wanted:
    box, label = _box(value.get("box"), where, target), _label(value.get("class"), where, target)
    after = {"box": list(box), "class": target.dataset.names[label]}
    return Wanted(Change(None, box, label), {"action": "add", "entry": None, "before": None, "after": after})


def _of_object(value: Mapping[str, object], where: str, target: Target, rows: Boxes, place: int) -> Wanted:
    entry, old = int(rows.entries[place]), rows.xyxy[place]
    before = {"box": [round(side, DIGITS) for side in old.tolist()], "class": _name(target, int(rows.labels[place]))}
    if value["action"] == "delete":
        journal: JsonObject = {"action": "delete", "entry": entry, "before": before, "after": None}
        return Wanted(Change(entry, None, None), journal)
    box, label = None, None
    new_box = box_of(value["box"]) if "box" in value else tuple(old.tolist())
    if new_box is None or not np.array_equal(np.array(new_box, dtype=np.float32), old):  # an old box may be invalid
        box = _box(value["box"], where, target)
    if value.get("class") is not None:
        label = _label(value["class"], where, target)
        label = None if label == int(rows.labels[place]) else label
    if label is not None and rows.ignored[place]:
        raise InputError(f"{where}.class: an ignore region has no class; delete it, and add a box")
    after = {
        "box": before["box"] if box is None else list(box),
        "class": before["class"] if label is None else target.dataset.names[label],
    }
    change = None if box is None and label is None else Change(entry, box, label)
    return Wanted(change, {"action": "set", "entry": entry, "before": before, "after": after})


def _box(value: object, where: str, target: Target) -> Box:
    """Parse a box within the image, and round it."""
    box, (height, width) = box_of(value), target.size
    if box is None:
        raise InputError(f"{where}.box: needed four finite numbers x1, y1, x2, y2 px")
    limits = (width, height, width, height)
    if not all(-MARGIN <= side <= limit + MARGIN for side, limit in zip(box, limits, strict=True)):
        raise InputError(f"{where}.box: {list(box)} is not inside of the image of {width} x {height} px")
    x1, y1, x2, y2 = (round(min(max(side, 0.0), float(limit)), DIGITS) for side, limit in zip(box, limits, strict=True))
    if not (x2 > x1 and y2 > y1):
        raise InputError(f"{where}.box: {list(box)} has no area, needed x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _label(value: object, where: str, target: Target) -> int:
    names = target.dataset.names
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{where}.class: there is no class '{str(value)[:60]}' in split {target.dataset.split}")
    return names.index(value)


def _name(target: Target, label: int) -> str | None:
    return target.dataset.names[label] if label >= 0 else None
