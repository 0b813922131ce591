"""Prediction of videos: the frames of a source through the steps of a predictor."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from boxwright.images.budget import budget, within_budget
from boxwright.predict.inputs import pixel_count
from boxwright.predict.output import Summary
from boxwright.predict.predictor import AnyPredictor, Predictor
from boxwright.predict.prefetch import prefetch_map
from boxwright.predict.tracked_output import TrackedOutput, Tracking
from boxwright.predict.video_output import VideoOutput
from boxwright.progress import track
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Result
from boxwright.video.frames import Video, VideoFrame

R = TypeVar("R", bound=Result)


def predict_frames(
    predictor: Predictor[R], frames: Iterable[VideoFrame], args: PostprocessArgs, batch: int = 1
) -> Iterator[tuple[VideoFrame, R]]:
    """Predict the frames of a video in order.

    Args:
        predictor: The predictor.
        frames: The frames, in the order of their times.
        args: From `Predictor.args`.
        batch: Batch size, at least 1. With 1, each frame is read only after the previous result was consumed.

    Yields:
        Each frame with its result, whose `image` is that of the frame.
    """
    iterator = iter(frames)
    groups: Iterator[list[VideoFrame]] = iter(lambda: list(islice(iterator, batch)), [])
    parts = (part for group in groups for part in within_budget(group, lambda frame: pixel_count(frame.image)))

    def predict(part: tuple[list[VideoFrame], int]) -> list[tuple[VideoFrame, R]]:
        taken, pixels = part
        with budget.reserve(pixels):
            prepared = [predictor.preprocess(frame.image, frame.index) for frame in taken]
            results = predictor.postprocess(predictor.forward(prepared), prepared, args)
        return list(zip(taken, results, strict=True))

    with ThreadPoolExecutor(1) as pool:
        for pairs in prefetch_map(pool, parts, predict, _ahead(predictor) if batch > 1 else 0):
            yield from pairs


def _ahead(predictor: AnyPredictor) -> int:
    """Number of batches predicted while others are read and written: 0 on a CPU, whose cores share a batch."""
    return 0 if predictor.device.type == "cpu" else 1


def predict_video(
    predictor: AnyPredictor,
    video: Video,
    out: str | Path,
    args: PostprocessArgs | None = None,
    tracking: Tracking | None = None,
    *,
    draw: bool = True,
) -> Summary:
    """Predict a video; write it with the predictions drawn, and the task's JSON file, both while frames arrive.

    Memory does not grow with the number of frames. Ctrl-C ends the video early, with complete files.

    Args:
        predictor: The predictor.
        video: From `open_video`.
        out: The output folder.
        args: From `Predictor.args`; None for the recipe's.
        tracking: Track the objects (detectors only); None for detections without ids.
        draw: Write a video with the predictions drawn.

    Returns:
        The summary; why frames are missing is in `Summary.failed`.

    Raises:
        InputError: No frame can be read, or the folder is not writable.
    """
    args = predictor.args() if args is None else args
    batch = 1 if video.live else predictor.recipe.predict.batch
    output = (
        VideoOutput(predictor, video, Path(out), args, draw=draw)
        if tracking is None
        else TrackedOutput(predictor, video, Path(out), args, tracking, draw=draw)
    )
    with output:
        frames = track(video, video.total, "predict", "frames")
        for frame, result in predict_frames(predictor, frames, output.args, batch):
            output.write(frame, result)
    return output.summary()
