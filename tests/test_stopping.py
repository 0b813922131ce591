"""SIGTERM and SIGUSR1 stop all processes of a training after the same step; the resumed run ends with the same bits."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import boxwright
from boxwright import interrupt
from boxwright.errors import InputError
from boxwright.recipe import TrainConfig
from small_run import SMALL, assert_equal, state

slow = pytest.mark.slow


@slow
def test_stop_at_any_step_resumes_bit_identical(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag that is set again and again, in steps and in evaluations; the same command starts and resumes."""
    changes = SMALL | {"train.batch": 4, "train.epochs": 3, "train.evaluate_every": 1}
    boxwright.train("demo", tiny_coco, tmp_path / "left_alone", overrides=changes)
    run, places, looks = tmp_path / "run", [], itertools.count(1)
    monkeypatch.setattr(interrupt, "stop_requested", lambda: next(looks) % 6 == 0)  # each step and each image looks
    while not (run / "metrics.json").exists():
        assert len(places) < 20, "no step and no evaluation is completed between two stops"
        try:
            boxwright.train("demo", tiny_coco, run, overrides=changes, resume="auto")
        except interrupt.Stopped as stop:
            places.append((stop.code, stop.line, state(run)["step"], state(run)["epochs"]))
    for status, line, step, _ in places:
        assert status == 143
        assert line == f"{run}: stopped by a signal and saved after step {step}; continue with --resume"
    assert any(step % 3 for _, _, step, _ in places), "in an epoch"  # type: ignore[operator]
    assert any(step == 3 * (epochs + 1) for _, _, step, epochs in places), "in the evaluation after it"  # type: ignore[operator]
    assert places[-1][2:] == (9, 3), "in the evaluation of the best network"
    assert_equal(tmp_path / "left_alone", run)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signal_before_and_during_training(name: str) -> None:
    code = f"""
import os, signal, subprocess
from boxwright import interrupt
interrupt.install()
interrupt.install_stop()
with interrupt.stop_blocked():
    child = subprocess.Popen(["sleep", "60"])  # as a start by forkserver or spawn, which inherit no handler
child.send_signal(signal.{name})
child.kill()
assert child.wait() == -signal.SIGKILL
with interrupt.stop_deferred():
    os.kill(os.getpid(), signal.{name})
    print(interrupt.stop_requested(), interrupt.requested(), flush=True)
os.kill(os.getpid(), signal.{name})
print("it went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "True False\n")
    assert done.stderr == f"boxwright: stopped by {name}; no step was made since the last save\n"


def test_sigterm_acts_like_ctrl_c() -> None:
    code = """
import os, signal, sys
from boxwright import interrupt
interrupt.install()
if (child := os.fork()) == 0:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM, "a forked process does not end by it"
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
    sys.exit(interrupt.finish(0, ""))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "boxwright: stopped by SIGTERM\n")


@pytest.mark.parametrize(
    ("batch", "accumulate", "processes", "now", "expected"),
    [
        (8, 1, 2, 2, (8, 1)),
        (8, 1, 2, 1, (8, 2)),  # a step has 16 images: two batches of 8
        (8, 1, 2, 4, (4, 1)),
        (8, 2, 4, 16, (4, 1)),  # of 64
        (6, 1, 2, 3, (4, 1)),  # of 12
        (6, 1, 3, 2, (3, 3)),  # of 18: 9 each, and 6 at a time do not divide them
        (64, 4, 8, 1, (64, 32)),
    ],
)
def test_images_per_step_are_independent_of_processes(
    batch: int, accumulate: int, processes: int, now: int, expected: tuple[int, int]
) -> None:
    config = TrainConfig(batch=batch, accumulate=accumulate, processes=processes)
    divided = config.divided(now)
    assert (divided.batch, divided.accumulate, divided.processes) == (*expected, now)
    places = [divided.place(number, rank) for number in range(2 * divided.accumulate) for rank in range(now)]
    assert places == list(itertools.product(range(2), range(divided.accumulate * now)))


def test_processes_that_do_not_divide_the_batch_are_rejected() -> None:
    message = (
        r"^train\.processes: a step takes 16 images \(batch 8 x 2 processes x accumulate 1\), and 3 processes cannot "
        r"take equal shares; start a number that divides 16, or a new run$"
    )
    with pytest.raises(InputError, match=message):
        TrainConfig(batch=8, processes=2).divided(3)
