"""Detections in the results format of COCO's evaluation server."""

from pathlib import Path

from boxwright import json_text
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import predict_dataset, report_folder
from boxwright.interop import to_coco
from boxwright.json_text import JsonObject
from boxwright.predict.predictor import Predictor
from boxwright.tasks.detect import Prediction

MAX_DETECTIONS = 100  # per image; COCO's server ignores the rest
BOX_DIGITS, SCORE_DIGITS = 2, 5  # all digits of float32 would make the file three times as large


def write(
    predictor: Predictor[Prediction],
    dataset: Dataset,
    out: str | Path,
    threshold: float | None = None,
    top_k: int = MAX_DETECTIONS,
) -> Path:
    """Write the detections on all images of a data set to detections_SPLIT_RECIPE_results.json.

    The file is a list of {image_id, category_id, bbox, score} with the data set's ids, bbox [x, y, width, height] in px
    of the image. SPLIT is from the name of the data set's JSON: test-dev2017 for image_info_test-dev2017.json.

    Args:
        predictor: The detector.
        dataset: The images; labels are not used.
        out: The folder to write to.
        threshold: Minimum score; None for the recipe's.
        top_k: Maximum number of detections per image.

    Returns:
        The path of the file.

    Raises:
        InputError: The data set has classes that the model does not have, an image cannot be read, or the folder is not
            writable.
    """
    if dataset.members is not None:
        raise InputError(f"{dataset.root}: found several sets, whose image ids are new; --no-truth needs a single one")
    name = f"detections_{_split_name(dataset)}_{predictor.recipe.name}_results.json"
    args = predictor.task.evaluation_args(dataset, predictor.recipe, threshold)
    with report_folder(out, [name], [dataset]) as folder:
        results = [result[:top_k] for result in predict_dataset(predictor, dataset, args)]  # best first
        ids = dataset.images.ids.tolist()
        rows = [
            _rounded(row)
            for image_id, result in zip(ids, results, strict=True)
            for row in to_coco(result, image_id, dataset.category_ids)
        ]
        json_text.write(folder / name, rows)
    return folder / name


def _rounded(row: JsonObject) -> JsonObject:
    box = [round(value, BOX_DIGITS) for value in row["bbox"]]
    return {**row, "bbox": box, "score": round(row["score"], SCORE_DIGITS)}


def _split_name(dataset: Dataset) -> str:
    if dataset.kind != "coco":
        return dataset.split
    return Path(dataset.label_file(0)).stem.removeprefix("image_info_").removeprefix("instances_")
