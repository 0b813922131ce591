"""Detections in the forms that other libraries take. Each library is imported when its function is called."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from boxwright.errors import InputError
from boxwright.types import Detections


def to_dict(found: Detections) -> list[dict[str, Any]]:
    """Plain values, as `detections.json` holds them.

    Args:
        found: N detections.

    Returns:
        N mappings with `label` (int), `name` (str), `score` (float) and `box` (x1, y1, x2, y2 in px, a list).

    Example:
        >>> json.dumps(to_dict(predictor("photo.jpg")))
    """
    return [{"label": one.label, "name": one.name, "score": one.score, "box": list(one.box)} for one in found]


def to_coco(found: Detections, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Rows of a COCO results file.

    Args:
        found: N detections.
        image_id: The image's id in the data set.
        category_ids: The data set's id of each class, in label order; None for the labels themselves.

    Returns:
        N mappings with `image_id`, `category_id`, `bbox` (x, y, width, height in px) and `score`.
    """
    boxes = found.boxes.double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": label if category_ids is None else category_ids[label],
            "bbox": box,
            "score": score,
        }
        for box, score, label in rows
    ]


def to_dataframe(found: Detections) -> Any:
    """A pandas DataFrame.

    Args:
        found: N detections.

    Returns:
        N rows with the columns x1, y1, x2, y2 (px), score, label and name.

    Raises:
        InputError: Where pandas is not installed.
    """
    x1, y1, x2, y2 = found.boxes.cpu().unbind(1)
    columns = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": found.scores.cpu(), "label": found.labels.cpu()}
    values = {name: column.numpy() for name, column in columns.items()}
    return _library("pandas").DataFrame(values | {"name": found.class_names})


def to_supervision(found: Detections) -> Any:
    """`supervision.Detections`, with the classes' names in `data["class_name"]`, where that library looks for them.

    Args:
        found: N detections.

    Raises:
        InputError: Where supervision is not installed.
    """
    numpy = importlib.import_module("numpy")
    return _library("supervision").Detections(
        xyxy=found.boxes.cpu().numpy(),
        confidence=found.scores.cpu().numpy(),
        class_id=found.labels.cpu().numpy(),
        data={"class_name": numpy.array(found.class_names, dtype=str)},
    )


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name}: is not installed; pip install {name}") from error
