"""How this process holds memory that it will need again."""

import ctypes
import sys

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT = 64 * 2**20  # bytes: larger blocks still go back to the system, as they would leave holes in the heap


def keep_freed() -> None:
    """Keep freed blocks of up to 64 MiB for the next of their size, where the C library is glibc.

    All threads take them from one heap. By default glibc hands the larger ones back to the system, and every new tensor
    pays for pages that are found and cleared anew: on a CPU a training step of a small network takes 1.5 times as long.
    The price is a larger process, by a quarter where this was measured (benchmarks/results.md). For processes that are
    ours alone: the command line and the workers of loaders.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    # The first alone would change nothing for blocks at the end of the heap; the second alone would end glibc's own
    # raising of the first. An older glibc refuses more than 32 MiB.
    if mallopt and (mallopt(M_MMAP_THRESHOLD, KEPT) or mallopt(M_MMAP_THRESHOLD, KEPT // 2)):
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_ARENA_MAX, 1)  # heaps of 64 MiB, which other threads would get, go back when empty
