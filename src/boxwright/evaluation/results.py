"""Detections for somebody else to score: the results file that COCO's evaluation server takes."""

from pathlib import Path
from typing import Any

from boxwright import json_text
from boxwright.data.dataset import Dataset
from boxwright.evaluation.run import detect, lowest_score, results_folder
from boxwright.interop import to_coco
from boxwright.predict.predictor import Predictor

MOST = 100  # detections a picture that COCO's server looks at
BOX_DIGITS, SCORE_DIGITS = 2, 5  # px and score; float32 written in full would make the file thrice as large


def write(
    predictor: Predictor, dataset: Dataset, out: str | Path, threshold: float | None = None, most: int = MOST
) -> Path:
    """Detect on every picture of `dataset` and write `out`/detections_SPLIT_RECIPE_results.json; returns its path.

    The file is one list of {image_id, category_id, bbox, score} with the data set's own ids, bbox [x, y, width, height]
    in px of the picture. SPLIT is the name of the data set's JSON, so test-dev2017 for image_info_test-dev2017.json.
    threshold: lowest score, None for the recipe's. most: best detections a picture that stay.
    Raises InputError for classes the model does not know, unreadable pictures, an unwritable folder.
    """
    name = f"detections_{_set_name(dataset)}_{predictor.recipe.name}_results.json"
    place = results_folder(out, [name], dataset)
    found = [one[:most] for one in detect(predictor, dataset, lowest_score(predictor, threshold))]  # best first
    ids = dataset.images.ids.tolist()
    rows = [
        _short(row)
        for image_id, one in zip(ids, found, strict=True)
        for row in to_coco(one, image_id, dataset.category_ids)
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
