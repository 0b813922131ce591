"""The tracker: its filter against the textbook's matrices, and detections whose objects are known."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from boxwright.arrays import Array
from boxwright.tracking import kalman
from boxwright.tracking.association import assign
from boxwright.tracking.camera import CameraMotion
from boxwright.tracking.coco_video import CocoVideo
from boxwright.tracking.kalman import KalmanFilter
from boxwright.tracking.tracker import Tracker, TrackerConfig
from boxwright.tracking.tracks import Tracks
from boxwright.types import Detections

pytest.importorskip("scipy", reason="needs the extra video")

Object = tuple[float, float, float, int]  # center x, center y, score, label


def detections(*objects: Object, size: float = 20) -> Detections:
    rows = torch.tensor(objects, dtype=torch.float64).reshape(-1, 4)
    boxes = torch.cat([rows[:, :2] - size / 2, rows[:, :2] + size / 2], 1).float()
    return Detections(boxes, rows[:, 2].float(), rows[:, 3].long(), ("car", "bus"))


def follow(frames: Sequence[tuple[float, Sequence[Object]]], **settings: object) -> list[Tracks]:
    """The tracks of frames, each (time, objects)."""
    tracker = Tracker(TrackerConfig(**settings))  # type: ignore[arg-type]
    return [tracker.update(detections(*objects), None, time) for time, objects in frames]


def test_kalman_filter_matches_full_matrix_equations() -> None:
    """Predictions and updates with full 8 x 8 matrices, at irregular times; the noise grows with the largest size."""
    draw = np.random.default_rng(1)
    tracks = KalmanFilter()
    box = np.array([[10.0, 20, 50, 60]])
    tracks.add(box)
    state = np.array([30.0, 40, 40, 40, 0, 0, 0, 0])
    noise = (kalman.MEASUREMENT_STD * 40) ** 2
    covariance = np.diag([noise] * 4 + [(kalman.FIRST_VELOCITY * 40) ** 2] * 2 + [0, 0])
    observed, largest = np.eye(4, 8), np.array([40.0, 40])
    for seconds in (0.04, 0.5, 0.0, 0.1, 1.3):
        largest = largest * np.exp(-seconds / kalman.FADING)
        size = np.sqrt(largest.prod())
        step = np.eye(8)
        step[:4, 4:] = np.eye(4) * seconds
        density, drift = (kalman.ACCELERATION * size) ** 2, (kalman.DRIFT * size) ** 2
        added = np.zeros((8, 8))
        for axis in (0, 1):
            pair = [axis, axis + 4]
            added[np.ix_(pair, pair)] = density * np.array(
                [[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]]
            )
            added[axis + 2, axis + 2] = drift * seconds
        state, covariance = step @ state, step @ covariance @ step.T + added
        tracks.predict(seconds)
        assert tracks.values[0] == pytest.approx(state[:4])
        measured = np.array([30, 40, 40, 40]) + draw.normal(0, 3, 4)
        center, sides = measured[:2], measured[2:]
        largest = np.maximum(largest, sides)
        cut_off = [*((largest - sides) / 2) ** 2, 0, 0]
        measured_noise = np.eye(4) * (kalman.MEASUREMENT_STD**2 * largest.prod()) + np.diag(cut_off)
        gain = covariance @ observed.T @ np.linalg.inv(observed @ covariance @ observed.T + measured_noise)
        state = state + gain @ (measured - observed @ state)
        covariance = covariance - gain @ observed @ covariance
        tracks.update(np.array([0]), np.concatenate([center - sides / 2, center + sides / 2])[None])
        assert tracks.values[0] == pytest.approx(state[:4])
        assert tracks.rates[0] == pytest.approx(state[4:])
        expected = [(covariance[i, i], covariance[i, i + 4], covariance[i + 4, i + 4]) for i in range(4)]
        assert tracks.covariances[0] == pytest.approx(np.array(expected))


def test_assignment_maximizes_the_score_sum() -> None:
    draw = np.random.default_rng(2)
    for rows, columns in ((1, 1), (2, 4), (4, 2), (4, 4), (0, 3), (3, 0)):
        scores = draw.random((rows, columns)) * (draw.random((rows, columns)) < 0.6)
        found = assign(scores)
        ways = itertools.permutations(range(max(rows, columns)), min(rows, columns))
        table = scores if rows <= columns else scores.T
        best = max((sum(table[i, j] for i, j in enumerate(way)) for way in ways), default=0.0)
        assert scores[found].sum() == pytest.approx(best)
        assert (scores[found] > 0).all()


def test_ids_are_kept_at_irregular_frame_times() -> None:
    """Two objects that pass each other, at frames of 0.02 to 0.2 s."""
    steps = np.random.default_rng(3).choice([0.02, 0.04, 0.1, 0.2], 60)
    times = np.cumsum(steps)
    frames = [(t, [(20 + 30 * t, 50, 0.9, 0), (200 - 30 * t, 62, 0.9, 0)]) for t in times]
    for tracks in follow(frames)[2:]:
        assert tracks.ids.tolist() == [1, 2]
        assert tracks.confirmed.all()
        assert tracks.rows.tolist() == [0, 1]


def test_tentative_track_is_confirmed_by_third_detection_or_ends() -> None:
    one = [(50.0, 50.0, 0.9, 0)]
    found = follow([(0.0, one), (0.1, one), (0.2, []), (0.3, one), (0.4, one), (0.5, one)])
    assert [tracks.ids.tolist() for tracks in found] == [[1], [1], [], [2], [2], [2]]
    assert [tracks.confirmed.tolist() for tracks in found] == [[False], [False], [], [False], [False], [True]]
    assert [tracks.ended.tolist() for tracks in found] == [[], [], [1], [], [], []]


@pytest.mark.parametrize(("hidden", "same"), [(1.0, True), (2.0, False)])
def test_occluded_object_keeps_its_id_within_the_memory(hidden: float, same: bool) -> None:
    """It moves on while it is hidden, farther than it is large."""
    times = [k / 25 for k in range(150)]
    found = follow([(t, [] if 2 < t <= 2 + hidden else [(20 + 40 * t, 50.0, 0.9, 0)]) for t in times])
    assert {one for tracks in found for one in tracks.ids.tolist()} == ({1} if same else {1, 2})
    assert [int(one) for tracks in found for one in tracks.ended] == ([] if same else [1])


@pytest.mark.parametrize(("place", "ids"), [(300.0, [2]), (52.0, [1])])
def test_gap_without_frames_ends_tracks_that_no_box_overlaps(place: float, ids: list[int]) -> None:
    """Ten minutes, as after an outage of a camera."""
    frames = [(0.1 * k, [(50.0, 50.0, 0.9, 0)]) for k in range(6)]
    assert follow([*frames, (600.0, [(place, 50.0, 0.9, 0)])])[-1].ids.tolist() == ids


def test_low_score_detections_continue_but_never_start_tracks() -> None:
    weak = [(0.04 * k, [(50.0 + k, 50.0, 0.9 if k < 5 else 0.2, 0), (150.0, 50.0, 0.2, 0)]) for k in range(20)]
    found = follow(weak)
    assert [tracks.ids.tolist() for tracks in found] == [[1]] * 20
    assert follow([(0.0, [(50.0, 50.0, 0.05, 0)])], high=0.04)[0].ids.tolist() == [1]


def test_flickering_class_changes_neither_id_nor_label() -> None:
    found = follow([(0.04 * k, [(50.0 + k, 50.0, 0.9, int(k in (4, 9, 10)))]) for k in range(20)])
    assert {(*tracks.ids.tolist(), *tracks.labels.tolist()) for tracks in found} == {(1, 0)}


def test_crossing_objects_of_two_classes_keep_their_ids() -> None:
    """The boxes of a bus and a car coincide in the middle of the way."""
    frames = [(0.04 * k, [(50.0 + 2 * k, 50.0, 0.9, 0), (150.0 - 2 * k, 52.0, 0.9, 1)]) for k in range(50)]
    for k, tracks in enumerate(follow(frames)):
        assert tracks.ids.tolist() == [1, 2], k
        assert tracks.labels.tolist() == [0, 1], k


def test_detection_of_the_same_class_is_preferred() -> None:
    """A car and a bus that overlap and move past each other: each box is nearer to the other's track."""
    still = [(0.04 * k, [(50.0, 50.0, 0.9, 0), (60.0, 50.0, 0.9, 1)]) for k in range(10)]
    last = follow([*still, (0.4, [(58.0, 50.0, 0.9, 0), (53.0, 50.0, 0.9, 1)])])[-1]
    assert (last.ids.tolist(), last.rows.tolist(), last.labels.tolist()) == ([1, 2], [0, 1], [0, 1])


