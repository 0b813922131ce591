"""The base of image classifiers.

B images, H x W px, C classes, K best of them
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.errors import InputError
from boxwright.ops import losses
from boxwright.types import ClassBatch, Classes


class ImageClassifier(nn.Module):
    """Base of classifiers whose `logits` turns normalised images into logits (B, C).

    mean, std: of RGB in [0, 1]. size_step: both sides of the input are multiples of this, px. label_smoothing: share
    of a label that is spread over the other classes in training.
    """

    inputs = ("images",)
    raw_names = ("logits",)
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], size_step: int, label_smoothing: float) -> None:
        super().__init__()
        self.size_step = size_step
        self.label_smoothing = label_smoothing
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """images (B, 3, H, W) float RGB in [0, 1] -> logits (B, C)."""
        (height, width), step = images.shape[-2:], self.size_step
        if height % step or width % step:
            raise InputError(f"data.canvas.size: found {height} x {width} px, the network needs multiples of {step}")
        return (self.logits((images - self.mean) / self.std),)

    def logits(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, C)."""
        raise NotImplementedError

    def loss(self, batch: ClassBatch) -> dict[str, Tensor]:
        """The term `classes`: the cross entropy, its mean over the images."""
        return self.loss_of_raw(self(batch.images), batch)

    def loss_of_raw(self, raw: tuple[Tensor, ...], batch: ClassBatch) -> dict[str, Tensor]:
        """`loss` for logits already computed."""
        return {"classes": losses.cross_entropy(raw[0], batch, self.label_smoothing)}

    @torch.no_grad()
    def decode(self, raw: tuple[Tensor, ...], most: int) -> list[Classes]:
        """The `most` best classes of each image (all where there are fewer), their scores after softmax."""
        return [Classes(*one) for one in zip(*self.best(raw, most), strict=True)]

    def best(self, raw: tuple[Tensor, ...], most: int) -> tuple[Tensor, Tensor]:
        """Scores (B, K) and labels (B, K) of `decode`, in one."""
        scores, labels = raw[0].float().softmax(1).topk(min(most, raw[0].shape[1]))
        return scores, labels
