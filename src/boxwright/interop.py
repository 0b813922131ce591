"""Detections in the formats of other libraries, each imported when its function is called."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from boxwright.errors import InputError
from boxwright.json_text import JsonObject
from boxwright.types import Detections


def to_dict(detections: Detections) -> list[JsonObject]:
    """Convert to plain Python values, as in `detections.json`.

    Args:
        detections: N detections.

    Returns:
        N mappings with `label` (int), `name` (str), `score` (float) and `box` (x1, y1, x2, y2 in px, a list).

    Example:
        >>> json.dumps(to_dict(predictor("photo.jpg")))
    """
    return [{"label": d.label, "name": d.name, "score": d.score, "box": list(d.box)} for d in detections]


def to_coco(detections: Detections, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[JsonObject]:
    """Convert to the rows of a COCO results file.

    Args:
        detections: N detections.
        image_id: The image's id in the data set.
        category_ids: The data set's id of each class, in label order; None to use the labels.

    Returns:
        N mappings with `image_id`, `category_id`, `bbox` (x, y, width, height in px) and `score`.

    Raises:
        InputError: A label has no id.
    """
    boxes = detections.boxes.double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    if category_ids is not None and max(labels, default=-1) >= len(category_ids):
        raise InputError(
            f"category_ids: found {len(category_ids)}, needed one for each class, at least {max(labels) + 1}"
        )
    categories = labels if category_ids is None else [category_ids[label] for label in labels]
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(categories, boxes.tolist(), scores, strict=True)
    ]


def to_dataframe(detections: Detections) -> Any:
    """Convert to a pandas DataFrame.

    Args:
        detections: N detections.

    Returns:
        N rows with the columns x1, y1, x2, y2 (px), score, label and name.

    Raises:
        InputError: pandas is not installed.
    """
    columns = dict(zip(("x1", "y1", "x2", "y2"), detections.boxes.cpu().numpy().T, strict=True))
    columns |= {"score": detections.scores.cpu().numpy(), "label": detections.labels.cpu().numpy()}
    return _library("pandas").DataFrame(columns | {"name": detections.class_names})


def to_supervision(detections: Detections) -> Any:
    """Convert to `supervision.Detections`, with the class names in `data["class_name"]`, as supervision expects.

    Args:
        detections: N detections.

    Raises:
        InputError: supervision is not installed.
    """
    numpy = importlib.import_module("numpy")
    return _library("supervision").Detections(
        xyxy=detections.boxes.cpu().numpy(),
        confidence=detections.scores.cpu().numpy(),
        class_id=detections.labels.cpu().numpy(),
        data={"class_name": numpy.array(detections.class_names, dtype=str)},
    )


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name}: is not installed; pip install {name}") from error
