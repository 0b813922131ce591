"""Work that runs beside the network: the next pictures are read while it looks at these."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    pool: Executor, groups: Sequence[Sequence[T]], work: Callable[[T], R], ahead: int = 1
) -> Iterator[list[R]]:
    """What `work` makes of the members of each group, in order; while one group is used, the next `ahead` are at
    work."""
    waiting: deque[list[Future[R]]] = deque()
    for group in groups:
        waiting.append([pool.submit(work, member) for member in group])
        if len(waiting) > ahead:
            yield [job.result() for job in waiting.popleft()]
    while waiting:
        yield [job.result() for job in waiting.popleft()]
