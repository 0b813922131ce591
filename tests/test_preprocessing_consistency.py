"""Evaluating is predicting and counting, on the very same pixels, for every way onto the canvas."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, get_args

import cv2
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import boxwright as bw
from boxwright import recipe as recipes
from boxwright.export.run import export_model
from boxwright.interop import to_coco
from boxwright.predict.output import predict_to_folder
from boxwright.recipe import CanvasConfig
from boxwright.types import Detections
from class_folder import write as write_classes
from random_detector import NAMES, images, weights

__all__ = ["images", "weights"]  # fixtures
FITS = get_args(CanvasConfig.model_fields["fit"].annotation)
RESIZES = get_args(CanvasConfig.model_fields["resize"].annotation)


@pytest.fixture(scope="module")
def labels(images: list[Path], weights: Path) -> Path:
    """Labels by which the network is neither right nor wrong: some of its own boxes, moved."""
    rows: list[dict[str, Any]] = []
    for number, found in enumerate(bw.load(weights, device="cpu")(images)):
        chosen = found[:120][::4]
        moved = Detections(chosen.boxes + torch.tensor([1.0, -1, 2, 1]), chosen.scores, chosen.labels)
        rows += to_coco(moved, number)
    annotations = [
        row | {"id": number + 1, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(rows)
    ]
    shapes = [cv2.imread(str(file)).shape for file in images]
    tree = {
        "images": [
            {"id": number, "file_name": file.name, "height": shape[0], "width": shape[1]}
            for number, (file, shape) in enumerate(zip(images, shapes, strict=True))
        ],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(NAMES)],
    }
    root = images[0].parent.parent
    (root / "annotations").mkdir()
    (root / "annotations" / "val.json").write_text(json.dumps(tree))
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each image that is decoded."""
    calls: list[int] = []
    real = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: calls.append(1) or real(*given))
    return calls


def rows_of(results: Path) -> list[dict[str, Any]]:
    """A `detections.json` that `predict` wrote, as COCO results."""
    rows = []
    for image in json.loads(results.read_text())["images"]:
        for found in image["detections"]:
            x1, y1, x2, y2 = found["box"]
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": found["label"], "score": found["score"]}
            rows.append(box | {"image_id": int(Path(image["file"]).stem)})
    return rows


def ap_of(rows: list[dict[str, Any]], root: Path) -> list[float]:
    """COCO's twelve numbers by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "annotations" / "val.json"))
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    numbers: list[float] = judge.stats.tolist()
    return numbers


def check_one_pipeline(
    predictor: bw.Predictor[Any], images: list[Path], labels: Path, out: Path, decoded: list[int]
) -> None:
    metrics = bw.evaluate(predictor, labels, "val", out / "evaluation")
    assert len(decoded) == len(images), "evaluation decodes each image once, with those that it draws"
    decoded.clear()
    predict_to_folder(predictor, images, out / "prediction")
    assert len(decoded) == len(images)
    assert 0.02 < metrics.ap < 0.95, "neither right nor wrong"
    rows = rows_of(out / "prediction" / "detections.json")
    evaluated = json.loads((out / "evaluation" / "detections.json").read_text())
    for key in ("image_id", "category_id", "score", "bbox"):  # other pixels move scores long before they move AP
        assert [row[key] for row in evaluated] == [row[key] for row in rows]
    assert list(metrics.summary.values()) == pytest.approx(ap_of(rows, labels), abs=1e-9)


# each fit with two kinds of resizing, and each kind with two fits or more; test_export_complete.py has all pairs
PAIRS = [(fit, RESIZES[(number + step) % len(RESIZES)]) for number, fit in enumerate(FITS) for step in (0, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(("fit", "resize"), PAIRS)
def test_evaluation_matches_prediction_with_weights(
    fit: str, resize: str, images: list[Path], weights: Path, labels: Path, tmp_path: Path, decoded: list[int]
) -> None:
    changes = {"data.canvas.fit": fit, "data.canvas.resize": resize}
    check_one_pipeline(bw.load(weights, device="cpu", overrides=changes), images, labels, tmp_path, decoded)


@pytest.mark.runtimes
@pytest.mark.parametrize(
    ("complete", "fit", "resize"),
    [
        (False, "letterbox", "darknet"),
        (True, "letterbox", "darknet"),
        (True, "torchvision_corner", "float"),
    ],
)
def test_evaluation_matches_prediction_with_exported_files(
    complete: bool,
    fit: str,
    resize: str,
    images: list[Path],
    weights: Path,
    labels: Path,
    tmp_path: Path,
    decoded: list[int],
) -> None:
    changes = {"data.canvas.fit": fit, "data.canvas.resize": resize}
    file = tmp_path / "model.onnx"
    export_model(weights, "onnx", file, overrides=changes, complete=complete)
    decoded.clear()
    check_one_pipeline(bw.load(file, backend="onnxruntime"), images, labels, tmp_path, decoded)


@pytest.mark.slow
def test_classification_decodes_every_image_once(tmp_path: Path, decoded: list[int]) -> None:
    root = write_classes(tmp_path / "set", {"val": 3})
    recipe = recipes.load("tiny_darknet_cifar10").with_names(bw.open_dataset(root, "val").names)
    predictor = bw.Predictor(bw.create_model(recipe), recipe)
    metrics = bw.evaluate(predictor, root, "val", tmp_path / "out")
    assert len(decoded) == len(bw.open_dataset(root, "val")) == 9
    assert metrics.summary["top1"] < 1, "there are mistakes to draw"
    assert (tmp_path / "out" / "mistakes.jpg").is_file()
