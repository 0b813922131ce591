"""Faster R-CNN against torchvision's, and what the deformable layers cost by themselves.

    python benchmarks/bench_faster_rcnn.py [--device cpu] [--pairs 5] [--batch 1] [--size 800 1344]

Three networks with ResNet-50 and the same weights: torchvision's, ours without deformable layers, ours with them. A
train step is forward, loss, backward and SGD; predicting is everything from the canvas to boxes after suppression. The
first stages, batch norm's statistics and its scales are frozen in all three; pictures have the canvas's size, so that
torchvision neither shrinks nor pads them.

The cost of the deformable layers: each of the 13, with the input it gets in the network, against an ordinary
convolution of the same size. The goal is that ours with them needs at most that much more than torchvision's.

All take turns in one process, so that each meets the same moods of the machine; of differences and ratios the medians
over the turns count. Ends with 1 when the goal is missed in training or predicting. Memory: see `bench_predict.py`'s
neighbours for speed only; on CUDA the largest allocation of each is told.
"""

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import torchvision_on_cpu

torchvision_on_cpu.load()
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import boxwright
from bench_train_step import processor
from boxwright import models, recipe
from boxwright.engine import optim
from boxwright.nn.deform import DeformConv2d
from boxwright.nn.faster_rcnn_names import foreign_names
from boxwright.predict.predictor import Predictor
from boxwright.recipe import Recipe
from boxwright.types import Batch, Frame

PLAIN, DEFORMABLE = "faster_rcnn_r50_coco_torchvision", "faster_rcnn_r50_dcn_coco_standard"
CLASSES, OBJECTS = 80, 8  # of COCO; objects a picture, of which COCO's average is 7.3
RATE = 1e-6  # so small that all keep their weights, and with them the same proposals


class Side(NamedTuple):
    """Each call does the whole of it once."""

    train: Callable[[], object]
    predict: Callable[[], object]
