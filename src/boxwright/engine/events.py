"""TensorBoard event files. PyTorch's SummaryWriter would write them in a thread, where errors are lost."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Events:
    """Writer of a new event file in `folder`, which supersedes the points of earlier files from step `start` on.

    Every method may raise OSError.
    """

    def __init__(self, folder: Path, start: int) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self.file = open(folder / name, "xb")  # noqa: SIM115 (`close` closes it)
        self.records = RecordWriter(self.file)
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._put(Event(wall_time=time.time(), step=start, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point for each tag."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._put(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        self.file.flush()

    def images(self, step: int, files: Sequence[Path]) -> None:
        """Write image files, each under its name without suffix."""
        for file in files:
            with Image.open(file) as image:
                width, height = image.size
            content = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=file.read_bytes())
            value = Summary.Value(tag=file.stem, image=content)
            self._put(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def _put(self, event: Event) -> None:
        self.records.write(event.SerializeToString())
