"""The base of image classifiers.

B images, H x W px, C classes, K best classes
"""

from typing import ClassVar

import torch
from torch import Tensor

from boxwright.config import BatchNormModelConfig, Fraction, NotNegative
from boxwright.nn.network import Network
from boxwright.ops import losses
from boxwright.types import ClassBatch, Classes


class LabelConfig(BatchNormModelConfig):
    label_smoothing: Fraction = 0.0  # share of a label that is spread over the other classes


class ClassifierConfig(LabelConfig):
    task: ClassVar[str] = "classify"
    augment: ClassVar[str] = "class_augment"

    negative_slope: NotNegative = 0.1  # of LeakyReLU: Darknet 0.1, timm 0.01, MindSpore zoo's Tiny-DarkNet 0.2


class ImageClassifier(Network):
    """Base of classifiers whose `logits` turns normalized images into logits (B, C)."""

    raw_names = ("logits",)
    config: LabelConfig

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """images (B, 3, H, W) float RGB in [0, 1] -> logits (B, C)."""
        return (self.logits(self.normalize(images)),)

    def logits(self, x: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> logits (B, C)."""
        raise NotImplementedError

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: ClassBatch) -> dict[str, Tensor]:
        """Loss term `classes`: cross entropy, averaged over the images."""
        return {"classes": losses.cross_entropy(raw[0], batch, self.config.label_smoothing)}

    @torch.no_grad()
    def decode(self, raw: tuple[Tensor, ...], k: int) -> list[Classes]:
        """The `k` best classes of each image (all if there are fewer), with their scores."""
        return [Classes(scores, labels) for scores, labels in zip(*self.topk(raw, k), strict=True)]

    def topk(self, raw: tuple[Tensor, ...], k: int) -> tuple[Tensor, Tensor]:
        """The `k` best classes as two tensors: scores (B, K) and labels (B, K)."""
        logits = raw[0].float()
        # top-k of logits, since scores of unlikely classes underflow to 0
        labels = logits.topk(min(k, logits.shape[1])).indices
        return self.scores(logits).gather(1, labels), labels

    def scores(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> scores (B, C) in [0, 1], in the same order."""
        return logits.softmax(1)
