"""SIGTERM and SIGUSR1 end a training after the same step in all its processes, and it goes on as if they had not."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import boxwright
from boxwright import interrupt
from boxwright.engine.log import TrainLogger
from boxwright.errors import InputError
from boxwright.recipe import TrainConfig
from small_run import SMALL, arguments, lines, tensors

slow = pytest.mark.slow
LOOPBACK = "127.0.0.1"
SINGLE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}

# Of 3 steps an epoch, with 4 images of 12 each; evaluated after epochs 3 and 6.
EPOCHS = 6
CHANGES: dict[str, object] = SMALL | {"train.epochs": EPOCHS, "train.evaluate_every": 3}
HALF = CHANGES | {"train.batch": 2}  # for each of two processes

# Two processes, with their numbers in the environment as schedulers set them; forked, so that they import once.
FORKED = """
import json, os, sys
import hotcoco, matplotlib.pyplot
import boxwright.engine.events, boxwright.engine.train
from boxwright.cli import main

for port, *words in map(json.loads, sys.stdin):
    children = []
    for rank in "01":
        if (child := os.fork()) == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ |= place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            sys.argv[1:] = words
            main()
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def state(run: Path) -> dict[str, object]:
    return torch.load(run / "last" / "state.pt", weights_only=True)  # type: ignore[no-any-return]


def children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def wait_for_step(process: "subprocess.Popen[bytes]", run: Path, step: int) -> None:
    while process.poll() is None and max((line["step"] for line in lines(run)), default=0) < step:
        time.sleep(0.02)


def assert_equal(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        expected, found = tensors(one / name), tensors(other / name)
        assert expected.keys() == found.keys()
        assert [key for key in expected if not expected[key].equal(found[key])] == []
    assert lines(one) == lines(other)


@pytest.fixture(scope="module")
def stopped(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torchrun on two "nodes" with a process each, one of which gets SIGTERM.

    Processes that load images get the signals as well, as SLURM sends them to all processes of a job.
    """
    run, port = tmp_path_factory.mktemp("stopped") / "run", free_port()
    launch = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", f"{LOOPBACK}:{port}", "--rdzv-id", "test", "--local-addr", LOOPBACK]
    command = [sys.executable, "-m", *launch, "-m", "boxwright", *arguments(tiny_coco, run, HALF | {"data.workers": 1})]
    nodes = [subprocess.Popen(command, env=SINGLE_THREAD, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        wait_for_step(nodes[1], run, 4)
        (worker,) = children(nodes[1].pid)
        (loader,) = children(worker)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(loader, number)
        nodes[1].terminate()
        errors = [node.communicate(timeout=120)[1].decode() for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    assert [node.returncode for node in nodes] == [1, 1], "torchrun's status, whatever that of its workers is"
    assert sum("exitcode  : 143" in each for each in errors) == 1, "the other torchrun was asked to end, and says so"
    (line,) = [line for each in errors for line in each.splitlines() if line.startswith("boxwright: ")]
    assert line.endswith(f"/run: stopped by a signal and saved after step {state(run)['step']}; continue with --resume")
    assert lines(run)[-1]["step"] == state(run)["step"]
    return run


@pytest.fixture(scope="module")
def left_alone(tiny_coco: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two processes that nobody stops, and the stopped one, resumed with as many."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(stopped, folder / "resumed")
    jobs = [
        [free_port(), *arguments(tiny_coco, folder / "left_alone", HALF)],
        [free_port(), *arguments(tiny_coco, folder / "resumed", HALF), "--auto-resume"],
    ]
    text = "\n".join(map(json.dumps, jobs))
    subprocess.run([sys.executable, "-c", FORKED], input=text, env=SINGLE_THREAD, text=True, timeout=120, check=True)
    return folder / "left_alone", folder / "resumed"


@slow
def test_resumed_with_as_many_processes(stopped: Path, left_alone: tuple[Path, Path]) -> None:
    assert 4 <= int(state(stopped)["step"]) < 3 * EPOCHS  # type: ignore[call-overload]
    assert_equal(*left_alone)


@slow
def test_resumed_with_one_process(
    tiny_coco: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step has the images that a run with one process from the start has in it, with the same random changes."""
    seen: dict[int, dict[int, Tensor]] = defaultdict(dict)
    record = TrainLogger.record

    def recorded(log, step, batch, terms):  # type: ignore[no-untyped-def]
        ids = [frame.image_id for frame in batch.frames]
        assert not seen[step].keys() & set(ids)
        seen[step] |= dict(zip(ids, batch.images.clone(), strict=True))
        return record(log, step, batch, terms)

    monkeypatch.setattr(TrainLogger, "record", recorded)
    boxwright.train("demo", tiny_coco, tmp_path / "one", overrides=CHANGES | {"train.batch": 4})
    expected = dict(seen)
    seen.clear()
    run = shutil.copytree(stopped, tmp_path / "run")
    boxwright.train("demo", tiny_coco, run, overrides=HALF, resume=True)
    first = int(state(stopped)["step"]) + 1  # type: ignore[call-overload]
    assert list(seen) == list(range(first, 3 * EPOCHS + 1))
    for step, images in seen.items():
        assert images.keys() == expected[step].keys()
        for name, image in images.items():
            torch.testing.assert_close(image, expected[step][name])
    assert boxwright.Recipe.load(run / "recipe.yaml").train.processes == 2


@slow
def test_ray_trains_as_torchrun_does(tiny_coco: Path, left_alone: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    words = [*arguments(tiny_coco, tmp_path / "run", HALF), "--ray", "local", "--ray-workers", "2"]
    environment = {name: value for name, value in SINGLE_THREAD.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "boxwright", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert_equal(left_alone[0], tmp_path / "run")
    assert done.stdout == f"{tmp_path / 'run'}\n"
    assert [line for line in done.stderr.splitlines() if not line.startswith("epoch ")] == []


@slow
def test_stopped_everywhere_in_one_process(tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_signal_before_and_within_a_training(name: str) -> None:
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
def test_a_step_keeps_its_images(
    batch: int, accumulate: int, processes: int, now: int, expected: tuple[int, int]
) -> None:
    config = TrainConfig(batch=batch, accumulate=accumulate, processes=processes)
    divided = config.divided(now)
    assert (divided.batch, divided.accumulate, divided.processes) == (*expected, now)
    places = [divided.place(number, rank) for number in range(2 * divided.accumulate) for rank in range(now)]
    assert places == list(itertools.product(range(2), range(divided.accumulate * now)))


def test_processes_that_cannot_share_a_step() -> None:
    message = (
        r"^train\.processes: a step takes 16 images \(batch 8 x 2 processes x accumulate 1\), and 3 processes cannot "
        r"take equal shares; start a number that divides 16, or a new run$"
    )
    with pytest.raises(InputError, match=message):
        TrainConfig(batch=8, processes=2).divided(3)
