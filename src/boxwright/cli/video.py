"""Options of `predict` for videos."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from boxwright.cli.options import local_input
from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.predict.tracked_output import Tracking

Stride = Annotated[int | None, typer.Option("--stride", min=1, help="Video: predict every n-th frame.")]
Start = Annotated[float | None, typer.Option("--start", min=0, help="Video: start time in s.")]
Stop = Annotated[float | None, typer.Option("--stop", min=0, help="Video: stop time in s.")]
MaxFps = Annotated[float | None, typer.Option("--max-fps", help="Video: maximum frames to predict per second.")]

Fps = Annotated[
    float | None, typer.Option("--fps", help="Numbered images: frames per second. [default: 25]", show_default=False)
]
Track = Annotated[bool, typer.Option("--track", help="Video: track objects; writes tracks.txt and tracks.json.")]
CameraMotion = Annotated[
    bool, typer.Option("--camera-motion", help="With --track: compensate the motion of the camera.")
]
Lines = Annotated[
    list[str] | None,
    typer.Option("--line", metavar="X1,Y1,X2,Y2", help="Video: count tracks that cross this line, px; repeatable."),
]
Zones = Annotated[
    list[str] | None,
    typer.Option(
        "--zone", metavar="X1,Y1,X2,Y2,...", help="Video: count tracks that enter and leave this polygon; repeatable."
    ),
]
Counting = Annotated[
    str | None,
    typer.Option(
        "--counting",
        metavar="FILE",
        callback=local_input,
        help="Video: YAML file with lines and zones to count at.",
    ),
]


def tracking_of(
    track: bool, camera_motion: bool, lines: Sequence[str] | None, zones: Sequence[str] | None, counting: str | None
) -> "Tracking | None":
    """The tracking that --track, or an option that implies it, asks for; None without them.

    Raises:
        InputError: A value or the file is faulty.
    """
    from boxwright.counting import config
    from boxwright.predict.tracked_output import Tracking

    counted = bool(lines or zones) or counting is not None
    if not (track or camera_motion or counted):
        return None
    return Tracking(config.load(counting, lines or (), zones or ()) if counted else None, camera_motion)


As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="FORMAT",
        help="Write labels for a tool instead: coco, yolo, cvat or label-studio; or a table: parquet.",
    ),
]


def the_video(sources: Sequence[str], of_videos: Mapping[str, object], of_images: Mapping[str, object]) -> str | None:
    """The only source if it is a video; None for images.

    Args:
        sources: The sources of the command.
        of_videos: Options for videos -> their values, None if not set.
        of_images: Options for images, likewise.

    Raises:
        InputError: A video is not the only source, an option does not fit the source, or a source is empty, e.g. from
            an unset shell variable.
    """
    from boxwright.video.sources import is_video, without_pattern

    sources = [without_pattern(source) for source in sources]
    videos = [source for source in sources if is_video(source)]
    if videos and len(sources) > 1:
        raise InputError(f"{videos[0]}: found with {len(sources) - 1} other sources, needed one video at a time")
    for option, value in (of_images if videos else of_videos).items():
        if value is not None:
            needed = "images" if videos else "a video"
            raise InputError(f"{option}: goes with {needed}, found {sources[0]}; leave it out")
    return videos[0] if videos else None
