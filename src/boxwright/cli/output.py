"""Printing results, hints and log lines."""

import json
import logging
import os
import shlex
import subprocess
import sys
from typing import TextIO

from boxwright.errors import printable


def echo(result: object) -> None:
    """Print a result to stdout, with control characters (of file names) as escapes."""
    print("\n".join(map(printable, str(result).split("\n"))))


def print_result(result: object, tree: object, *, as_json: bool) -> None:
    """Print a result as text, or its plain values `tree` as JSON, in ASCII: names cannot control the terminal."""
    if as_json:
        print(json.dumps(tree, indent=1, allow_nan=False))
    else:
        echo(result)


def hint(*words: str) -> None:
    """Print the command that usually comes next to stderr, if stdout and stderr are terminals and this is the main
    process of a training."""
    if sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        line = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
        print(printable(f"next: boxwright {line}"), file=sys.stderr)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes printable lines to the current `sys.stderr`."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def log_to_stderr() -> None:
    """Show the package's log on stderr, one line per record. For the command line only: a library does not configure
    logging."""
    logger = logging.getLogger("boxwright")
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
        logger.setLevel(logging.INFO)
        logger.propagate = False