def test_object_detected_as_two_classes_is_one_track() -> None:
    twice = [(0.04 * k, [(50.0, 50.0, 0.9, 0), (51.0, 50.0, 0.6, 1)]) for k in range(10)]
    assert [tracks.ids.tolist() for tracks in follow(twice)] == [[1]] * 10


@pytest.mark.slow
def test_ids_are_never_reused_and_ended_tracks_are_freed() -> None:
    """Detections that flicker anywhere for 1000 frames, as a live camera's do for months."""
    draw = np.random.default_rng(4)
    tracker = Tracker()
    born: dict[int, int] = {}
    ended: set[int] = set()
    steady: set[int] = set()
    for frame in range(1000):
        objects = [(*draw.uniform(0, 2000, 2), 0.9, 0) for _ in range(draw.integers(0, 5))]
        tracks = tracker.update(detections(*objects, (50.0, 50.0, 0.9, 0)), None, frame / 25)
        assert not ended & set(tracks.ids.tolist())
        ended |= set(tracks.ended.tolist())
        for track in tracks.ids.tolist():
            born.setdefault(track, frame)
        steady |= set(tracks.ids[(tracks.boxes == [40, 40, 60, 60]).all(1)].tolist())
    assert sorted(born, key=lambda track: (born[track], track)) == sorted(born)
    assert len(born) > 300
    assert len(tracker._ids) == len(tracker._votes) == len(tracker._filter.values) < 20
    assert len(steady) == 1


