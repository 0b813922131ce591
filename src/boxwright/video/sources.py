"""Kinds of sources on the command line: videos, live sources and images."""

import glob
from functools import partial
from pathlib import Path

from boxwright.errors import InputError
from boxwright.extras import import_extra
from boxwright.images.fetch import PROTOCOLS as WEB
from boxwright.images.fetch import is_image_address
from boxwright.remote.address import shown
from boxwright.video.decode import open_address
from boxwright.video.files import VideoFile
from boxwright.video.frames import Selection, Video
from boxwright.video.live import CameraConnection, Connection, LiveVideo, StreamConnection
from boxwright.video.sequence import ImageSequence, is_sequence

# Suffixes of the containers and raw streams of `decode.DEMUXERS`.
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".h264", ".hevc", ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogv", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".wtv", ".y4m",
)  # fmt: skip
STREAMS = (*WEB, "rtsp", "rtsps", "rtmp", "rtmps", "tcp", "udp")
TIMEOUT = 10.0  # s of opening an address and of each read; slow streams send a frame every few seconds
MAX_CAMERA = 99


def is_address(source: str) -> bool:
    """Whether `source` is on the network. Raises InputError for a protocol that is not read."""
    protocol, colon, _ = source.partition("://")
    if not colon or Path(source).exists():
        return False
    if protocol.lower() not in STREAMS:
        raise InputError(f"{shown(source)}: protocol '{protocol[:20]}', needed one of {', '.join(STREAMS)}")
    return True


def is_video(source: str) -> bool:
    """Whether `source` is a video. Raises InputError as `is_address`."""
    if is_address(source):
        return not is_image_address(source)
    if _is_camera(source) or is_sequence(source):
        return True
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not Path(source).is_dir()


def without_pattern(source: str) -> str:
    """The video of a quoted pattern such as `clips/*.mp4`; other sources as they are.

    Raises:
        InputError: Several videos, or none, have such a name; or `source` is empty.
    """
    if not source:
        raise InputError("SOURCE: found an empty text, needed a file, a folder, a pattern or an address")
    if "://" in source or not glob.has_magic(source) or not is_video(source) or Path(source).exists():
        return source
    found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if len(found) != 1:
        raise InputError(f"{source}: found {len(found)} videos, needed one at a time; name one, or loop in the shell")
    return found[0]


def open_video(source: str, selection: Selection | None = None, fps: float | None = None) -> Video:
    """Open a video.

    Args:
        source: A video file, the address of a video or a stream (`rtsp://`, `http://`, ...), the number of a camera, or
            the pattern of numbered images (`frames/%06d.jpg`).
        selection: Which frames are read; None for all.
        fps: Frames per second of numbered images; None for 25.

    Returns:
        The video, to be used in a `with` block. Addresses without a duration are live.

    Raises:
        InputError: It cannot be read, is not a video, or `fps` is given for a source with time stamps.
    """
    selection = selection or Selection()
    if is_sequence(source):
        return ImageSequence(source, selection, fps)
    if fps is not None:
        raise InputError(f"fps: goes with numbered images, found {shown(source)}, which has times; leave it out")
    import_extra("av", "video")
    if is_address(source):
        protocol, _, rest = source.partition("://")
        return _open_address(f"{protocol.lower()}://{rest}", selection)
    if _is_camera(source):
        connect = partial(CameraConnection, int(source))
        return LiveVideo(f"camera {source}", connect(), connect, selection)
    return VideoFile.open(source, selection)


def _open_address(address: str, selection: Selection) -> Video:
    name = shown(address)
    open_again = partial(open_address, address, name, TIMEOUT)
    container = open_again()
    if container.duration is not None and not address.startswith("rtsp"):
        return VideoFile(container, name, open_again, selection)

    def connect() -> Connection:
        return StreamConnection(open_again(), name)

    return LiveVideo(name, StreamConnection(container, name), connect, selection)


def _is_camera(source: str) -> bool:
    return source.isdecimal() and len(source) < 10 and int(source) <= MAX_CAMERA and not Path(source).exists()
