"""Positions of values in a JSON text, so that some can be replaced without changing the rest of the text.

The text was parsed before, so it is valid.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from boxwright.look.editing import EditError, Span

Spans = Sequence[tuple[int, int]] | NDArray[np.int64]  # start and end of each element of an array

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_BLANK = re.compile("[ \t]*")
_NUMBER = re.compile(r"-?\d[\d.eE+-]*")


def decoded(content: bytes) -> tuple[str, Callable[[str], bytes]]:
    """Text of a file, and a function that encodes a text in the same encoding.

    Raises EditError if encoding would not restore the bytes of the file.
    """
    encoding = json.detect_encoding(content)
    try:
        text = content.decode(encoding)
        same = encoding == "utf-8" or text.encode(encoding) == content  # the UTF-8 encoding of a text is unique
    except UnicodeError:
        same = False
    if not same:
        raise EditError("not in UTF-8, and not changed here; save it as UTF-8")
    return text, lambda changed: changed.encode(encoding)


def skip_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()


def value_at(text: str, place: int) -> tuple[object, int]:
    """The value that starts at `place`, and its end."""
    value, end = _DECODER.raw_decode(text, place)
    return value, end


def elements(text: str, start: int) -> Iterator[tuple[int, int, object]]:
    """Start, end and value of each element of the array at `start`, one after another."""
    place = skip_space(text, start + 1)
    while text[place] != "]":
        value, end = value_at(text, place)
        yield place, end, value
        place = skip_space(text, end)
        if text[place] == ",":
            place = skip_space(text, place + 1)


def elements_after(text: str, place: int, count: int) -> Iterator[tuple[int, int]]:
    """Start and end of the next elements of an array, after the end of an element or its opening bracket."""
    for _ in range(count):
        place = skip_space(text, place)
        if text[place] in ",[":
            place = skip_space(text, place + 1)
        end = value_at(text, place)[1]
        yield place, end
        place = end


def members(text: str, start: int, ends: Mapping[int, int] | None = None) -> Iterator[tuple[str, int]]:
    """Key, and start of the value, of each member of the object at `start`.

    ends: start -> end of arrays that the caller has parsed already.
    """
    place = skip_space(text, start + 1)
    while text[place] != "}":
        key, end = value_at(text, place)
        place = skip_space(text, skip_space(text, end) + 1)
        yield str(key), place
        if ends is not None and place in ends:
            end = ends[place]
        elif text[place] == "[":  # element by element, to save memory
            end = end_of_array(text, place, [end for _, end, _ in elements(text, place)])
        else:
            end = value_at(text, place)[1]
        place = skip_space(text, end)
        if text[place] == ",":
            place = skip_space(text, place + 1)


def end_of_array(text: str, start: int, ends: Sequence[int]) -> int:
    """End of the array at `start`, whose elements end at `ends`."""
    return skip_space(text, ends[-1] if len(ends) else start + 1) + 1


def spans_of(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Key -> start and end of the value, for the object at `start`."""
    return {key: (place, value_at(text, place)[1]) for key, place in members(text, start)}


def numbers_replaced(text: str, span: tuple[int, int], numbers: Sequence[str]) -> list[Span]:
    """Replacements of all numbers of the lists in a span; brackets, spaces and line breaks stay."""
    found = list(_NUMBER.finditer(text, *span))
    if len(found) != len(numbers):
        raise EditError(f"{text[slice(*span)][:40]}: found {len(found)} numbers, needed {len(numbers)}")
    return [Span(match.start(), match.end(), word) for match, word in zip(found, numbers, strict=True)]


def removals(spans: Spans, deleted: Sequence[int]) -> list[Span]:
    """Spans to remove from an array to delete some elements with their commas. spans: of all elements."""
    runs: list[list[int]] = []  # first element, and the one after the last
    for place in sorted(deleted):
        if runs and runs[-1][1] == place:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    found = []
    for first, after in runs:
        if after < len(spans):
            start, end = spans[first][0], spans[after][0]
        else:
            start, end = spans[first - 1][1] if first else spans[0][0], spans[-1][1]
        found.append(Span(int(start), int(end), ""))
    return found


def insertion(text: str, start: int, spans: Spans, values: Sequence[object]) -> list[Span]:
    """Insertion of elements at the end of the array at `start`, formatted as its last ones. spans: of its elements."""
    if not values:
        return []
    if not len(spans):
        return [Span(start + 1, start + 1, ", ".join(json.dumps(value) for value in values))]
    first, last = map(int, spans[-1])
    newline = "\r\n" if "\r\n" in text else "\n"
    before = text[text.rfind("\n", 0, first) + 1 : first]
    base = before if not before.strip() else ""
    if text.startswith(newline, _BLANK.match(text, first + 1).end()):  # type: ignore[union-attr]
        unit = len(base) // 2 or 2
        written = [json.dumps(value, indent=unit).replace("\n", newline + base) for value in values]
        tight = False
    else:
        tight = '":' in text[first:last] and '": ' not in text[first:last]
        written = [json.dumps(value, separators=(",", ":") if tight else (", ", ": ")) for value in values]
    alone = f",{newline}{base}" if base else "," if tight else ", "
    separator = text[int(spans[-2][1]) : first] if len(spans) > 1 else alone
    return [Span(last, last, "".join(separator + each for each in written))]
