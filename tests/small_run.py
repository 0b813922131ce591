"""A training run of seconds: a small `demo` recipe, in this process or a subprocess."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import boxwright

SMALL = {
    "model.width": 0.125,
    "data.canvas.size": [96, 96],
    "data.workers": 0,
    "train.epochs": 2,
    "train.batch": 2,
    "train.schedule.warmup_epochs": 0,
    "train.log_every": 1,
    "train.evaluate_every": 0,
    "train.precision": "no",  # also on a GPU: runs are compared to the last bits
}
MACHINE = {"images_per_second", "data_wait", "gpu_memory_gib"}


def run(
    data: Path, out: Path, changes: dict[str, object], recipe: str = "demo", small: dict[str, object] = SMALL
) -> None:
    """What `start` begins, in this process: without the seconds in which another one imports everything."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        boxwright.train(recipe, data, out, overrides=small | changes)
    finally:
        torch.set_num_threads(threads)


def arguments(data: Path, out: Path, settings: dict[str, object], recipe: str = "demo") -> list[str]:
    """Of `boxwright`."""
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return ["train", recipe, "--data", str(data), "--out", str(out), *changes]


def start(
    data: Path,
    out: Path,
    changes: dict[str, object],
    *words: str,
    processes: int = 1,
    recipe: str = "demo",
    small: dict[str, object] = SMALL,
    session: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start `boxwright train` of a small recipe, with one thread per process. session: in a separate process group."""
    launch = (
        ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"] if processes > 1 else []
    )
    command = [sys.executable, "-m", *launch, "boxwright", *arguments(data, out, small | changes, recipe)]
    return subprocess.Popen(
        [*command, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=session,
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def lines(run: Path) -> list[dict]:
    """The log without the keys that depend on the machine, and without an incomplete last line."""
    file = run / "log.jsonl"
    if not file.exists():
        return []
    complete = file.read_text().rpartition("\n")[0].splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MACHINE} for line in complete]


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Network, EMA and the optimizer's state (momentum, or AdamW's averages and steps) of a checkpoint."""
    found = {}
    for name in ("model", "ema"):
        if (checkpoint / f"{name}.safetensors").exists():
            found |= {f"{name}.{key}": value for key, value in load_file(checkpoint / f"{name}.safetensors").items()}
    state = torch.load(checkpoint / "state.pt", weights_only=True)["optimizer"]["state"]
    return found | {f"{name}.{index}": value for index, each in state.items() for name, value in each.items()}


# Float32 rounding when a sum is split differently: epsilon 1.2e-7 times the root of the 96 x 96 positions that a
# first-layer gradient sums. A wrong normalization is off by 1e-3 and more.
ROUNDING = 1.2e-7 * 96


def furthest(one: Path, other: Path) -> tuple[float, str]:
    """The largest difference of the two runs' last checkpoints, relative to the tensor's maximum, and its name."""
    a, b = tensors(one / "last"), tensors(other / "last")
    assert a.keys() == b.keys()
    return max((float((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1e-9)), k) for k in a)


def state(run: Path) -> dict[str, object]:
    return torch.load(run / "last" / "state.pt", weights_only=True)  # type: ignore[no-any-return]


def assert_equal(one: Path, other: Path) -> None:
    """Two runs have the same bits in their checkpoints, and the same log."""
    for name in ("last", "best"):
        expected, found = tensors(one / name), tensors(other / name)
        assert expected.keys() == found.keys()
        assert [key for key in expected if not expected[key].equal(found[key])] == []
    assert lines(one) == lines(other)
