"""A synthetic aerial scene whose pixels encode their position, and a stub detector that decodes it to the ground truth.

Red and green of a pixel are its column and row in steps of 128 px, so a window's pixels encode its position: a
wrongly read window gives wrong boxes.
"""

from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import Affine
from torch import nn

from boxwright import recipe
from boxwright.predict.predictor import Predictor
from boxwright.tasks.detect import Prediction
from boxwright.types import Detections

STEP = 128  # px; sides up to 256 * 128 = 32,768 px
NAMES = ("car", "ship", "plane")


def write_scene(path: Path, side: int, crs: str | None = "EPSG:32650") -> Path:
    """A square GeoTIFF of `side` px in blocks of 512 px, 0.3 m a px, written row of blocks by row of blocks."""
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "tiled": True}
    profile |= {"blockxsize": 512, "blockysize": 512, "compress": "lzw", "crs": crs}
    with rasterio.open(path, "w", transform=Affine(0.3, 0, 500_000, 0, -0.3, 4_000_000), **profile) as file:
        for top in range(0, side, 512):
            y, x = np.mgrid[top : min(top + 512, side), :side]
            rows = np.stack((x // STEP, y // STEP, (x // 16 + y // 16) % 2 * 80)).astype(np.uint8)
            file.write(rows, window=((top, top + rows.shape[1]), (0, side)))
    return path


def objects(side: int, count: int, seed: int = 0) -> Detections:
    """`count` objects on a jittered grid: most small, some longer than an overlap of 120 px, none on another of its
    own; every twentieth holds a small one of its class inside."""
    draw = np.random.default_rng(seed)
    cells = int(np.ceil(np.sqrt(count)))
    pitch = side / cells
    place = draw.permutation(cells * cells)[:count]
    extent = draw.uniform(8, min(70, pitch * 0.9), (count, 2))
    long = draw.random(count) < 0.05
    extent[long] = draw.uniform(0.5, 0.95, (long.sum(), 2)) * pitch
    corner = np.stack((place % cells, place // cells), 1) * pitch + draw.uniform(0, 1, (count, 2)) * (pitch - extent)
    boxes, labels = np.concatenate([corner, corner + extent], 1), draw.integers(0, len(NAMES), count)
    hosts = np.flatnonzero(long)[: count // 40]
    guests = np.flatnonzero(~long)[: len(hosts)]  # moved into the long ones
    size = extent[hosts] * draw.uniform(0.2, 0.4, (len(hosts), 2))
    low = corner[hosts] + draw.uniform(0, 1, size.shape) * (extent[hosts] - size)
    boxes[guests], labels[guests] = np.concatenate([low, low + size], 1), labels[hosts]
    scores = torch.from_numpy(draw.uniform(0.5, 1, count)).float()
    return Detections(torch.from_numpy(boxes).float(), scores, torch.from_numpy(labels), NAMES)


class TruthTeller(Predictor[Prediction]):
    """Finds in each window what truly lies there; what the window cuts comes back cut."""

    def __init__(self, truth: Detections, batch: int = 8) -> None:
        tree = recipe.load("demo").with_names(NAMES).with_overrides({"predict.batch": batch})
        super().__init__(nn.Identity(), tree)
        self.truth, self.looks = truth, 0

    def __call__(self, source, threshold=None, iou=None, classes=None):  # type: ignore[no-untyped-def]
        self.looks += len(source)
        return [self._one(image) for image in source]

    def _one(self, image: np.ndarray) -> Prediction:
        height, width = image.shape[:2]
        x, y = (_first(edge) for edge in (image[0, :, 0], image[:, 0, 1]))
        window = torch.tensor([x, y, x + width, y + height])
        low, high = (
            torch.maximum(self.truth.boxes[:, :2], window[:2]),
            torch.minimum(self.truth.boxes[:, 2:], window[2:]),
        )
        seen = (high > low).all(1)
        boxes = torch.cat((low, high), 1)[seen] - window[:2].repeat(2)
        return Prediction(boxes, self.truth.scores[seen], self.truth.labels[seen], NAMES, "", (height, width), image)


def _first(steps: np.ndarray) -> int:
    """Start of a line of pixels, in px of the scene; it must contain an edge between two steps, as any 128 px do."""
    (changes,) = np.nonzero(np.diff(steps.astype(int)))
    return (int(steps[0]) + 1) * STEP - int(changes[0]) - 1


def faults(found: Detections, truth: Detections) -> str:
    """Description of the first fault in the detections of a scene; "" if every object is detected exactly once."""
    ours, theirs = (torch.cat((one.boxes, one.labels[:, None] * 1e6), 1).double() for one in (found, truth))
    if len(ours) != len(theirs):
        return f"{len(ours)} boxes for {len(theirs)} objects"
    far, taken = [], []
    for part in ours.split(1000):
        distance, place = torch.cdist(part, theirs, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        far.append(distance)
        taken.append(place)
    if len(torch.cat(taken).unique()) < len(theirs):
        return "an object was found twice and another one never"
    return "" if torch.cat(far).max() < 0.05 else f"a box is {torch.cat(far).max():.2f} px off"
