"""Images a second of one core: our loader for classifiers against torchvision's ImageFolder with the same changes.

    python benchmarks/bench_class_loader.py [--images DIR]

Random windows of 8 to 100% of the image to 224 x 224, mirroring, color jitter 0.4 0.4 0.4 0.1, batches of 64.
ImageFolder does all of it image by image with Pillow, as torchvision's own training script does; ours decodes at
reduced size and leaves everything random to `augment` on the training device. Without worker processes and with one
thread, so that the processor time of this process is all there is to count, and work beside it disturbs little. The
sides take turns, a few batches each (A B C A B C ...); a ratio is the median of those of the turns. The first compares
loaders, as with a GPU, which does the changes; the second adds `augment` on this CPU to our side, so that both do the
same work. Prints lines of JSON; ends with 1 where a ratio is below 2.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torchvision_on_cpu
from bench_loader import cpu_name
from boxwright import recipe
from boxwright.batches.class_loader import ClassLoader
from boxwright.batches.class_transforms import augment
from boxwright.formats import open_classes
from boxwright.memory import tune_malloc
from boxwright.tasks.classify import training_canvas

SIDE, BATCH, ROUNDS, BATCHES, NEEDED = 224, 64, 9, 3, 2.0
COUNT = BATCHES * BATCH


def folders_of(images: Path | None, root: Path) -> None:
    """Two classes under root/train: the JPEGs of a folder, as often as needed, or rendered ones of 500 x 375."""
    sources = sorted(images.glob("*.jpg")) if images else []
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        file = root / "train" / f"class{number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if sources:
            shutil.copyfile(sources[number % len(sources)], file)
            continue
        coarse = draw.integers(0, 255, (24, 32, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC) + draw.normal(0, 6, (375, 500, 3))
        cv2.imwrite(str(file), np.clip(image, 0, 255).astype(np.uint8))


def image_folder(root: Path) -> "DataLoader[Any]":
    """torchvision's data set and transforms, in the order of its reference training."""
    torchvision_on_cpu.load()
    from torchvision import datasets, transforms

    changes = transforms.Compose([
        transforms.RandomResizedCrop(SIDE),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
        transforms.ToTensor(),
    ])  # fmt: skip
    return DataLoader(datasets.ImageFolder(str(root / "train"), changes), BATCH, shuffle=True)


def rate(batches: Iterable[Any], use: Callable[[Any], object] = lambda batch: batch) -> float:
    """Images a second of processor time."""
    begin = time.process_time()
    for batch in batches:
        use(batch)
    return COUNT / (time.process_time() - begin)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, help="folder of JPEGs; none: rendered ones of 500 x 375")
    given = parser.parse_args().images
    tune_malloc()  # as the command line does, for both sides
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    loaded = recipe.load("tiny_darknet_imagenet_224")
    change, canvas = loaded.train.class_augment, loaded.data.canvas

    def changed(batch: Any) -> object:
        return augment(batch, change, canvas=canvas, seed=0, step=0, rank=0)

    runs: dict[str, list[float]] = {"loader": [], "ImageFolder": [], "loader and augment": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folders_of(given, root)
        ours = ClassLoader(open_classes(root, "train"), training_canvas(loaded), BATCH, augment=change)
        theirs = image_folder(root)
        for number in range(-1, ROUNDS):  # the first turn warms up
            turn = {
                "loader": rate(ours.epoch(number + 1)),
                "ImageFolder": rate(theirs),
                "loader and augment": rate(ours.epoch(number + 1), changed),
            }
            if number >= 0:
                for name, value in turn.items():
                    runs[name].append(value)
                print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    about = {
        "date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), "torch": torch.__version__,
        "opencv": cv2.__version__, "pillow": PIL.__version__, "cpu": cpu_name(), "threads": 1,
        "side": SIDE, "batch": BATCH, "rounds": ROUNDS,
        "images": given.parent.name if given else "rendered, 500 x 375",
    }  # fmt: skip
    print(json.dumps(about))
    for name, rates in runs.items():
        middle = round(statistics.median(rates), 1)
        print(json.dumps({"what": name, "images_per_core_s": middle, "runs": [round(r, 1) for r in rates]}))
    ratios = {
        name: statistics.median(a / b for a, b in zip(runs[name], runs["ImageFolder"], strict=True))
        for name in ("loader", "loader and augment")
    }
    for name, ratio in ratios.items():
        print(json.dumps({"ratio": f"{name} / ImageFolder", "value": round(ratio, 2), "needed": NEEDED}))
    return 0 if min(ratios.values()) >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
