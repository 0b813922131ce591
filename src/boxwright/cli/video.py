"""Options of `predict` for videos."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from boxwright.errors import InputError

Stride = Annotated[int | None, typer.Option("--stride", min=1, help="Video: predict every n-th frame.")]
Start = Annotated[float | None, typer.Option("--start", min=0, help="Video: seconds to start at.")]
Stop = Annotated[float | None, typer.Option("--stop", min=0, help="Video: seconds to stop at.")]
MaxFps = Annotated[float | None, typer.Option("--max-fps", help="Video: predict at most so many frames per second.")]

Fps = Annotated[
    float | None, typer.Option("--fps", help="Numbered images: frames per second. [default: 25]", show_default=False)
]


def the_video(sources: Sequence[str], of_videos: Mapping[str, object], of_images: Mapping[str, object]) -> str | None:
    """The only source if it is a video; None for images.

    Args:
        sources: Those of the command.
        of_videos: The options of videos with their values, None if not given.
        of_images: The same of images.

    Raises:
        InputError: A video is not the only source, or an option does not go with the source.
    """
    from boxwright.video.sources import is_video

    videos = [source for source in sources if is_video(source)]
    if videos and len(sources) > 1:
        raise InputError(f"{videos[0]}: found with {len(sources) - 1} other sources, needed one video at a time")
    for option, value in (of_images if videos else of_videos).items():
        if value is not None:
            needed = "images" if videos else "a video"
            raise InputError(f"{option}: goes with {needed}, found {sources[0]}; leave it out")
    return videos[0] if videos else None
