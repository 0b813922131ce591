"""Reading `log.jsonl` of a run folder, which may be damaged, or somebody else's file of that name."""

import math
from pathlib import Path
from typing import Any

from boxwright import files, json_text
from boxwright.errors import InputError

FILE = "log.jsonl"
Line = dict[str, Any]


def read(file: Path) -> list[tuple[bytes, Line]]:
    """The lines, each as it stands there, with its line break, and as values: `step` and `epoch` are whole numbers,
    `terms` are numbers by name, and all else are numbers.

    A last line without its line break, which a kill cut short, is left out. Raises InputError for any other line that
    is none of a log.
    """
    try:
        content = files.read_bytes(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        place = f"{file}: line {number}"
        values = json_text.parse(line, place)
        if not _is_sound(values):
            raise InputError(f"{place}: no line of a run's log; remove it, or name another folder")
        found.append((line + b"\n", values))
    return found


def _is_sound(values: Any) -> bool:
    if not isinstance(values, dict) or not all(type(values.get(name)) is int for name in ("step", "epoch")):
        return False
    terms = values.get("terms", {})
    if not isinstance(terms, dict) or ("terms" in values and not {"lr", "total"} <= values.keys()):
        return False
    numbers = [*terms.values(), *(value for name, value in values.items() if name != "terms")]
    return all(type(number) in (int, float) and not math.isinf(number) for number in numbers)
