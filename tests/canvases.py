"""Canvases as tensors, for tests of the single steps of a predictor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from boxwright.predict.inputs import Image, PreparedImage, canvases_of, prepare
from boxwright.predict.predictor import Predictor
from boxwright.recipe import CanvasConfig, NMSConfig
from boxwright.tasks import PostprocessArgs
from boxwright.types import Frame


def on_canvases(images: Sequence[Image], canvas: CanvasConfig) -> tuple[Tensor, list[Frame]]:
    """Canvases (B, 3, H, W), uint8 or float in 0..255, and their frames."""
    prepared = [prepare(image, canvas, number) for number, image in enumerate(images)]
    return torch.stack(canvases_of(prepared)), [image.frame for image in prepared]


def detect(
    predictor: Predictor[Any], images: Tensor, frames: Sequence[Frame], threshold: float, nms: NMSConfig
) -> list[Any]:
    """Canvases as above to the detections of each image."""
    pixels = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    prepared = [PreparedImage(image, frame, None) for image, frame in zip(pixels, frames, strict=True)]
    return predictor.postprocess(predictor.forward(prepared), prepared, PostprocessArgs(threshold, nms))
