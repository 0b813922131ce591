"""Postprocessing of a detector as a graph, for complete exported files.

B images of one size, h x w their px, N boxes before NMS, C classes, K rows that come out, M candidates an image
"""

from typing import cast

import torch
from torch import Tensor, nn

from boxwright.ops.boxes import clip
from boxwright.ops.nms_loop import nms_loop
from boxwright.recipe import Recipe
from boxwright.tasks.graph_canvas import Placed, on_canvas
from boxwright.types import Detector

CANDIDATES = 2048  # most boxes an image that enter NMS, the best; outside a graph it is the recipe's `pre_nms_top_k`


class DetectGraph(nn.Module):
    """images (B, h, w, 3) uint8 -> `boxes` (B, K, 4) float32 xyxy px of the image, `scores` (B, K) float32 and `labels`
    (B, K) int64, best first: the steps of a predictor. Rows beyond what was found have label -1 and zeros. K, threshold
    and NMS are those of `recipe.predict`."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.canvas = recipe.data.canvas
        self.threshold = recipe.predict.threshold
        self.nms = recipe.predict.nms

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        canvases, placed = on_canvas(images, self.canvas)
        given = [canvases / 255]
        if "extents" in cast(Detector, self.model).inputs:
            given.append(placed.extent.expand(images.shape[0], 2))
        boxes, scores = cast(Detector, self.model).decode_padded(self.model(*given))
        classes = scores.shape[2]
        boxes, scores, labels = candidates(boxes, scores, self.nms.pre_nms_top_k)
        if self.nms.clip == "canvas":
            boxes = clip(boxes, self.canvas.size)
        boxes = placed.to_original(boxes)
        if self.nms.clip == "image":
            boxes, scores = _inside(boxes, scores, placed)
        measured = placed.relative(boxes) if self.nms.kind == "greedy" else boxes
        chosen, scores = nms_loop(measured, scores, labels, classes, self.nms, self.threshold)
        boxes, scores = _inside(_rows(boxes, chosen), scores, placed)
        scores, order = scores.topk(scores.shape[1])  # those that went leave no gap
        boxes, labels = _rows(boxes, order), labels.gather(1, chosen.gather(1, order))
        found = scores >= 0
        return torch.where(found[..., None], boxes, 0.0), scores.clamp(min=0), torch.where(found, labels, -1)


def candidates(boxes: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """boxes (B, N, 1 or C, 4), scores (B, N, C) -> the M best of all boxes and classes, best first: boxes (B, M, 4),
    scores (B, M), labels (B, M). At most `most` and CANDIDATES.
    """
    many, classes = scores.shape[1:]
    # The M best belong to the M boxes whose best class is best, so the others need not be sorted.
    box = scores.amax(2).topk(min(most, CANDIDATES, many)).indices
    scores = _rows(scores, box).flatten(1)
    scores, place = scores.topk(min(most, CANDIDATES, scores.shape[1]))
    row = torch.div(place, classes, rounding_mode="floor")
    labels, box = place - row * classes, box.gather(1, row)
    place = box if boxes.shape[2] == 1 else box * classes + labels
    return _rows(boxes.flatten(1, 2), place), scores, labels


def _inside(boxes: Tensor, scores: Tensor, placed: Placed) -> tuple[Tensor, Tensor]:
    """Boxes cut to the image; those with nothing inside it have score -1."""
    boxes = placed.cut(boxes)
    return boxes, torch.where((boxes[..., 2:] > boxes[..., :2]).all(-1), scores, -1.0)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table (B, N, c), index (B, M) -> those rows of each image (B, M, c)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))
