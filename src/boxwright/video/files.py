"""Video files, read completely and in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.video.decode import (
    RgbConverter,
    container_duration,
    duration_of,
    frame_rate,
    open_file,
    stamp_of,
    unreadable,
    video_stream,
)
from boxwright.video.frames import Clock, Decoded, Selection, VideoFrame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

WITHOUT_STAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS
EARLIER = (0.0, 10.0)  # s before a start to seek to: in MPEG-TS reading begins at the key frame after that place
EARLY = 0.5  # s; a video that ends that much before its declared end is truncated. Players round by less.


class VideoFile:
    """A video file, or a complete video on the network. See `Video`.

    Truncated and damaged videos yield what can be decoded, and `faults` says what is missing.
    """

    live = False
    left_out = 0

    def __init__(
        self, container: InputContainer, name: str, connect: Callable[[], InputContainer], selection: Selection
    ) -> None:
        """Read an opened container.

        Args:
            container: The container, which is closed with this object.
            name: As in `Video`.
            connect: Opens the same container again, after seeking has led to a wrong place.
            selection: The frames to read.

        Raises:
            InputError: It has no video stream that can be decoded.
        """
        self.container, self.name, self.connect, self.selection = container, name, connect, selection
        try:
            self.stream = video_stream(container, name)
        except InputError:
            container.close()
            raise
        self.duration, self.faults = duration_of(container, self.stream), list[str]()
        rate = frame_rate(self.stream)
        about = self.duration if self.duration is not None else container_duration(container)
        self.rate, self.total = selection.rate(rate), selection.total(rate, about)
        self._to_rgb = RgbConverter()
        self._clock = Clock((container.start_time or 0) / 1e6, 1 / rate)
        self._damaged, self._end = 0, 0.0  # places in the file; s, where the last frame ends

    @classmethod
    def open(cls, path: str, selection: Selection) -> Self:
        """Open a file. Raises InputError if it cannot be read or is not a video."""
        connect = partial(open_file, path)
        return cls(connect(), path, connect, selection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """The selected frames. Raises InputError if no frame can be decoded."""
        frame = None
        for frame in self.selection.of(self._decoded()):
            yield frame.frame()
        if frame is None and self._clock.last < 0:
            raise InputError(f"{self.name}: no frame of its video can be decoded; is it complete?")
        if frame is None:
            raise InputError(
                f"{self.name}: no frame from start, {self.selection.start} s, on; it ends at {self._end:.2f} s"
            )
        self._check_end()

    def _decoded(self) -> Iterator[Decoded]:
        """The frames from the start of the selection on, or from the one before it that can be decoded alone."""
        start = self.selection.start
        for time in (start - earlier for earlier in EARLIER if start > earlier):
            if self._seek(time):
                frames = self._all(from_key=True)
                first = next(frames, None)
                if first is not None and first.time <= start:
                    yield from self._numbered(itertools.chain([first], frames))
                    return
        if start > 0:
            self._open_again()
        yield from self._numbered(self._all())

    def _numbered(self, frames: Iterator[Decoded]) -> Iterator[Decoded]:
        """The frames, numbered from the start of the selection."""
        wanted = itertools.dropwhile(lambda frame: frame.time < self.selection.start, frames)
        return (replace(frame, index=index) for index, frame in enumerate(wanted))

    def _seek(self, time: float) -> bool:
        """Seek to the last frame before `time`, s, that can be decoded alone; returns whether seeking is possible, not
        where it has led to."""
        av = import_extra("av", "video")
        if self.container.format.flags & WITHOUT_STAMPS:  # a failed seek leaves a raw stream at its end
            return False
        try:
            self.container.seek(int((time + self._clock.start) * 1e6))
        except av.error.FFmpegError:
            return False
        self._begin()
        return True

    def _open_again(self) -> None:
        self.container.close()
        self.container = self.connect()
        self.stream = video_stream(self.container, self.name)
        self._begin()

    def _begin(self) -> None:
        """Forget what was read."""
        self._clock = Clock(self._clock.start, self._clock.interval)
        self._damaged = 0
        self.faults.clear()

    def _all(self, *, from_key: bool = False) -> Iterator[Decoded]:
        """The frames from here on. from_key: from the next key frame on, as some decoders yield damaged ones before."""
        av = import_extra("av", "video")
        packets = self.container.demux(self.stream)
        if from_key:
            packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, packets)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.faults.append(str(unreadable(self.name, error)))
                return
            if packet is None:
                return
            yield from self._frames(packet)

    def _frames(self, packet: Packet[VideoStream]) -> Iterator[Decoded]:
        """The frames of a packet, none for one that is damaged."""
        av = import_extra("av", "video")
        if (
            packet.is_corrupt
        ):  # the truncated end of a file, whose error would hide frames of the decoder's other threads
            self._damaged += 1
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self._damaged += 1
            return
        for frame in frames:
            self._damaged += frame.is_corrupt
            time = self._clock.time(stamp_of(frame))
            lasts = frame.duration * frame.time_base if frame.duration and frame.time_base else self._clock.interval
            self._end = time + float(lasts)
            yield Decoded(0, time, partial(self._to_rgb, frame))

    def _check_end(self) -> None:
        """Add to `faults` which frames up to the selection's end are damaged or missing."""
        stopped = self.selection.stop is not None and self._clock.last >= self.selection.stop
        if self.duration is not None and self._end < self.duration - EARLY and not stopped:
            self.faults.append(
                f"{self.name}: ends at {self._end:.1f} s of the declared {self.duration:.1f} s; is it truncated?"
            )
        elif self._damaged:
            places = f"{self._damaged} place{'s' * (self._damaged > 1)}"
            self.faults.append(f"{self.name}: damaged in {places}; frames are missing or faulty there")
