"""Pixels for the page: thumbnails and windows as JPEG, with a cache of decoded images."""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from boxwright.arrays import Array
from boxwright.errors import InputError
from boxwright.images import windows
from boxwright.images.budget import budget
from boxwright.images.decode import read_image
from boxwright.images.header import read_header
from boxwright.images.windows import Scene, Window, open_scene

THUMBNAIL = 320  # px, the longest side
MAX_SIDE = 2048  # px of a window in the response
MAX_THUMBNAILS, MAX_PIXELS = 64 << 20, 256 << 20  # bytes in memory
QUALITY = 85  # JPEG quality


class Cache:
    """Values by key, the least recently used removed beyond a limit of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self._size = limit, 0
        self._values: OrderedDict[object, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], tuple[object, int]]) -> object:
        """The value of a key; if it is missing, `make` returns the value and its size in bytes."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value, size = make()
        with self._lock:
            if key not in self._values and size <= self.limit:
                self._values[key] = value, size
                self._size += size
            while self._size > self.limit:
                self._size -= self._values.popitem(last=False)[1][1]
        return value


class ImageReader:
    """Reads images for the page. At most one thread per core decodes at a time."""

    def __init__(self) -> None:
        self._thumbnails, self._scenes = Cache(MAX_THUMBNAILS), Cache(MAX_PIXELS)
        self._running = threading.BoundedSemaphore(os.cpu_count() or 1)

    def size(self, path: str) -> tuple[int, int]:
        """(height, width) px. Raises InputError, with a message for the page, if the image cannot be read."""
        header = read_header(path, decode=None)
        if header.fault:
            raise InputError(f"{path}: {header.fault}")
        return header.size

    def thumbnail(self, path: str) -> bytes:
        """A JPEG with a longest side of at most `THUMBNAIL` px. Raises InputError if the image cannot be read."""

        def make() -> tuple[object, int]:
            height, width = self.size(path)
            factor = min(1.0, THUMBNAIL / max(height, width))
            size = max(1, round(height * factor)), max(1, round(width * factor))
            with self._running:
                if windows.is_tiff(path):
                    with open_scene(path) as scene:
                        image = scene.read(Window(0, 0, width, height), size)
                else:
                    with budget.reserve(height * width):
                        image = read_image(path, min_size=size)
                    image = windows.resized(image, size)
            content = _jpeg(image)
            return content, len(content)

        value = self._thumbnails.get(stamp(path), make)
        assert isinstance(value, bytes)
        return value

    def window(self, path: str, window: Window, scale: float) -> bytes:
        """A JPEG of a region, which is limited to the image, at `scale` times its size.

        Raises InputError if the image cannot be read, the region is not in it, or it would be larger than `MAX_SIDE`.
        """
        if not 0 < scale <= 1:
            raise InputError(f"scale: found {scale:g}, needed above 0 and at most 1")
        with self._running, self._open(path) as scene:
            height, width = scene.size
            x1, y1 = max(0, window.x), max(0, window.y)
            x2, y2 = min(width, window.x + window.width), min(height, window.y + window.height)
            if x1 >= x2 or y1 >= y2:
                raise InputError(f"window: not in the image of {width} x {height} px")
            inside = Window(x1, y1, x2 - x1, y2 - y1)
            size = max(1, math.ceil(inside.height * scale)), max(1, math.ceil(inside.width * scale))
            if max(size) > MAX_SIDE:
                raise InputError(f"window: {size[1]} x {size[0]} px, needed at most {MAX_SIDE} per side; lower scale")
            return _jpeg(scene.read(inside, size))

    @contextmanager
    def _open(self, path: str) -> Iterator[Scene]:
        """A scene; decoded images stay in memory."""
        if windows.is_tiff(path):
            with open_scene(path) as scene:
                yield scene
            return

        def make() -> tuple[object, int]:
            height, width = self.size(path)
            with budget.reserve(height * width), open_scene(path) as scene:
                return scene, 3 * height * width

        cached = self._scenes.get(stamp(path), make)
        assert isinstance(cached, Scene)
        yield cached


def stamp(path: str) -> tuple[str, int, int]:
    """Identifies the content of a file without reading it. Raises InputError if the file does not exist."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise InputError(f"{path}: cannot be read ({reason}); restore it, or remove it from the set") from error
    return path, found.st_size, found.st_mtime_ns


def _jpeg(image: Array) -> bytes:
    bgr = np.ascontiguousarray(image[..., ::-1])
    encoded: Array = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return encoded.tobytes()
