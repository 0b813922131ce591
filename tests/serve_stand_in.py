"""A server of the stand-in detector, as a process: `python serve_stand_in.py SETTINGS`, a JSON object.

delay: seconds that the network takes. head_seconds, linger_seconds: of `connections`. All else: `Settings`, `Limits`.
"""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__)
START_SECONDS = 180  # importing PyTorch on a busy machine


class ServerProcess:
    """A server that is ready, and the lines that it has logged so far."""

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=HERE.parent)
        self.lines: deque[str] = deque()
        self.port = 0
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "http://" in line:
                self.port = int(line.partition("http://")[2].split()[0].rpartition(":")[2])
            if line == "ready\n":
                break
        self.reader = threading.Thread(target=self.lines.extend, args=(self.process.stderr,))
        self.reader.start()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        status = self.process.wait(60)
        self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def megabytes(self) -> float:
        """Resident memory."""
        (line,) = (
            line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if "VmRSS" in line
        )
        return int(line.split()[1]) / 1000


@contextmanager
def running(command: Sequence[str], env: dict[str, str] | None = None) -> Iterator[ServerProcess]:
    server = ServerProcess(command, env)
    try:
        assert server.port, "".join(server.lines)
        yield server
    finally:
        server.stop()


def stand_in(**settings: object) -> list[str]:
    """The command of a server of the stand-in."""
    return [sys.executable, "-W", "error", str(HERE), json.dumps(settings)]


def main() -> None:
    from boxwright.cli.output import log_to_stderr
    from boxwright.serve import connections
    from boxwright.serve.batcher import Limits
    from boxwright.serve.run import Settings, serve
    from stand_in import Rectangles, rectangles_predictor

    given = json.loads(sys.argv[1])
    delay = given.pop("delay", 0)
    connections.HEAD_SECONDS = given.pop("head_seconds", connections.HEAD_SECONDS)
    connections.LINGER_SECONDS = given.pop("linger_seconds", connections.LINGER_SECONDS)
    forward = Rectangles.forward

    def slow(self, images):
        time.sleep(delay)
        return forward(self, images)

    Rectangles.forward = slow
    limits = {field.name for field in dataclasses.fields(Limits)} & given.keys()
    chosen = Limits(**{name: given.pop(name) for name in limits})
    log_to_stderr()
    serve({"shapes": rectangles_predictor()}, Settings(port=0, limits=chosen, **given))


if __name__ == "__main__":
    main()
