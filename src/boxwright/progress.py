"""Progress of long loops: a bar with rate and remaining time on a terminal, log lines elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from boxwright import interrupt
from boxwright.errors import printable

logger = logging.getLogger(__name__)

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], total: int | None, what: str, unit: str = "images", start: int = 0) -> Iterator[T]:
    """Yield `items` and show the progress on stderr.

    Args:
        items: Items to yield.
        total: Number of items, including `start`; None if it is unknown.
        what: Title of the bar.
        unit: Name of the items, in the plural.
        start: Items done before.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
    """
    show = _bar if sys.stderr.isatty() else _lines
    yield from show(items, total, printable(what), unit, start)


def _bar(items: Iterable[T], total: int | None, what: str, unit: str, start: int) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    begin = time.monotonic()
    no_color = bool(os.environ.get("NO_COLOR"))  # rich before 14 also obeys an empty one
    with Progress(*columns, console=Console(stderr=True, no_color=no_color), transient=True) as progress:
        task = progress.add_task(what, total=total, completed=start, rate="")
        for done, item in enumerate(items, 1):
            interrupt.check()
            yield item
            rate = done / max(time.monotonic() - begin, 1e-9)
            progress.update(task, advance=1, rate=f"{rate:.1f} {unit}/s")


def _lines(items: Iterable[T], total: int | None, what: str, unit: str, start: int) -> Iterator[T]:
    begin = last = time.monotonic()
    for done, item in enumerate(items, 1):
        interrupt.check()
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            rate = done / (now - begin)
            count, left = f"{start + done}", ""
            if total is not None:
                count, left = f"{start + done}/{total}", f", {max(0, total - start - done) / rate:.0f} s left"
            logger.info("%s: %s, %.1f %s/s%s", what, count, rate, unit, left)
            last = now
