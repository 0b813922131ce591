"""JSON from strangers, read strictly: a repeated key is an error, and sizes are checked before memory is taken; and our
own, written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boxwright import files
from boxwright.errors import InputError

Object = dict[str, Any]

# An empty list takes two or three bytes of a file and 56 of memory. Labels have one list or object in 20 bytes or more,
# so that a file with many more than that is no file of labels.
BYTES_PER_CONTAINER = 12
SMALL = 1 << 20  # bytes; what a smaller file can take is no danger


def read(path: str | Path, convert: Callable[[Object], Object] | None = None) -> Any:
    """What the JSON file at `path` holds. convert: what each object becomes, innermost first.

    Raises InputError for a file that cannot be read, and as `parse` does.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), needed a JSON file") from error
    return parse(content, str(path), convert)


def parse(text: str | bytes, source: str, convert: Callable[[Object], Object] | None = None) -> Any:
    """The value of a JSON text; `source` names it in an error. convert: as in `read`.

    Raises InputError for what is no JSON, a key given twice, nesting beyond some hundred levels, a number of more than
    4300 digits, and many more lists than labels have.
    """

    def to_object(pairs: list[tuple[str, Any]]) -> Object:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise InputError(f"{source}: {_repeated(pairs)} stands twice in one object; merge the two, or remove one")
        return convert(found) if convert else found

    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if (
        len(content) > SMALL
        and (count := content.count(b"[") + content.count(b"{")) > len(content) / BYTES_PER_CONTAINER
    ):
        raise InputError(f"{source}: {count:,} lists and objects in {len(content):,} bytes, more than labels have")
    try:
        return json.loads(content, object_pairs_hook=to_object)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply, needed JSON of fewer levels") from error
    except ValueError as error:  # no JSON, no UTF-8, a number of too many digits
        raise InputError(f"{source}: not JSON ({str(error).partition(';')[0][:160]}); truncated?") from error


def text_of(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that is UTF-8 whatever names it holds.

    A byte of a file name that is no text (as `os.fsdecode` gives it) becomes an escape such as `\\udce9`, from which
    `parse` makes the same name again.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # of a surrogate that is JSON's escape as well


def write(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write `text_of(value)` to `path`, whole or not at all. Raises InputError where it cannot be written."""
    with files.atomic_write(path) as tmp:
        tmp.write_text(text_of(value, indent), encoding="utf-8")


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return f"key '{key[:60]}'"
