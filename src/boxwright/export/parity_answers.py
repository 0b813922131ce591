"""Detections, or classes, of an exported file compared with PyTorch's.

N and M detections of one image
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from boxwright.export.parity_limits import Limits, mutual_nearest
from boxwright.predict.inputs import Image
from boxwright.predict.predictor import AnyPredictor
from boxwright.runtimes.base.metadata import Metadata
from boxwright.tasks import PostprocessArgs
from boxwright.types import Classes, Detections

LOWEST = 0.01  # score of detections that are compared, where the file leaves the threshold to the caller
SHOWN = 5  # unmatched detections that the report shows of an image


def compare_answers(
    ours: AnyPredictor, theirs: AnyPredictor, images: Sequence[Image], metadata: Metadata, limits: Limits
) -> dict[str, Any]:
    """Detections, or the best classes, of both on each image: how many there are, how many have a partner, and some
    of those that have none. A score so near the lowest that rounding decides is not counted."""
    total: dict[str, Any] = {"compared": 0, "matched": 0, "unmatched": []}
    config = metadata.recipe.predict
    lowest = config.threshold if metadata.kind == "complete" else LOWEST
    args = PostprocessArgs(lowest, config.nms)
    for index, image in enumerate(images):
        one, other = (predict_one(predictor, image, args) for predictor in (ours, theirs))
        full = not isinstance(one, Detections) or len(one) >= config.nms.max_detections
        floor = float(one.scores.min()) if full else lowest
        compared, matched, unmatched = match(one, other, floor, max(one.size), limits)
        total["compared"] += compared
        total["matched"] += matched
        total["unmatched"] += [{"image": index} | row for row in unmatched[:SHOWN]]
    return total


def predict_one(predictor: AnyPredictor, image: Image, args: PostprocessArgs) -> Any:
    """The result of one image."""
    prepared = [predictor.preprocess(image)]
    return predictor.postprocess(predictor.forward(prepared), prepared, args)[0]


def match(one: Any, other: Any, floor: float, side: int, limits: Limits) -> tuple[int, int, list[dict[str, Any]]]:
    """(how many count, how many of them have a partner, those without) of two `Detections` or `Classes`.

    floor: the lowest score that is reported. side: px, what `limits.edge` is a share of.
    """
    cost = (one.scores[:, None] - other.scores[None]).abs() / limits.score
    if isinstance(one, Detections):
        edges = (one.boxes[:, None] - other.boxes[None]).abs().amax(dim=2) / (limits.edge * side)
        cost = torch.maximum(cost, edges)
    cost = cost + (one.labels[:, None] != other.labels[None]) * 1e9
    here, there = mutual_nearest(cost)
    near = cost[here, there] <= 1
    here, there = here[near], there[near]
    rows: list[dict[str, Any]] = []
    for where, found, partners in (("PyTorch", one, here), ("the file", other, there)):
        unmatched = found.scores >= floor + limits.score
        unmatched[partners] = False
        rows += _rows(where, found, unmatched)
    return len(here) + len(rows), len(here), rows


def _rows(where: str, found: Detections | Classes, chosen: Tensor) -> list[dict[str, Any]]:
    columns = {"score": found.scores[chosen].tolist(), "label": found.labels[chosen].tolist()}
    if isinstance(found, Detections):
        columns["box"] = found.boxes[chosen].tolist()
    rows = zip(*columns.values(), strict=True)
    return [{"only_in": where} | dict(zip(columns, row, strict=True)) for row in rows]
