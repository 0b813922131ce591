"""Writing videos: H.264 in MP4 if its encoder is available, with the sound of another video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import cv2
import numpy as np

from boxwright.arrays import Array
from boxwright.extras import import_extra
from boxwright.video.sound import Sound

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# Encoders of H.264, and of MPEG-4 part 2, which every build of FFmpeg has, with their options.
ENCODERS = {
    "libx264": {"crf": "23", "preset": "veryfast"},  # its default quality; a third of the default preset's time
    "libopenh264": {},
    "mpeg4": {"qscale": "4"},  # of 1, the best, to 31
}
TIME_BASE = Fraction(1, 60_000)  # s; exact for usual frame rates, also 29.97. MPEG-4 part 2: at most 65,535 per s
SUFFIX = ".mp4"
PIXELS = "yuv420p"  # which every player supports
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the color matrix of HD video and of the range 16 to 235


def encoder_name() -> str:
    """The encoder that is used: the first of `ENCODERS` that is available."""
    av = import_extra("av", "video")
    return next(name for name in ENCODERS if name in av.codecs_available)


class VideoWriter:
    """Encodes frames to an MP4 file. Use it in a `with` block, which completes the file."""

    def __init__(self, path: Path, rate: float, sound: Sound | None = None) -> None:
        """Create a writer.

        Args:
            path: The file, of any name.
            rate: Nominal frames per second; each frame is shown at its own time.
            sound: Sound of the video that the frames come from; None for no sound.
        """
        av = import_extra("av", "video")
        self.container: OutputContainer = av.open(str(path), "w", format="mp4")
        self.rate, self.sound = rate, sound
        self._reformatter = import_extra("av.video.reformatter", "video").VideoReformatter()  # one for all frames
        self._stream: VideoStream | None = None  # with the first frame, which has the size
        self._start, self._last = 0.0, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self.container.mux(self._stream.encode(None))
        if self.sound is not None:
            self.sound.close()
        self.container.close()

    def write(self, image: Array, time: float) -> None:
        """Add a frame.

        Args:
            image: uint8 RGB (h, w, 3). The first one determines the size; others are resized to it. Sides become even
                by repeating the last row or column, as H.264 needs it.
            time: Time in s, after that of the previous frame.
        """
        av = import_extra("av", "video")
        if self._stream is None:
            self._start, self._stream = time, self._add_stream(image.shape[0], image.shape[1])
            if self.sound is not None:
                self.sound.connect(self.container, time)
        pixels = _fitted(image, self._stream.height, self._stream.width)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = self._reformatter.reformat(frame, format=PIXELS, dst_colorspace=BT709)
        self._last = frame.pts = max(round((time - self._start) / TIME_BASE), self._last + 1)
        frame.time_base = TIME_BASE
        self.container.mux(self._stream.encode(frame))
        if self.sound is not None:
            self.sound.write(time - self._start + 1 / self.rate)

    def _add_stream(self, height: int, width: int) -> VideoStream:
        name = encoder_name()
        rate = Fraction(self.rate).limit_denominator(1001)
        stream = cast("VideoStream", self.container.add_stream(name, rate=rate, options=dict(ENCODERS[name])))
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, PIXELS
        stream.codec_context.time_base = TIME_BASE
        stream.codec_context.colorspace, stream.codec_context.color_range = BT709, LIMITED
        return stream


def _fitted(image: Array, height: int, width: int) -> Array:
    """The image with sides made even, or resized."""
    h, w = image.shape[:2]
    if (h + h % 2, w + w % 2) != (height, width):
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    if (h, w) == (height, width):
        return np.ascontiguousarray(image)
    return np.pad(image, ((0, height - h), (0, width - w), (0, 0)), mode="edge")
