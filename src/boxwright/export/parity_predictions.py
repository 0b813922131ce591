"""Comparison of an exported file's detections, or classes, with PyTorch's.

N and M detections of one image
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwright.export.parity_limits import Limits, mutual_nearest
from boxwright.json_text import JsonObject
from boxwright.predict.inputs import Image
from boxwright.predict.predictor import AnyPredictor
from boxwright.runtimes.base.metadata import Metadata
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.classify import ClassPrediction
from boxwright.tasks.detect import Prediction
from boxwright.types import Classes, Detections

MIN_SCORE = 0.01  # of compared detections, if the file has no threshold inside
MAX_LISTED = 5  # unmatched detections per image in the report


def compare_predictions(
    ours: AnyPredictor, theirs: AnyPredictor, images: Sequence[Image], metadata: Metadata, limits: Limits
) -> JsonObject:
    """Compare detections, or top-k classes, on each image.

    Returns:
        Numbers of compared and of matched detections, and a few unmatched ones. Unmatched detections whose score is
        within tolerance of the minimum are not counted.
    """
    total: JsonObject = {"compared": 0, "matched": 0, "unmatched": []}
    config = metadata.recipe.predict
    threshold = config.threshold if metadata.kind == "complete" else MIN_SCORE
    args = PostprocessArgs(threshold, config.nms)
    for index, image in enumerate(images):
        expected, actual = (_predict(predictor, image, args) for predictor in (ours, theirs))
        is_full = not isinstance(expected, Detections) or len(expected) >= config.nms.max_detections
        min_score = float(expected.scores.min()) if is_full else threshold
        compared, matched, unmatched = match(expected, actual, min_score, max(expected.size), limits)
        total["compared"] += compared
        total["matched"] += matched
        total["unmatched"] += [{"image": index} | row for row in unmatched[:MAX_LISTED]]
    return total


def _predict(predictor: AnyPredictor, image: Image, args: PostprocessArgs) -> Prediction | ClassPrediction:
    prepared = [predictor.preprocess(image)]
    result: Prediction | ClassPrediction = predictor.postprocess(predictor.forward(prepared), prepared, args)[0]
    return result


def match(
    expected: Detections | Classes, actual: Detections | Classes, min_score: float, side: int, limits: Limits
) -> tuple[int, int, list[JsonObject]]:
    """Match two `Detections` or `Classes`.

    Args:
        expected: PyTorch's results.
        actual: The file's results.
        min_score: The lowest reported score.
        side: px of the image's longer side.
        limits: The tolerances.

    Returns:
        Number of compared detections, number of matched ones, and the unmatched ones.
    """
    cost = (expected.scores[:, None] - actual.scores[None]).abs() / limits.score
    if isinstance(expected, Detections) and isinstance(actual, Detections):
        edges = (expected.boxes[:, None] - actual.boxes[None]).abs().amax(dim=2) / (limits.edge * side)
        cost = torch.maximum(cost, edges)
    cost = cost + (expected.labels[:, None] != actual.labels[None]) * 1e9
    row, column = mutual_nearest(cost)
    matched = cost[row, column] <= 1
    row, column = row[matched], column[matched]
    unmatched: list[JsonObject] = []
    for source, result, partners in (("PyTorch", expected, row), ("the file", actual, column)):
        mask = result.scores >= min_score + limits.score
        mask[partners] = False
        unmatched += _rows(source, result, mask)
    return len(row) + len(unmatched), len(row), unmatched


def _rows(source: str, result: Detections | Classes, mask: Tensor) -> list[JsonObject]:
    columns = {"score": result.scores[mask].tolist(), "label": result.labels[mask].tolist()}
    if isinstance(result, Detections):
        columns["box"] = result.boxes[mask].tolist()
    rows = zip(*columns.values(), strict=True)
    return [{"only_in": source} | dict(zip(columns, row, strict=True)) for row in rows]
