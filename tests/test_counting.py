"""Counting at lines and zones: times and directions of known motions, and what must not count."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.cli.video import tracking_of
from boxwright.counting import config as counting_config
from boxwright.counting.config import CountingConfig
from boxwright.counting.counter import Counter, Event
from boxwright.counting.geometry import beside_line, inside_polygon
from boxwright.counting.table import EventTable
from boxwright.errors import InputError
from boxwright.tracking.tracker import Tracker
from boxwright.types import Detections

pytest.importorskip("scipy", reason="needs the extra video")

SIZE = 20.0  # px of all objects: the band is 2 px
STEP = 0.04  # s
Motion = Callable[[float], tuple[float, float] | None]  # time -> center, None where it is not detected
GATE = {"lines": {"gate": (0, 100, 200, 100)}}  # `in` is downwards
YARD = {"zones": {"yard": (50, 50, 150, 50, 150, 150, 50, 150)}}


def count(
    *motions: Motion, places: dict[str, object], seconds: float = 4, labels: Callable[[float], int] = lambda t: 0
) -> tuple[list[Event], Counter]:
    """The events of objects with known motions, after tracking."""
    tracker, counter = Tracker(), Counter(CountingConfig.model_validate(places))
    events: list[Event] = []
    for frame in range(round(seconds / STEP)):
        time = frame * STEP
        detected = [center for motion in motions if (center := motion(time)) is not None]
        centers = np.array(detected, np.float32).reshape(-1, 2)
        boxes = torch.from_numpy(np.concatenate([centers - SIZE / 2, centers + SIZE / 2], 1))
        found = Detections(
            boxes, torch.full((len(boxes),), 0.9), torch.full((len(boxes),), labels(time)), ("car", "bus")
        )
        events += counter.update(tracker.update(found, None, time), time)
    return events, counter


def short(events: Sequence[Event]) -> list[tuple[int, str, str]]:
    return [(event.track, event.direction, event.name) for event in events]


def down(x: float, speed: float = 50.0) -> Motion:
    return lambda time: (x, speed * time)


def up(x: float, speed: float = 50.0) -> Motion:
    return lambda time: (x, 200 - speed * time)


def test_both_directions_count_at_the_crossing_time() -> None:
    events, counter = count(down(50, 47.0), up(150, 53.0), places=GATE)
    assert short(events) == [(2, "out", "car"), (1, "in", "car")]
    assert [event.time for event in events] == [pytest.approx(100 / 53), pytest.approx(100 / 47)]
    assert counter.totals() == {"gate": {"out": {"car": 1}, "in": {"car": 1}}}


def test_direction_in_is_left_to_right_along_the_line() -> None:
    """From the bottom to the top of the image, the left of the image is on the left."""
    events, _ = count(lambda t: (50 + 50 * t, 100), places={"lines": {"x": (100, 200, 100, 0)}}, seconds=2)
    assert short(events) == [(1, "in", "car")]


def test_object_waiting_on_the_line_counts_after_passing() -> None:
    """It comes to the line, jitters on it for four seconds, and drives on; or it turns back."""

    def jitter(time: float, end: float) -> tuple[float, float]:
        if time < 2:
            return 100, 50 * time
        if time < 6:
            return 100, 100 + 1.5 * math.sin(40 * time)
        return 100, 100 + end * (time - 6)

    events, _ = count(lambda t: jitter(t, 50), places=GATE, seconds=8)
    assert short(events) == [(1, "in", "car")]
    events, _ = count(lambda t: jitter(t, -50), places=GATE, seconds=8)
    assert events == []


def test_each_crossing_back_counts_again() -> None:
    events, _ = count(lambda t: (100, 100 - 60 * math.cos(math.pi * t)), places=GATE, seconds=3.5)
    assert [event.direction for event in events] == ["in", "out", "in"]
    assert [event.time for event in events] == pytest.approx([0.5, 1.5, 2.5], abs=0.01)


def test_flickering_track_at_the_line_does_not_count() -> None:
    """A second box for two frames, before and behind the line, beside an object that crosses."""

    def flicker(time: float) -> tuple[float, float] | None:
        return (150, 92) if math.isclose(time, 2.0) else (150, 105) if math.isclose(time, 2.04) else None

    events, _ = count(down(50), flicker, places=GATE)
    assert short(events) == [(1, "in", "car")]


def test_object_missed_on_the_line_counts_once() -> None:
    events, _ = count(lambda t: None if 1.8 < t < 2.4 else (50, 50 * t), places=GATE)
    assert short(events) == [(1, "in", "car")]
    assert events[0].time == pytest.approx(2.0, abs=0.02)


def test_class_change_on_the_line_counts_once_for_the_track() -> None:
    events, counter = count(down(50), places=GATE, labels=lambda t: int(1.9 < t < 2.2))
    assert short(events) == [(1, "in", "car")]
    assert counter.totals() == {"gate": {"in": {"car": 1}}}


def test_track_starting_on_the_line_does_not_count() -> None:
    for start in (99.0, 100.0, 101.0):
        events, _ = count(lambda t, y=start: (50, y + 50 * t), lambda t, y=start: (150, y - 50 * t), places=GATE)
        assert events == []


def test_fast_object_counts_when_its_track_is_confirmed() -> None:
    """It crosses between its first detection and its second, and has its third 10 px behind the line."""
    events, _ = count(lambda t: (100, 95 + 190 * t), places=GATE, seconds=0.08)
    assert events == []
    events, _ = count(lambda t: (100, 95 + 190 * t), places=GATE, seconds=0.12)
    assert short(events) == [(1, "in", "car")]
    assert events[0].time == pytest.approx(5 / 190)


def test_passing_beyond_line_ends_does_not_count() -> None:
    narrow = {"lines": {"gate": (80, 100, 120, 100)}}
    events, _ = count(down(60), down(100), down(140), places=narrow)
    assert short(events) == [(2, "in", "car")]


def test_bottom_anchor_crosses_half_a_box_earlier() -> None:
    events, _ = count(down(50), places=GATE | {"anchor": "bottom"})
    assert events[0].time == pytest.approx((100 - SIZE / 2) / 50)


def test_zone_entries_exits_and_dwell() -> None:
    events, counter = count(lambda t: (50 * t, 100), places=YARD)
    assert short(events) == [(1, "enter", "car"), (1, "exit", "car")]
    assert [event.time for event in events] == pytest.approx([1, 3])
    assert events[1].dwell == pytest.approx(2)
    assert counter.inside("yard") == 0


def test_tracks_starting_and_ending_in_a_zone() -> None:
    """One begins inside and leaves, one enters and vanishes, one stays until the video ends."""
    leaving: Motion = lambda t: (100 + 40 * t, 80)  # noqa: E731
    vanishing: Motion = lambda t: (100, 50 * t) if t < 2 else None  # noqa: E731
    events, counter = count(leaving, vanishing, lambda t: (70, 130), places=YARD, seconds=5)
    assert short(events) == [
        (1, "start", "car"),
        (3, "start", "car"),
        (2, "enter", "car"),
        (1, "exit", "car"),
        (2, "end", "car"),
    ]
    assert [event.time for event in events] == pytest.approx([0, 0, 1, 1.25, 1.96])
    assert [event.dwell for event in events[3:]] == pytest.approx([1.25, 0.96])
    assert counter.inside("yard") == 1
    (last,) = counter.close()
    assert (last.direction, last.track) == ("end", 3)
    assert last.dwell == pytest.approx(4.96)
    assert counter.inside("yard") == 0


def test_jitter_at_a_zone_border_gives_no_events() -> None:
    events, _ = count(lambda t: (50 + 1.5 * math.sin(30 * t), 100), places=YARD)
    assert events == []


def test_state_of_ended_tracks_is_removed() -> None:
    draw = np.random.default_rng(6)
    noise: list[Motion] = [lambda t: tuple(draw.uniform(0, 200, 2)) for _ in range(3)]
    _, counter = count(*noise, places=GATE | YARD, seconds=20)
    assert all(len(passages) < 12 for passages in counter._passages.values())


def test_distances_by_hand() -> None:
    points = np.array([[0.0, 0], [3, 4], [5, 5], [-3, 5]])
    assert beside_line((0, 0, 10, 0), points) == pytest.approx([0, 4, 5, 5])
    assert beside_line((10, 0, 0, 0), points) == pytest.approx([0, -4, -5, -5])
    corner = (0, 0, 10, 0, 10, 10, 4, 10, 4, 4, 0, 4)  # an L
    found = inside_polygon(corner, np.array([[2.0, 2], [2, 7], [7, 7], [13, 14], [5, 1]]))
    assert found == pytest.approx([2, -2, 3, -5, 1])
    turned = [value for pair in np.array(corner).reshape(-1, 2)[::-1] for value in pair]  # in reverse order
    assert inside_polygon(turned, np.array([[2.0, 2], [2, 7]])) == pytest.approx([2, -2])


def test_polygon_distances_match_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    draw = np.random.default_rng(7)
    for corners in (3, 4, 9):
        polygon = draw.uniform(0, 100, (corners, 2)).astype(np.float32)
        points = draw.uniform(-20, 120, (50, 2)).astype(np.float32)
        expected = [cv2.pointPolygonTest(polygon, (float(x), float(y)), True) for x, y in points]
        assert inside_polygon(polygon.ravel().tolist(), points.astype(np.float64)) == pytest.approx(expected, abs=1e-4)


def test_places_from_file_and_options(tmp_path: Path) -> None:
    file = tmp_path / "places.yaml"
    file.write_text("lines: {gate: [0, 100, 200, 100]}\nzones:\n  yard: [0, 0, 10, 0, 5, 10.5]\nband: 0.2\n")
    found = counting_config.load(file, ["1,2,3,4", "5,6,7,8.5"], ["0,0,5,0,5,5"])
    assert found.lines == {"gate": (0, 100, 200, 100), "line 1": (1, 2, 3, 4), "line 2": (5, 6, 7, 8.5)}
    assert found.zones == {"yard": (0, 0, 10, 0, 5, 10.5), "zone 1": (0, 0, 5, 0, 5, 5)}
    assert (found.band, found.anchor) == (0.2, "center")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lines: {gate: [0, 100, 200]}", "lines.gate: too few values"),
        ("lines: {gate: [5, 5, 5, 5]}", "needed x1, y1, x2, y2 of two points that differ"),
        ("lines: {gate: [0, a, 5, 5]}", "lines.gate.1"),
        ("zones: {yard: [5, 5, 10, 10, 40, 40]}", "all corners are on one line, needed an area"),
        ("zones: {yard: [0, 0, 1, 1]}", "found 4 numbers, needed x1, y1, x2, y2, ... of 3 to 100 corners"),
        ("zones: {yard: [0, 0, 1, 1, 2, 0, 7]}", "found 7 numbers"),
        ("lines: {a: [0, 0, 1, 1]}\nzones: {a: [0, 0, 1, 1, 2, 0]}", "found 'a' in both, needed different names"),
        ("line: {a: [0, 0, 1, 1]}", "line: unknown key (did you mean 'lines'?)"),
        ("lines: {a: [0, 0, .inf, 1]}", "finite number"),
        ("band: 2\nlines: {a: [0, 0, 1, 1]}", "band"),
        ("band: 0.1", "found neither lines nor zones"),
        ("lines: {line 1: [0, 0, 1, 1]}", "found 'line 1', the name of a --line or --zone"),
    ],
)
def test_invalid_places_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "places.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        counting_config.load(file, ["1,2,3,4"] if "line 1" in text else [])
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))


def test_invalid_options_are_rejected() -> None:
    with pytest.raises(InputError, match="--line 1,2,x: needed numbers of px with commas between"):
        counting_config.load(lines=["1,2,x"])
    with pytest.raises(InputError, match=r"--line, --zone: lines\.line 2: too few values"):
        counting_config.load(lines=["1,2,3,4", "1,2,3"])
    with pytest.raises(InputError, match="finite"):
        counting_config.load(lines=["1,2,3,nan"])
    with pytest.raises(InputError, match="needed a YAML file"):
        tracking_of(False, False, None, None, "")


@pytest.mark.parametrize("line", ["0.1,0.5,0.9,0.5", "700,0,700,300", "0,-9,600,-1"])
def test_lines_outside_the_video_are_rejected(line: str) -> None:
    """Fractions instead of px, and a line outside of the video."""
    with pytest.raises(InputError, match=r"line 1: lies .* px of its 640 x 360,"):
        counting_config.check_size(counting_config.load(lines=[line]), 360, 640)
    for fits in ("-5,100,700,100", "0,0,0,360", "640,360,900,900"):
        counting_config.check_size(counting_config.load(lines=[fits]), 360, 640)


def test_events_as_csv() -> None:
    stream = io.StringIO()
    table = EventTable(stream)
    table.write(Event(1.23456, 7, 'car, "red"', "gate", "in"))
    table.write(Event(2.0, 8, "car", "yard", "exit", 1.5))
    assert list(csv.reader(io.StringIO(stream.getvalue()))) == [
        ["time", "track", "class", "place", "direction", "dwell"],
        ["1.235", "7", 'car, "red"', "gate", "in", ""],
        ["2.000", "8", "car", "yard", "exit", "1.500"],
    ]
