"""Strict reading of untrusted JSON (duplicate keys are errors, memory is bounded), and writing."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from boxwright import files
from boxwright.errors import InputError

JsonObject = dict[str, Any]

# An empty list takes two or three bytes in a file and 56 in memory. Label files have at most one list or object per 20
# bytes, so a file with many more is not a label file.
BYTES_PER_CONTAINER = 12
SMALL = 1 << 20  # bytes; smaller files cannot take much memory
START = 4096  # bytes that show whether a file is an earlier output


def read(path: str | Path, convert: Callable[[JsonObject], JsonObject] | None = None) -> Any:
    """The value of a JSON file. Raises InputError where it cannot be read, and as `parse` does.

    Args:
        path: The file.
        convert: Applied to each object, innermost first.
    """
    return parse(files.read_input(path, ", needed a JSON file"), str(path), convert)


def parse(text: str | bytes, source: str, convert: Callable[[JsonObject], JsonObject] | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: The JSON text.
        source: Its name in errors.
        convert: Applied to each object, innermost first.

    Raises:
        InputError: The text is not JSON, repeats a key in an object, is nested deeper than a few hundred levels, has a
            number of more than 4300 digits, or many more lists than label files have.
    """

    def to_object(pairs: list[tuple[str, object]]) -> JsonObject:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise InputError(f"{source}: {_repeated(pairs)} is repeated in one object; merge the two, or remove one")
        return convert(result) if convert else result

    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if (
        len(content) > SMALL
        and (count := content.count(b"[") + content.count(b"{")) > len(content) / BYTES_PER_CONTAINER
    ):
        raise InputError(f"{source}: {count:,} lists and objects in {len(content):,} bytes, more than label files have")
    try:
        return json.loads(content, object_pairs_hook=to_object)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply, needed JSON of fewer levels") from error
    except ValueError as error:  # invalid JSON or UTF-8, or a number of too many digits
        raise InputError(f"{source}: not JSON ({str(error).partition(';')[0][:160]}); truncated?") from error


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number within the range of floats; true and false are not."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of hundreds of digits
        return False


def dumps(value: object, indent: int | None = None) -> str:
    """`value` as JSON that can be encoded as UTF-8.

    An undecodable byte of a file name (a surrogate of `os.fsdecode`) becomes an escape such as `\\udce9`, which `parse`
    turns back into the same name.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # for a surrogate, this is JSON's escape too


def write(path: str | Path, value: object, indent: int | None = None) -> None:
    """Write `dumps(value)` to `path` atomically. Raises InputError where it cannot be written."""
    with files.atomic_write(path) as tmp:
        tmp.write_text(dumps(value, indent), encoding="utf-8")


def reject_other_files(file: str | Path, start: re.Pattern[bytes], what: str) -> None:
    """Raise InputError if `file` exists and is not an earlier output, or if its folder does not exist.

    Args:
        file: The file to write.
        start: Pattern of the first bytes of earlier outputs.
        what: What they are, for the message.
    """
    if not Path(file).parent.is_dir():
        raise InputError(f"{file}: there is no such folder, needed an existing one; create it, or name another")
    try:
        with files.open_regular(file) as opened:
            found = opened.read(START)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{file}: cannot be replaced ({error.strerror}); name another file") from error
    if not start.match(found):
        raise InputError(f"{file}: exists and is not {what}; name another file")


def _repeated(pairs: list[tuple[str, object]]) -> str:
    seen: set[str] = set()
    key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return f"key '{key[:60]}'"
