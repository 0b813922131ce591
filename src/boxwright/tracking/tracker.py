"""Multi-object tracking of detections: ByteTrack's association in two stages.

Zhang et al., ECCV 2022, "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", algorithm 1: tracks are
first associated with detections of high score, then the remaining tracks with detections of low score, which often are
partly hidden objects. Here time is in seconds, so frames may be left out and have any rate.

One stage is added: a track that no box overlaps with takes a box of its class whose center is near, since the visible
part of an object that reappears from behind another does not overlap with its last box.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from boxwright.arrays import Array
from boxwright.config import Config, Fraction, NotNegative
from boxwright.tracking.association import assign, overlaps
from boxwright.tracking.camera import CameraMotion
from boxwright.tracking.kalman import KalmanFilter
from boxwright.tracking.tracks import Tracks
from boxwright.types import Detections


class TrackerConfig(Config):
    """Settings of a tracker.

    Attributes:
        high: Minimum score of a detection that begins a track, and of the first stage.
        low: Minimum score of a detection that continues a track, in the second stage.
        confirm: Detections after which a track is confirmed.
        memory: Time in s after which an undetected track is removed. ByteTrack keeps 30 frames.
        iou: Minimum IoU of a track and a detection. ByteTrack has 0.5 for low scores, but a lower value associates more
            partly hidden objects, whose boxes are smaller.
        iou_tentative: Minimum IoU of a tentative track and a detection, as in ByteTrack.
        other_class: Factor on the IoU of a track and a detection of another class. A track survives a frame in which
            the detected class is wrong, but a detection of its own class is preferred.
        duplicate: A detection begins no track if its IoU with a detection of a track is above this value, since
            detectors may detect an object as two classes.
        camera_motion: Compensate the motion of the camera; needs the frames.
    """

    high: Fraction = 0.5
    low: Fraction = 0.1
    confirm: Annotated[int, Field(ge=1, le=1000)] = 3
    memory: NotNegative = 1.5
    iou: Fraction = 0.2
    iou_tentative: Fraction = 0.3
    other_class: Fraction = 0.5
    duplicate: Fraction = 0.8
    camera_motion: bool = False


class Tracker:
    """Tracks the objects of one video. Memory depends only on the tracks of the last `memory` seconds."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._filter = KalmanFilter()
        self._camera = CameraMotion()
        self._time: float | None = None
        self._last_id = 0
        self._ids, self._hits, self._labels = (np.zeros(0, np.int64) for _ in range(3))
        self._rows = np.zeros(0, np.int64)  # of each track in the detections of this frame, -1 for none
        self._seen = np.zeros(0)  # time of the last detection
        self._votes: list[dict[int, float]] = []  # of each track: label -> sum of its scores

    def update(self, detections: Detections, frame: Array | None, time: float) -> Tracks:
        """Continue the tracks with the detections of the next frame.

        Args:
            detections: The detections, with scores down to `low`; lower ones are ignored.
            frame: uint8 RGB (h, w, 3), for the motion of the camera; None: the camera counts as still.
            time: Time of the frame in s; not before that of the last frame.

        Returns:
            The tracks that were detected in this frame, including tentative ones, sorted by id.

        Raises:
            ValueError: The time is before that of the last frame.
            InputError: SciPy is not installed.
        """
        if self._time is not None and not time >= self._time:
            raise ValueError(f"found a frame at {time} s after one at {self._time} s, needed ascending times")
        self._filter.predict(0.0 if self._time is None else time - self._time)
        if self.config.camera_motion and frame is not None:
            self._filter.move(self._camera.update(frame))
        boxes = detections.boxes.numpy(force=True).astype(np.float64)
        scores, labels = detections.scores.numpy(force=True), detections.labels.numpy(force=True)
        self._rows = self._associate(boxes, scores, labels, time)
        self._correct(boxes, scores, labels, time)
        ended = self._forget(time)
        self._begin(self._unclaimed(boxes, scores), boxes, scores, labels, time)
        self._time = time
        return self._tracks(detections, ended)

    def _associate(self, boxes: Array, scores: Array, labels: Array, time: float) -> Array:
        """(N,) the detection of each track, -1 for none."""
        config = self.config
        same = self._labels[:, None] == labels
        iou = overlaps(self._filter.boxes, boxes) * np.where(same, 1.0, config.other_class)
        confirmed = self._hits >= config.confirm
        recent = time - self._seen <= config.memory  # after a long gap without frames, any center is near
        high = scores >= config.high
        low = (scores >= config.low) & ~high
        stages = (
            (confirmed, high, iou, config.iou),
            (confirmed, low, iou, config.iou),
            (confirmed & recent, high, self._nearness(boxes) * same, 0.0),
            (~confirmed, high, iou, config.iou_tentative),
        )
        rows = np.full(len(self._ids), -1)
        for tracks, wanted, fit, minimum in stages:
            free = np.ones(len(boxes), np.bool_)
            free[rows[rows >= 0]] = False
            left, right = np.flatnonzero(tracks & (rows < 0)), np.flatnonzero(wanted & free)
            allowed = fit[np.ix_(left, right)]
            pairs = assign(np.where(allowed >= minimum, allowed, 0.0))
            rows[left[pairs[0]]] = right[pairs[1]]
        return rows

    def _nearness(self, boxes: Array) -> Array:
        """(N, M) in [0, 1]: 1 where the center of a box is that of a track, 0 where it is out of reach."""
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        away = np.abs(self._filter.values[:, None, :2] - centers) / self._filter.reach[:, None]
        nearness: Array = np.maximum(1 - away.max(2), 0)
        return nearness

    def _correct(self, boxes: Array, scores: Array, labels: Array, time: float) -> None:
        """Continue the tracks that have a detection."""
        rows, tracks = self._rows, np.flatnonzero(self._rows >= 0)
        self._filter.update(tracks, boxes[rows[tracks]])
        self._hits[tracks] += 1
        self._seen[tracks] = time
        for track in tracks.tolist():
            votes, label = self._votes[track], int(labels[rows[track]])
            votes[label] = votes.get(label, 0.0) + float(scores[rows[track]])
            self._labels[track] = max(votes, key=votes.__getitem__)

    def _forget(self, time: float) -> Array:
        """Remove tracks that are lost for too long, and tentative ones without a detection; returns their ids."""
        confirmed = self._hits >= self.config.confirm
        kept = np.where(confirmed, time - self._seen <= self.config.memory, self._rows >= 0)
        ended = self._ids[~kept]
        self._filter.keep(kept)
        for name in ("_ids", "_hits", "_labels", "_seen", "_rows"):
            setattr(self, name, getattr(self, name)[kept])
        self._votes = [votes for votes, keep in zip(self._votes, kept.tolist(), strict=True) if keep]
        return ended

    def _unclaimed(self, boxes: Array, scores: Array) -> Array:
        """(M,) the detections that begin tracks, best first."""
        free = scores >= self.config.high
        free[self._rows[self._rows >= 0]] = False
        claimed = self._rows[self._rows >= 0].tolist()
        begun: list[int] = []
        best_first = np.flatnonzero(free)[np.argsort(-scores[free], kind="stable")]
        iou = overlaps(boxes, boxes) if len(best_first) else np.zeros((0, 0))
        for row in best_first.tolist():
            if not (iou[row, claimed] > self.config.duplicate).any():
                claimed.append(row)
                begun.append(row)
        return np.array(begun, np.int64)

    def _begin(self, rows: Array, boxes: Array, scores: Array, labels: Array, time: float) -> None:
        """Begin a track at each of the detections `rows`."""
        count = len(rows)
        self._filter.add(boxes[rows])
        self._ids = np.concatenate([self._ids, self._last_id + 1 + np.arange(count)])
        self._last_id += count
        self._hits = np.concatenate([self._hits, np.ones(count, np.int64)])
        self._labels = np.concatenate([self._labels, labels[rows]])
        self._seen = np.concatenate([self._seen, np.full(count, time)])
        self._rows = np.concatenate([self._rows, rows])
        self._votes += [{int(labels[row]): float(scores[row])} for row in rows.tolist()]

    def _tracks(self, detections: Detections, ended: Array) -> Tracks:
        seen = self._rows >= 0
        rows = self._rows[seen]
        return Tracks(
            self._ids[seen],
            detections.boxes.numpy(force=True)[rows],
            detections.scores.numpy(force=True)[rows],
            self._labels[seen],
            self._hits[seen] >= self.config.confirm,
            rows,
            ended,
            detections.names,
        )
