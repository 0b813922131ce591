"""Fine-tuned detectors on small data sets, each for the same number of minutes, with intervals of AP.

    python benchmarks/small_sets.py --data aquarium --data chess --weights WEIGHTS_FOLDER --out DIR [--minutes 10]

Trains every system on every set (splits train and val) and evaluates the network that is best on val on test. Beside
them stands torchvision's smallest Faster R-CNN from scratch, whose last network is evaluated (peer.py). A row that has
been written is not computed again, so the command continues where it stopped. The table is printed, and written to
DIR/table.md; best_and_worst.jpg of a run shows two of the test images. Intervals are bootstraps of the images of test
(hotcoco, 1000 samples, 95 %).
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hotcoco import COCO, COCOeval, compare
from PIL import Image

import boxwright as bw
import peer
import rows
from boxwright.formats import open_boxes
from boxwright.json_text import JsonObject, write
from boxwright.metrics import plots
from coco_tree import coco_tree

SAMPLES = 1000
NOWHERE = {"bbox": [-9.0, -9.0, 1.0, 1.0], "score": 0.0}
# The file's schedule is for 500,000 steps. What replaces it is that of YOLOv3-tiny's recipe.
FASTEST = {
    "train.schedule": {"kind": "cosine", "lr": 0.01, "eta_min": 0.0002, "warmup_epochs": 1},
    "train.batch": 4,
    "train.accumulate": 1,
    "train.optimizer.clip": 10,
    "train.ema.decay": 0.975,
    "train.evaluate_min_steps": 0,
}


class System(NamedTuple):
    """A recipe or a .cfg (in the folder of the weights), the weights it starts from, and changes."""

    recipe: str
    weights: str
    overrides: Mapping[str, object]


SYSTEMS = {
    "YOLOv3-tiny": System("yolov3_tiny_coco_416_darknet", "yolov3-tiny.weights", {}),
    "YOLOv4-tiny": System("yolov4_tiny_coco_416_darknet", "yolov4-tiny.weights", {}),
    "YOLO-Fastest 1.1": System("yolo-fastest-1.1.cfg", "yolo-fastest-1.1.weights", FASTEST),
}
PEER = "torchvision, from scratch"


class Outcome(NamedTuple):
    """Minutes of the training, its epochs, and the COCO results file of the split test."""

    minutes: float
    epochs: int
    detections: Path


def train_system(name: str, data: Path, folder: Path, args: argparse.Namespace, seed: int) -> Outcome:
    system, start = SYSTEMS[name], time.perf_counter()
    recipe = str(args.weights / system.recipe) if system.recipe.endswith(".cfg") else system.recipe
    overrides = {
        "train.seed": seed,
        "train.minutes": args.minutes,
        "train.precision": args.precision,
        "data.workers": 0,
    }
    run = bw.train(
        recipe, data, folder / "run", weights=args.weights / system.weights, transfer=True,
        overrides={**system.overrides, **overrides},
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    bw.evaluate(run, data, split="test", out=folder / "test")
    epochs = bw.Recipe.load(str(run / "recipe.yaml")).train.epoch_count
    picture(data, run, folder / "best_and_worst.jpg")
    return Outcome(minutes, epochs, folder / "test" / "detections.json")


def train_peer(data: Path, folder: Path, args: argparse.Namespace, seed: int) -> Outcome:
    start = time.perf_counter()
    network, epochs = peer.train(open_boxes(data, "train"), args.minutes, seed, args.precision == "bf16")
    minutes = (time.perf_counter() - start) / 60
    write(file := folder / "detections.json", peer.detections(network, open_boxes(data, "test")))
    return Outcome(minutes, epochs, file)


def row(name: str, data: Path, folder: Path, args: argparse.Namespace, seed: int) -> JsonObject:
    """Train and evaluate one system, or the peer, on one set."""
    done = train_peer(data, folder, args, seed) if name == PEER else train_system(name, data, folder, args, seed)
    about = {"set": data.name, "system": name, "seed": seed, "minutes": done.minutes, "epochs": done.epochs}
    return about | interval(data, done.detections)


def interval(data: Path, detections: Path) -> JsonObject:
    """AP and AP50 of the split test, each with the ends of its interval: the difference to a detector of nothing."""
    tree = coco_tree(open_boxes(data, "test"))
    truth = COCO(tree)
    nothing = [{"image_id": tree["images"][0]["id"], "category_id": tree["categories"][0]["id"], **NOWHERE}]
    results = json.loads(detections.read_text())
    counters = []
    for each in (nothing, [*results, *nothing]):
        counter = COCOeval(truth, truth.loadRes(each), "bbox")
        counter.evaluate()
        counters.append(counter)
    answer = compare(*counters, n_bootstrap=SAMPLES, seed=0)
    return {
        key: [answer["metrics_b"][key], answer["ci"][key]["lower"], answer["ci"][key]["upper"]]
        for key in ("AP", "AP50")
    }


def picture(data: Path, run: Path, file: Path) -> None:
    """Truth and predictions of the two test images with the best and the worst F1 at IoU 0.5."""
    dataset, predictor, scores = open_boxes(data, "test"), bw.load(run), dict[int, float]()
    for index in range(len(dataset)):
        sample, found = dataset[index], predictor(dataset.path(index))
        counts = plots.confusion([sample], [found], len(dataset.names), predictor.recipe.predict.threshold)
        if len(sample.boxes):
            scores[index] = float(2 * counts.trace() / (counts[:-1].sum() + counts[:, :-1].sum()))
    panels = []
    for index in (max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)):
        pixels = np.asarray(Image.open(dataset.path(index)).convert("RGB"))
        panels.append(plots.panel(pixels, dataset[index], predictor(dataset.path(index))))
    plots.sheet(panels, file)


def table(found: Sequence[JsonObject]) -> str:
    """In Markdown."""
    lines = ["| set | system | AP | AP50 | minutes | epochs | seed |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for each in found:
        scores = ["{:.3f} ({:.3f} to {:.3f})".format(*each[key]) for key in ("AP", "AP50")]
        cells = [each["set"], each["system"], *scores, f"{each['minutes']:.1f}", each["epochs"], each["seed"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="a set with train, val and test")
    parser.add_argument("--weights", type=Path, required=True, help="folder with the weights and .cfg files of SYSTEMS")
    parser.add_argument("--minutes", type=float, default=10, help="of a training (train.minutes)")
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS, PEER], choices=[*SYSTEMS, PEER])
    rows.add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for data in args.data:
        for name in args.systems:
            for seed in args.seeds:
                folder = args.out / data.name / name.replace(" ", "-") / f"seed{seed}"
                rows.measure(folder, partial(row, name, data, folder, args, seed))
    found = [json.loads(file.read_text()) for file in sorted(args.out.glob("*/*/*/row.json"))]
    text = table(found)
    text += f"\n{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}\n"
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
