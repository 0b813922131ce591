"""Prefetching: a map that works ahead of its consumer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch_map(pool: Executor, items: Iterable[T], function: Callable[[T], R], ahead: int = 1) -> Iterator[R]:
    """Map `function` over `items` in order; while a result is consumed, the next `ahead` are computed (0: none).

    If the iteration ends early, running calls are awaited and pending ones are canceled.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        wait([future for future in pending if not future.cancel()])
