"""The sound of a video file, carried over to another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from boxwright.extras import import_extra
from boxwright.video.decode import open_file, reason

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet

logger = logging.getLogger(__name__)

COPIED = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}  # supported by players in MP4; others become AAC
MIN_MP3_RATE = 16_000  # Hz; MP4 has no MP3 of lower rates (MPEG-2.5)


class Sound:
    """The first sound stream of a video file, read only as far as frames are written, so that memory stays constant."""

    def __init__(self, container: InputContainer, name: str) -> None:
        """Read the opened `container` with sound, closed with this object. name: of the file in messages."""
        self.container, self.name = container, name
        self.stream: AudioStream = container.streams.audio[0]
        context = self.stream.codec_context
        codec, self._rate = context.codec.canonical_name, context.sample_rate
        self.copied = codec in COPIED and (codec != "mp3" or self._rate >= MIN_MP3_RATE)
        self._packets = container.demux(self.stream)
        self._start = 0.0  # the stamp of the output's time 0, s
        self._last, self._end = -1, 0.0  # the last stamp written; where its sound ends, s

    @classmethod
    def of(cls, path: str) -> Sound | None:
        """The sound of a file; None if it has none that can be decoded."""
        container = open_file(path)
        streams = container.streams.audio
        if streams and streams[0].codec_context is not None and streams[0].codec_context.sample_rate:
            return cls(container, path)
        container.close()
        return None

    def connect(self, output: OutputContainer, start: float) -> None:
        """Add a stream to `output`, before anything is written there. start: the video's time of its time 0, s."""
        self.output, self._start = output, start + (self.container.start_time or 0) / 1e6
        if start > 0:
            self.container.seek(int(self._start * 1e6))
            self._packets = self.container.demux(self.stream)
        if self.copied:
            self.target: Any = output.add_stream_from_template(self.stream)
        else:
            layout = "mono" if self.stream.codec_context.channels == 1 else "stereo"
            rates = import_extra("av", "video").codec.Codec("aac", "w").audio_rates or [self._rate]
            nearest = min(rates, key=lambda rate: abs(rate - self._rate))
            self.target = output.add_stream("aac", rate=nearest, layout=layout)

    def write(self, until: float) -> None:
        """Write the sound up to the output's time `until`, s. Damaged sound ends there, with a line in the log."""
        av = import_extra("av", "video")
        try:
            while self._end < until and (packet := next(self._packets, None)) is not None:
                self._write(packet)
        except av.error.FFmpegError as error:
            logger.warning("%s: its sound ends early (%s)", self.name, reason(error))
            self._packets = iter(())

    def finish(self) -> None:
        """Write the samples that the encoder still keeps."""
        if not self.copied:
            self.output.mux(self.target.encode(None))

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _write(self, packet: Packet[AudioStream]) -> None:
        """Write a packet, with the output's time stamps; none before its start."""
        parts: list[Any] = [packet] if self.copied else list(packet.decode())
        for part in parts:
            if part.pts is None or part.dts is None or part.time_base is None:
                continue
            offset = round(self._start / part.time_base)
            if (stamp := part.dts - offset) <= self._last:
                continue
            self._last, self._end = stamp, float((stamp + (part.duration or 0)) * part.time_base)
            part.pts -= offset
            if self.copied:
                part.dts, part.stream = stamp, self.target
                self.output.mux(part)
            else:
                self.output.mux(self.target.encode(part))
