"""The published YOLOv3-tiny weights against what Darknet itself detects with them.

Reference: `detector test`, 416 x 416, NMS 0.45, boxes not cut to the picture; stretch, and letterbox with grey 0.5.
"""

import json
from pathlib import Path

import pytest
import torch

import boxwright as bw
from boxwright.ops.boxes import clip, cxcywh_to_xyxy

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "yolov3-tiny.weights"
DARKNET = SHARED / "oracles" / "darknet"
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs shared/weights/yolov3-tiny.weights")


def darknets_partners(found, reference):
    """Each of Darknet's rows has its own partner in `found`, with class, score and place, and none is left over."""
    height, width = found.size
    relative = torch.tensor([row["box_cxcywh_relative"] for row in reference])
    boxes = clip(cxcywh_to_xyxy(relative * torch.tensor([width, height, width, height])), found.size)
    rows = list(zip((row["class_id"] for row in reference), boxes, reference, strict=True))
    assert sorted(label for label, _, _ in rows) == sorted(found.labels.tolist())
    for label, box, row in rows:
        partner = (found.labels == label) & ((found.boxes - box).abs() <= 1).all(1)
        partner &= (found.scores - row["score"]).abs() <= 2e-3
        assert partner.sum() == 1, row
        found = found[~partner]


@pytest.mark.parametrize(("kind", "darknets"), [("plain", "default"), ("greedy", "greedynms")])
def test_kinds_of_suppression_are_darknets(kind, darknets):
    changes = {"predict.suppression.kind": kind, "data.canvas.fit": "stretch"}
    predictor = bw.load(WEIGHTS, recipe="yolov3_tiny_coco_416_darknet", overrides=changes)
    variants = json.loads((DARKNET / "real" / "nms_variants.json").read_text())
    counts = []
    for picture in ("dog.png", "eagle.png", "person.png"):
        reference = variants[f"yolov3-tiny trained {darknets} stretch thresh 0.01 {picture}"]
        darknets_partners(predictor(DARKNET / "images" / picture, threshold=0.01), reference)
        counts.append(len(reference))
    assert counts == ([45, 3, 13] if kind == "greedy" else [41, 2, 13])


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_detections_are_darknets(fit):
    predictor = bw.load(WEIGHTS, recipe="yolov3_tiny_coco_416_darknet", overrides={"data.canvas.fit": fit})
    cases = 0
    for name, reference in json.loads((DARKNET / "real" / "yolov3-tiny_detections.json").read_text()).items():
        for key in [key for key in reference if key.startswith(f"{fit}_thresh_")]:
            found = predictor(DARKNET / "images" / name, threshold=float(key.rpartition("_")[2]))
            assert found.names[16] == "dog"
            assert [*reversed(found.size)] == reference["size_wh"]
            darknets_partners(found, reference[key])
            cases += 1
    assert cases >= 6
