"""Throughput of `predict --ray local` against `predict --as parquet` on the same cores, and equal rows.

    OMP_NUM_THREADS=2 python benchmarks/bench_ray.py --count 500 --rounds 3

Both commands run in turn, as many times as --rounds, with as many threads as actors have CPUs. Throughput is counted
from the column `time`: images between the first and the last tenth, so neither start is part of it. --kill: a worker of
each run by Ray is killed (SIGKILL) once the first rows are there.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from bench_predict import random_weights, write_images
from boxwright import recipe

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from test_tables_on_ray import descendants

KILL_AFTER = 8.0  # s from the start of an actor, which imports PyTorch first


def run(words: list[str], out: Path, kill: bool) -> float:
    """Seconds of the whole command."""
    begin = time.perf_counter()
    command = subprocess.Popen([sys.executable, "-m", "boxwright", "predict", *words, "--out", str(out)])
    if kill:
        threading.Thread(target=kill_a_worker, args=(command,), daemon=True).start()
    if command.wait():
        sys.exit(command.returncode)
    return time.perf_counter() - begin


def kill_a_worker(command: "subprocess.Popen[bytes]") -> None:
    """A worker of `command` that has loaded its network."""
    while command.poll() is None:
        workers = [
            pid for pid, line in descendants(command.pid).items() if "ray::MapWorker" in line and "()" not in line
        ]
        if workers:
            time.sleep(KILL_AFTER)
            os.kill(workers[0], signal.SIGKILL)
            print("killed a worker", flush=True)
            return
        time.sleep(0.05)


def throughput(file: Path) -> float:
    """Images per second between the first and the last tenth."""
    times: dict[str, float] = {}
    for row in pq.read_table(file, columns=["image", "time"]).to_pylist():
        times[row["image"]] = row["time"].timestamp()
    seconds = np.sort(np.array(list(times.values())))
    first, last = len(seconds) // 10, len(seconds) - 1 - len(seconds) // 10
    return float((last - first) / (seconds[last] - seconds[first]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="yolov3_tiny_coco_416_darknet")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kill", action="store_true")
    words = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {words.count} images", flush=True)
    found: dict[str, list[float]] = {"plain": [], "ray": []}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "images").mkdir()
        write_images(root / "images", words.count)
        random_weights(recipe.load(words.recipe), root / "random.safetensors")
        common = [str(root / "random.safetensors"), str(root / "images"), "--threshold", "0.2"]
        tables = []
        for number in range(words.rounds):
            for name, options in (("plain", ["--as", "parquet"]), ("ray", ["--ray", "local"])):
                out = root / f"{name}{number}"
                seconds = run(common + options, out, words.kill and name == "ray")
                found[name].append(throughput(out / "detections.parquet"))
                print(f"{name}: {found[name][-1]:.1f} images/s, whole command {seconds:.1f} s", flush=True)
                order = [("image", "ascending"), ("score", "descending"), ("x1", "ascending"), ("y1", "ascending")]
                tables.append(pq.read_table(out / "detections.parquet").drop(["time"]).sort_by(order))
        ratios = [ray / plain for plain, ray in zip(found["plain"], found["ray"], strict=True)]
        print(f"ray to plain: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); goal 0.85")
        print(f"{len(tables[0])} rows, equal in all runs: {all(table.equals(tables[0]) for table in tables)}")


if __name__ == "__main__":
    main()
