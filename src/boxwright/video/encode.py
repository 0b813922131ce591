"""Writing videos: H.264 in MP4 if its encoder is available, with the sound of another video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import cv2
import numpy as np

from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.video.decode import reason
from boxwright.video.sound import Sound

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# Encoders of H.264, and of MPEG-4 part 2, which every build of FFmpeg has, with their options.
ENCODERS = {
    "libx264": {"crf": "23", "preset": "veryfast"},  # its default quality; a third of the default preset's time
    "libopenh264": {},
    "mpeg4": {"qscale": "4"},  # of 1, the best, to 31
}
TIME_BASE = Fraction(1, 60_000)  # s; exact for usual frame rates, also 29.97. MPEG-4 part 2: at most 65,535 per s
MAX_GAP = 3600.0  # s between two frames; MP4 has 31 bits of ticks for the delay of a frame by B-frames, up to 5 gaps
SUFFIX = ".mp4"
PIXELS = "yuv420p"  # which every player supports
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the color matrix of HD video and of the range 16 to 235


def encoder_name() -> str:
    """The encoder that is used: the first of `ENCODERS` that is available."""
    av = import_extra("av", "video")
    return next(name for name in ENCODERS if name in av.codecs_available)


class VideoWriter:
    """Encodes frames to an MP4 file. Use it in a `with` block, which completes the file.

    Raises InputError if FFmpeg cannot encode or write the video. Sound that MP4 cannot hold is left out.
    """

    def __init__(self, path: Path, rate: float, sound: Sound | None = None) -> None:
        """Create a writer.

        Args:
            path: The file, of any name.
            rate: Nominal frames per second; each frame is shown at its own time.
            sound: Sound of the video that the frames come from, closed with the file; None for no sound.
        """
        self._path = path
        self.container = self._create()
        self.rate, self.sound = rate, sound
        self._reformatter = import_extra("av.video.reformatter", "video").VideoReformatter()  # one for all frames
        self._stream: VideoStream | None = None  # with the first frame, which has the size
        self._start, self._last = 0.0, -1  # the time of the first frame, s; the last time stamp
        self._time = 0.0  # of the last frame, s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with _reported():
                if self._stream is not None and kind is None:
                    self.container.mux(self._stream.encode(None))
                    if self.sound is not None:
                        self.sound.finish()
                self.container.close()
        except InputError:
            if kind is None:  # else the reason for which the file is not completed
                raise
        finally:
            if self.sound is not None:
                self.sound.close()

    def write(self, image: Array, time: float) -> None:
        """Add a frame.

        Args:
            image: uint8 RGB (h, w, 3). The first one determines the size; others are resized to it. Sides become even
                by repeating the last row or column, as H.264 needs it.
            time: Time in s, after that of the previous frame. A gap of more than `MAX_GAP` becomes one of `MAX_GAP`.
        """
        av = import_extra("av", "video")
        with _reported():
            if self._stream is None:
                self._start = self._time = time
                self._stream = self._begin(image.shape[0], image.shape[1], time)
            self._start += max(0.0, time - self._time - MAX_GAP)
            self._time = time
            pixels = _fitted(image, self._stream.height, self._stream.width)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = self._reformatter.reformat(frame, format=PIXELS, dst_colorspace=BT709)
            self._last = frame.pts = max(round((time - self._start) / TIME_BASE), self._last + 1)
            frame.time_base = TIME_BASE
            self.container.mux(self._stream.encode(frame))
            if self.sound is not None:
                self.sound.write(time - self._start + 1 / self.rate)

    def _begin(self, height: int, width: int, time: float) -> VideoStream:
        """Open the encoders and write the header, without sound if that fails with it. time: of the first frame, s."""
        stream = self._add_stream(height, width)
        try:
            if self.sound is not None:
                self.sound.connect(self.container, time)
            self.container.start_encoding()
        except import_extra("av", "video").error.FFmpegError as error:
            if self.sound is None:
                raise
            logger.warning("%s: its sound is left out (%s)", self.sound.name, reason(error))
            self.sound.close()
            self.container.close()
            self.sound, self.container = None, self._create()
            return self._begin(height, width, time)
        return stream

    def _create(self) -> OutputContainer:
        container: OutputContainer = import_extra("av", "video").open(str(self._path), "w", format="mp4")
        return container

    def _add_stream(self, height: int, width: int) -> VideoStream:
        name = encoder_name()
        rate = Fraction(self.rate).limit_denominator(1001)
        stream = cast("VideoStream", self.container.add_stream(name, rate=rate, options=dict(ENCODERS[name])))
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, PIXELS
        stream.codec_context.time_base = TIME_BASE
        stream.codec_context.colorspace, stream.codec_context.color_range = BT709, LIMITED
        return stream


@contextmanager
def _reported() -> Iterator[None]:
    """FFmpeg's errors as InputError."""
    try:
        yield
    except import_extra("av", "video").error.FFmpegError as error:
        raise InputError(
            f"the video with boxes: cannot be written ({reason(error)}); leave it out by --no-draw"
        ) from error


def _fitted(image: Array, height: int, width: int) -> Array:
    """The image with sides made even, or resized."""
    h, w = image.shape[:2]
    if (h + h % 2, w + w % 2) != (height, width):
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    if (h, w) == (height, width):
        return np.ascontiguousarray(image)
    return np.pad(image, ((0, height - h), (0, width - w), (0, 0)), mode="edge")
