"""The frames of a video, their times, and which of them are read."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from boxwright.arrays import Array
from boxwright.errors import InputError

MAX_START = 1e9  # s, 30 years; FFmpeg seeks in 64-bit us


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """A frame of a video.

    Attributes:
        index: Number of the frame in the video from 0; with a start, from the first frame at or after it.
        time: Seconds since the start of the video, by the time stamps of its container.
        image: The pixels as displayed, uint8 RGB (h, w, 3).
    """

    index: int
    time: float
    image: Array


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A frame before conversion of its pixels, which takes as long as decoding. Attributes as in `VideoFrame`."""

    index: int
    time: float
    convert: Callable[[], Array]

    def frame(self) -> VideoFrame:
        return VideoFrame(self.index, self.time, self.convert())


class Video(Protocol):
    """An opened video. Iterating yields the selected frames, once.

    Attributes:
        name: Name in messages and results, without a password.
        selection: The frames to read.
        rate: Nominal frames per second of the selected frames, for encoding and for progress.
        total: Estimated number of selected frames; None if unknown.
        live: Whether frames that come too fast are left out.
        left_out: Frames left out so far.
        faults: Reasons why frames are missing, complete after the last frame.
    """

    name: str
    selection: "Selection"
    rate: float
    total: int | None
    live: bool
    left_out: int
    faults: list[str]

    def __iter__(self) -> Iterator[VideoFrame]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Settings that select the frames to read.

    Attributes:
        stride: Every n-th frame, at least 1.
        start: Seconds; frames before it are not read.
        stop: Seconds; frames from it on are not read. None: to the end.
        max_fps: Maximum number of frames per second of the video; None: all.

    Raises:
        InputError: A value is out of its range.
    """

    stride: int = 1
    start: float = 0.0
    stop: float | None = None
    max_fps: float | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise InputError(f"stride: found {self.stride}, needed 1 or more")
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InputError(f"start: found {self.start}, needed 0 or more seconds")
        if self.start > MAX_START:
            raise InputError(f"start: found {self.start}, needed at most {MAX_START:g} seconds")
        if self.stop is not None and not self.stop > self.start:
            raise InputError(f"stop: found {self.stop}, needed more seconds than those of start, {self.start}")
        if self.max_fps is not None and not 0 < self.max_fps < math.inf:
            raise InputError(f"max_fps: found {self.max_fps}, needed more than 0 frames per second")

    def of(self, frames: Iterable[Decoded]) -> Iterator[Decoded]:
        """The selected frames of a video. frames: in the order of their times."""
        first, due = None, -math.inf
        for frame in frames:
            if self.stop is not None and frame.time >= self.stop:
                return
            if 0 < self.start > frame.time:  # times before 0 are read as well
                continue
            first = frame.index if first is None else first
            if (frame.index - first) % self.stride:
                continue
            if self.max_fps is not None:
                if frame.time < due - 1e-6:  # for rounded time stamps
                    continue
                step = 1 / self.max_fps
                due = due + step if due + step > frame.time else frame.time + step
            yield frame

    def rate(self, rate: float) -> float:
        """Selected frames per second of a video with `rate` frames per second."""
        return min(rate / self.stride, self.max_fps or math.inf)

    def total(self, rate: float, duration: float | None) -> int | None:
        """Estimated number of selected frames in `duration` seconds at `rate`; None if unknown."""
        end = min((value for value in (duration, self.stop) if value is not None), default=None)
        return None if end is None else max(1, round((end - self.start) * self.rate(rate)))


class Clock:
    """Times of frames from their time stamps; they increase, also where stamps are missing, repeated or restart."""

    def __init__(self, start: float, interval: float) -> None:
        """start: the stamp of time 0, s. interval: between frames without a usable stamp, s."""
        self.start, self.interval, self.last = start, interval, -math.inf

    def time(self, stamp: float | None) -> float:
        """The time of the next frame. stamp: s; None if it has none."""
        time = self.last + self.interval if stamp is None else round(stamp - self.start, 6) + 0.0  # us; no -0.0
        if not math.isfinite(time):
            time = 0.0  # the first frame has no stamp
        if time <= self.last:
            time = self.last + self.interval
            self.start = self.start if stamp is None else stamp - time
        self.last = time
        return time
