"""Opening and decoding videos with PyAV (FFmpeg). Videos are untrusted: formats, protocols and sizes are limited."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.files import local_file, open_regular
from boxwright.images.budget import ENV_VARIABLE, MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# Containers and raw streams. Playlists and scripts, which name other files, are not among them.
DEMUXERS = (
    "asf,avi,dv,flv,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,wtv,yuv4mpegpipe,obu,av1"
)
# A playlist (HLS) from the network may refer to other addresses there, but not to files.
NETWORK_DEMUXERS = f"{DEMUXERS},hls,rtsp,rtp,sdp,mpjpeg,live_flv"
PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,udp,rtp,rtsp,rtsps,srtp,rtmp,rtmps"
# Their demuxers give the end, as a time stamp, in place of the duration.
GIVE_END = ("matroska,webm", "nut", "asf", "wtv")
# A decoder keeps up to 16 reference frames (H.264) and one for each of its threads.
MAX_FRAME_PIXELS = MAX_PIXELS // 4
DEFAULT_RATE = 25.0  # frames per second if a container states none, as in FFmpeg


def open_file(path: str) -> InputContainer:
    """Open a file. Raises InputError if the extra `video` is not installed, or the file is not a regular video file."""
    import_extra("av", "video")
    try:
        open_regular(path).close()
        local = local_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
    return _open(f"file:{local}", path, options, None)  # without `file:`, FFmpeg could take the name for an address


def open_address(address: str, name: str, timeout: float) -> InputContainer:
    """Open a stream or a video on the network.

    Args:
        address: The address, with its protocol.
        name: Name of the source in messages, without a password.
        timeout: Timeout of opening and of each read, s.

    Raises:
        InputError: The extra `video` is not installed, or there is no video at the address.
    """
    # 1 s is enough to find the streams of a live source, which come at once.
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": NETWORK_DEMUXERS}
    options["analyzeduration"] = "1000000"  # us
    if address.startswith("rtsp"):
        options["rtsp_flags"] = "prefer_tcp"  # a lost packet of UDP damages frames
    return _open(address, name, options, timeout)


def _open(url: str, name: str, options: dict[str, str], timeout: float | None) -> InputContainer:
    av = import_extra("av", "video")
    try:
        container: InputContainer = av.open(url, container_options=options, metadata_errors="replace", timeout=timeout)
    except av.error.FFmpegError as error:
        raise unreadable(name, error, "is it complete?" if timeout is None else "is the address right?") from error
    return container


def unreadable(name: str, error: FFmpegError, hint: str = "is it complete?") -> InputError:
    """The error for a video that FFmpeg cannot open or read."""
    after_timeout = isinstance(error, import_extra("av", "video").error.ExitError)
    why = "no data came in time" if after_timeout else reason(error)
    return InputError(f"{name}: cannot be read as a video ({why}); {hint}")


def reason(error: FFmpegError) -> str:
    """What an error of FFmpeg says, without the name of the file or the address, which may have a password."""
    return error.strerror or type(error).__name__


def video_stream(container: InputContainer, name: str, *, low_delay: bool = False) -> VideoStream:
    """The video stream of a container, ready to decode.

    Args:
        container: From `open_container`.
        name: Name of the source in messages.
        low_delay: Decode without frame threads, each of which delays the output by one frame.

    Raises:
        InputError: There is no video stream or no decoder for it, or its frames are too large.
    """
    cover = "attached_pic"  # an image of a sound file
    streams = [stream for stream in container.streams.video if cover not in str(stream.disposition)]
    if not streams:
        raise InputError(f"{name}: has no video, only {_contents(container)}; needed a video stream")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise InputError(f"{name}: there is no decoder for its video here; convert it to H.264")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"{name}: {context.width} x {context.height} px, more than the {MAX_FRAME_PIXELS} of a frame; scale it "
            f"down, or set {ENV_VARIABLE} to four times as many"
        )
    context.options = context.options | {"max_pixels": str(MAX_FRAME_PIXELS)}  # for sizes that change
    context.thread_type = "SLICE" if low_delay else "AUTO"
    return stream


def frame_rate(stream: VideoStream) -> float:
    """Nominal frames per second."""
    rate = stream.average_rate or stream.guessed_rate
    found = float(rate) if rate else 0.0
    return found if 0 < found <= 1000 else DEFAULT_RATE  # raw streams and some containers state their clock's rate


class RgbConverter:
    """Converts the frames of a video, of any pixel format, to pixels as displayed: rotated and flipped."""

    def __init__(self) -> None:
        # Created once for all frames: PyAV's shortcut creates one per frame, which takes milliseconds.
        self._reformatter: VideoReformatter = import_extra("av.video.reformatter", "video").VideoReformatter()
        self._rotation: int | None = None
        self._matrix = (1, 0, 0, 1)

    def __call__(self, frame: VideoFrame) -> Array:
        """uint8 RGB (h, w, 3). Raises InputError for a frame that is too large."""
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise InputError(f"a frame of {frame.width} x {frame.height} px, needed at most {MAX_FRAME_PIXELS} px")
        if frame.rotation != self._rotation:  # the matrix is read once, since PyAV's objects for it are cycles
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        image: Array = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        a, b, c, d = self._matrix
        if abs(c) > abs(a):  # by 90 or 270 degrees: x is displayed as y
            image, a, d = image.transpose(1, 0, 2), c, b
        image = image[:, ::-1] if a < 0 else image
        image = image[::-1] if d < 0 else image
        return np.ascontiguousarray(image)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of (x, y) displayed at (a x + c y, b x + d y), up to a factor (libavutil/display.h)."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(content := bytes(data)) != 36:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", content)
    return a, b, c, d


def duration_of(container: InputContainer, stream: VideoStream) -> float | None:
    """Declared duration of the video stream in s; None if only other streams, or all streams together, have one."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base) - _skipped(container)
    hours, *rest = stream.metadata.get("DURATION", "").split(":")  # Matroska's tag, 00:01:02.500000000
    try:
        return 3600 * float(hours) + 60 * float(rest[0]) + float(rest[1]) - _skipped(container)
    except (ValueError, IndexError):
        return container_duration(container) if len(container.streams) == 1 else None


def container_duration(container: InputContainer) -> float | None:
    """Seconds of all streams together that the container declares; None if it does not."""
    return container.duration / 1e6 - _skipped(container) if container.duration else None


def _skipped(container: InputContainer) -> float:
    """Seconds of a declared duration that are before the first time stamp."""
    return (container.start_time or 0) / 1e6 if container.format.name in GIVE_END else 0.0


def stamp_of(frame: VideoFrame) -> float | None:
    """The time stamp of a frame, s; None if it has none."""
    time = frame.time
    return time if time is not None and math.isfinite(time) else None


def _contents(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
