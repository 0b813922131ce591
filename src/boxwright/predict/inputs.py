"""What a caller gives to be looked at -> canvases.

B images, H x W canvas px, h x w px of a picture
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.data.canvas import frame_for, place, read_image
from boxwright.errors import InputError
from boxwright.recipe import CanvasConfig
from boxwright.types import Frame

Array = np.ndarray[Any, np.dtype[Any]]
Picture = str | Path | Array  # a file, or uint8 RGB (h, w, 3)


def on_canvases(pictures: Sequence[Picture], canvas: CanvasConfig, first: int = 0) -> tuple[Tensor, list[Frame]]:
    """Canvases (B, 3, H, W), uint8 or float in 0..255, and their frames, numbered from `first`.

    Raises InputError for a file that is no picture and an array of another kind.
    """
    images = [_as_rgb(picture) if isinstance(picture, np.ndarray) else read_image(picture) for picture in pictures]
    frames = [
        frame_for(image.shape[:2], canvas, first + i, "" if isinstance(picture, np.ndarray) else str(picture))
        for i, (image, picture) in enumerate(zip(images, pictures, strict=True))
    ]
    canvases = np.stack([place(image, frame, canvas) for image, frame in zip(images, frames, strict=True)])
    return torch.from_numpy(canvases).permute(0, 3, 1, 2), frames


def _as_rgb(image: Array) -> Array:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"picture: found {image.dtype} of shape {image.shape}, needed uint8 RGB (height, width, 3)")
    return image
