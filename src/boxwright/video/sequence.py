"""Numbered image files as a video."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from boxwright.errors import InputError
from boxwright.images.decode import read_image
from boxwright.images.header import SUFFIXES
from boxwright.video.decode import DEFAULT_RATE
from boxwright.video.frames import Decoded, Selection, VideoFrame

NUMBER = re.compile(r"%(?:0(\d{1,3}))?d")  # as in C and FFmpeg; names have at most 255 characters


def is_sequence(source: str) -> bool:
    """Whether `source` is the pattern of a sequence, such as frames/%06d.jpg."""
    path = Path(source)
    return bool(NUMBER.search(path.name)) and path.suffix.lower() in SUFFIXES and not path.exists()


class ImageSequence:
    """The images of a pattern in the order of their numbers. See `Video`.

    A missing number is a gap in time. An image that cannot be read is left out, and is in `faults`.
    """

    live = False
    left_out = 0

    def __init__(self, pattern: str, selection: Selection, rate: float | None = None) -> None:
        """rate: numbers per second; None for 25. Raises InputError if no file matches the pattern."""
        self.name, self.selection, self.faults = pattern, selection, list[str]()
        self._rate = DEFAULT_RATE if rate is None else rate
        if not 0 < self._rate <= 1000:
            raise InputError(f"fps: found {rate}, needed more than 0 and at most 1000 frames per second")
        self._files = _files(Path(pattern))
        if not self._files:
            raise InputError(f"{pattern}: no image has such a name; needed the number as %d or %06d")
        self.rate = selection.rate(self._rate)
        first, last = self._files[0][0], self._files[-1][0]
        self.total = selection.total(self._rate, (last - first + 1) / self._rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[VideoFrame]:
        """The selected frames. Raises InputError if no image can be read."""
        count = 0
        for decoded in self.selection.of(self._decoded()):
            try:
                frame = decoded.frame()
            except InputError as error:
                self.faults.append(str(error))
                continue
            count += 1
            yield frame
        if not count:
            raise InputError(self.faults[0] if self.faults else f"{self.name}: no image from start on")

    def _decoded(self) -> Iterator[Decoded]:
        first = self._files[0][0]
        wanted = [
            (number, path) for number, path in self._files if (number - first) / self._rate >= self.selection.start
        ]
        for index, (number, path) in enumerate(wanted):
            yield Decoded(index, (number - first) / self._rate, partial(read_image, str(path)))


def _files(pattern: Path) -> list[tuple[int, Path]]:
    """Number and path of each image of the pattern, in order."""
    found = NUMBER.search(pattern.name)
    assert found is not None
    before, after = pattern.name[: found.start()], pattern.name[found.end() :]
    width = int(found[1] or 1)
    digits = rf"\d{{{width}}}|[1-9]\d{{{width},}}"  # one name for each number
    form = re.compile(rf"{re.escape(before)}({digits}){re.escape(after)}")
    try:
        names = os.listdir(pattern.parent)  # noqa: PTH208  (strings are a third of the time and memory)
    except OSError as error:
        raise InputError(f"{pattern.parent}: cannot be read ({error.strerror})") from error
    numbered = ((int(match[1]), pattern.parent / name) for name in names if (match := form.fullmatch(name)))
    return sorted(numbered)
