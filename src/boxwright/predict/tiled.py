"""An image of any size, looked at window by window.

    h x w px of the scene

Windows are read while the network works on those before them. In memory at one time: three batches of windows, the
overview, and the boxes found; nothing grows with the image but these boxes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from boxwright.errors import InputError
from boxwright.images.windows import Pixels, Scene, Window, grid
from boxwright.predict.ahead import in_order
from boxwright.predict.merge import merge
from boxwright.predict.predictor import Predictor
from boxwright.progress import track
from boxwright.tasks.detect import Prediction
from boxwright.types import Detections

# px: one cell of the coarsest maps that detectors answer with. Smaller windows show nothing whole and take forever.
SMALLEST = 32
OVERVIEW = 4096  # px of the overview's longer side: 50 MB, and what viewers open at once


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a scene is divided. An object up to `overlap * window` px long is seen whole by some window.

    Attributes:
        window: Side of the square windows, at least 32 px.
        overlap: The share of one that the next repeats, in [0, 1).

    Raises:
        InputError: For a smaller window.
    """

    window: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.window < SMALLEST:
            raise InputError(
                f"window (--tile): found {self.window} px, needed {SMALLEST} px or more; take the side of the images "
                "that the network was trained on, such as 600"
            )


class Overview:
    """The scene of `size` (height, width) px, at most `limit` px a side, made of windows as they come."""

    def __init__(self, size: tuple[int, int], limit: int = OVERVIEW) -> None:
        self.scale = min(1.0, limit / max(size))
        height, width = (max(1, round(side * self.scale)) for side in size)
        self.image: Pixels = np.zeros((height, width, 3), np.uint8)

    def add(self, window: Window, pixels: Pixels) -> None:
        """Put a window's pixels (height, width, 3) where they belong."""
        x1, y1, x2, y2 = (round(edge * self.scale) for edge in window.xyxy)
        x2, y2 = min(max(x2, x1 + 1), self.image.shape[1]), min(max(y2, y1 + 1), self.image.shape[0])
        if x2 > x1 and y2 > y1:
            method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_NEAREST
            self.image[y1:y2, x1:x2] = cv2.resize(pixels, (x2 - x1, y2 - y1), interpolation=method)


def predict_scene(
    predictor: Predictor[Prediction],
    scene: Scene,
    tiling: Tiling,
    threshold: float | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    overview: Overview | None = None,
) -> Prediction:
    """Detect on a scene of any size, window by window.

    Args:
        predictor: The detector.
        scene: From `open_scene`.
        tiling: The windows.
        threshold: As in `Predictor.__call__`.
        iou: As in `Predictor.__call__`; also what counts as the same object in two windows.
        classes: As in `Predictor.__call__`.
        overview: Is given the pixels of every window.

    Returns:
        The detections in px of the scene, each object once (see `merge`).

    Raises:
        InputError: For a wrong setting or a scene that is damaged.
    """
    windows = grid(scene.size, tiling.window, tiling.overlap)
    batch = predictor.recipe.predict.batch
    groups = [windows[start : start + batch] for start in range(0, len(windows), batch)]
    found: list[Detections] = []

    def read(group: Sequence[Window]) -> list[Pixels]:
        return [scene.read(window) for window in group]

    with ThreadPoolExecutor(1) as pool:  # one thread, for a scene has one file handle
        looks = track(in_order(pool, groups, read), len(groups), Path(scene.path).name, "batches")
        for group, pixels in zip(groups, looks, strict=True):
            for window, image, one in zip(group, pixels, predictor(pixels, threshold, iou, classes), strict=True):
                corner = one.boxes.new_tensor([window.x, window.y, window.x, window.y])
                found.append(Detections(one.boxes + corner, one.scores, one.labels, one.names))
                if overview is not None:
                    overview.add(window, image)
    same = predictor.recipe.predict.nms.iou if iou is None else iou
    merged = merge(found, windows, scene.size, same)
    return Prediction(merged.boxes, merged.scores, merged.labels, merged.names, scene.path, scene.size)


def draw_overview(found: Prediction, overview: Overview) -> Pixels:
    """The overview with the boxes, which shrink with it."""
    return replace(found, boxes=found.boxes * overview.scale).draw(overview.image)
