"""Rows of CSV files. They are untrusted: the length of a row is limited."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from boxwright.data.contents import HEAD, head
from boxwright.errors import InputError
from boxwright.files import open_regular

DELIMITERS = ",;\t"  # spreadsheets of some languages write semicolons
MAX_LINE = 1 << 20  # characters
MAX_LINES = 1000  # lines of one row, whose quoted fields may contain line breaks


def first_row(file: Path) -> list[str]:
    """The first row without white space around its fields; [] if the file is not text."""
    start = head(file)
    try:
        text = start.decode("utf-8-sig", "strict" if len(start) < HEAD else "ignore")
        line = next((line for line in text.splitlines() if line.strip()), "")
        return [field.strip() for field in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except (UnicodeDecodeError, csv.Error):
        return []


def rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows, each with the number of its last line, from 1; without empty rows and white space around fields.

    Raises InputError if the file cannot be read, is not UTF-8, or has a row of excessive length.
    """
    row_lines, number = 0, 0

    def lines(opened: io.TextIOWrapper) -> Iterator[str]:
        nonlocal row_lines, number
        for number, line in enumerate(iter(lambda: opened.readline(MAX_LINE + 1), ""), 1):
            row_lines += 1
            if len(line) > MAX_LINE or row_lines > MAX_LINES:
                raise InputError(f"{file} line {number}: the row is too long, needed labels; is a quote missing?")
            if "\0" in line:
                raise InputError(f"{file} line {number}: contains a NUL, needed text; rewrite the file")
            yield line

    try:
        with io.TextIOWrapper(open_regular(file), encoding="utf-8-sig", newline="") as opened:
            delimiter = _delimiter(opened.readline(MAX_LINE))
            opened.seek(0)
            for row in csv.reader(lines(opened), delimiter=delimiter):
                row_lines = 0
                if any(fields := [field.strip() for field in row]):
                    yield number, fields
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}), needed a CSV file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 (a byte in or after line {number + 1}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{file} line {number}: not CSV, a field is too long; is a quote missing?") from error


def write_rows(file: Path, written: list[list[str]]) -> None:
    """Write a CSV file. Raises InputError if a name in it is not valid UTF-8."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(written)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text(buffer.getvalue(), encoding="utf-8", newline="\n")
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 60) : error.start + 20].replace("\n", " ")
        raise InputError(f"{file.name}: cannot hold '{name}', a name that is not UTF-8; rename that file") from error


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)
