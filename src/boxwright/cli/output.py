"""Printing results and log lines."""

import logging
import sys
from typing import TextIO

from boxwright.errors import printable


def echo(result: object) -> None:
    """Print a result to stdout, with control characters (of file names) as escapes."""
    print("\n".join(map(printable, str(result).split("\n"))))


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
