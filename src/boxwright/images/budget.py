"""Limits on the number of pixels that are decoded at a time.

A file of a few KB can decode to gigabytes, so the size of an image is read from its header first. An image of more than
`MAX_PIXELS` is not decoded, and images that are decoded concurrently wait until their total is within that limit.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from boxwright.errors import InputError

T = TypeVar("T")
Size = tuple[int, int]  # (height, width) px

ENV_VARIABLE = "BOXWRIGHT_MAX_PIXELS"  # not an option, so that neither a recipe nor a data set can raise the limit
DEFAULT = 200_000_000  # 0.6 GB as RGB, and twice that while OpenCV decodes it
OPENCV_LIMIT = 1 << 30


def _max_pixels() -> int:
    value = os.environ.get(ENV_VARIABLE, str(DEFAULT))
    if not (value.isdecimal() and len(value) < 12 and 0 < int(value) <= OPENCV_LIMIT):
        raise InputError(f"{ENV_VARIABLE}: found '{value}', needed a number of px from 1 to {OPENCV_LIMIT}")
    return int(value)


MAX_PIXELS = _max_pixels()


def size_fault(size: Size) -> str:
    """The reason why an image of this size is not decoded; empty if it is."""
    if math.prod(size) <= MAX_PIXELS:
        return ""
    return (
        f"{size[1]} x {size[0]} px, more than the {MAX_PIXELS} that are decoded at once; make a tiled TIFF of it for "
        f"`predict --tile`, or set {ENV_VARIABLE} in the environment, up to {OPENCV_LIMIT} (6 bytes of memory per px)"
    )


class Budget:
    """Limits the pixels being decoded by all threads of a process, and by loader processes together (see `share`)."""

    def __init__(self) -> None:
        self._used, self._changed = 0, threading.Condition()
        self._exclusive: AbstractContextManager[object] = nullcontext()
        self._share = MAX_PIXELS
        if hasattr(os, "register_at_fork"):  # the threads that hold reservations do not exist in a forked process
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._used, self._changed = 0, threading.Condition()

    def share(self, processes: int, lock: AbstractContextManager[object]) -> None:
        """Share the budget with other processes, each of which calls this with the same lock.

        Images larger than an equal share are decoded one at a time, so the total is at most twice the limit.
        """
        self._exclusive, self._share = lock, MAX_PIXELS // max(1, processes)

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Reserve pixels for the duration of the block, after waiting until they are available.

        More than the limit waits until nothing else is reserved. Not reentrant within a thread.
        """
        with self._exclusive if pixels > self._share else nullcontext():
            with self._changed:
                self._changed.wait_for(lambda: not self._used or self._used + pixels <= MAX_PIXELS)
                self._used += pixels
            try:
                yield
            finally:
                with self._changed:
                    self._used -= pixels
                    self._changed.notify_all()


budget = Budget()


def within_budget(items: Iterable[T], pixels: Callable[[T], int]) -> Iterator[tuple[list[T], int]]:
    """Consecutive groups of items with at most `MAX_PIXELS` each, and the number of pixels of each group."""
    group: list[T] = []
    total = 0
    for item in items:
        count = pixels(item)
        if group and total + count > MAX_PIXELS:
            yield group, total
            group, total = [], 0
        group.append(item)
        total += count
    if group:
        yield group, total
