"""Which settings fine-tune YOLOv3-tiny best on small data sets: every variant on every set, AP on the split val.

    python benchmarks/finetuning.py --data aquarium --data chess --weights yolov3-tiny.weights --out DIR

Trains on the split train and evaluates the last network on val; the split test is not read. Runs are as long as their
numbers of steps say, so other work on the machine changes the time and not the result. A run that has been written is
not repeated: the command continues where it stopped.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import boxwright as bw
import rows
from boxwright.json_text import JsonObject

RECIPE = "yolov3_tiny_coco_416_darknet"
OLD: dict[str, Any] = {
    "train.epochs": 15, "train.batch": 4, "train.accumulate": 1, "train.ema.decay": 0.975,
    "train.schedule": {"kind": "cosine", "lr": 0.01, "warmup_epochs": 1, "eta_min": 0.0002},
    "train.optimizer": {"momentum": 0.9, "weight_decay": 0.0005, "clip": 10},
    "train.augment": {
        "flip": 0.5, "scale": [0.7, 1.4], "translate": None, "hue": 0.1, "saturation": [0.6667, 1.5],
        "value": [0.6667, 1.5], "min_visible": 0.2,
    },
}  # fmt: skip


def steps(count: int) -> JsonObject:
    """At least `count` steps, and 15 epochs."""
    return {"train.epochs": "auto", "train.min_steps": count}


def adamw(lr: float, decay: float = 0.05) -> JsonObject:
    return {
        "train.optimizer": {"kind": "adamw", "weight_decay": decay, "clip": 10},
        "train.schedule": {"kind": "cosine", "lr": lr, "warmup_epochs": 1, "eta_min": lr / 50},
    }


# Changes to OLD: 15 epochs, unless a number of steps is given.
VARIANTS: dict[str, JsonObject] = {
    "15 epochs": {},
    "AdamW 0.0005": adamw(0.0005),
    "anchors of the data": {"model.anchors": "auto"},
    "mosaic 0.5": {"train.augment.mosaic": 0.5},
    "backbone_lr 0.3": {"train.optimizer.backbone_lr": 0.3},
    "lr 0.003": {"train.schedule": OLD["train.schedule"] | {"lr": 0.003}},
    "lr 0.03": {"train.schedule": OLD["train.schedule"] | {"lr": 0.03}},
    "no EMA": {"train.ema.decay": 0},
    "320 to 512 px": {"train.augment.sizes": [[s, s] for s in range(320, 513, 64)]},
    "weak augmentation": {"train.augment": {"flip": 0.5}},
    "608 px": {"data.canvas.size": [608, 608]},
    "batches of 8": steps(200) | {"train.batch": 8},
    "1200 steps": steps(1200),
    "1200 steps, anchors of the data, mosaic 0.5": steps(1200) | {"model.anchors": "auto", "train.augment.mosaic": 0.5},
}


def folder_of(data: Path, variant: str, args: argparse.Namespace, seed: int) -> Path:
    return Path(args.out, f"{data.name}-{variant.replace(' ', '_').replace(',', '')}-{seed}")


def run(data: Path, variant: str, args: argparse.Namespace, seed: int) -> JsonObject:
    """Train one variant on one set and evaluate it on val."""
    changes: Mapping[str, object] = VARIANTS[variant]
    overrides = OLD | {
        "train.evaluate_every": 0,
        "train.seed": seed,
        "train.precision": args.precision,
        "data.workers": 0,
    }
    start = time.perf_counter()
    made = bw.train(
        RECIPE,
        data,
        folder_of(data, variant, args, seed) / "run",
        weights=args.weights,
        transfer=True,
        overrides=overrides | changes,
    )
    metrics = json.loads((made / "metrics.json").read_text())
    minutes = (time.perf_counter() - start) / 60
    return {
        "set": data.name,
        "variant": variant,
        "seed": seed,
        "minutes": minutes,
        "precision": args.precision,
    } | metrics


def table(measured: Sequence[JsonObject], sets: Sequence[str]) -> str:
    """In Markdown: AP of each variant (down) on each set, the mean of its seeds, and the mean over the sets."""
    lines = [f"| variant | {' | '.join(sets)} | mean |", f"| --- |{' --- |' * (len(sets) + 1)}"]
    for variant in VARIANTS:
        found = [
            [each["summary"]["AP"] for each in measured if (each["variant"], each["set"]) == (variant, name)]
            for name in sets
        ]
        if all(found):
            means = [sum(aps) / len(aps) for aps in found]
            lines.append(f"| {variant} | {' | '.join(f'{ap:.3f}' for ap in [*means, sum(means) / len(means)])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="a set with train and val")
    parser.add_argument("--weights", type=Path, required=True, help="yolov3-tiny.weights")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    rows.add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = [
        rows.measure(folder_of(data, variant, args, seed), partial(run, data, variant, args, seed))
        for variant in args.variants
        for seed in args.seeds
        for data in args.data
    ]
    print(table(found, [data.name for data in args.data]))


if __name__ == "__main__":
    main()
