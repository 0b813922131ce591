"""Images and a detector with random weights, whose number of boxes varies with the image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import boxwright as bw
from boxwright.weights import checkpoint
from small_run import SMALL

NAMES = ["car", "truck", "tank"]
NMS = {"predict.threshold": 0.05, "evaluate.threshold": 0.05}


def write_images(folder: Path) -> list[Path]:
    """JPEGs of other sizes than the canvas, one of them so large that a training loader decodes it at half its size."""
    draw = np.random.default_rng(3)
    folder.mkdir()
    files = []
    for number, (height, width) in enumerate([(70, 130), (131, 61), (96, 96), (300, 401)]):
        coarse = draw.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3)).astype(np.uint8)
        files.append(folder / f"{number}.jpg")
        cv2.imwrite(str(files[-1]), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return files


def write_small_images(folder: Path, count: int) -> Path:
    """A folder of small PNGs, `000.png` and so on, and `broken.png`, which cannot be read."""
    draw = np.random.default_rng(1)
    folder.mkdir()
    for number in range(count):
        coarse = draw.integers(0, 256, (8, 10, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (100, 70 + number % 7), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def write_weights(file: Path, images: list[Path]) -> Path:
    """A checkpoint whose batch norms have the statistics of the images."""
    recipe = bw.Recipe.load("demo", SMALL | NMS | {"data.names": NAMES})
    torch.manual_seed(2)
    model = bw.create_model(recipe)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    pixels = np.stack([cv2.resize(cv2.imread(str(image)), (96, 96)) for image in images])
    with torch.no_grad():
        model.train()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    checkpoint.save(file, model, recipe)
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("set") / "val")


@pytest.fixture(scope="module")
def weights(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "det.safetensors", images)
