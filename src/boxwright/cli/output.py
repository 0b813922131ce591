"""What the verbs print."""

import logging
import sys
from typing import TextIO

from boxwright.errors import printable


def say(result: object) -> None:
    """Print a result, with what a terminal would act on, such as a picture's name might hold, shown as escapes."""
    print("\n".join(map(printable, str(result).split("\n"))))


class _StandardError(logging.StreamHandler[TextIO]):
    """Whatever `sys.stderr` is when a line is written. Its lines are printable."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def log_to_stderr() -> None:
    """Show what the package logs, a line each. For a process of our own: a library leaves that to its host."""
    logger = logging.getLogger("boxwright")
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
        logger.setLevel(logging.INFO)
        logger.propagate = False
