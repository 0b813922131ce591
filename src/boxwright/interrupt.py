"""Signals that end the command line: Ctrl-C and SIGTERM, and SIGUSR1 for a training.

One line and exit status 130 after Ctrl-C, 143 after SIGTERM (`kill`, `timeout`, `docker stop`). Python's
KeyboardInterrupt can be lost: raised in a destructor it is only printed, and libraries turn it into other errors while
they are imported. So a flag is set as well, and long loops check it at each step.

In a training, SIGTERM and SIGUSR1, which schedulers send before they end a job, have another handler: while it can be
saved, they only set a flag (`stop_requested`), and the training saves and raises `Stopped`; before and after, the
process ends at once. The exit status is 143 in both cases.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130  # 128 + SIGINT, as shells expect
MESSAGE = "boxwright: interrupted"
STATUS_STOPPED = 143  # 128 + SIGTERM, also after SIGUSR1: one status for schedulers to look for
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))

_process = _count = 0  # the process with the handler; signals received
_end = (STATUS, MESSAGE)  # exit status and last line after these signals
_exiting = False
_stop = _deferred = False  # whether a stop was asked for, and whether that only sets a flag


class Stopped(SystemExit):
    """A training was stopped by SIGTERM or SIGUSR1, and can be resumed. line: the message for stderr, or ""."""

    def __init__(self, line: str = "") -> None:
        super().__init__(STATUS_STOPPED)
        self.line = line


def install() -> None:
    """Install the handlers of Ctrl-C and SIGTERM; call it from the main thread of the command line only."""
    global _process
    _process = os.getpid()
    signal.signal(signal.SIGINT, _handle)
    signal.signal(signal.SIGTERM, _handle_terminate)
    unraisable, in_thread = sys.unraisablehook, threading.excepthook
    # errors after Ctrl-C are consequences of it
    sys.unraisablehook = lambda error: None if _count else unraisable(error)
    threading.excepthook = lambda error: None if _count else in_thread(error)


def install_stop() -> None:
    """Install the handler of SIGTERM and SIGUSR1 for a training; no effect outside the command line (`install`)."""
    if _process == os.getpid():
        for number in STOP_SIGNALS:
            signal.signal(number, _handle_stop)


def requested() -> bool:
    """Whether Ctrl-C was pressed, or SIGTERM received outside a training."""
    return _count > 0


def stop_requested() -> bool:
    """Whether SIGTERM or SIGUSR1 has reached this process."""
    return _stop


@contextmanager
def stop_blocked() -> Iterator[None]:
    """Start processes in this block with SIGTERM and SIGUSR1 blocked: schedulers signal all processes of a job, and
    those that load images are needed until the training is saved."""
    if signal.getsignal(signal.SIGTERM) is not _handle_stop or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # inherited, whatever starts them
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_deferred() -> Iterator[None]:
    """A block in which the training can be saved: SIGTERM and SIGUSR1 only set the flag."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def check() -> None:
    """Raise KeyboardInterrupt if `requested`."""
    if _count:
        raise KeyboardInterrupt


def finish(status: int, line: str) -> int:
    """Print `line` to stderr unless it is empty, and return the exit status; after Ctrl-C, or SIGTERM in its place,
    both are those of the signal."""
    global _exiting
    _exiting = True  # from here on Ctrl-C ends the process at once
    if _count:
        status, line = _end
    if status == STATUS_STOPPED:
        for number in STOP_SIGNALS:  # Python restores the default at its end, and torchrun signals twice
            signal.signal(number, signal.SIG_IGN)
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


def _handle_terminate(number: int, frame: FrameType | None, **_: object) -> None:
    global _count, _end
    if os.getpid() != _process:  # a forked process, which its parent may end by this signal
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _count or _exiting:  # a second one, as `timeout` sends, changes nothing
        return
    _count, _end = 1, (STATUS_STOPPED, "boxwright: stopped by SIGTERM")
    raise KeyboardInterrupt


def _handle_stop(number: int, frame: FrameType | None, **_: object) -> None:
    global _stop
    if os.getpid() != _process:
        return
    _stop = True
    if _deferred or _exiting:  # a second one, as torchrun may send, changes nothing
        return
    if os.environ.get("RANK", "0") == "0":  # one line for all processes
        name = signal.Signals(number).name
        os.write(2, f"boxwright: stopped by {name}; no step was made since the last save\n".encode())
    os._exit(STATUS_STOPPED)
