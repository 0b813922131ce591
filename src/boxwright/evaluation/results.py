"""Detections for somebody else to score: the results file that COCO's evaluation server takes."""

from pathlib import Path
from typing import Any

from boxwright import json_text
from boxwright.data.dataset import Dataset
from boxwright.evaluation.evaluate import predict_dataset, report_folder
from boxwright.interop import to_coco
from boxwright.predict.predictor import Predictor
from boxwright.tasks.detect import Prediction

MAX_DETECTIONS = 100  # an image, the rest is ignored by COCO's server
BOX_DIGITS, SCORE_DIGITS = 2, 5  # px and score; float32 written in full would make the file thrice as large


def write(
    predictor: Predictor[Prediction],
    dataset: Dataset,
    out: str | Path,
    threshold: float | None = None,
    top_k: int = MAX_DETECTIONS,
) -> Path:
    """Detect on every image of `dataset` and write `out`/detections_SPLIT_RECIPE_results.json; returns its path.

    The file is one list of {image_id, category_id, bbox, score} with the data set's own ids, bbox [x, y, width, height]
    in px of the image. SPLIT is the name of the data set's JSON, so test-dev2017 for image_info_test-dev2017.json.
    threshold: lowest score, None for the recipe's. top_k: detections an image, the best.
    Raises InputError for classes the model does not know, unreadable images, an unwritable folder.
    """
    name = f"detections_{_set_name(dataset)}_{predictor.recipe.name}_results.json"
    place = report_folder(out, [name], [dataset])
    args = predictor.task.evaluation_args(dataset, predictor.recipe, threshold)
    results = [result[:top_k] for result in predict_dataset(predictor, dataset, args)]  # best first
    ids = dataset.images.ids.tolist()
    rows = [
        _short(row)
        for image_id, result in zip(ids, results, strict=True)
        for row in to_coco(result, image_id, dataset.category_ids)
    ]
    json_text.write(place / name, rows)
    return place / name


def _short(row: dict[str, Any]) -> dict[str, Any]:
    box = [round(value, BOX_DIGITS) for value in row["bbox"]]
    return {**row, "bbox": box, "score": round(row["score"], SCORE_DIGITS)}


def _set_name(dataset: Dataset) -> str:
    if dataset.kind != "coco":
        return dataset.split
    return Path(dataset.label_file(0)).stem.removeprefix("image_info_").removeprefix("instances_")
