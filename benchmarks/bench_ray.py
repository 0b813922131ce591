"""Throughput of `predict --ray local` against `predict --as parquet` on the same cores, and equal rows.

    OMP_NUM_THREADS=2 python benchmarks/bench_ray.py --count 500 --rounds 3

Both commands run in turn, as many times as --rounds, with as many threads as actors have CPUs. What is measured lies
between the first and the last tenth of the images, by the column `time`, so neither start is part of it. On a busy
machine only processor time is comparable. The goal is a ratio of 0.85. --kill: a worker of
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

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch

from boxwright import models, recipe
from boxwright.recipe import Recipe
from boxwright.weights import checkpoint

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from process_tree import descendants

KILL_AFTER = 8.0  # s from the start of an actor, which imports PyTorch first


def write_images(folder: Path, count: int) -> None:
    """Small JPEGs, 320 x 240 px."""
    draw = np.random.default_rng(0)
    for index in range(count):
        layers = [cv2.resize(draw.normal(0, 40, (240 // k, 320 // k, 3)), (320, 240)) for k in (4, 40)]
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), np.clip(sum(layers) + 128, 0, 255).astype(np.uint8))


def write_weights(chosen: Recipe, images: list[Path], file: Path) -> None:
    """Random ones that find boxes: batch norms have the statistics of the images."""
    torch.manual_seed(2)
    model = models.build(chosen.model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    height, width = chosen.data.canvas.size
    pixels = np.stack([cv2.resize(cv2.imread(str(image)), (width, height)) for image in images])
    with torch.no_grad():
        model.train()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    checkpoint.save(file, model, chosen)


def run(words: list[str], out: Path, kill: bool) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of the whole command; and times with the processor seconds of all its processes until then."""
    begin = time.perf_counter()
    command = subprocess.Popen([sys.executable, "-m", "boxwright", "predict", *words, "--out", str(out)])
    if kill:
        threading.Thread(target=kill_a_worker, args=(command,), daemon=True).start()
    samples = []
    while command.poll() is None:
        samples.append((time.time(), sum(map(processor_seconds, [command.pid, *descendants(command.pid)]))))
        time.sleep(0.3)
    if command.returncode:
        sys.exit(command.returncode)
    return time.perf_counter() - begin, samples


def processor_seconds(process: int) -> float:
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def kill_a_worker(command: "subprocess.Popen[bytes]") -> None:
    """A worker of `command` that has loaded its network."""
    while command.poll() is None:
        workers = [pid for pid, line in descendants(command.pid).items() if "ray::MapWorker" in line]
        if workers:
            time.sleep(KILL_AFTER)
            os.kill(workers[0], signal.SIGKILL)
            print("killed a worker", flush=True)
            return
        time.sleep(0.05)


def per_image(file: Path, samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Seconds and processor seconds per image, between the first and the last tenth of the images."""
    times: dict[str, float] = {}
    for row in pq.read_table(file, columns=["image", "time"]).to_pylist():
        times[row["image"]] = row["time"].timestamp()
    seconds = np.sort(np.array(list(times.values())))
    first, last = len(seconds) // 10, len(seconds) - 1 - len(seconds) // 10
    between = seconds[[first, last]]
    used = np.interp(between, *np.array(samples).T)
    return float(np.diff(between)[0] / (last - first)), float(np.diff(used)[0] / (last - first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threshold", type=float, default=0.01, help="for boxes with random weights")
    parser.add_argument("--kill", action="store_true")
    words = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {words.count} images", flush=True)
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "ray": []}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "images").mkdir()
        write_images(root / "images", words.count)
        some = sorted((root / "images").iterdir())[:16]
        write_weights(recipe.load(words.recipe), some, root / "random.safetensors")
        common = [str(root / "random.safetensors"), str(root / "images"), "--threshold", str(words.threshold)]
        tables = []
        for number in range(words.rounds):
            for name, options in (("plain", ["--as", "parquet"]), ("ray", ["--ray", "local"])):
                out = root / f"{name}{number}"
                seconds, samples = run(common + options, out, words.kill and name == "ray")
                wall, used = per_image(out / "detections.parquet", samples)
                found[name].append((wall, used))
                print(f"{name}: {1 / wall:.1f} images/s, {used * 1000:.1f} ms of a core each;", end=" ")
                print(f"whole command {seconds:.1f} s", flush=True)
                order = [("image", "ascending"), ("score", "descending"), ("x1", "ascending"), ("y1", "ascending")]
                tables.append(pq.read_table(out / "detections.parquet").drop(["time"]).sort_by(order))
        for what, unit in enumerate(("time", "processor time")):
            ratios = [plain[what] / ray[what] for plain, ray in zip(found["plain"], found["ray"], strict=True)]
            print(f"{unit}, plain to ray: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"{len(tables[0])} rows, equal in all runs: {all(table.equals(tables[0]) for table in tables)}")


if __name__ == "__main__":
    main()
