"""Live sources: network streams and cameras. A thread reads all frames and keeps the newest one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

import cv2

from boxwright import interrupt
from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.video.decode import DEFAULT_RATE, RgbConverter, frame_rate, reason, stamp_of, video_stream
from boxwright.video.frames import Clock, Decoded, Selection, VideoFrame

if TYPE_CHECKING:
    from av.container import InputContainer

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0  # s before connecting again; they double
PATIENCE = 600.0  # s without a frame after which a source counts as ended; cameras take minutes to start
SKEW = 5.0  # s; stamps have jumped if they and the wall clock differ by more between two frames
WAITING = 0.25  # of a frame's duration; a read that takes longer waits for a new frame
MAX_BEHIND = 10.0  # s; maximum duration of the frames that are left out after a source was opened
WITHOUT_STAMPS = "mpjpeg"  # whose stamps FFmpeg invents


class Connection(Protocol):
    """A connected source. Iterating yields stamp (s; None without) and pixels of each frame, until it disconnects."""

    rate: float

    def __iter__(self) -> Iterator[tuple[float | None, Callable[[], Array]]]: ...

    def close(self) -> None: ...


class StreamConnection:
    """A stream on the network."""

    def __init__(self, container: InputContainer, name: str) -> None:
        """Read the opened `container`, closed with this object. Raises InputError if it has no video stream."""
        self.container = container
        try:
            self.stream = video_stream(container, name, low_delay=True)
        except InputError:
            container.close()
            raise
        self.rate, self._to_rgb = frame_rate(self.stream), RgbConverter()
        self.stamped = container.format.name != WITHOUT_STAMPS

    def __iter__(self) -> Iterator[tuple[float | None, Callable[[], Array]]]:
        """The frames without damaged ones. Raises InputError when the connection breaks off."""
        av = import_extra("av", "video")
        packets, behind, count = self.container.demux(self.stream), True, 0
        try:
            while True:
                asked = time.monotonic()
                if (packet := next(packets, None)) is None:
                    return
                # Frames that came while the source was opened are outdated; reading them does not wait.
                behind = behind and time.monotonic() - asked < WAITING / self.rate and count < MAX_BEHIND * self.rate
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # until the first key frame, or after a lost packet
                    continue
                for frame in frames:
                    count += 1
                    if not behind:
                        yield stamp_of(frame) if self.stamped else None, partial(self._to_rgb, frame)
        except av.error.FFmpegError as error:
            raise InputError(reason(error)) from error

    def close(self) -> None:
        self.container.close()


class CameraConnection:
    """A camera of this machine, read by OpenCV, whose builds support cameras on all systems, unlike PyAV's."""

    def __init__(self, number: int) -> None:
        """Open the camera. Raises InputError if there is no such camera."""
        self.capture = cv2.VideoCapture(number)
        if not self.capture.isOpened():
            raise InputError(f"camera {number}: cannot be opened; is it there, and may this user read it?")
        self.capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else DEFAULT_RATE

    def __iter__(self) -> Iterator[tuple[float | None, Callable[[], Array]]]:
        while True:
            success, image = self.capture.read()
            if not success:
                return
            yield None, partial(cv2.cvtColor, image, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self.capture.release()


class LiveClock:
    """Times of a live source: its time stamps, aligned with the wall clock where they start or jump.

    Without stamps, the arrival times of the frames.
    """

    def __init__(self, interval: float) -> None:
        """interval: as in `Clock`."""
        self._clock = Clock(0.0, interval)
        self._begin: float | None = None  # when the first frame arrived
        self._last: tuple[float, float] | None = None  # of the frame before: stamp, arrival

    def start_anew(self) -> None:
        """Prepare for the stamps of another connection."""
        self._last = None

    def time(self, stamp: float | None, now: float) -> float:
        """The time of the next frame, s since the first one. stamp: s; None without. now: when it arrived, s."""
        self._begin = now if self._begin is None else self._begin
        if stamp is None:
            return self._clock.time(self._clock.start + now - self._begin)
        if self._last is None or abs((stamp - self._last[0]) - (now - self._last[1])) > SKEW:
            self._clock.start = stamp - (now - self._begin)
        self._last = stamp, now
        return self._clock.time(stamp)


class LiveVideo:
    """A live source. See `Video`; times are seconds since the first frame, also across connections.

    Iterating yields the newest frame, each at most once. `left_out` counts selected frames that were not yielded.
    """

    live = True
    total: int | None = None

    def __init__(
        self,
        name: str,
        first: Connection,
        connect: Callable[[], Connection],
        selection: Selection,
        patience: float = PATIENCE,
    ) -> None:
        """Create a video of a connected source, which is read from the first iteration on.

        Args:
            name: As in `Video`.
            first: The connection.
            connect: Makes another connection when the current one breaks off. Raises InputError if it cannot.
            selection: Which frames are read.
            patience: Seconds without a frame after which the video ends.
        """
        self.name, self.connect, self.patience, self._connection = name, connect, patience, first
        self.rate, self.left_out, self.faults = selection.rate(first.rate), 0, list[str]()
        self.selection, self._closing = selection, threading.Event()
        self._changed, self._ended = threading.Condition(), False
        self._newest: Decoded | None = None
        self._error: BaseException | None = None
        self._pause = FIRST_PAUSE
        self._thread = threading.Thread(target=self._drain, name=f"reading {name}", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._connection.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        self._thread.start()
        while True:
            interrupt.check()
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended, timeout=0.2)
                decoded, self._newest = self._newest, None
                ended = self._ended
            if decoded is not None:
                yield decoded.frame()
            elif ended:
                break
        if self._error is not None:
            raise self._error

    def _drain(self) -> None:
        """The thread: keep the newest of the selected frames."""
        try:
            for decoded in self.selection.of(self._frames()):
                with self._changed:
                    self.left_out += self._newest is not None
                    self._newest = decoded
                    self._changed.notify_all()
        except BaseException as error:  # raised where the frames are read
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _frames(self) -> Iterator[Decoded]:
        """The frames of all connections, with times that continue across connections."""
        clock, index, last = LiveClock(1 / self._connection.rate), 0, time.monotonic()
        while True:
            why = "it ended"
            try:
                for stamp, convert in self._connection:
                    last, self._pause = time.monotonic(), FIRST_PAUSE
                    yield Decoded(index, clock.time(stamp, last), convert)
                    index += 1
                    if self._closing.is_set():
                        return
            except InputError as error:
                why = str(error)
            if not self._connect_again(why, last + self.patience):
                return
            clock.start_anew()

    def _connect_again(self, why: str, deadline: float) -> bool:
        """Connect until it works; the pauses grow until there are frames.

        why: reason of the last failure. Returns whether it worked before `deadline` and the end of reading.
        """
        while time.monotonic() < deadline:
            logger.warning("%s: no more frames (%s); connecting again in %g s", self.name, why, self._pause)
            self._connection.close()
            if self._closing.wait(self._pause):
                return False
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            try:
                self._connection = self.connect()
            except InputError as error:
                why = str(error).removeprefix(f"{self.name}: ")
            else:
                logger.info("%s: connected again", self.name)
                return True
        self.faults.append(f"{self.name}: no frame for {self.patience:g} s ({why})")
        return False
