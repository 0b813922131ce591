"""What a source on the command line is: a video of some kind, or images."""

from pathlib import Path

from boxwright.video.files import VideoFile
from boxwright.video.frames import Selection, Video

# Of the containers and raw streams of `decode.DEMUXERS`.
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".h264", ".hevc", ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogv", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".wtv", ".y4m",
)  # fmt: skip


def is_video(source: str) -> bool:
    """Whether `source` is a video."""
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not Path(source).is_dir()


def open_video(source: str, selection: Selection | None = None) -> Video:
    """Open a video.

    Args:
        source: A video file.
        selection: Which frames are read; None for all.

    Raises:
        InputError: It cannot be read, or is no video.
    """
    return VideoFile.open(source, selection or Selection())
