"""Writing the predictions of a video while its frames arrive: a JSON file and a video with the predictions drawn."""

import re
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.datatools.report import pluralize
from boxwright.errors import InputError, titled
from boxwright.files import atomic_write, output_folder
from boxwright.json_text import JsonObject
from boxwright.predict.output import Summary, counted_names, image_row
from boxwright.predict.predictor import AnyPredictor
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Result
from boxwright.video.encode import SUFFIX, VideoWriter
from boxwright.video.frames import Video, VideoFrame
from boxwright.video.sequence import is_sequence
from boxwright.video.sound import Sound

TRACKS, COCO, EVENTS = TRACK_FILES = ("tracks.txt", "tracks.json", "events.csv")
MAX_NAME = 60  # characters of the drawn video's name that come from the source


class FrameRows:
    """A JSON file of one object, with a list of frames that grows while the file is written.

    The file is valid JSON after `finish`, also if the last `write` was interrupted.
    """

    def __init__(self, path: Path, head: JsonObject) -> None:
        """Begin the file. head: the members before `frames`."""
        self.file: BinaryIO = path.open("wb")
        start = json_text.dumps(head, indent=1)[:-2]  # without the line break and the brace at the end
        self.file.write(f'{start},\n "frames": ['.encode())
        self._size, self._count = self.file.tell(), 0

    def write(self, row: JsonObject) -> None:
        """Add a frame on its own line."""
        line = f"{',' * (self._count > 0)}\n  {json_text.dumps(row)}".encode()
        self.file.write(line)
        self._size, self._count = self._size + len(line), self._count + 1

    def finish(self, tail: JsonObject) -> None:
        """Complete the file. tail: the members after `frames`."""
        self.file.flush()
        self.file.truncate(self._size)
        self.file.seek(self._size)
        self.file.write(f"\n ],\n{json_text.dumps(tail, indent=1)[2:]}".encode())

    def close(self) -> None:
        self.file.close()


class VideoOutput:
    """The files of a video's predictions. They appear only if the `with` block succeeds or is ended by Ctrl-C.

    Attributes:
        names: The `TRACK_FILES` that are written.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self, predictor: AnyPredictor, video: Video, out: Path, args: PostprocessArgs, *, draw: bool = True
    ) -> None:
        """draw: write a video with the predictions drawn.

        Raises InputError if that would replace the video itself.
        """
        self.predictor, self.video, self.out, self.args = predictor, video, out, args
        self.counts, self.frames, self.complete = Counter[str](), 0, True
        self.target = out / f"{stem_of(video.name)}{SUFFIX}" if draw else None
        if self.target is not None and self.target.resolve() == Path(video.name).resolve():
            raise InputError(f"{self.target}: would be overwritten; give another folder for the results than {out}")

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        try:
            self.open(self._stack)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def open(self, stack: ExitStack) -> None:
        """Create the folder and begin the files, which `stack` completes or removes. Raises InputError if it cannot."""
        stack.enter_context(output_folder(self.out))
        task = self.predictor.task
        path = stack.enter_context(atomic_write(self.out / task.results_file))
        head = task.settings(self.predictor.recipe, self.args) | {
            "video": titled(self.video.name),
            "drawn": self.target.name if self.target else None,
            "rate": self.video.rate,
        }
        self._rows = stack.enter_context(closing(FrameRows(path, head)))
        self._writer = None
        if self.target is not None:
            path = stack.enter_context(atomic_write(self.target))
            sound = None if self.video.live else _sound(self.video.name)
            self._writer = stack.enter_context(VideoWriter(path, self.video.rate, sound))

    def row(self, frame: VideoFrame, result: Result) -> JsonObject:
        """The entry of a frame in the JSON file."""
        row = image_row(self.predictor, result, None)
        return {"index": frame.index, "time": frame.time} | {k: v for k, v in row.items() if k not in ("file", "drawn")}

    def write(self, frame: VideoFrame, result: Result) -> None:
        """Write the result of a frame."""
        self._rows.write(self.row(frame, result))
        if self._writer is not None:
            self._writer.write(self.draw(result), frame.time)
        self.counts.update(counted_names(self.predictor.task.class_names(result), result.names))
        self.frames += 1

    def draw(self, result: Result) -> Array:
        """The frame with its predictions, uint8 RGB (h, w, 3)."""
        return result.draw()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, KeyboardInterrupt) and self.frames):
            self.complete = error is None
            self.finish()
            self._stack.close()
        else:
            self._stack.__exit__(kind, error, trace)

    def finish(self) -> None:
        """Write the ends of the files."""
        self._rows.finish({"left_out": self.video.left_out, "failed": self._failed(), "complete": self.complete})

    def summary(self) -> Summary:
        """The summary of the complete files."""
        file = self.predictor.task.results_file
        drawn = self.target.name if self.target else ""
        left_out = pluralize(self.video.left_out, "frame[s]")
        notes = [f"{left_out} left out, since newer ones had arrived"] if self.video.left_out else []
        if earlier := [name for name in TRACK_FILES if name not in self.names and (self.out / name).is_file()]:
            notes.append(f"{', '.join(earlier)}: from an earlier run into this folder, not from this one")
        return Summary(self.out, self.frames, dict(self.counts), self._failed(), file, drawn, tuple(notes), "frame[s]")

    def _failed(self) -> dict[str, str]:
        return {titled(self.video.name): titled("; ".join(self.video.faults))} if self.video.faults else {}


def stem_of(name: str) -> str:
    """A file name for the drawn video, from a path, the pattern of a sequence or an address."""
    path = Path(re.sub(r"[?#].*", "", name) if "://" in name else name)
    stem = path.parent.name if is_sequence(name) else path.stem
    return re.sub(r"[^\w. +-]", "_", stem)[:MAX_NAME].strip(". ") or "video"


def _sound(path: str) -> Sound | None:
    return Sound.of(path) if Path(path).is_file() else None
