"""What short epochs cost beside their steps: 60 epochs of YOLOv3-tiny at 160 px on 64 images.

    python benchmarks/short_epochs.py --data bccd --weights yolov3-tiny.weights --out DIR

Trains without evaluation, and with one every tenth epoch. `ratio` is the time from the call to the end of the training,
with opening the data, checkpoints and plots, divided by that of the steps without waiting for images, from the log; the
goal is at most 1.10. Needs two idle cores.
"""

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import torch
import yaml

import boxwright as bw
from boxwright.files import make_folder
from boxwright.formats import open_boxes
from boxwright.metrics import run_log
from coco_tree import coco_tree

IMAGES = {"train": 64, "val": 16}
CHANGES = {
    "train.epochs": 60, "train.batch": 8, "data.canvas.size": [160, 160], "data.workers": 2, "train.log_every": 8,
}  # fmt: skip


def subset(root: Path, out: Path) -> Path:
    """A data YAML of the first images of each split."""
    make_folder(out)
    for split, count in IMAGES.items():
        tree = coco_tree(open_boxes(root, split).subset(range(count)))
        (out / f"{split}.json").write_text(json.dumps(tree))
    file = out / "data.yaml"
    file.write_text(yaml.safe_dump({split: f"{split}.json" for split in IMAGES}))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a set with at least 64 images in train, 16 in val")
    parser.add_argument("--weights", type=Path, required=True, help="Darknet's yolov3-tiny.weights")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    data = subset(args.data, args.out / "data")
    for every in (0, 10):
        start, run = time.perf_counter(), args.out / f"evaluated-{every}"
        overrides = CHANGES | {"train.evaluate_every": every}
        bw.train("yolov3_tiny_coco_416_darknet", data, run, weights=args.weights, transfer=True, overrides=overrides)
        total = time.perf_counter() - start
        lines = [line for _, line in run_log.read(run / run_log.FILE) if "data_wait" in line]
        seconds = [IMAGES["train"] / line["images_per_second"] for line in lines]
        waiting = sum(each * line["data_wait"] for each, line in zip(seconds, lines, strict=True))
        steps = sum(seconds) - waiting
        print(
            f"evaluate_every {every}: {total:.1f} s, steps {steps:.1f} s, ratio {total / steps:.3f}; waiting "
            f"{waiting / sum(seconds):.1%}",
            flush=True,
        )
    print(f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
