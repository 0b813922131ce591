"""AP with half of the training boxes deleted, with and without marks, and how much of the loss the marks prevent.

python benchmarks/partial_labels.py --data bccd --weights yolov3-tiny.weights --out DIR

Trainings differ only in the labels of the split `train`: all boxes; half of them deleted; the same half as ignore
regions; and for comparison half of the images with all of their boxes. Each is evaluated on all labels of `test`.
"""

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
import yaml

import boxwright as bw
from boxwright.files import make_folder
from boxwright.formats import open_boxes
from boxwright.metrics.coco import Metrics
from coco_tree import coco_tree

RECIPE = "yolov3_tiny_coco_416_darknet"
VARIANTS = ("all", "deleted", "ignored", "images")
GOAL = 1 / 3  # of the fall without marks


def write_set(root: Path, out: Path, variant: str, fraction: float, seed: int, images: int | None) -> Path:
    """A data YAML of the splits, whose COCO files name the images by their full paths."""
    make_folder(out)
    for split in ("train", "val", "test"):
        dataset = open_boxes(root, split)
        dataset = dataset.subset(range(len(dataset) if images is None else min(images, len(dataset))))
        if split == "train" and variant == "images":
            order = np.random.default_rng(seed).permutation(len(dataset))
            dataset = dataset.subset(sorted(order[: round((1 - fraction) * len(dataset))].tolist()))
        tree, count = coco_tree(dataset), len(dataset.rows)
        chosen = np.random.default_rng(seed).random(count) < fraction
        chosen &= split == "train" and variant in ("deleted", "ignored")
        if variant == "deleted":
            kept = zip(tree["annotations"], chosen.tolist(), strict=True)
            tree["annotations"] = [annotation for annotation, deleted in kept if not deleted]
        elif variant == "ignored":
            for annotation, ignored in zip(tree["annotations"], chosen.tolist(), strict=True):
                annotation["ignore"] = int(ignored)
        (out / f"{split}.json").write_text(json.dumps(tree))
        if split == "train":
            print(f"{variant}: {len(dataset)} images, {count} boxes, {int(chosen.sum())} of them changed", flush=True)
    file = out / "data.yaml"
    file.write_text(yaml.safe_dump({split: f"{split}.json" for split in ("train", "val", "test")}))
    return file


def train_and_evaluate(data: Path, out: Path, seed: int, args: argparse.Namespace) -> Metrics:
    overrides: dict[str, object] = {"train.seed": seed, "train.precision": args.precision}
    if args.canvas is not None:
        overrides["data.canvas.size"] = [args.canvas, args.canvas]
    if args.epochs is not None:
        overrides["train.epochs"] = args.epochs
    folder = bw.train(
        RECIPE, data, out, weights=args.weights, transfer=True, overrides=overrides | {"train.evaluate_every": 0}
    )
    metrics = bw.evaluate(folder, data, split="test")
    assert isinstance(metrics, Metrics)
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, in any layout, with train, val and test")
    parser.add_argument("--weights", type=Path, required=True, help="Darknet's yolov3-tiny.weights")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--fraction", type=float, default=0.5, help="of the boxes that are deleted")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument(
        "--precision", default="auto", help="train.precision; bf16 is faster on processors that have it"
    )
    parser.add_argument("--canvas", type=int, help="px, a side of the input; default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of deletion and training; the mean counts")
    parser.add_argument("--images", type=int, help="of each split; default: all")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    args = parser.parse_args()
    found: dict[str, list[Metrics]] = {variant: [] for variant in args.variants}
    for seed in args.seeds:
        for variant in args.variants:
            begin, folder = time.perf_counter(), args.out / f"seed{seed}" / variant
            data = write_set(args.data, folder / "data", variant, args.fraction, seed, args.images)
            metrics = train_and_evaluate(data, folder / "run", seed, args)
            found[variant].append(metrics)
            print(f"seed {seed}, {variant}: {metrics.headline}, {time.perf_counter() - begin:.0f} s", flush=True)
    for name in ("AP", "AP50"):
        mean = {variant: float(np.mean([each.summary[name] for each in some])) for variant, some in found.items()}
        print(f"{name} on test: {', '.join(f'{variant} {value:.4f}' for variant, value in mean.items())}")
        if {"all", "deleted", "ignored"} <= mean.keys() and mean["all"] > mean["deleted"]:
            ratio = (mean["all"] - mean["ignored"]) / (mean["all"] - mean["deleted"])
            print(f"of the fall of {name} without marks is left {ratio:.2f} (goal: at most {GOAL:.2f})")
    print(f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
