"""A classification set that can be learned in seconds, and the recipe that learns it."""

from pathlib import Path

import cv2
import numpy as np

COLORS = {"blue": (220, 60, 40), "green": (40, 200, 60), "red": (40, 60, 220)}  # BGR
SMALL = {
    "model.last": "plain",
    "model.init_std": 0,
    "model.norm_momentum": 0.3,  # statistics that are right after a few steps
    "data.canvas.size": [32, 32],
    "data.workers": 0,
    "train.epochs": 2,
    "train.batch": 4,
    "train.schedule.kind": "constant",
    "train.schedule.lr": 0.01,
    "train.log_every": 1,
    "train.evaluate_every": 0,
    "evaluate.batch": 4,
}
RECIPE = "tiny_darknet_cifar10"


def write(root: Path, counts: dict[str, int], side: int = 40) -> Path:
    """`root`/SPLIT/CLASS with that many images of each class in each split: noise of the class's color."""
    draw = np.random.default_rng(3)
    for split, count in counts.items():
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = draw.normal(0, 25, (side, side + 8, 3))
                cv2.imwrite(str(folder / f"{number}.png"), np.clip(noise + color, 0, 255).astype(np.uint8))
    return root
