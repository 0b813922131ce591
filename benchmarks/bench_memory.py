"""Training steps of a process that keeps freed memory, as the command line does, against one that leaves it to glibc.

    python benchmarks/bench_memory.py [--recipe NAME] [--batch 64] [--steps 6] [--pairs 3]

Forward and backward on random pictures of the recipe's size, in a process of its own each time; the two kinds take
turns. Prints seconds a step (median) and the largest size of the process.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date

import torch

from boxwright import memory, models, recipe


def measure(name: str, batch: int, steps: int) -> None:
    """One line of JSON for this process."""
    loaded = recipe.load(name)
    network = models.module(loaded.model.name).build(loaded.model)  # type: ignore[attr-defined]
    layout = torch.channels_last if loaded.train.channels_last else torch.contiguous_format
    network.to(memory_format=layout)
    images = torch.rand(batch, 3, *loaded.data.canvas.size).contiguous(memory_format=layout)
    seconds = []
    for step in range(steps + 1):
        begin = time.perf_counter()
        raw = network(images)
        sum(one.sum() for one in ((raw,) if isinstance(raw, torch.Tensor) else raw)).backward()
        network.zero_grad()
        if step:  # the first warms up
            seconds.append(time.perf_counter() - begin)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": statistics.median(seconds), "GB": size}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny_darknet_imagenet_224_darknet")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--kind", choices=("kept", "glibc"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.kind:
        if words.kind == "kept":
            memory.tune_malloc()
        measure(words.recipe, words.batch, words.steps)
        return
    runs: dict[str, list[dict[str, float]]] = {"kept": [], "glibc": []}
    for _ in range(words.pairs):
        for kind, found in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    print(f"{date.today()}  torch {torch.__version__}, Python {platform.python_version()}, {platform.libc_ver()}")
    for kind, found in runs.items():
        seconds, size = (statistics.median(one[key] for one in found) for key in ("seconds", "GB"))
        print(f"{words.recipe}, batch {words.batch}, {kind}: {seconds:.2f} s a step, {size:.2f} GB")
    ratios = sorted(a["seconds"] / b["seconds"] for a, b in zip(runs["glibc"], runs["kept"], strict=True))
    print(f"glibc / kept: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
