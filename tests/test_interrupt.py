"""Ctrl-C ends the command line with one line and status 130, at any time; SIGTERM with status 143."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boxwright import interrupt, progress
from small_run import lines, start

pytestmark = pytest.mark.slow

END = (130, "boxwright: interrupted\n")

# The command line with a command that interrupts itself where Python loses the exception.
LOST = """
import os, signal, sys, threading, time

def press():
    os.kill(os.getpid(), signal.SIGINT)

class Destroyed:
    def __del__(self):
        press()

def in_del():
    Destroyed()

def in_import():
    try:
        press()
    except KeyboardInterrupt as error:
        raise ImportError("numpy could not be imported") from error

def in_a_long_loop():
    from boxwright import progress
    Destroyed()
    for _ in progress.track(range(100), 100, "x"):
        print("a step after Ctrl-C")

def twice():
    Destroyed()
    press()
    time.sleep(60)

def in_a_forked_process():
    if (child := os.fork()) == 0:
        press()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, "a worker minds it"
    in_del()

def in_a_thread():
    Destroyed()
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

import boxwright.recipe
place = globals()[sys.argv[1]]
boxwright.recipe.summaries = lambda: place() or {"a recipe": "its line"}
sys.argv[1:] = ["list"]
from boxwright.cli import main
main()
"""


@pytest.mark.parametrize(
    "place", ["in_del", "in_import", "in_a_long_loop", "twice", "in_a_forked_process", "in_a_thread"]
)
def test_swallowed_keyboard_interrupt_ends_the_command(place: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOST, place], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == END
    assert "a step" not in done.stdout


def test_interrupt_during_import_of_the_commands() -> None:
    """The import of typer is the first that takes time; here it is interrupted."""
    code = """
import os, signal, sys
class Slow:
    def find_spec(self, name, *rest):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Slow())
sys.argv[1:] = ["list"]
from boxwright.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == END


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_training(tiny_coco: Path, tmp_path: Path, workers: int) -> None:
    """As a terminal does it: every process of the group gets the signal, the workers as well."""
    process = start(tiny_coco, tmp_path / "run", {"train.epochs": 10_000, "data.workers": workers}, session=True)
    while process.poll() is None and not lines(tmp_path / "run"):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1].decode().splitlines()
    assert process.returncode == 130
    assert stderr[-1] == "boxwright: interrupted"
    assert [line for line in stderr[:-1] if not line.startswith("epoch ")] == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# `boxwright data convert` that gets SIGTERM when it writes the first image.
TERMINATED = """
import os, signal
from boxwright import files
from boxwright.cli import main

files.link_or_copy = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
main()
"""


def test_sigterm_leaves_no_files(tiny_coco: Path, tmp_path: Path) -> None:
    command = ["data", "convert", str(tiny_coco), "--to", "voc", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", TERMINATED, *command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "boxwright: stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_killed_worker_is_reported_in_one_line(tiny_coco: Path, tmp_path: Path) -> None:
    process = start(tiny_coco, tmp_path / "run", {"train.epochs": 10_000, "data.workers": 1})
    while process.poll() is None and not lines(tmp_path / "run"):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    stderr = process.communicate(timeout=60)[1].decode().splitlines()
    assert process.returncode == 2, "\n".join(stderr[-60:])
    assert stderr[-1].startswith("boxwright: a loader process has died, probably out of memory")
    assert all(line.startswith("epoch ") for line in stderr[:-1])


def test_library_use_keeps_the_sigint_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert list(progress.track(range(3), 3, "x")) == [0, 1, 2]
    assert not interrupt.requested()
    assert signal.getsignal(signal.SIGINT) is before
