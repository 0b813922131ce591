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


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_detections_are_darknets(fit):
    predictor = bw.load(WEIGHTS, recipe="yolov3_tiny_coco_416_darknet", overrides={"data.canvas.fit": fit})
    cases = 0
    for name, reference in json.loads((DARKNET / "real" / "yolov3-tiny_detections.json").read_text()).items():
        width, height = reference["size_wh"]
        for key in [key for key in reference if key.startswith(f"{fit}_thresh_")]:
            found = predictor(DARKNET / "images" / name, threshold=float(key.rpartition("_")[2]))
            relative = torch.tensor([row["box_cxcywh_relative"] for row in reference[key]])
            boxes = clip(cxcywh_to_xyxy(relative * torch.tensor([width, height, width, height])), (height, width))
            rows = list(zip((row["class_id"] for row in reference[key]), boxes, reference[key], strict=True))
            assert found.names[16] == "dog"
            assert found.size == (height, width)
            assert sorted(label for label, _, _ in rows) == sorted(found.labels.tolist()), (name, key)
            for label, box, row in rows:  # each must have its own partner
                partner = (found.labels == label) & ((found.boxes - box).abs() <= 1).all(1)
                partner &= (found.scores - row["score"]).abs() <= 2e-3
                assert partner.sum() == 1, (name, key, row)
                found = found[~partner]
            cases += 1
    assert cases >= 6
