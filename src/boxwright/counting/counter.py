"""Counting of tracks that cross lines, and that enter and leave zones.

A crossing counts once the anchor of a confirmed track has been beyond the hysteresis band on one side and then on the
other. Its time is when the anchor was on the line itself, interpolated between frames. So an object that stands on a
line, an id that exists for one frame, and a track that begins on a line are not counted. The class of an event is that
of the whole track, even if its detections differ.
"""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from boxwright.arrays import Array
from boxwright.counting.config import CountingConfig
from boxwright.counting.geometry import along_line, beside_line, inside_polygon
from boxwright.tracking.tracks import Tracks

IN, OUT = "in", "out"  # of lines: from left to right as seen along the line, and back
ENTER, EXIT = "enter", "exit"  # of zones
START, END = "start", "end"  # of zones: a track that begins or ends inside


@dataclass(frozen=True, slots=True)
class Event:
    """A counted event.

    Attributes:
        time: When the anchor was on the line or border, in s; of a track that begins or ends in a zone, when it was
            first or last detected there.
        track: Id of the track.
        name: Class of the track.
        place: The name of the line or zone.
        direction: `in` or `out` of a line; `enter`, `exit`, `start` or `end` of a zone.
        dwell: Seconds in the zone, for `exit` and `end`.
    """

    time: float
    track: int
    name: str
    place: str
    direction: str
    dwell: float | None = None


@dataclass(slots=True)
class _Passage:
    """State of a track at one line or zone.

    Attributes:
        side: Beyond the band: 1 right of a line or inside a zone, -1 left or outside; 0 while unknown.
        point, distance, time: Values of the last detection.
        crossed: Time at which the anchor was on the line or border last.
        along: Position of that crossing along a line, 0 to 1 between its points.
        since: Time at which it entered the zone.
        pending: Events that count once the track is confirmed.
    """

    point: Array
    distance: float
    time: float
    side: int = 0
    crossed: float = 0.0
    along: float = 0.0
    since: float = 0.0
    name: str = ""
    confirmed: bool = False
    pending: list[tuple[float, str, float | None]] = field(default_factory=list)


class Counter:
    """Counts the tracks of one video. Memory depends only on the tracks that have not ended."""

    def __init__(self, config: CountingConfig) -> None:
        self.config = config
        self._passages: dict[str, dict[int, _Passage]] = {place: {} for place in (*config.lines, *config.zones)}
        self._totals: dict[str, dict[str, Tally[str]]] = {place: defaultdict(Tally) for place in self._passages}

    def update(self, tracks: Tracks, time: float) -> list[Event]:
        """Count the tracks of the next frame.

        Args:
            tracks: From `Tracker.update`, with the tentative ones.
            time: Time of the frame in s.

        Returns:
            The events that count with this frame, by line and zone.
        """
        boxes = tracks.boxes.astype(np.float64)
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        points = np.stack([x, y if self.config.anchor == "center" else boxes[:, 3]], axis=1)
        bands = self.config.band * np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
        events = []
        for place in self._passages:
            events += self._at_place(place, tracks, points, bands, time)
            events += self._end(place, tracks.ended.tolist())
        return self._counted(events)

    def close(self) -> list[Event]:
        """The events of tracks that are in a zone when the video ends."""
        return self._counted(
            [event for place, passages in self._passages.items() for event in self._end(place, [*passages])]
        )

    def totals(self) -> dict[str, dict[str, dict[str, int]]]:
        """Place -> direction -> class -> number of events."""
        return {
            place: {direction: dict(tally) for direction, tally in directions.items()}
            for place, directions in self._totals.items()
        }

    def inside(self, zone: str) -> int:
        """The number of tracks that are in a zone."""
        totals = {direction: tally.total() for direction, tally in self._totals[zone].items()}
        came, went = (sum(totals.get(name, 0) for name in names) for names in ((ENTER, START), (EXIT, END)))
        return came - went

    def _at_place(self, place: str, tracks: Tracks, points: Array, bands: Array, time: float) -> list[Event]:
        """The events of one frame at one place. points: (N, 2) anchors; bands: (N,) px."""
        line, passages = self.config.lines.get(place), self._passages[place]
        distances = beside_line(line, points) if line else inside_polygon(self.config.zones[place], points)
        events = []
        for row, track in enumerate(tracks.ids.tolist()):
            distance = float(distances[row])
            passage = passages.get(track)
            if passage is None:
                passage = passages[track] = _Passage(points[row], distance, time, crossed=time)
            elif (distance < 0) != (passage.distance < 0):
                share = passage.distance / (passage.distance - distance)
                passage.crossed = passage.time + share * (time - passage.time)
                if line:
                    passage.along = along_line(line, passage.point + share * (points[row] - passage.point))
            passage.point, passage.distance, passage.time = points[row], distance, time
            passage.name = tracks.name(int(tracks.labels[row]))
            passage.confirmed = bool(tracks.confirmed[row])
            side = int(distance > bands[row]) - int(distance < -bands[row])
            if side and side != passage.side:
                if line:
                    _over_line(passage, side)
                else:
                    _over_border(passage, side)
                passage.side = side
            events += _released(place, track, passage)
        return events

    def _end(self, place: str, tracks: Sequence[int]) -> list[Event]:
        """Remove tracks at one place; returns the events of confirmed tracks in a zone."""
        events = []
        for track in tracks:
            passage = self._passages[place].pop(track, None)
            if passage is not None and passage.side > 0 and place in self.config.zones:
                passage.pending.append((passage.time, END, passage.time - passage.since))
                events += _released(place, track, passage)
        return events

    def _counted(self, events: list[Event]) -> list[Event]:
        for event in events:
            self._totals[event.place][event.direction][event.name] += 1
        return events


def _over_line(passage: _Passage, side: int) -> None:
    """Update a track that is beyond the band on a new side; it crossed the line if it passed between its points."""
    if passage.side and 0 <= passage.along <= 1:
        passage.pending.append((passage.crossed, IN if side > 0 else OUT, None))


def _over_border(passage: _Passage, side: int) -> None:
    """Update a track that has just passed the band, to the inside or the outside of a zone."""
    if side > 0:
        passage.since = passage.crossed
        passage.pending.append((passage.crossed, ENTER if passage.side else START, None))
    elif passage.side:
        passage.pending.append((passage.crossed, EXIT, passage.crossed - passage.since))


def _released(place: str, track: int, passage: _Passage) -> list[Event]:
    """The pending events of a confirmed track."""
    if not passage.confirmed:
        return []
    pending, passage.pending = passage.pending, []
    return [Event(time, track, passage.name, place, direction, dwell) for time, direction, dwell in pending]
