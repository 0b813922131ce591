"""Work that runs beside other work, with its results in order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: Executor, items: Sequence[T], work: Callable[[T], R], ahead: int = 1) -> Iterator[R]:
    """What `work` makes of each item, in order; while one result is used, the next `ahead` are at work.

    When this ends early, by an error or by whoever asks, what has begun is waited for and the rest is not begun.
    """
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        wait([job for job in waiting if not job.cancel()])
