"""The command line keeps freed memory, so that new blocks cause no page faults."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys, threading
from boxwright.cli import main

if sys.argv[1] == "kept":
    try:
        main(["list"])
    except SystemExit:
        pass

def count():
    blocks = None
    for turn in range(6):
        if turn == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = None
        blocks = [b"x" * (48 << 20) for _ in range(2)]
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (48 << 20))

if sys.argv[2] == "main":
    count()
else:
    other = threading.Thread(target=count)
    other.start()
    other.join()
"""


def newly_mapped_blocks(*args: str) -> float:
    """How many of ten blocks of 48 MiB cause page faults."""
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, *args], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("thread", ["main", "other"])
def test_command_line_keeps_freed_memory_blocks(thread: str) -> None:
    assert newly_mapped_blocks("default", thread) > 9
    assert newly_mapped_blocks("kept", thread) < 1
