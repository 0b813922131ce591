"""Ray as it is started on this machine: nothing of it listens to others, and nothing is reported."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# In a process of its own, since Ray leaves threads, handlers of signals and settings behind.
CODE = """
import os
from pathlib import Path
from boxwright import ray_cluster
from boxwright.errors import InputError

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # as the kernel writes 127.0.0.1, and mapped to IPv6

def listening():
    rows = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    return {row[9]: row[1].rpartition(":")[0] for row in rows if row[3] == "0A"}

def below(parent):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *(each for child in children for each in below(int(child)))]

def sockets(process):
    for handle in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = os.readlink(handle)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            yield target[8:-1]

with ray_cluster.session("local", cpus=1) as ray:
    assert ray.cluster_resources()["CPU"] == 1
    assert ray.get(ray.remote(lambda: os.environ["RAY_USAGE_STATS_ENABLED"]).remote()) == "0"
    rows = listening()
    found = [rows[inode] for process in below(os.getpid()) for inode in sockets(process) if inode in rows]
    assert len(found) > 2, "Ray's processes listen, or the walk has missed them"
    assert set(found) <= LOOPBACK, found
assert not ray.is_initialized()
for address in ("auto", "127.0.0.1:1"):
    try:
        with ray_cluster.session(address):
            pass
    except InputError as error:
        print(error)
"""


def test_a_local_start_listens_on_loopback_only() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, address in zip(lines, ("auto", "127.0.0.1:1"), strict=True):
        assert line.startswith(f"--ray: no Ray cluster at {address} ("), line
        assert line.endswith("; needed local, auto, or HOST:PORT of a head node"), line
