"""Counted events as rows of a CSV file."""

import csv
from typing import TextIO

from boxwright.counting.counter import Event

HEADER = ("time", "track", "class", "place", "direction", "dwell")


class EventTable:
    """Writes events to a stream as they occur, so that memory does not grow with the video."""

    def __init__(self, stream: TextIO) -> None:
        """stream: a text file, opened with `newline=""`."""
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(HEADER)

    def write(self, event: Event) -> None:
        """Append an event; times in s with three decimals."""
        dwell = "" if event.dwell is None else f"{event.dwell:.3f}"
        self._writer.writerow([f"{event.time:.3f}", event.track, event.name, event.place, event.direction, dwell])
