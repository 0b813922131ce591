"""Options of `predict` for videos."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from boxwright.errors import InputError

Stride = Annotated[int | None, typer.Option("--stride", min=1, help="Video: predict every n-th frame.")]
Start = Annotated[float | None, typer.Option("--start", min=0, help="Video: seconds to start at.")]
Stop = Annotated[float | None, typer.Option("--stop", min=0, help="Video: seconds to stop at.")]
MaxFps = Annotated[float | None, typer.Option("--max-fps", help="Video: predict at most so many frames per second.")]


def the_video(sources: Sequence[str], given: Mapping[str, object]) -> str | None:
    """The only source if it is a video; None for images.

    Args:
        sources: Those of the command.
        given: The options of videos with their values, None if not given.

    Raises:
        InputError: A video is not the only source, or an option of videos is given for images.
    """
    from boxwright.video.sources import is_video

    videos = [source for source in sources if is_video(source)]
    if videos and len(sources) > 1:
        raise InputError(f"{videos[0]}: found with {len(sources) - 1} other sources, needed one video at a time")
    wrong = [option for option, value in given.items() if value is not None and not videos]
    if wrong:
        raise InputError(f"{wrong[0]}: goes with a video, found {sources[0]}; leave it out")
    return videos[0] if videos else None
