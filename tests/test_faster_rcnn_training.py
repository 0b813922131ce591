"""Faster R-CNN learns: real pictures by heart, the same in two processes as in one, the same after a kill."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright.data import open_dataset
from boxwright.data.loader import Loader
from boxwright.engine import train as training
from boxwright.recipe import CanvasConfig
from small_run import ROUNDING, furthest, lines

RECIPE = "faster_rcnn_r50_dcn_coco_standard"
BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"

# Everything small. Batch norm is held fixed where processes are compared, because its statistics are each one's own.
TINY = {
    "data.canvas.size": [64, 64],
    "data.workers": 0,
    "model.anchor_scale": 4,
    "model.rpn.train_proposals": 60,
    "model.rpn.test_proposals": 20,
    "model.rpn.samples": 64,
    "model.rpn.positives": 32,
    "model.roi.samples": 32,
    "model.roi.positives": 8,
    "train.epochs": 1,
    "train.freeze": [],
    "train.freeze_norm": True,
    "train.schedule.warmup_min_steps": 0,
    "train.schedule.lr": 0.01,
    "train.optimizer.clip": 1.0,
    "train.log_every": 1,
    "train.evaluate_every": 0,
}

# The network in float64: in float32 rounding alone puts now and then one of a million units on the other side of its
# ReLU, which changes a layer's gradient by a thousandth. The losses stay in float32.
IN_DOUBLES = """
import json, sys
from boxwright.engine import train

recipe, data, out, changes = sys.argv[1:]
real = train.first_network
train.first_network = lambda *words: real(*words).double()
train.train(recipe, data, out, overrides=json.loads(changes))
"""


@pytest.fixture
def second_has_no_box(tiny_coco, tmp_path):
    """A COCO folder of 6 pictures; those that the second of two processes with one picture each gets have no box."""
    root = shutil.copytree(tiny_coco, tmp_path / "data")
    keep(root / "annotations" / "train.json", 6)
    keep(root / "annotations" / "val.json", 1)
    loader = Loader(open_dataset(root, "train"), CanvasConfig(size=(64, 64)), 1, rank=1, world=2)
    keep(root / "annotations" / "train.json", 6, empty={batch.frames[0].image_id for batch in loader.epoch(0)})
    return root


def keep(file, count, empty=()):
    """Leave the first `count` pictures in a COCO JSON, and no box in those whose id is in `empty`."""
    tree = json.loads(file.read_text())
    tree["images"] = tree["images"][:count]
    full = {image["id"] for image in tree["images"]} - set(empty)
    tree["annotations"] = [each for each in tree["annotations"] if each["image_id"] in full]
    file.write_text(json.dumps(tree))


def test_one_process_without_any_box(second_has_no_box, tmp_path, monkeypatch):
    """The second process never has a box to learn from. Nothing hangs, and both together take the steps that one
    process with all pictures takes."""
    script, halves, whole = tmp_path / "doubles.py", tmp_path / "halves", tmp_path / "whole"
    script.write_text(IN_DOUBLES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, script, RECIPE, second_has_no_box, halves, json.dumps(TINY | {"train.batch": 1})]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    real = training.first_network
    monkeypatch.setattr(training, "first_network", lambda *words: real(*words).double())
    training.train(RECIPE, second_has_no_box, whole, overrides=TINY | {"train.batch": 2})
    difference, where = furthest(whole, halves)
    assert difference < ROUNDING, where
    for one, two in zip(lines(whole), lines(halves), strict=True):
        if "total" in one:
            assert two["total"] == pytest.approx(one["total"], rel=1e-5)
