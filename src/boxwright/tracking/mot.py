"""Tracks as text in the format of the MOT challenge: one row per box and frame.

The columns are frame (from 1), id, left, top, width, height (px), confidence, class (from 1) and visibility. Results of
trackers have -1 from the eighth column on if they have no classes.
"""

import math
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from boxwright.arrays import Array
from boxwright.data.text import lines
from boxwright.errors import InputError
from boxwright.tracking.tracks import Tracks

MIN_COLUMNS, MAX_COLUMNS = 6, 10  # up to the height; results end with world coordinates x, y and z
MAX_ROWS = 5_000_000  # of 40 bytes each in memory, and about as many in the file; MOT20's longest sequence: 1.5 million
MAX_NUMBER = 2**53  # float64 represents all whole numbers up to this one
NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class MotRows:
    """N boxes of one sequence, sorted by frame.

    Attributes:
        frames: (N,) int64 from 1.
        ids: (N,) int64 from 0, each at most once in a frame.
        boxes: (N, 4) float64, xyxy px.
        scores: (N,) float64, the confidence; in ground truth 0 for a box that does not count.
        classes: (N,) int64 from 1; -1 where the class is unknown.
    """

    frames: Array
    ids: Array
    boxes: Array
    scores: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: Array | slice) -> "MotRows":
        """The rows of a mask, of an array of indices or of a slice."""
        return MotRows(*(getattr(self, name)[index] for name in MotRows.__slots__))


def read(file: Path) -> MotRows:
    """Read a file of tracks, with at most `MAX_ROWS` rows.

    Raises:
        InputError: It cannot be read, a row is faulty, or an id occurs twice in a frame.
    """
    values = array("d")
    numbers = array("q")
    for number, line in lines(file):
        try:
            values.extend(_row(line))
        except ValueError as fault:
            raise InputError(f"{file} line {number}: {fault}") from None
        numbers.append(number)
        if len(numbers) > MAX_ROWS:
            raise InputError(f"{file}: found more than {MAX_ROWS:,} rows, needed one sequence; split the file")
    table = np.frombuffer(values).reshape(-1, 8) if values else np.zeros((0, 8))
    order = np.lexsort((table[:, 1], table[:, 0]))
    table = table[order]
    repeated = np.flatnonzero((table[1:, :2] == table[:-1, :2]).all(1))
    if len(repeated):
        row = int(repeated[0]) + 1
        frame, track = table[row, :2]
        raise InputError(
            f"{file} line {numbers[int(order[row])]}: found id {track:.0f} a second time in frame {frame:.0f}, "
            "needed each id once; remove one of the rows"
        )
    frames, ids, classes = (table[:, column].astype(np.int64) for column in (0, 1, 7))
    corners = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    return MotRows(frames, ids, corners, table[:, 6].copy(), classes)


def write_rows(stream: TextIO, frame: int, tracks: Tracks) -> None:
    """Append the confirmed tracks of one frame.

    Args:
        stream: An open text file.
        frame: Number of the frame, from 1.
        tracks: Its tracks. The class is written as the label plus 1, since the format counts classes from 1.
    """
    tracks = tracks[tracks.confirmed]
    columns = (tracks.ids.tolist(), tracks.boxes.tolist(), tracks.scores.tolist(), tracks.labels.tolist())
    for track, (x1, y1, x2, y2), score, label in zip(*columns, strict=True):
        stream.write(f"{frame},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{score:.4f},{label + 1},-1,-1\n")


def _row(line: str) -> tuple[float, ...]:
    """frame, id, left, top, width, height, confidence, class. Raises ValueError with what is wrong."""
    words = line.split(",")
    if not MIN_COLUMNS <= len(words) <= MAX_COLUMNS:
        raise ValueError(
            f"found {len(words)} columns, needed {MIN_COLUMNS} to {MAX_COLUMNS}: frame,id,left,top,width,height,..."
        )
    numbers = [_number(word) for word in words]
    frame, track, left, top, width, height = numbers[:6]
    if not (1 <= frame <= MAX_NUMBER and frame.is_integer()):
        raise ValueError(f"found frame {words[0].strip()[:40]}, needed a whole number from 1")
    if not (0 <= track <= MAX_NUMBER and track.is_integer()):
        raise ValueError(f"found id {words[1].strip()[:40]}, needed a whole number from 0; detections have no ids")
    if not (width >= 0 and height >= 0 and abs(left) + abs(top) + width + height <= MAX_NUMBER):
        raise ValueError(f"found a box {','.join(words[2:6])[:60]}, needed left,top,width,height in px")
    score, category = (numbers[6:] + [1.0, float(NO_CLASS)][len(numbers) - 6 :])[:2]
    is_class = 1 <= category <= MAX_NUMBER and category.is_integer()
    return frame, track, left, top, width, height, score, category if is_class else NO_CLASS


def _number(word: str) -> float:
    """Parse a number. Raises ValueError if the word is not a finite number."""
    try:
        value = float(word) if "_" not in word else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"found '{word.strip()[:40]}', needed a number")
    return value
