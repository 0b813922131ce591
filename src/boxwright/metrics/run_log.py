"""Reading a run's `log.jsonl`, which may be damaged or a file of another program."""

import math
from pathlib import Path

from boxwright import files, json_text
from boxwright.errors import InputError
from boxwright.json_text import JsonObject

FILE = "log.jsonl"


def read(file: Path) -> list[tuple[bytes, JsonObject]]:
    """Read the log. A last line without a line break, which was being written when the run was killed, is ignored.

    Returns:
        Each line as bytes with its line break, and its values: `step` and `epoch` are integers, `terms` are numbers by
        name, all others are numbers.

    Raises:
        InputError: The file cannot be read, or another line is not a valid line of a log.
    """
    lines = []
    for number, line in enumerate(files.read_input(file).split(b"\n")[:-1], 1):
        location = f"{file}: line {number}"
        values = json_text.parse(line, location)
        if not _is_valid(values):
            raise InputError(f"{location}: not a line of a run's log; remove it, or name another folder")
        lines.append((line + b"\n", values))
    return lines


def _is_valid(values: object) -> bool:
    if not isinstance(values, dict) or not all(type(values.get(name)) is int for name in ("step", "epoch")):
        return False
    terms = values.get("terms", {})
    if not isinstance(terms, dict) or ("terms" in values and not {"lr", "total"} <= values.keys()):
        return False
    numbers = [*terms.values(), *(value for name, value in values.items() if name != "terms")]
    return all(json_text.is_number(number) or (type(number) is float and math.isnan(number)) for number in numbers)
