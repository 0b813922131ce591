"""torchvision's smallest Faster R-CNN, trained from scratch for some minutes: what the tables compare with."""

import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from boxwright.data.dataset import Dataset
from boxwright.json_text import JsonObject

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import torchvision_on_cpu

torchvision_on_cpu.load()
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn  # noqa: E402 (must come after `load`)

LR, BATCH, WARMUP = 0.02, 4, 50  # of torchvision's reference script, there for 16 images; steps of the warm-up


def image_of(dataset: Dataset, index: int) -> Tensor:
    """(3, h, w), 0 to 1"""
    pixels = np.array(Image.open(dataset.path(index)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def target_of(dataset: Dataset, index: int) -> dict[str, Tensor]:
    """Boxes in px and labels from 1, as torchvision wants them."""
    rows = (dataset.image_indices() == index) & ~dataset.rows.crowd
    boxes = torch.from_numpy(dataset.rows.xyxy[rows]).float()
    labels = np.searchsorted(dataset.category_ids, dataset.rows.categories[rows]) + 1
    seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return {"boxes": boxes[seen], "labels": torch.from_numpy(labels)[seen]}


def train(dataset: Dataset, minutes: float, seed: int, bfloat16: bool = False) -> tuple[nn.Module, int]:
    """The network after that many minutes, and its number of epochs. Flips are the only augmentation."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=len(dataset.names) + 1
    ).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    images = [image_of(dataset, index) for index in range(len(dataset))]
    targets = [target_of(dataset, index) for index in range(len(dataset))]
    start, step, order = time.perf_counter(), 0, list[int]()
    while (share := (time.perf_counter() - start) / 60 / minutes) < 1:
        if len(order) < BATCH:
            order += draw.sample(range(len(dataset)), len(dataset))
        chosen, order = order[:BATCH], order[BATCH:]
        rate = LR * BATCH / 16 * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * share)) / 2
        optimizer.param_groups[0]["lr"] = rate
        batch = [flipped(images[i], targets[i]) if draw.random() < 0.5 else (images[i], targets[i]) for i in chosen]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = sum(network([image for image, _ in batch], [target for _, target in batch]).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10)
        optimizer.step()
        step += 1
    return network.eval(), step * BATCH // len(dataset)


def flipped(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    return image.flip(2), target | {"boxes": torch.stack((width - x2, y1, width - x1, y2), 1)}


@torch.inference_mode()
def detections(network: Any, dataset: Dataset) -> list[JsonObject]:
    """Rows of a COCO results file."""
    rows: list[JsonObject] = []
    for index, number in enumerate(dataset.images.ids.tolist()):
        found = network([image_of(dataset, index)])[0]
        for (x1, y1, x2, y2), score, label in zip(
            *(found[key].tolist() for key in ("boxes", "scores", "labels")), strict=True
        ):
            category = int(dataset.category_ids[label - 1])
            rows.append(
                {"image_id": number, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    return rows
