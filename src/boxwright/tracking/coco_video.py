"""Tracks as JSON in COCO's format for videos, as in TAO and BURST: `track_id` in annotations, and a list of tracks."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from boxwright import json_text
from boxwright.json_text import JsonObject
from boxwright.tracking.tracks import Tracks

LISTS = ("images", "annotations", "tracks")
VIDEO_ID = 1


class CocoVideo:
    """Writes the file of one video while its frames come. The lists grow in temporary files, as they are interleaved.

    Use it in a `with` block; the file is complete after `finish`.
    """

    def __init__(self, path: Path, name: str) -> None:
        """name: of the video."""
        self._path, self._name = path, name
        self._counts = dict.fromkeys(LISTS, 0)
        self._size = (0, 0)
        self._labels: dict[int, int] = {}  # of the confirmed tracks that may still be detected

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = self._path.parent
            self._lists: dict[str, BinaryIO] = {
                name: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for name in LISTS
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, index: int, time: float, size: tuple[int, int], tracks: Tracks) -> None:
        """Add a frame with its confirmed tracks.

        Args:
            index: Index of the frame, from 0.
            time: Time of the frame in s.
            size: (height, width) px.
            tracks: Its tracks.
        """
        self._size, image = size, index + 1
        self._add(
            "images",
            {"id": image, "video_id": VIDEO_ID, "frame_index": index, "time": time}
            | {"file_name": f"{self._name}/{image:06d}.jpg", "height": size[0], "width": size[1]},
        )
        for track in tracks.ended.tolist():
            self._end(track)
        tracks = tracks[tracks.confirmed]
        columns = (tracks.ids.tolist(), tracks.boxes.tolist(), tracks.scores.tolist(), tracks.labels.tolist())
        for track, (x1, y1, x2, y2), score, label in zip(*columns, strict=True):
            self._labels[track] = label
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            self._add(
                "annotations",
                {"id": self._counts["annotations"] + 1, "image_id": image, "video_id": VIDEO_ID, "track_id": track}
                | {"category_id": label + 1, "bbox": box, "area": round(box[2] * box[3], 2), "iscrowd": 0}
                | {"score": round(score, 5)},
            )

    def finish(self, names: tuple[str, ...]) -> None:
        """Complete the file. names: class names in label order; class ids start at 1."""
        for track in [*self._labels]:
            self._end(track)
        height, width = self._size
        video = {"id": VIDEO_ID, "name": self._name, "height": height, "width": width, "length": self._counts["images"]}
        categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
        head = {"videos": [video], "categories": categories}
        with self._path.open("wb") as file:
            file.write(json_text.dumps(head, indent=1)[:-2].encode())
            for name, rows in self._lists.items():
                file.write(f',\n "{name}": ['.encode())
                rows.seek(0)
                shutil.copyfileobj(rows, file)
                file.write(b"\n ]")
            file.write(b"\n}\n")

    def _end(self, track: int) -> None:
        """Add a track to the list, with its last class, which is based on all its detections."""
        if (label := self._labels.pop(track, None)) is not None:
            self._add("tracks", {"id": track, "video_id": VIDEO_ID, "category_id": label + 1})

    def _add(self, name: str, row: JsonObject) -> None:
        comma = "," * (self._counts[name] > 0)
        self._lists[name].write(f"{comma}\n  {json_text.dumps(row)}".encode())
        self._counts[name] += 1
