"""How many pixels of images may be in memory at a time.

An image of some KB can decode to gigabytes. So its size is read from its header first. More than `MOST_PIXELS` are not
decoded, and images that are decoded beside each other wait until all of them together have no more.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from boxwright.errors import InputError

T = TypeVar("T")
Size = tuple[int, int]  # (height, width) px

VARIABLE = "BOXWRIGHT_MAX_PIXELS"  # of the environment, so that neither a recipe nor a data set can raise it
USUAL = 200_000_000  # 0.6 GB as RGB, and twice that while OpenCV decodes it
OPENCV = 1 << 30  # its own limit


def _most() -> int:
    word = os.environ.get(VARIABLE, str(USUAL))
    if not (word.isdecimal() and len(word) < 12 and 0 < int(word) <= OPENCV):
        raise InputError(f"{VARIABLE}: found '{word}', needed a number of px from 1 to {OPENCV}")
    return int(word)


MOST_PIXELS = _most()


def too_large(size: Size) -> str:
    """Why an image of `size` is not decoded; "" where it is."""
    if math.prod(size) <= MOST_PIXELS:
        return ""
    return (
        f"{size[1]} x {size[0]} px, more than the {MOST_PIXELS} that are decoded at once; make a tiled TIFF of it for "
        f"`predict --tile`, or set {VARIABLE} in the environment, up to {OPENCV} (6 bytes of memory a px)"
    )


class Budget:
    """Counts the pixels under way in all threads of this process, and of loader processes together: see `share`."""

    def __init__(self) -> None:
        self._used, self._changed = 0, threading.Condition()
        self._alone: AbstractContextManager[Any] = nullcontext()
        self._part = MOST_PIXELS
        if hasattr(os, "register_at_fork"):  # in a forked process none of the threads that hold some is there
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._used, self._changed = 0, threading.Condition()

    def share(self, processes: int, lock: AbstractContextManager[Any]) -> None:
        """Share the budget with so many processes, of which each calls this: what is larger than an equal part of it
        waits for `lock`, which they have in common. So all together have at most twice as much."""
        self._alone, self._part = lock, MOST_PIXELS // max(1, processes)

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Count `pixels` while the block lasts, which begins once there is room; more than there ever is wait until
        they are alone. Not to be taken twice in one thread."""
        with self._alone if pixels > self._part else nullcontext():
            with self._changed:
                self._changed.wait_for(lambda: not self._used or self._used + pixels <= MOST_PIXELS)
                self._used += pixels
            try:
                yield
            finally:
                with self._changed:
                    self._used -= pixels
                    self._changed.notify_all()


budget = Budget()


def within_budget(items: Iterable[T], pixels: Callable[[T], int]) -> Iterator[tuple[list[T], int]]:
    """The items, in order, in as few groups as keep to `MOST_PIXELS`, and the pixels of each group."""
    group: list[T] = []
    held = 0
    for item in items:
        more = pixels(item)
        if group and held + more > MOST_PIXELS:
            yield group, held
            group, held = [], 0
        group.append(item)
        held += more
    if group:
        yield group, held
