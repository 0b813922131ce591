"""Fetching for a forked process, in which obstore does not work, by a separate process.

A loader worker forked from a process that has used obstore (to list the data set) does not inherit obstore's threads,
and would wait forever. It starts `python -m boxwright.remote.helper` instead, which fetches objects into the cache. A
request is a line of JSON, a list of objects; the response is a line, an error message or "". The helper ends when its
input ends, that is, with the process that started it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from boxwright.errors import InputError
from boxwright.remote.objects import RemoteObject, fetch

_helpers: dict[int, "Helper"] = {}  # by process id, since a forked process inherits its parent's helper
_lock = threading.Lock()


class Helper:
    """The helper of this process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "boxwright.remote.helper"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lock = threading.Lock()

    def fetch(self, objects: Sequence[RemoteObject]) -> None:
        """As `objects.fetch`. Raises InputError also if the helper has died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            try:
                stdin.write(json.dumps(objects).encode() + b"\n")
                stdin.flush()
                answer = stdout.readline()
            except OSError:
                answer = b""
        if not answer:
            raise InputError("the process that fetches remote objects has died, probably out of memory")
        if message := json.loads(answer):
            raise InputError(message)


def helper() -> Helper:
    """The helper of this process, started at the first call."""
    with _lock:
        if os.getpid() not in _helpers:
            _helpers[os.getpid()] = Helper()
        return _helpers[os.getpid()]


def main() -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main process ends its workers
    for line in sys.stdin.buffer:
        try:
            fetch([RemoteObject(*values) for values in json.loads(line)])
            message = ""
        except InputError as error:
            message = str(error)
        sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
