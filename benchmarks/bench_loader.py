"""Images a second: our loader against a plain mosaic pipeline with OpenCV, one image at a time.

    python benchmarks/bench_loader.py [--images DIR]

Both feed batches of 16 at 640 x 640 from two worker processes. Ours decodes each image once, letterboxes it on a
uint8 canvas and leaves everything random to `augment` on the training device; the plain pipeline decodes four images
for each result, pastes them on a 1280 canvas, warps, changes colors and mirrors, all in the worker. The runs take
turns (A B A B ...), and medians are compared. The last ratio adds `augment` with mosaic on this CPU to our side, where
it competes with the workers; on a GPU it costs them nothing. Prints lines of JSON; ends with 1 below 3x.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from boxwright import recipe
from boxwright.batches.loader import Loader
from boxwright.batches.transforms import augment

SIZE, BATCH, WORKERS, ROUNDS, BATCHES, NEEDED = 640, 16, 2, 5, 8, 3.0
SHARED = Path(__file__).parents[2] / "shared" / "data" / "bccd" / "images"


@dataclass
class Item:
    """An image with eight boxes of its left half, each 32 px on a side."""

    image_id: int
    path: str

    def __post_init__(self) -> None:
        corner = np.random.default_rng(self.image_id).integers(0, 200, (8, 2)).astype(np.float32)
        self.boxes = np.concatenate([corner, corner + 32], axis=1)
        self.labels, self.crowd = np.zeros(8, np.int64), np.zeros(8, np.bool_)


class PlainMosaic:
    """The usual way: __getitem__ makes one finished training image (3, 640, 640) float32 and its boxes."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = np.random.default_rng(index)
        canvas = np.full((2 * SIZE, 2 * SIZE, 3), 114, np.uint8)
        cx, cy = draw.integers(SIZE // 2, 3 * SIZE // 2, 2).tolist()
        boxes = []
        for tile, chosen in enumerate([index, *draw.integers(len(self.items), size=3)]):
            image = cv2.imread(self.items[chosen].path)
            scale = SIZE / max(image.shape[:2])
            kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            if scale != 1:
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=kind)
            h, w = image.shape[:2]
            left, top = cx - (w if tile in (0, 2) else 0), cy - (h if tile in (0, 1) else 0)
            x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 2 * SIZE), min(top + h, 2 * SIZE)
            canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
            boxes.append(self.items[chosen].boxes * scale + np.float32([left, top, left, top]))
        scale, (dx, dy) = draw.uniform(0.1, 1.9), draw.uniform(0.4, 0.6, 2) * SIZE
        matrix = np.array([[scale, 0, dx - scale * SIZE], [0, scale, dy - scale * SIZE], [0, 0, 1]])
        image = cv2.warpPerspective(canvas, matrix, (SIZE, SIZE), borderValue=(114, 114, 114))
        rows = np.concatenate(boxes) * scale + np.tile(matrix[:2, 2], 2)
        image = change_colors(image, draw)
        if draw.random() < 0.5:
            image, rows = (
                image[:, ::-1],
                np.stack([SIZE - rows[:, 2], rows[:, 1], SIZE - rows[:, 0], rows[:, 3]], 1),
            )
        planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)).astype(np.float32) / 255
        return torch.from_numpy(planes), torch.from_numpy(rows.clip(0, SIZE))


def change_colors(image: np.ndarray[Any, Any], draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """Hue, saturation and value by look-up tables, on uint8 BGR."""
    factor, levels = draw.uniform(-1, 1, 3) * [0.015, 0.7, 0.4] + 1, np.arange(256)
    tables = (levels * factor[0] % 180, np.clip(levels * factor[1], 0, 255), np.clip(levels * factor[2], 0, 255))
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(c, t.astype(np.uint8)) for c, t in zip(channels, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


def one_thread(number: int) -> None:
    cv2.setNumThreads(0)


def rate(batches: Any, use: Callable[[Any], object]) -> float:
    """Images a second over BATCHES batches, after two that start the workers."""
    begin, iterator = 0.0, iter(batches)
    for number in range(BATCHES + 2):
        if number == 2:
            begin = time.perf_counter()
        use(next(iterator))
    result = BATCHES * BATCH / (time.perf_counter() - begin)
    for _ in iterator:  # leave the workers idle for the next run
        pass
    return result


def images_in(folder: Path, rendered: Path) -> list[Path]:
    """The folder's JPEGs, or rendered ones of 640 x 480 where it is absent."""
    if folder.is_dir():
        return sorted(folder.glob("*.jpg"))
    draw = np.random.default_rng(0)
    for number in range(64):
        coarse = draw.integers(0, 255, (24, 32, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        noise = draw.normal(0, 6, image.shape)
        cv2.imwrite(str(rendered / f"{number}.jpg"), np.clip(image + noise, 0, 255).astype(np.uint8))
    return sorted(rendered.glob("*.jpg"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, default=SHARED, help="folder of JPEGs")
    folder = parser.parse_args().images
    with tempfile.TemporaryDirectory() as rendered:
        paths = images_in(folder, Path(rendered))
        count = (BATCHES + 4) * BATCH  # two batches to warm up, two prefetched
        items = [Item(i, str(paths[i % len(paths)])) for i in range(count)]
        published = recipe.load("yolov3_640_coco")
        ours = Loader(items, published.data.canvas, BATCH, workers=WORKERS)
        plain: DataLoader[Any] = DataLoader(
            PlainMosaic(items),  # type: ignore[arg-type]
            batch_size=BATCH,
            num_workers=WORKERS,
            persistent_workers=True,
            collate_fn=list,
            worker_init_fn=one_thread,
        )
        change = published.train.augment

        def with_augment(batch: Any) -> object:
            return augment(batch, change, size=(SIZE, SIZE), seed=0, step=0, rank=0)

        runs: dict[str, list[float]] = {"loader": [], "plain mosaic": [], "loader and augment": []}
        for number in range(ROUNDS):
            runs["loader"].append(rate(ours.epoch(number), lambda batch: batch))
            runs["plain mosaic"].append(rate(plain, torch_stack))
            runs["loader and augment"].append(rate(ours.epoch(number), with_augment))
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    middle = {name: statistics.median(rates) for name, rates in runs.items()}
    about = {
        "date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), "torch": torch.__version__,
        "opencv": cv2.__version__, "cpu": cpu_name(), "threads": torch.get_num_threads(), "workers": WORKERS,
        "size": SIZE, "batch": BATCH, "rounds": ROUNDS,
        "images": str(folder.parent.name if folder.is_dir() else "rendered, 640 x 480"),
    }  # fmt: skip
    print(json.dumps(about))
    for name, rates in runs.items():
        print(json.dumps({"what": name, "images_per_s": round(middle[name], 1), "runs": [round(r, 1) for r in rates]}))
    ratio = middle["loader"] / middle["plain mosaic"]
    print(json.dumps({"ratio": "loader / plain mosaic", "value": round(ratio, 2), "needed": NEEDED}))
    both = middle["loader and augment"] / middle["plain mosaic"]
    print(json.dumps({"ratio": "loader and augment on the CPU / plain mosaic", "value": round(both, 2)}))
    return 0 if ratio >= NEEDED else 1


def torch_stack(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """What remains for the training process of the plain pipeline."""
    return torch.stack([image for image, _ in rows])


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    sys.exit(main())
