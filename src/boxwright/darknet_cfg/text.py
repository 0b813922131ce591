"""Parse the text of a .cfg file into sections, as AlexeyAB's Darknet does, and write it.

Blanks are ignored, even inside words. Lines that begin with # or ; are comments; there are no comments after a value: a
number ends where its digits end, and a word takes the rest of the line. The first of several equal keys counts.
"""

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from boxwright.errors import InputError
from boxwright.files import read_input

MAX_CFG = 1 << 18  # bytes of a file; the longest that Darknet ships (such as densenet201.cfg) have about 40 KB
MAX_SECTIONS = 2048  # the longest that Darknet ships have about 500
MAX_SHOWN = 40  # characters of the file in a message
INT_MAX = 2**31 - 1  # largest int in C
FULL_NAMES = {
    "network": "net", "conv": "convolutional", "conn": "connected", "max": "maxpool", "avg": "avgpool",
    "soft": "softmax", "local_avg": "local_avgpool",
}  # fmt: skip
WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BLANKS = str.maketrans("", "", " \t\r")


@dataclass(frozen=True)
class Section:
    """A section: its full name, position and keys.

    Attributes:
        kind: Name in the brackets, without abbreviation: `convolutional`, also for [conv].
        index: Darknet's number of the layer, from 0; -1 for [net].
        line: Line of the brackets, from 1.
        source: The file, for messages.
        options: Key -> (value, line). "" for a key without a value, which counts as missing.
    """

    kind: str
    index: int
    line: int
    source: str = field(compare=False)
    options: Mapping[str, tuple[str, int]]

    def has(self, key: str) -> bool:
        """Whether the key has a value."""
        return bool(self.options.get(key, ("", 0))[0])

    def word(self, key: str, default: str = "") -> str:
        """The value as written, without blanks."""
        return self.options[key][0] if self.has(key) else default

    def integer(self, key: str, default: int = 0) -> int:
        """The value as C's atoi reads it: the digits it starts with, or 0."""
        return _integer(self.options[key][0]) if self.has(key) else default

    def number(self, key: str, default: float = 0.0) -> float:
        """The value as C's atof reads it: the decimal number it starts with, or 0."""
        return self._number(key, self.options[key][0]) if self.has(key) else default

    def integers(self, key: str, end: str = "") -> tuple[int, ...]:
        """Integers separated by commas; () if the key is missing.

        A trailing comma adds an entry 0. end: a character that also ends the list, # in masks.
        """
        return tuple(_integer(part) for part in self._parts(key, end))

    def numbers(self, key: str) -> tuple[float, ...]:
        """Decimal numbers separated by commas, up to #; () if the key is missing."""
        return tuple(self._number(key, part) for part in self._parts(key, "#"))

    def error(self, message: str, key: str = "") -> InputError:
        """An error about this section, or one of its keys: file, line, section, key, then `message`."""
        value, line = self.options.get(key, ("", self.line))
        shown = f", {key}={value[:MAX_SHOWN]}" if key in self.options else ""
        return InputError(f"{self.source} line {line}, [{self.kind[:MAX_SHOWN]}]{shown}: {message}")

    def _parts(self, key: str, end: str) -> list[str]:
        """The entries of a list. Commas are counted up to `end`, entries are read from the start."""
        value = self.word(key)
        if not value:
            return []
        counted = value.partition(end)[0] if end else value
        return value.split(",")[: counted.count(",") + 1]

    def _number(self, key: str, text: str) -> float:
        match = NUMBER.match(text)
        if match is None and re.match(r"[+-]?(?:inf|nan|0x)", text, re.IGNORECASE):
            raise self.error("needed a decimal number", key)
        value = float(match[0]) if match else 0.0
        if abs(value) > 1e30:  # beyond float32, which Darknet stores it in
            raise self.error("needed a smaller number", key)
        return value


def read_cfg(path: str | Path) -> str:
    """The text of the file at `path`.

    Raises:
        InputError: The file cannot be read, or is larger than any .cfg (it is not read then).
    """
    content = read_input(path, ", needed a Darknet .cfg file, a text of some KB", MAX_CFG)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path}: is UTF-16, as PowerShell writes text; save the file as UTF-8")
    return content.decode("utf-8-sig", errors="replace")


@lru_cache(maxsize=8)
def parse(text: str, source: str = "the .cfg") -> tuple[Section, ...]:
    """The sections of a .cfg: [net] first, then the layers.

    Args:
        text: Content of the file.
        source: Its name, for messages.

    Raises:
        InputError: With file and line, if the first section is not [net], there is no layer, or a line precedes the
            first section.
    """
    found: list[tuple[str, int, dict[str, tuple[str, int]]]] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.translate(BLANKS)
        if not line or line[0] in "#;\0":
            continue
        if line[0] == "[":
            found.append((_kind(line, number, source), number, {}))
            if len(found) > MAX_SECTIONS:
                raise InputError(f"{source} line {number}: more than {MAX_SECTIONS:,} sections, needed fewer")
            continue
        if not found:
            raise InputError(f"{source} line {number}: found {line[:MAX_SHOWN]!r}, needed [net] first")
        key, sign, value = line.partition("=")
        if value or not sign:  # `key=` is skipped; a key alone counts as the first of its name, and as missing
            found[-1][2].setdefault(key, (value, number))
    if not found or found[0][0] != "net":
        first = f"[{found[0][0][:MAX_SHOWN]}] in line {found[0][1]}" if found else "no section"
        raise InputError(f"{source}: starts with {first}, needed [net] with width, height and channels")
    if len(found) == 1:
        raise InputError(f"{source}: holds no layer after [net]; the file is cut off")
    return tuple(
        Section(kind, index, line, source, options) for index, (kind, line, options) in enumerate(found, start=-1)
    )


def written(sections: Iterable[tuple[str, Mapping[str, object]]]) -> str:
    """Text of sections, each with its name and keys, as `parse` reads it. Tuples become comma-separated lists."""
    blocks = [
        "\n".join([f"[{kind}]", *(f"{key}={_shown(value)}" for key, value in keys.items())]) for kind, keys in sections
    ]
    return "\n\n".join(blocks) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _kind(line: str, number: int, source: str) -> str:
    if not line.endswith("]"):
        raise InputError(
            f"{source} line {number}: found {line[:MAX_SHOWN]!r}, needed a section's name in brackets and nothing "
            "after it; put comments on separate lines"
        )
    return FULL_NAMES.get(line[1:-1], line[1:-1])


def _integer(text: str) -> int:
    match = WHOLE.match(text)
    if not match:
        return 0
    digits = match[0][:12]  # Python is slow with many digits
    return max(-INT_MAX, min(INT_MAX, int(digits)))
