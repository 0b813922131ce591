"""The tracks of one frame."""

from dataclasses import dataclass, replace

import numpy as np

from boxwright.arrays import Array


@dataclass(frozen=True, slots=True)
class Tracks:
    """N tracks that were detected in one frame.

    Attributes:
        ids: (N,) int64 from 1, never used for a second track.
        boxes: (N, 4) float32, xyxy px, as detected.
        scores: (N,) float32 in [0, 1], of the detections.
        labels: (N,) int64 from 0, the class with the largest sum of scores in the track.
        confirmed: (N,) bool, detected often enough to count as an object; the other tracks are tentative.
        rows: (N,) int64, the row of each track in the frame's detections.
        ended: (E,) int64, ids of tracks that will not be seen again.
        names: Class names in label order; empty if unknown.
    """

    ids: Array
    boxes: Array
    scores: Array
    labels: Array
    confirmed: Array
    rows: Array
    ended: Array
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Array | slice) -> "Tracks":
        """The tracks of a mask, of an array of indices or of a slice; `ended` stays."""
        columns = ("ids", "boxes", "scores", "labels", "confirmed", "rows")
        return replace(self, **{name: getattr(self, name)[index] for name in columns})

    def name(self, label: int) -> str:
        """The name of a class; the label as text if there are no names."""
        return self.names[label] if self.names else str(label)

    @classmethod
    def empty(cls, names: tuple[str, ...] = (), ended: Array | None = None) -> "Tracks":
        none = np.zeros(0, np.int64)
        boxes, scores, confirmed = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_)
        return cls(none, boxes, scores, none, confirmed, none, none if ended is None else ended, names)
