"""Streams: threads that process parts of a batch in parallel, each on an equal share of the CPU's cores."""

import threading
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

MAX_STREAMS = 8  # one per image of a usual batch
_thread = threading.local()  # has `is_stream` in the threads of `stream_pool`


def in_stream() -> bool:
    """Whether the calling thread is one of a stream pool."""
    return getattr(_thread, "is_stream", False)


def stream_count(parts: int) -> int:
    """Number of streams for `parts`: the largest that leaves no core and no stream idle."""
    cores = torch.get_num_threads()
    return max(count for count in range(1, MAX_STREAMS + 1) if cores % count == 0 and count <= max(1, parts))


def stream_pool(count: int) -> ThreadPoolExecutor:
    """Pool of `count` threads, in each of which PyTorch uses an equal share of the current number of threads."""
    before, started = torch.get_num_threads(), Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread applies the process's number there
        torch.set_num_threads(max(1, before // count))
        _thread.is_stream = True
        started.wait()

    pool = ThreadPoolExecutor(count, initializer=start)
    for _ in range(count):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(before)  # restore it, since it also applies to threads that start later
    return pool
