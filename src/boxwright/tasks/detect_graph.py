"""A detector's complete graph, for export.

B images of h x w px, N boxes before NMS, C classes, M candidates per image for NMS, K output rows per image
"""

from typing import cast

import torch
from torch import Tensor, nn

from boxwright.errors import InputError
from boxwright.ops.boxes import clip
from boxwright.ops.nms_loop import nms_loop
from boxwright.ops.temperature import lowest_before, scale
from boxwright.recipe import Recipe
from boxwright.tasks.graph_canvas import GraphFrame, on_canvas
from boxwright.types import Detector

MAX_CANDIDATES = 2048  # boxes per image that enter NMS; outside a graph, the recipe's `pre_nms_top_k` is the only limit


class DetectGraph(nn.Module):
    """Preprocessing, network and postprocessing.

    images (B, h, w, 3) uint8 -> boxes (B, K, 4) float32 xyxy px of the image, scores (B, K) float32 and labels (B, K)
    int64, best first. Rows without a detection have label -1 and zeros. K, threshold and NMS are from `recipe.predict`.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        """Create the graph. Raises InputError for a model without `decode_padded`, which is for graphs only."""
        super().__init__()
        if not hasattr(model, "decode_padded"):
            raise InputError(
                f"{recipe.model.name}: its network has no decode_padded, needed for a graph with NMS; write that "
                "method, or leave --with-nms out"
            )
        self.model = model
        self.canvas = recipe.data.canvas
        self.threshold = recipe.predict.threshold
        self.nms = recipe.predict.nms
        self.lowest = lowest_before(self.threshold, recipe.predict.temperatures)
        self.temperatures = torch.tensor(recipe.predict.temperatures)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        canvases, frame = on_canvas(images, self.canvas)
        inputs = [canvases / 255]
        if "extents" in cast(Detector, self.model).inputs:
            inputs.append(frame.extent.expand(images.shape[0], 2))
        boxes, scores = cast(Detector, self.model).decode_padded(self.model(*inputs))
        classes = scores.shape[2]
        boxes, scores, labels = candidates(boxes, scores, self.nms.pre_nms_top_k)
        if self.nms.clip == "canvas":
            boxes = clip(boxes, self.canvas.size)
        boxes = frame.to_original(boxes)
        if self.nms.clip == "image":
            boxes, scores = _clip(boxes, scores, frame)
        nms_boxes = frame.relative(boxes) if self.nms.kind == "greedy" else boxes
        keep, scores = nms_loop(nms_boxes, scores, labels, classes, self.nms, self.lowest)
        boxes, scores = _clip(_rows(boxes, keep), scores, frame)
        if len(self.temperatures):
            calibrated = scale(scores.clamp(min=0), self.temperatures[labels.gather(1, keep)])
            scores = torch.where((scores >= 0) & (calibrated >= self.threshold), calibrated, -1.0)
        scores, order = scores.topk(scores.shape[1])  # moves the dropped rows to the end
        boxes, labels = _rows(boxes, order), labels.gather(1, keep.gather(1, order))
        valid = scores >= 0
        return torch.where(valid[..., None], boxes, 0.0), scores.clamp(min=0), torch.where(valid, labels, -1)


def candidates(boxes: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best pairs of box and class, at most `top_k` and MAX_CANDIDATES.

    boxes (B, N, 1 or C, 4), scores (B, N, C) -> boxes (B, M, 4), scores (B, M), labels (B, M), best first.
    """
    count, classes = scores.shape[1:]
    # The top M pairs belong to the M boxes with the highest maximum score, so only these are sorted.
    box = scores.amax(2).topk(min(top_k, MAX_CANDIDATES, count)).indices
    scores = _rows(scores, box).flatten(1)
    scores, index = scores.topk(min(top_k, MAX_CANDIDATES, scores.shape[1]))
    row = torch.div(index, classes, rounding_mode="floor")
    labels, box = index - row * classes, box.gather(1, row)
    index = box if boxes.shape[2] == 1 else box * classes + labels
    return _rows(boxes.flatten(1, 2), index), scores, labels


def _clip(boxes: Tensor, scores: Tensor, frame: GraphFrame) -> tuple[Tensor, Tensor]:
    """Clip boxes to the image; empty ones get score -1."""
    boxes = frame.clip(boxes)
    return boxes, torch.where((boxes[..., 2:] > boxes[..., :2]).all(-1), scores, -1.0)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table (B, N, c), index (B, M) -> the rows of each image (B, M, c)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))
