"""Values of label entries of unknown types, such as those of a JSON or a CSV file.

The functions raise ValueError for an unsuitable value. Its text is the fault: what was found and what is needed.
"""

from collections.abc import Mapping, Sequence

from boxwright.json_text import JsonObject

MAX_SHOWN = 40  # characters of a value in a message
Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 px


def number(value: object, what: str) -> float:
    """A number, which may be written as text. what: its name, for the message."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or (type(value) is str and "_" in value):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{what}: {found(value)}, needed a number") from None


def numbers(entry: Mapping[str, object], *keys: str) -> list[float]:
    """The numbers of several keys."""
    return [number(value_of(entry, key), key) for key in keys]


def value_of(entry: Mapping[str, object], key: str) -> object:
    """The value of a key that must exist."""
    if key not in entry:
        raise ValueError(f"no key '{key}'; complete the entry or remove it")
    return entry[key]


def mapping(value: object, what: str) -> JsonObject:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what}: {found(value)}, needed an object {{...}}")
    return value


def sequence(value: object, what: str) -> list[object]:
    """A JSON list."""
    if not isinstance(value, list):
        raise ValueError(f"{what}: {found(value)}, needed a list [...]")
    return value


def string(value: object, what: str) -> str:
    """A text. A number is taken as text, since some tools write the class "1" as 1."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{what}: {found(value)}, needed a text")
    return str(value).strip()


def size_of(height: object, width: object) -> tuple[int, int]:
    """(height, width) px of an image; (-1, -1) if they are not whole numbers, for example empty."""
    try:
        sides = number(height, "height"), number(width, "width")
    except ValueError:
        return -1, -1
    valid = all(side.is_integer() and 0 < side < 2**31 for side in sides)
    return (int(sides[0]), int(sides[1])) if valid else (-1, -1)


def outline(points: Sequence[object], minimum: int = 3) -> list[float]:
    """x1, y1, x2, y2, ... of a list of points [x, y].

    minimum: Minimum number of points.
    """
    values = []
    for index, point in enumerate(points):
        pair = sequence(point, f"points[{index}]")
        if len(pair) != 2:
            raise ValueError(f"points[{index}]: found {len(pair)} numbers, needed x and y")
        values += [number(value, f"points[{index}]") for value in pair]
    if len(points) < minimum:
        raise ValueError(f"found {len(points)} points, needed {minimum} or more; complete or remove it")
    return values


def found(value: object) -> str:
    """A value for a message. Example: found 'abc'."""
    shown = repr(value)
    return f"found {shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + '...'}"
