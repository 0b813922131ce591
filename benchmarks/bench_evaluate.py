"""Seconds to score 5,000 images with 100 detections each, without and with intervals, and the ratio to pycocotools on a
share of them.

python benchmarks/bench_evaluate.py [IMAGES]
"""

import contextlib
import io
import os
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import hotcoco
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright.data.dataset import Sample
from boxwright.memory import tune_malloc
from boxwright.metrics import error_report
from boxwright.metrics.coco import Metrics, score
from boxwright.metrics.matching import match
from boxwright.tasks.detect_report import write_detections
from boxwright.types import Detections

IMAGES = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
SHARE = min(250, IMAGES)  # images that pycocotools gets; its time grows with their number
CLASSES, OBJECTS, FOUND = 80, 7, 100  # as in COCO val2017: 80 classes, 36,781 boxes in 5,000 images


def made(images: int) -> tuple[list[Sample], list[Detections]]:
    """Truth, and detections of which about a third lie near it."""
    rng = np.random.default_rng(0)
    samples, found = [], []
    for index in range(images):
        low, side = rng.uniform(0, 400, (OBJECTS, 2)), rng.uniform(10, 200, (OBJECTS, 2))
        boxes, labels = np.concatenate([low, low + side], 1).astype(np.float32), rng.integers(0, CLASSES, OBJECTS)
        samples.append(
            Sample(
                index,
                "",
                None,
                boxes,
                labels,
                np.zeros(OBJECTS, bool),
                side.prod(1),
                np.arange(OBJECTS),
                np.zeros(OBJECTS, bool),
            )
        )
        near = np.tile(boxes, (5, 1)) + rng.normal(0, 6, (5 * OBJECTS, 4))
        wild = rng.uniform(0, 400, (FOUND - len(near), 2))
        wild = np.concatenate([wild, wild + rng.uniform(5, 200, wild.shape)], 1)
        guess = np.concatenate([np.tile(labels, 5), rng.integers(0, CLASSES, len(wild))])
        every = torch.from_numpy(np.concatenate([near, wild])).float()
        found.append(Detections(every, torch.from_numpy(rng.random(FOUND)).float(), torch.from_numpy(guess)))
    return samples, found


def ours(samples: list[Sample], found: list[Detections], intervals: bool = False) -> tuple[Metrics, float, float]:
    """The metrics, seconds, and seconds of processor time, which others on the machine change less."""
    begin, begin_processor = time.perf_counter(), time.process_time()
    groups = np.arange(len(samples)) if intervals else None
    metrics = score(samples, found, [str(label) for label in range(CLASSES)], groups=groups)
    return metrics, time.perf_counter() - begin, time.process_time() - begin_processor


def theirs(samples: list[Sample], found: list[Detections]) -> tuple[list[float], float]:
    """From the same arrays, reading results as an array, which is pycocotools' fastest way."""
    annotations = [
        {"image_id": sample.image_id, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area,
         "iscrowd": 0}
        for sample in samples
        for label, (x1, y1, x2, y2), area in zip(
            sample.labels, sample.boxes.astype(float).tolist(), sample.areas.tolist(), strict=True
        )
    ]  # fmt: skip
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    rows = [
        torch.cat(
            [torch.full((len(one), 1), sample.image_id), one.boxes, one.scores[:, None], one.labels[:, None] + 1], 1
        )
        for sample, one in zip(samples, found, strict=True)
    ]
    table = torch.cat(rows).double().numpy()
    table[:, 3:5] -= table[:, 1:3]
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": s.image_id} for s in samples], "annotations": annotations,
                         "categories": [{"id": label + 1} for label in range(CLASSES)]}  # fmt: skip
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(table), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist(), time.perf_counter() - begin


def files(samples: list[Sample], found: list[Detections]) -> tuple[float, float]:
    """Seconds of processor time of metrics with intervals and detections.json, and of the errors and their files."""
    names = [str(label) for label in range(CLASSES)]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        score(samples, found, names, groups=np.arange(len(samples)))
        write_detections(Path(folder) / "d.json", samples, found, range(1, CLASSES + 1), files=False)
        middle = time.process_time()
        looks = {index: (index % 83 / 83, float(index % 97)) for index in range(len(samples))}
        error_report.write(Path(folder), samples, match(samples, found), names, 0.25, looks)
        return middle - begin, time.process_time() - middle


def main() -> None:
    samples, found = made(IMAGES)
    tune_malloc()  # as the command line does
    rounds = [(ours(samples, found)[1:], ours(samples, found, intervals=True)[1:]) for _ in range(3)]
    plain, with_intervals = ([min(times) for times in zip(*some, strict=True)] for some in zip(*rounds, strict=True))
    before, errors = files(samples, found)
    few = samples[:SHARE], found[:SHARE]
    metrics, our_share, _ = ours(*few)
    stats, their_share = theirs(*few)
    apart = max(abs(a - b) for a, b in zip(metrics.summary.values(), stats, strict=True))
    versions = f"hotcoco {hotcoco.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{date.today()}  {versions}  {os.cpu_count()} x {platform.processor() or platform.machine()}")
    print(
        f"{IMAGES} images x {FOUND} detections: {plain[0]:.2f} s, with intervals {with_intervals[0]:.2f} s; processor "
        f"time {plain[1]:.2f} and {with_intervals[1]:.2f} s, so intervals add {with_intervals[1] / plain[1] - 1:.0%}"
    )
    print(
        f"processor time with intervals and detections.json {before:.2f} s; errors and their files {errors:.2f} s more"
    )
    print(
        f"{SHARE} images: boxwright {our_share:.2f} s, pycocotools {their_share:.2f} s, "
        f"{their_share / our_share:.0f} times; numbers differ by at most {apart:.1e}"
    )


if __name__ == "__main__":
    main()
