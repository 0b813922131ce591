"""Ctrl-C on the command line: one line and status 130, whenever it comes.

Python's KeyboardInterrupt may be lost: raised while an object is destroyed it is only printed, and libraries make other
errors of it while they are imported. So it is remembered, and long work asks for it at each step.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

STATUS = 130  # what shells expect
LINE = "boxwright: interrupted"

_process = _asked = 0  # the process that listens; how often it was asked to end
_leaving = False


def listen() -> None:
    """From now on until the process ends. For a program that is ours alone, from its main thread."""
    global _process
    _process = os.getpid()
    signal.signal(signal.SIGINT, _note)
    show, show_of_thread = sys.unraisablehook, threading.excepthook
    # what breaks after Ctrl-C breaks because of it
    sys.unraisablehook = lambda error: None if _asked else show(error)
    threading.excepthook = lambda error: None if _asked else show_of_thread(error)


def asked() -> bool:
    """Whether there was a Ctrl-C."""
    return _asked > 0


def check() -> None:
    """Raise KeyboardInterrupt when there was a Ctrl-C."""
    if _asked:
        raise KeyboardInterrupt


def leave(status: int, line: str) -> int:
    """Print the last line of the program, if there is one, and return its status; both are Ctrl-C's where it came."""
    global _leaving
    _leaving = True  # from here on it ends the process at once
    if _asked:
        status, line = STATUS, LINE
    if line:
        print(line, file=sys.stderr)
    return status


def _note(number: int, frame: FrameType | None, **_: Any) -> None:
    global _asked
    if os.getpid() != _process:  # in a process that was forked, which its parent ends
        return
    _asked += 1
    if _asked == 1 and not _leaving:
        raise KeyboardInterrupt
    if not _leaving:
        os.write(2, f"{LINE}\n".encode())
    os._exit(STATUS)  # asked twice