def test_ended_tracks_are_written_and_freed(tmp_path: Path) -> None:
    flicker = [(0.04 * k, [(100.0 * (k // 50) + 50, 50.0, 0.9, k // 50 % 2)]) for k in range(400)]
    with CocoVideo(tmp_path / "a.json", "a") as coco:
        for index, tracks in enumerate(follow(flicker)):
            coco.write(index, index * 0.04, (100, 900), tracks)
        assert len(coco._labels) == 1
        coco.finish(("car", "bus"))
    tracks = json.loads((tmp_path / "a.json").read_text())["tracks"]
    assert [(row["id"], row["category_id"]) for row in tracks] == [(k + 1, k % 2 + 1) for k in range(8)]


def test_descending_times_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"found a frame at 0\.9 s after one at 1\.0 s"):
        follow([(1.0, []), (1.0, []), (0.9, [])])


def texture() -> Array:
    noise = np.random.default_rng(5).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    return cv2.resize(noise, (800, 600), interpolation=cv2.INTER_CUBIC)


def view(affine: Array) -> Array:
    return cv2.warpAffine(texture(), affine, (640, 480), flags=cv2.INTER_LINEAR)


def test_camera_motion_matches_known_affine_transform() -> None:
    """A known rotation, scaling and shift between two images."""
    first = np.array([[1.0, 0, -50], [0, 1, -40]])
    turn = cv2.getRotationMatrix2D((300, 200), 3, 1.03) + np.array([[0, 0, 6.0], [0, 0, -9]])
    second = turn @ np.vstack([first, [0, 0, 1]])
    camera = CameraMotion()
    assert camera.update(view(first)).tolist() == [[1, 0, 0], [0, 1, 0]]
    found = camera.update(view(second))
    corners = np.array([[100.0, 100, 1], [500, 100, 1], [300, 400, 1]])
    assert corners @ found.T == pytest.approx(corners @ turn.T, abs=0.5)
    assert camera.update(np.zeros((100, 100, 3), np.uint8)).tolist() == [[1, 0, 0], [0, 1, 0]]  # another size
    assert camera.update(np.zeros((100, 100, 3), np.uint8)).tolist() == [[1, 0, 0], [0, 1, 0]]  # nothing to see


@pytest.mark.parametrize("compensated", [True, False])
def test_tracks_survive_camera_jerks_only_with_compensation(compensated: bool) -> None:
    """The image shifts by more than the objects are large, twice."""
    tracker = Tracker(TrackerConfig(camera_motion=compensated))
    seen: set[int] = set()
    for k in range(15):
        shift = 30.0 * ((k >= 5) + (k >= 10))
        frame = view(np.array([[1.0, 0, -shift], [0, 1, 0]]))
        tracks = tracker.update(detections((300 - shift, 200, 0.9, 0), (200 - shift, 100, 0.9, 0)), frame, k / 25)
        seen |= set(tracks.ids.tolist())
    assert (seen == {1, 2}) is compensated


def test_box_size_does_not_collapse_during_occlusion() -> None:
    """Seen ever smaller before, as behind an edge."""
    tracker = Tracker(TrackerConfig(memory=5))
    for k in range(10):
        tracker.update(detections((100.0, 100.0, 0.9, 0), size=40 - 3 * k), None, k / 10)
    for k in range(10, 40):
        assert tracker.update(detections(), None, k / 10).ids.size == 0
    width, height = tracker._filter.boxes[0, 2:] - tracker._filter.boxes[0, :2]
    assert min(width, height) > 10
