"""Tiled inference on images of any size.

Windows are read while the network runs on the previous ones. Memory holds three batches of windows, the overview and
the detections; only the detections grow with the image.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from boxwright.errors import InputError
from boxwright.images.draw import displayed
from boxwright.images.windows import Pixels, Scene, Window, grid
from boxwright.predict.merge import merge
from boxwright.predict.predictor import Predictor
from boxwright.predict.prefetch import prefetch_map
from boxwright.progress import track
from boxwright.tasks.detect import Prediction
from boxwright.types import Detections

MIN_WINDOW = 32  # px, the coarsest stride of the detectors
MAX_OVERVIEW = 4096  # px of the longer side: 50 MB, which image viewers open without delay


@dataclass(frozen=True, slots=True)
class Tiling:
    """The division of a scene into windows. Objects up to `overlap * window` px long are complete in some window.

    Attributes:
        window: Side of the square windows, at least 32 px.
        overlap: Overlap of neighboring windows as a fraction of the side, in [0, 1).

    Raises:
        InputError: The window is too small.
    """

    window: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.window < MIN_WINDOW:
            raise InputError(
                f"window (--tile): found {self.window} px, needed {MIN_WINDOW} px or more; take the side of the images "
                "that the network was trained on, such as 600"
            )


class Overview:
    """A reduced image of a scene of `size` (height, width) px, at most `limit` px per side, assembled from windows."""

    def __init__(self, size: tuple[int, int], limit: int = MAX_OVERVIEW) -> None:
        self.scale = min(1.0, limit / max(size))
        height, width = (max(1, round(side * self.scale)) for side in size)
        self.image: Pixels = np.zeros((height, width, 3), np.uint8)

    def add(self, window: Window, pixels: Pixels) -> None:
        """Paste the pixels (height, width, C) of a window."""
        x1, y1, x2, y2 = (round(edge * self.scale) for edge in window.xyxy)
        x2, y2 = min(max(x2, x1 + 1), self.image.shape[1]), min(max(y2, y1 + 1), self.image.shape[0])
        if x2 > x1 and y2 > y1:
            method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_NEAREST
            self.image[y1:y2, x1:x2] = cv2.resize(displayed(pixels), (x2 - x1, y2 - y1), interpolation=method)


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
        scene: From `open_scene`, with the bands of the predictor.
        tiling: The windows.
        threshold: As in `Predictor.__call__`.
        iou: As in `Predictor.__call__`; boxes of two windows with a larger IoU are the same object.
        classes: As in `Predictor.__call__`.
        overview: Receives the pixels of every window.

    Returns:
        The detections in px of the scene, merged between windows (see `merge`).

    Raises:
        InputError: A setting is invalid, or the scene is damaged.
    """
    windows = grid(scene.size, tiling.window, tiling.overlap)
    batch = predictor.recipe.predict.batch
    groups = [windows[start : start + batch] for start in range(0, len(windows), batch)]
    detections: list[Detections] = []

    def read(group: Sequence[Window]) -> list[Pixels]:
        return [scene.read(window) for window in group]

    with ThreadPoolExecutor(1) as pool:  # one thread, since a scene has one file handle
        batches = track(prefetch_map(pool, groups, read), len(groups), Path(scene.path).name, "batches")
        for group, pixels in zip(groups, batches, strict=True):
            for window, image, result in zip(group, pixels, predictor(pixels, threshold, iou, classes), strict=True):
                offset = result.boxes.new_tensor([window.x, window.y, window.x, window.y])
                detections.append(Detections(result.boxes + offset, result.scores, result.labels, result.names))
                if overview is not None:
                    overview.add(window, image)
    merge_iou = predictor.recipe.predict.nms.iou if iou is None else iou
    merged = merge(detections, windows, scene.size, merge_iou)
    return Prediction(merged.boxes, merged.scores, merged.labels, merged.names, scene.path, scene.size)


def draw_overview(prediction: Prediction, overview: Overview) -> Pixels:
    """Draw the boxes, scaled to the overview, on its pixels."""
    return replace(prediction, boxes=prediction.boxes * overview.scale).draw(overview.image)
