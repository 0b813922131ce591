"""A detector without weights, whose results can be checked by eye: it detects filled red, green and blue rectangles."""

import cv2
import numpy as np
import torch
from torch import nn

from boxwright import recipe
from boxwright.predict.predictor import Predictor
from boxwright.types import Detections

NAMES = ("red", "green", "blue")


class Rectangles(nn.Module):
    """Every patch where one color stands out by half the range; its score is the share of its box it fills."""

    inputs = ("images",)
    raw_names = ("images",)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)  # something that has a mode
        self.seen: list[bool] = []

    def forward(self, images):
        assert images.ndim == 4
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1 + 1e-6
        self.seen.append(self.norm.training)
        return (images,)

    def loss(self, batch):
        return {}

    def decode(self, raw, threshold):
        return [self._one(image, threshold) for image in raw[0]]

    def _one(self, image, threshold):
        rows = []
        for label in range(3):
            others = torch.cat([image[:label], image[label + 1 :]]).max(0).values
            mask = (image[label] - others > 0.5).numpy().astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            for x, y, w, h, area in stats[1:count].tolist():
                rows.append([x, y, x + w, y + h, 0.9 * area / (w * h), label])
        table = torch.tensor(rows).reshape(-1, 6)
        table = table[table[:, 4] >= threshold]
        return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def rectangles_predictor(**changes):
    """The stand-in on a 64 x 64 canvas; `changes` are overrides with __ for the dot."""
    base = recipe.load("demo").with_names(NAMES)
    settings = {"data.canvas.size": [64, 64], "data.canvas.fit": "stretch", "data.workers": 0, "predict.batch": 2}
    settings |= {"evaluate.batch": 2, "predict.threshold": 0.5, "data.canvas.resize": "linear"}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return Predictor(Rectangles(), base.with_overrides(settings))


def scene(height, width, boxes, labels):
    """A dark image with a filled rectangle for each xyxy box."""
    image = np.full((height, width, 3), 20, np.uint8)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        image[y1:y2, x1:x2] = 0
        image[y1:y2, x1:x2, label] = 255
    return image
