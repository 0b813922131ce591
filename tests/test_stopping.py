"""SIGTERM and SIGUSR1 end a training after the same step in all its processes, and what is resumed then."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import boxwright
from boxwright import interrupt, recipe
from boxwright.engine import log as training_log
from boxwright.errors import InputError
from boxwright.recipe import TrainConfig
from small_run import SMALL, arguments, lines, run, start, tensors

pytestmark = pytest.mark.slow

# Two processes with two images each, at least two epochs with an evaluation between them.
CHANGES: dict[str, object] = {"train.epochs": 3, "train.batch": 2, "train.evaluate_every": 1, "train.log_every": 2}
STEPS = 3 * 3

# Starts processes as SLURM does, each with its number in the environment; forked, so that they import once.
FORKED = """
import os, sys
import boxwright.engine.train
from boxwright.cli import main

for words in map(str.split, sys.stdin):
    children = []
    for rank in "01":
        if (child := os.fork()) == 0:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            os.environ["MASTER_PORT"] = words[0]
            sys.argv[1:] = words[1:]
            main()
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]  # type: ignore[no-any-return]


def step_of(folder: Path) -> int:
    return max((line["step"] for line in lines(folder)), default=0)


def wait_for_step(process: "subprocess.Popen[bytes]", folder: Path, step: int) -> None:
    while process.poll() is None and step_of(folder) < step:
        time.sleep(0.02)


def saved(folder: Path) -> dict[str, object]:
    return torch.load(folder / "last" / "state.pt", weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def stopped(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two "nodes" with a process each, one of whose torchruns gets SIGTERM."""
    out, port = tmp_path_factory.mktemp("stopped") / "run", free_port()
    words = arguments(tiny_coco, out, SMALL | CHANGES | {"train.epochs": 10_000})
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test", "--local-addr", "127.0.0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [sys.executable, *launch, "-m", "boxwright", *words], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        wait_for_step(nodes[1], out, 4)
        nodes[1].terminate()
        errors = [node.communicate(timeout=60)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    print(errors)
    assert [node.returncode for node in nodes] == [1, 1], "torchrun's own status"
    (line,) = [line for each in errors for line in each.splitlines() if line.startswith("boxwright: ")]
    assert line.endswith(f"/run: stopped by a signal and saved after step {saved(out)['step']}; continue with --resume")
    return out


def test_x(stopped: Path) -> None:
    pass
