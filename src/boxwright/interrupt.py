"""Ctrl-C on the command line: one line and exit status 130.

Python's KeyboardInterrupt can be lost: raised in a destructor it is only printed, and libraries turn it into other
errors while they are imported. So a flag is set as well, and long loops check it at each step.
"""

import os
import signal
import sys
import threading
from types import FrameType

STATUS = 130  # 128 + SIGINT, as shells expect
MESSAGE = "boxwright: interrupted"

_process = _count = 0  # the process with the handler; signals received
_exiting = False


def install() -> None:
    """Install the signal handler; call it from the main thread of the command line only."""
    global _process
    _process = os.getpid()
    signal.signal(signal.SIGINT, _handle)
    unraisable, in_thread = sys.unraisablehook, threading.excepthook
    # errors after Ctrl-C are consequences of it
    sys.unraisablehook = lambda error: None if _count else unraisable(error)
    threading.excepthook = lambda error: None if _count else in_thread(error)


def requested() -> bool:
    """Whether Ctrl-C was pressed."""
    return _count > 0


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed."""
    if _count:
        raise KeyboardInterrupt


def finish(status: int, line: str) -> int:
    """Print `line` to stderr unless it is empty, and return the exit status; after Ctrl-C both are Ctrl-C's."""
    global _exiting
    _exiting = True  # from here on Ctrl-C ends the process at once
    if _count:
        status, line = STATUS, MESSAGE
    if line:
        print(line, file=sys.stderr)
    return status


def _handle(number: int, frame: FrameType | None, **_: object) -> None:
    global _count
    if os.getpid() != _process:  # a forked process, which its parent ends
        return
    _count += 1
    if _count == 1 and not _exiting:
        raise KeyboardInterrupt
    if not _exiting:
        os.write(2, f"{MESSAGE}\n".encode())
    os._exit(STATUS)  # the second Ctrl-C
