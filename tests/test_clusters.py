"""Several processes that train or predict as one: torchrun on two "nodes", and Ray on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import boxwright
from boxwright import cli, ray_cluster
from boxwright.engine.log import TrainLogger
from boxwright.extras import silence_telemetry
from boxwright.predict.predictor import AnyPredictor
from process_tree import descendants
from random_detector import write_images, write_small_images, write_weights
from small_run import SMALL, arguments, assert_equal, lines, state

pytestmark = pytest.mark.slow
LOOPBACK = "127.0.0.1"
SINGLE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
IMAGES = 80  # that Ray predicts

# Of 3 steps an epoch, with 4 images of 12 each; evaluated after epochs 2 and 4.
EPOCHS = 4
CHANGES: dict[str, object] = SMALL | {"train.epochs": EPOCHS, "train.evaluate_every": 2}
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


def children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def wait_for_step(process: "subprocess.Popen[bytes]", run: Path, step: int) -> None:
    while process.poll() is None and max((line["step"] for line in lines(run)), default=0) < step:
        time.sleep(0.02)


def environment(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def listening() -> list[str]:
    """The addresses, as the kernel writes them, at which this process and those below it listen."""
    rows = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    places = {f"socket:[{row[9]}]": row[1].rpartition(":")[0] for row in rows if row[3] == "0A"}
    handles = [link for each in (os.getpid(), *descendants(os.getpid())) for link in Path(f"/proc/{each}/fd").glob("*")]
    found = []
    for handle in handles:
        with suppress(OSError):  # closed meanwhile
            found.append(str(handle.readlink()))
    return [places[name] for name in found if name in places]


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    """Ray as `--ray local` starts it, once for all tests, since that takes seconds."""
    pytest.importorskip("ray", reason="needs the extra ray")
    on_ray = pytest.importorskip("boxwright.tables.on_ray", reason="needs the extra parquet")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's, of its own settings
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        silence_telemetry()
        terminate = signal.getsignal(signal.SIGTERM)
        with ray_cluster.session("local", cpus=2, object_store=on_ray.OBJECT_STORE) as started:

            @contextmanager
            def running(address: str, *_: object, **__: object) -> Iterator[ModuleType]:
                assert address == "local"
                yield started

            assert signal.getsignal(signal.SIGTERM) == terminate, "on Ray's own, its native code aborts"
            patch.setattr(ray_cluster, "session", running)
            patch.setattr(on_ray, "session", running)
            yield started
        assert not started.is_initialized()


@pytest.fixture(scope="module")
def stopped(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torchrun on two "nodes" with a process each, one of which gets SIGTERM.

    Processes that load images get the signals as well, as SLURM sends them to all processes of a job.
    """
    run, port = tmp_path_factory.mktemp("stopped") / "run", free_port()
    launch = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", f"{LOOPBACK}:{port}", "--rdzv-id", "test", "--local-addr", LOOPBACK]
    train = ["-m", "boxwright", *arguments(tiny_coco, run, HALF | {"data.workers": 1})]
    # The node that stays has the store: without it torchrun fails before it can report the status of its worker.
    commands = [[sys.executable, "-m", *launch, "--rdzv-conf", f"is_host={host}", *train] for host in (1, 0)]
    nodes = [subprocess.Popen(command, env=SINGLE_THREAD, stderr=subprocess.PIPE) for command in commands]
    try:
        wait_for_step(nodes[1], run, 2)
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
def uninterrupted_and_resumed(
    tiny_coco: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """An uninterrupted run of two processes, and the stopped one, resumed with two."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(stopped, folder / "resumed")
    jobs = [
        [free_port(), *arguments(tiny_coco, folder / "uninterrupted", HALF)],
        [free_port(), *arguments(tiny_coco, folder / "resumed", HALF), "--auto-resume"],
    ]
    text = "\n".join(map(json.dumps, jobs))
    subprocess.run([sys.executable, "-c", FORKED], input=text, env=SINGLE_THREAD, text=True, timeout=120, check=True)
    return folder / "uninterrupted", folder / "resumed"


def test_resumed_run_with_two_processes_equals_uninterrupted_run(
    stopped: Path, uninterrupted_and_resumed: tuple[Path, Path]
) -> None:
    assert 2 <= int(state(stopped)["step"]) < 3 * EPOCHS  # type: ignore[call-overload]
    assert_equal(*uninterrupted_and_resumed)


def test_resume_with_one_process_uses_the_same_batches(
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


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_local_ray_listens_only_on_loopback(ray: ModuleType) -> None:
    """And reports nothing."""
    assert ray.cluster_resources()["CPU"] == 2
    assert ray.get(ray.remote(lambda: os.environ["RAY_USAGE_STATS_ENABLED"]).remote()) == "0"
    found = listening()
    assert len(found) > 2, "Ray's processes listen, or the walk has missed them"
    assert set(found) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and mapped to IPv6
    head = {number: line for number, line in descendants(os.getpid()).items() if "dashboard/dashboard.py" in line}
    assert all("--disable-frontend" in line for line in head.values())  # it starts without a dashboard, too
    assert all(b"RAY_USAGE_STATS_ENABLED=0" in environment(number) for number in head)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_training_equals_torchrun(
    ray: ModuleType,
    tiny_coco: Path,
    uninterrupted_and_resumed: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, interrupted = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as leaving:
        cli.main([*arguments(tiny_coco, run, HALF), "--ray", "local", "--ray-workers", "2"])
    captured = capsys.readouterr()
    assert leaving.value.code == 0, captured.err
    assert signal.getsignal(signal.SIGINT) == interrupted, "Ray's own ends the command with status 0 or 1"
    assert_equal(uninterrupted_and_resumed[0], run)
    assert captured.out == f"{run}\n"
    assert [line for line in captured.err.splitlines() if not line.startswith("epoch ")] == []


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_small_images(tmp_path / "images", IMAGES)


@pytest.fixture
def predictor(tmp_path: Path) -> AnyPredictor:
    weights = write_weights(tmp_path / "w.safetensors", write_images(tmp_path / "others"))
    return boxwright.load(weights, device="cpu", overrides={"predict.threshold": 0.005})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_killed_ray_worker_does_not_change_the_table(
    ray: ModuleType, images: Path, predictor: AnyPredictor, tmp_path: Path
) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    from boxwright.tables.on_ray import predict_on_ray
    from boxwright.tables.predict import predict_table
    from boxwright.tables.rows import Settings, Source

    seen: list[int] = []

    def rows(predictor: AnyPredictor, sources: Sequence[Source], settings: Settings) -> Iterator[Any]:
        batches = predict_on_ray(predictor, sources, settings, address="local")
        for number, batch in enumerate(batches):
            if number == 1:
                ours = descendants(os.getpid())
                seen.extend(process for process, command in ours.items() if "MapWorker" in command)
                os.kill(seen[0], signal.SIGKILL)
            yield batch

    predict_table(predictor, [images], tmp_path / "ray", rows=rows)
    assert len(seen) == 2
    assert isinstance(print, BuiltinFunctionType), "Ray's progress bars replace it"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predict_table(predictor, [images], tmp_path / "plain")
    finally:
        torch.set_num_threads(threads)
    order = [("image", "ascending"), ("score", "descending"), ("x1", "ascending"), ("y1", "ascending")]
    plain, by_ray = (
        pq.read_table(tmp_path / name / "detections.parquet").drop(["time"]).sort_by(order) for name in ("plain", "ray")
    )
    assert len(plain) > 5 * IMAGES
    assert by_ray.equals(plain)
    assert len(set(plain["image"].to_pylist())) == IMAGES + 1
