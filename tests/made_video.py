"""Small videos for tests, encoded by PyAV."""

import re
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs the extra video")

STAMPS = Fraction(1, 1000)  # s


def write_video(path, images, times=None, codec="mpeg4", pix_fmt="yuv420p", sound=None, gop=12, rate=16_000):
    """Encode images, uint8 RGB (h, w, 3), at `times`, s.

    times: None for 10 frames per second. sound: codec of a tone as long as the video, with an amplitude that grows
    from 0. rate: of the tone, Hz.
    """
    times = [index / 10 for index in range(len(images))] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pix_fmt
        stream.codec_context.gop_size = gop
        if codec == "mpeg4":
            stream.codec_context.options = {"qscale": "2"}
        tones = None if sound is None else container.add_stream(sound, rate=rate, layout="mono")
        if Path(path).suffix != ".avi":  # which has no time stamps but numbers of frames
            stream.codec_context.time_base = STAMPS
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time / STAMPS), STAMPS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tones is not None:
            _add_tone(container, tones, times[-1] + 0.1)
    return path


def set_matrix(path, a, b, c, d):
    """Have an MP4 file displayed with (x, y) at (a x + c y, b x + d y): the matrix of its only track."""
    content = bytearray(path.read_bytes())
    (start,) = (match.end() for match in re.finditer(b"tkhd", content))
    matrix = slice(start + 40, start + 76)  # after flags, times, track, length and layer (QuickTime File Format)
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content[matrix] == identity
    content[matrix] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def _add_tone(container, stream, seconds):
    rate = stream.codec_context.sample_rate
    places = np.arange(round(rate * seconds))
    wave = (np.sin(places * 2 * np.pi * 440 / rate) * 30_000 * places / len(places)).astype(np.int16)
    for start in range(0, len(wave), 1000):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
