"""Images with classes -> batches of canvases, in the order and by the workers of `loader`.

B images, H x W canvas px

Random windows (`train.class_augment.area`) are cut out here, where the whole image is: they keep its detail, and a
worker resizes no more than they hold.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from boxwright.batches.loader import Canvases, Epochs, Group, Samples
from boxwright.batches.rng import window_generator
from boxwright.images.canvas import Pixels, Size, Window, read_window, stretch
from boxwright.recipe import CanvasConfig, ClassAugmentConfig
from boxwright.types import ClassBatch, Frame

WINDOWS_TRIED = 10  # before a window that fits an image of unusual shape is taken (torchvision, MindSpore)


class _ClassCanvases(Canvases):
    """For images with classes. changes: whose random windows are cut out and mirrored; None for whole images."""

    def __init__(
        self, dataset: Samples, canvas: CanvasConfig, *, reduce: bool, changes: ClassAugmentConfig | None
    ) -> None:
        super().__init__(dataset, canvas, reduce=reduce)
        self.changes = changes

    def _batch(self, samples: Sequence[Any], group: Group) -> tuple[Tensor, Tensor, tuple[Frame, ...]]:
        images, frames = self._images(samples, group)
        return images, torch.tensor([sample.label for sample in samples]), frames

    def _one(self, sample: Any, group: Group, row: int) -> tuple[Pixels, Frame]:
        if self.changes is None or self.changes.area is None:
            return super()._one(sample, group, row)
        draw = window_generator(group.seed, group.step, group.first + row)
        choose = partial(random_window, self.changes, draw)
        if (pixels := getattr(sample, "pixels", None)) is None:
            image, frame = read_window(str(sample.path), choose, self.canvas, sample.image_id)
        else:
            size = pixels.shape[:2]
            image, frame = stretch(pixels, size, choose(size), self.canvas, sample.image_id, sample.path)
        return (cv2.flip(image, 1) if draw.random() < self.changes.flip else image), frame


class ClassLoader(Epochs[ClassBatch]):
    """Images with classes; see `Epochs`. changes: of the training; its windows, if it has some, become the canvases
    (see `augment`)."""

    kind = ClassBatch

    def __init__(
        self,
        dataset: Samples,
        canvas: CanvasConfig,
        batch: int,
        *,
        changes: ClassAugmentConfig | None = None,
        **order: Any,
    ) -> None:
        self.work = partial(_ClassCanvases, changes=changes)
        super().__init__(dataset, canvas, batch, **order)


def random_window(config: ClassAugmentConfig, draw: np.random.Generator, size: Size) -> Window:
    """Inception's crop, as in torchvision and MindSpore: area and aspect are drawn until the window fits, at most ten
    times. Else the largest window in the middle whose aspect is allowed. size: (height, width) px of the image."""
    assert config.area is not None
    height, width = size
    low, high = map(math.log, config.aspect)
    for _ in range(WINDOWS_TRIED):
        area, aspect = height * width * draw.uniform(*config.area), math.exp(draw.uniform(low, high))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(draw.integers(height - h + 1)), int(draw.integers(width - w + 1))
            return top, left, top + h, left + w
    aspect = min(max(width / height, config.aspect[0]), config.aspect[1])
    h, w = max(min(height, round(width / aspect)), 1), max(min(width, round(height * aspect)), 1)
    top, left = (height - h) // 2, (width - w) // 2
    return top, left, top + h, left + w
