"""Writing the predictions of a video with tracks: ids in the JSON file and in the video, tracks and counts in files."""

from collections import Counter as Tally
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO, cast

import numpy as np
import torch

from boxwright.arrays import Array
from boxwright.counting import overlay
from boxwright.counting.config import CountingConfig, check_size
from boxwright.counting.counter import Counter
from boxwright.counting.table import EventTable
from boxwright.files import atomic_write
from boxwright.images.draw import color, draw_boxes
from boxwright.json_text import JsonObject
from boxwright.predict.output import Summary
from boxwright.predict.pipeline import FilePipeline
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.video_output import COCO, EVENTS, TRACKS, VideoOutput, stem_of
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Result
from boxwright.tasks.detect import Prediction
from boxwright.tracking import mot
from boxwright.tracking.coco_video import CocoVideo
from boxwright.tracking.tracker import Tracker, TrackerConfig
from boxwright.tracking.tracks import Tracks
from boxwright.video.frames import Video, VideoFrame


@dataclass(frozen=True, slots=True)
class Tracking:
    """Settings for tracking the detections of a video.

    Attributes:
        counting: Lines and zones to count at; None for none.
        camera_motion: Compensate the motion of the camera.
    """

    counting: CountingConfig | None = None
    camera_motion: bool = False


def tracker_config(predictor: AnyPredictor, args: PostprocessArgs, camera_motion: bool = False) -> TrackerConfig:
    """The tracker's settings for a predictor: detections from the threshold of `args` begin tracks, and lower ones
    continue them, down to the lowest score that an exported file with NMS inside returns."""
    lowest = TrackerConfig().low
    if isinstance(predictor.pipeline, FilePipeline):
        lowest = max(lowest, predictor.pipeline.inside.predict.threshold)
    return TrackerConfig(high=args.threshold, low=min(args.threshold, lowest), camera_motion=camera_motion)


class TrackedOutput(VideoOutput):
    """The files of a video's predictions with tracks. `args` have the lowest threshold of the tracker.

    The files contain the detections from the requested threshold on, and lower ones of confirmed tracks.
    """

    def __init__(
        self,
        predictor: AnyPredictor,
        video: Video,
        out: Path,
        args: PostprocessArgs,
        tracking: Tracking,
        *,
        draw: bool = True,
    ) -> None:
        config = tracker_config(predictor, args, tracking.camera_motion)
        super().__init__(predictor, video, out, replace(args, threshold=config.low), draw=draw)
        self.tracker = Tracker(config)
        self.counter = None if tracking.counting is None else Counter(tracking.counting)
        self.names = (TRACKS, COCO) if self.counter is None else (TRACKS, COCO, EVENTS)
        self._tracks = Tracks.empty()
        self._current: dict[int, str] = {}  # class of each confirmed track that has not ended
        self._ended = Tally[str]()  # by class

    def open(self, stack: ExitStack) -> None:
        super().open(stack)
        self._mot = self._text(stack, TRACKS)
        path = stack.enter_context(atomic_write(self.out / COCO))
        self._coco = stack.enter_context(CocoVideo(path, stem_of(self.video.name)))
        self._events = None if self.counter is None else EventTable(self._text(stack, EVENTS))

    def write(self, frame: VideoFrame, result: Result) -> None:
        detections = cast(Prediction, result)
        if self.counter is not None and not self.frames:
            check_size(self.counter.config, *detections.size)
        tracks = self.tracker.update(detections, frame.image, frame.time)
        self._count(tracks, frame.time)
        mot.write_rows(self._mot, frame.index + 1, tracks)
        self._coco.write(frame.index, frame.time, detections.size, tracks)
        confirmed = tracks[tracks.confirmed]
        kept = detections.scores >= self.tracker.config.high
        kept[torch.from_numpy(confirmed.rows)] = True
        rows = np.cumsum(kept.numpy()) - 1  # of each detection among those that are kept
        self._tracks = replace(confirmed, rows=rows[confirmed.rows])
        super().write(frame, detections[kept])

    def row(self, frame: VideoFrame, result: Result) -> JsonObject:
        row = super().row(frame, result)
        objects = row[self.predictor.task.results_key]
        ids = dict(zip(self._tracks.rows.tolist(), self._tracks.ids.tolist(), strict=True))
        return row | {
            self.predictor.task.results_key: [item | {"track": ids.get(index)} for index, item in enumerate(objects)]
        }

    def draw(self, result: Result) -> Array:
        """The frame with confirmed tracks and their ids, each in its own color."""
        tracks, ids, scores = self._tracks, self._tracks.ids.tolist(), self._tracks.scores.tolist()
        names = [tracks.name(label) for label in tracks.labels.tolist()]
        texts = [f"{name} {track}" for name, track in zip(names, ids, strict=True)]
        image = cast(Array, result.image)
        if self.counter is not None:
            image = image.copy()
            overlay.draw_places(image, self.counter.config)
        canvas = draw_boxes(image, tracks.boxes, [color(number) for number in ids], texts, scores)
        if self.counter is not None:
            overlay.draw_totals(canvas, self.counter)
        return canvas

    def finish(self) -> None:
        if self.counter is not None and self._events is not None:
            for event in self.counter.close():
                self._events.write(event)
        self._coco.finish(tuple(self.predictor.names))
        super().finish()

    def summary(self) -> Summary:
        summary = super().summary()
        tally = self._ended + Tally(self._current.values())
        ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
        notes = [f"tracks: {', '.join(f'{count} {name}' for name, count in ranked) or 'none'}"]
        if self.counter is not None:
            notes += overlay.details(self.counter)
        return replace(summary, notes=(*summary.notes, *notes), file=", ".join([summary.file, *self.names]))

    def _count(self, tracks: Tracks, time: float) -> None:
        """Update the totals of tracks, and of lines and zones."""
        for track in tracks.ended.tolist():
            if (name := self._current.pop(track, None)) is not None:
                self._ended[name] += 1
        confirmed = tracks[tracks.confirmed]
        pairs = zip(confirmed.ids.tolist(), confirmed.labels.tolist(), strict=True)
        self._current |= {track: confirmed.name(label) for track, label in pairs}
        if self.counter is not None and self._events is not None:
            for event in self.counter.update(tracks, time):
                self._events.write(event)

    def _text(self, stack: ExitStack, name: str) -> TextIO:
        path = stack.enter_context(atomic_write(self.out / name))
        return stack.enter_context(path.open("w", encoding="utf-8", newline=""))
