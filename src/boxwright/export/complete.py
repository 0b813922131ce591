"""Complete graphs: pictures as bytes in, detections or classes out; `Predictor` and `ClassPredictor` as one network.

B pictures of one size, h x w their px, N boxes before suppression, C classes, K rows that come out,
M candidates a picture
"""

from typing import cast

import torch
from torch import Tensor, nn

from boxwright.export.canvas import Placed, on_canvas
from boxwright.ops.best_first import take_best
from boxwright.ops.boxes import clip
from boxwright.predict.class_predictor import MOST
from boxwright.recipe import CanvasConfig, Recipe
from boxwright.runtimes.base.graph import Graph
from boxwright.types import Classifier, Detector

CANDIDATES = 2048  # most boxes a picture that enter suppression, the best; `Predictor` takes the recipe's `candidates`


def complete_graph(model: nn.Module, recipe: Recipe, batch: int = 1, dynamic_batch: bool = False) -> Graph:
    """`pictures` (B, h, w, 3) uint8 RGB of any size -> for a detector `boxes` (B, K, 4) float32 xyxy px of the picture,
    `scores` (B, K) float32 and `labels` (B, K) int64, best first; rows beyond what was found have label -1 and zeros.
    K, threshold and suppression are those of `recipe.predict`. For a classifier the best classes: `scores` (B, K) and
    `labels` (B, K), K = min(5, C).

    dynamic_batch: B may be anything from 1 on.
    """
    # an example of one picture would make an export take the axis for one that never grows
    pictures = torch.randint(256, (max(batch, 2) if dynamic_batch else batch, 50, 70, 3), dtype=torch.uint8)
    varying = ({0: "batch"} if dynamic_batch else {}) | {1: "height", 2: "width"}
    classify = recipe.model.task == "classify"
    module = Classify(model, recipe.data.canvas) if classify else Detect(model, recipe)
    outputs = ("scores", "labels") if classify else ("boxes", "scores", "labels")
    return Graph(module.eval(), {"pictures": pictures}, outputs, {"pictures": varying})


class Classify(nn.Module):
    """pictures (B, h, w, 3) uint8 -> scores (B, K) float32 in [0, 1], labels (B, K), best first."""

    def __init__(self, model: nn.Module, canvas: CanvasConfig) -> None:
        super().__init__()
        self.model = model
        self.canvas = canvas

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        images, _ = on_canvas(pictures, self.canvas)
        return cast(Classifier, self.model).best(self.model(images / 255), MOST)


class Detect(nn.Module):
    """pictures (B, h, w, 3) uint8 -> boxes (B, K, 4), scores (B, K), labels (B, K): the steps of `Predictor.detect`."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.canvas = recipe.data.canvas
        self.threshold = recipe.predict.threshold
        self.suppression = recipe.predict.suppression

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        images, placed = on_canvas(pictures, self.canvas)
        given = [images / 255]
        if "extents" in cast(Detector, self.model).inputs:
            given.append(placed.extent.expand(images.shape[0], 2))
        boxes, scores = cast(Detector, self.model).dense(self.model(*given))
        classes = scores.shape[2]
        boxes, scores, labels = candidates(boxes, scores, self.suppression.candidates)
        if self.suppression.cut == "canvas":
            boxes = clip(boxes, self.canvas.size)
        boxes = placed.to_original(boxes)
        if self.suppression.cut == "picture":
            boxes, scores = _inside(boxes, scores, placed)
        measured = placed.relative(boxes) if self.suppression.kind == "greedy" else boxes
        chosen, scores = take_best(measured, scores, labels, classes, self.suppression, self.threshold)
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
    """Boxes cut to the picture; those with nothing inside it have score -1."""
    boxes = placed.cut(boxes)
    return boxes, torch.where((boxes[..., 2:] > boxes[..., :2]).all(-1), scores, -1.0)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table (B, N, c), index (B, M) -> those rows of each picture (B, M, c)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))
