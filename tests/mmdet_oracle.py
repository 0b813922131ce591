"""Numbers of mmdetection, Detectron2 and torchvision's second Faster R-CNN: weights, images and comparison.

`../shared/oracles/mmdetection` has them with the rules (README.md) that this file follows.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oracle_weights import Array, sampled_pair

FOLDER = Path(__file__).parents[2] / "shared" / "oracles" / "mmdetection"

# configurations of Faster R-CNN: objects lie within images
WITHIN = {"name": "faster_rcnn", "clip_proposals_to": "image", "deform": "none"}
# as in mmdetection and Detectron2: adaptive samples, groups of deformable layers, the stride in the 1x1
ADAPTIVE = WITHIN | {
    "deform": "standard", "deform_groups": 4, "deform_bias": True, "deform_masks": False, "stride_in": "conv1",
    "round_anchors": False, "limit_shrink": True, "roi": {"samples_per_bin": 0}, "rpn": {"test_proposals": 30},
}  # fmt: skip
# torchvision's second version
NORMS = WITHIN | {
    "neck_norm": True, "rpn": {"convs": 2, "test_proposals": 30}, "roi": {"convs": 4, "dense": 1},
}  # fmt: skip


def rows(network: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / network / "parameters.json").read_text())["parameters"]
    return found


def state(network: str) -> dict[str, Tensor]:
    """The engine's state dict."""
    return {row["name"]: torch.from_numpy(_value(row)) for row in rows(network)}


def _value(row: dict[str, Any]) -> Array:
    if "recipe" not in row:
        return np.array(row["value"], row["dtype"]).reshape(row["shape"])
    rule = row["recipe"]
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(row["name"].encode())))
    noise = generator.standard_normal(row["shape"], dtype=np.float32)
    value: Array = np.float32(rule["offset"]) + np.float32(rule["scale"]) * (np.abs(noise) if rule["abs"] else noise)
    for entry in row.get("add", []):
        value[entry["rows"]] += np.float32(entry["value"])
    return value


def random_image(size: tuple[int, int], seed: int) -> Array:
    """(h, w, 3) uint8 RGB."""
    (h, w), draw = size, np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    image = np.zeros((h, w, 3))
    for channel in range(3):
        for _ in range(4):
            fx, fy = draw.uniform(0.005, 0.09, 2)
            image[..., channel] += np.sin(fx * x + fy * y + draw.uniform(0, 6.28))
    image += draw.normal(0, 0.15, (h, w, 3))
    for _ in range(6):
        top, left = draw.integers(0, h * 3 // 4), draw.integers(0, w * 3 // 4)
        tall, wide = draw.integers(h // 16, h // 3), draw.integers(w // 16, w // 3)
        image[top : top + tall, left : left + wide] = draw.uniform(-3, 3, 3)
    return ((image - image.min()) / (image.max() - image.min()) * 255).astype(np.uint8)


def apart(oracle: Mapping[str, Array], name: str, ours: Tensor) -> float:
    """The largest difference of raw numbers, as a share of the largest value."""
    expected, found = sampled_pair(oracle, name, ours.numpy())
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def unmatched(ours: Any, boxes_scores: Array, labels: Array) -> list[int]:
    """Rows (x1 y1 x2 y2 score, label) of the engine without a detection of ours within 0.5 px and a score of 1e-3,
    each of which matches one row only."""
    free = np.ones(len(ours.labels), bool)
    missing = []
    for k, (row, label) in enumerate(zip(boxes_scores, labels, strict=True)):
        near = free & (ours.labels == label) & (np.abs(ours.scores - row[4]) <= 1e-3)
        distance = np.where(near, np.abs(ours.boxes - row[:4]).max(1), np.inf)
        if len(distance) and distance.min() <= 0.5:
            free[distance.argmin()] = False
        else:
            missing.append(k)
    return missing
