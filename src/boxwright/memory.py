"""Available memory, and settings of the C library's allocator."""

import ctypes
import sys
from pathlib import Path

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
THRESHOLD = 64 * 2**20  # bytes; larger blocks are still returned to the system, as they would fragment the heap


def tune_malloc() -> None:
    """Make glibc keep freed blocks of up to 64 MiB for reuse, in one heap for all threads. No effect elsewhere.

    By default glibc returns the larger ones to the system, and every new tensor pays for page faults: on a CPU a
    training step of a small network takes 1.5 times as long. The process grows, by a quarter where this was measured
    (benchmarks/results.md). The setting is process-wide: the command line and loader workers use it, the library does
    not.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    # The mmap threshold alone does not affect blocks at the end of the heap; the trim threshold alone disables glibc's
    # dynamic mmap threshold. Older versions reject more than 32 MiB.
    if mallopt and (mallopt(M_MMAP_THRESHOLD, THRESHOLD) or mallopt(M_MMAP_THRESHOLD, THRESHOLD // 2)):
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_ARENA_MAX, 1)  # other threads' heaps of 64 MiB are returned when empty


def available_memory() -> int:
    """Bytes that this process can still allocate, in the machine or its container (cgroup 2)."""
    import psutil

    found = int(psutil.virtual_memory().available)
    try:
        limit, used = (Path("/sys/fs/cgroup", f"memory.{name}").read_text("ascii") for name in ("max", "current"))
        return min(found, int(limit) - int(used))
    except (OSError, ValueError):  # no such file, or `max`
        return found
