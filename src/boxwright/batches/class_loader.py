"""Data loader for training classifiers: batches of canvases with one label each.

B images, H x W canvas px

Random crops (`train.class_augment.area`) are taken here, from the full-size image, so that they keep its detail.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from boxwright.batches.loader import BatchBuilder, BatchSpec, EpochLoader, SampleDataset
from boxwright.batches.rng import crop_rng
from boxwright.images.canvas import Crop, Pixels, read_crop, resized_crop
from boxwright.images.decode import Size
from boxwright.recipe import CanvasConfig, ClassAugmentConfig
from boxwright.types import ClassBatch, Frame

CROP_ATTEMPTS = 10  # before a central crop is taken (torchvision, MindSpore)


class _ClassBatchBuilder(BatchBuilder):
    """Builder of batches with one class per image. augment: settings of random crops and flips; None: whole images."""

    def __init__(self, dataset: SampleDataset, canvas: CanvasConfig, *, augment: ClassAugmentConfig | None) -> None:
        super().__init__(dataset, canvas)
        self.augment = augment

    def _collate(self, samples: Sequence[Any], spec: BatchSpec) -> tuple[Tensor, Tensor, tuple[Frame, ...]]:
        images, frames = self._images(samples, spec)
        return images, torch.tensor([sample.label for sample in samples]), frames

    def _canvas(self, sample: Any, spec: BatchSpec, row: int) -> tuple[Pixels, Frame]:
        if self.augment is None or self.augment.area is None:
            return super()._canvas(sample, spec, row)
        rng = crop_rng(spec.seed, spec.step, spec.first + row)
        choose = partial(random_crop, self.augment, rng)
        if (pixels := getattr(sample, "pixels", None)) is None:
            image, frame = read_crop(str(sample.path), choose, self.canvas, sample.image_id)
        else:
            size = pixels.shape[:2]
            image, frame = resized_crop(pixels, size, choose(size), self.canvas, sample.image_id, sample.path)
        return (cv2.flip(image, 1) if rng.random() < self.augment.flip else image), frame


class ClassLoader(EpochLoader[ClassBatch]):
    """Loader of images with classes. augment: settings of which only random crops and their flips are applied here."""

    batch_type = ClassBatch
    fields = ("images", "labels", "frames")

    def __init__(
        self,
        dataset: SampleDataset,
        canvas: CanvasConfig,
        batch: int,
        *,
        augment: ClassAugmentConfig | None = None,
        **order: Any,
    ) -> None:
        self.builder = partial(_ClassBatchBuilder, augment=augment)
        super().__init__(dataset, canvas, batch, **order)


def random_crop(config: ClassAugmentConfig, rng: np.random.Generator, size: Size) -> Crop:
    """The Inception crop, like torchvision's `RandomResizedCrop.get_params`.

    Area and aspect ratio are drawn until the crop fits, at most `CROP_ATTEMPTS` times; else the largest central crop
    with an allowed aspect ratio is taken. size: (height, width) px of the image.
    """
    assert config.area is not None
    height, width = size
    low, high = map(math.log, config.aspect)
    for _ in range(CROP_ATTEMPTS):
        area, aspect = height * width * rng.uniform(*config.area), math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return top, left, top + h, left + w
    aspect = min(max(width / height, config.aspect[0]), config.aspect[1])
    h, w = max(min(height, round(width / aspect)), 1), max(min(width, round(height * aspect)), 1)
    top, left = (height - h) // 2, (width - w) // 2
    return top, left, top + h, left + w
