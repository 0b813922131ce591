"""Milliseconds a picture of a Predictor, from the decoded picture to boxes, against its bare network alone.

    python benchmarks/bench_predict.py [ROUNDS]

YOLOv3-tiny at 416 with random weights, one picture at a time and in batches of 8; both sides measured in turns.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import torch

from boxwright import models, recipe
from boxwright.predict.predictor import Predictor

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
BATCH = 8


def in_turns(*tasks: Callable[[], object]) -> list[float]:
    """Median seconds of each; one after the other in every round, so that a busy moment touches all."""
    times: list[list[float]] = [[] for _ in tasks]
    for turn in range(ROUNDS + 2):
        for task, seconds in zip(tasks, times, strict=True):
            begin = time.perf_counter()
            task()
            if turn > 1:  # the first ones warm up
                seconds.append(time.perf_counter() - begin)
    return [statistics.median(seconds) for seconds in times]


def main() -> None:
    plain = recipe.load("yolov3_tiny_coco_416_darknet")
    torch.manual_seed(0)
    model = models.module("yolov3").build(plain.model).eval()
    usual = model.to(memory_format=torch.channels_last)
    predictor = Predictor(usual, plain)
    pictures = [np.random.default_rng(seed).integers(0, 256, (480, 640, 3), np.uint8) for seed in range(BATCH)]
    pictures = [np.repeat(np.repeat(picture[::20, ::20], 20, 0), 20, 1) for picture in pictures]
    print(f"{date.today()}  torch {torch.__version__}, Python {platform.python_version()}", end="  ")
    print(f"{os.cpu_count()} x {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    for count in (1, BATCH):
        images = torch.rand(count, 3, 416, 416).contiguous(memory_format=torch.channels_last)

        def network(images: torch.Tensor = images) -> object:
            with torch.inference_mode():
                return usual(images)

        def whole(count: int = count) -> object:
            return predictor(pictures[:count])

        bare, all_of_it = in_turns(network, whole)
        ours, theirs = (1e3 * seconds / count for seconds in (all_of_it, bare))
        print(f"batch {count}: Predictor {ours:.1f} ms a picture, network {theirs:.1f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
