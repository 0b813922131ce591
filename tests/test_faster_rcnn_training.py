"""Training of Faster R-CNN: it overfits real images, and two processes learn the same as one.

Small are the network, the canvas, the anchors, and the numbers of proposals and samples.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import boxwright
from boxwright import recipe as recipes
from boxwright.batches.loader import Loader
from boxwright.engine import optim
from boxwright.engine.job import build_job, initial_network
from boxwright.engine.processes import accelerator_session
from boxwright.engine.train import optimizer_step
from boxwright.formats import open_dataset
from boxwright.tasks.detect import TASK
from short import make_networks_short
from small_run import ROUNDING

pytestmark = pytest.mark.slow

RECIPE = "faster_rcnn_r50_dcn_coco_standard"
STEPS = 3
# Batch norm is held fixed, because its statistics are each process's own.
TINY = {
    "data.canvas.size": [64, 64],
    "data.workers": 0,
    "model.anchor_scale": 4,
    "model.rpn.train_proposals": 60,
    "model.rpn.samples": 64,
    "model.rpn.max_positives": 32,
    "model.roi.samples": 32,
    "model.roi.max_positives": 8,
    "train.epochs": 1,
    "train.precision": "no",
    "train.freeze": [],
    "train.freeze_norm": True,
    "train.schedule.warmup_min_steps": 0,
    "train.schedule.lr": 0.01,
    "train.optimizer.clip": 1.0,
}

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
BY_HEART = {
    "data.canvas.size": [96, 128],
    "data.workers": 0,
    "model.anchor_scale": 2,
    "model.rpn.train_pre_nms_top_k": 300,
    "model.rpn.train_proposals": 300,
    "model.rpn.test_pre_nms_top_k": 200,
    "model.rpn.test_proposals": 200,
    "model.roi.samples": 64,
    "model.roi.max_positives": 32,
    "train.freeze": [],
    "train.freeze_statistics": False,
    "train.augment.flip": 0,
    "train.batch": 2,
    "train.epochs": 6,
    "train.evaluate_every": 0,
    "train.schedule.lr": 0.02,
    "train.schedule.warmup_min_steps": 20,
    "train.schedule.warmup_from": 0.05,
    "train.optimizer.clip": 10,
}


@pytest.mark.timeout(900)  # a minute on an idle core
@pytest.mark.usefixtures("short_networks")
@pytest.mark.skipif(not BCCD.is_dir(), reason=f"needs {BCCD}")
def test_overfits_two_images(tmp_path):
    """From random weights, 2 images with 36 blood cells, some only 6 px wide on this canvas. An epoch has each twenty
    times, because a checkpoint at the end of each takes longer than two steps."""
    tree = json.loads((BCCD / "annotations" / "train.json").read_text())
    shown = tree["images"][:2]
    (tmp_path / "annotations").mkdir()
    for split, times in (("train", 20), ("val", 1)):
        images, annotations = [], []
        for image in shown * times:
            own = [each for each in tree["annotations"] if each["image_id"] == image["id"]]
            annotations += [each | {"id": len(annotations) + i, "image_id": len(images)} for i, each in enumerate(own)]
            images.append(image | {"id": len(images)})
        (tmp_path / "annotations" / f"{split}.json").write_text(
            json.dumps(tree | {"images": images, "annotations": annotations})
        )
    (tmp_path / "images").symlink_to(BCCD / "images")
    boxwright.train(RECIPE, tmp_path, tmp_path / "run", overrides=BY_HEART)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["images"] == 2
    assert metrics["summary"]["AP50"] >= 0.9


def take_steps(data, out, batch):
    """Train for an epoch in this process, or in all that torchrun started, and write what came of it for each rank.

    The network counts in float64 (its losses in float32): in float32 rounding puts now and then one of a million units
    on the other side of its ReLU, which changes the gradient of a layer by a thousandth.
    """
    changes = TINY | {"data.root": str(data), "train.batch": batch}
    recipe = recipes.load(RECIPE, changes).with_names(("blue", "red"))
    training = open_dataset(data, "train")
    with accelerator_session(recipe.train) as accelerator:
        network = initial_network(recipe, None, False, accelerator).double()
        for name, scale in network.named_parameters():
            if name.endswith("bn3.weight"):  # 0 in a fresh network, which keeps gradients from what comes before it
                torch.nn.init.constant_(scale, 0.2)
        job = build_job(recipe, training, training, network, accelerator)
        optim.training_mode(network, recipe.train)
        found = {}
        for step, loaded in enumerate(job.loader.epoch(0)):
            optim.set_rates(job.optimizer, job.schedule, step)
            batch = TASK.augment(loaded.to(accelerator.device), recipe, 0, step, accelerator.process_index)
            terms = job.model(batch)
            optimizer_step(terms, job.model, job.optimizer, recipe.train, accelerator)
            found[f"objects.{step}"] = (loaded.labels >= 0).sum()
            found |= {f"{name}.{step}": accelerator.reduce(term.detach(), "mean") for name, term in terms.items()}
        trained = [pair for pair in network.named_parameters() if pair[1].requires_grad]
        for name, parameter in trained:  # every 97th number: all of them would take seconds to write
            found[f"value.{name}"] = parameter.detach().flatten()[::97].clone()
            found[f"momentum.{name}"] = job.optimizer.state[parameter]["momentum_buffer"].flatten()[::97].clone()
        save_file(found, Path(out) / f"rank{accelerator.process_index}.safetensors")


@pytest.fixture
def second_has_no_box(tiny_coco, tmp_path):
    """A COCO folder of 6 images; those that the second of two processes with one image each gets have no box."""
    root = shutil.copytree(tiny_coco, tmp_path / "data")
    file = root / "annotations" / "train.json"
    tree = json.loads(file.read_text())
    tree["images"] = tree["images"][: 2 * STEPS]
    ids = {image["id"] for image in tree["images"]}

    def leave_boxes(full):
        tree["annotations"] = [each for each in tree["annotations"] if each["image_id"] in full]
        file.write_text(json.dumps(tree))

    leave_boxes(ids)
    canvas = recipes.load(RECIPE, TINY).data.canvas
    loader = Loader(open_dataset(root, "train"), canvas, 1, rank=1, world=2)
    leave_boxes(ids - {batch.frames[0].image_id for batch in loader.epoch(0)})
    return root


@pytest.mark.usefixtures("short_networks")
def test_process_without_boxes_matches_single_process_training(second_has_no_box, tmp_path):
    """The second of two processes never has a box to learn from. Nothing hangs, both end with the same network, and it
    is that of one process with the whole batch."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, __file__, second_has_no_box, halves, "1"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=200, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    take_steps(second_has_no_box, whole, 2)

    first, second = (load_file(halves / f"rank{rank}.safetensors") for rank in (0, 1))
    expected = load_file(whole / "rank0.safetensors")
    assert all(first[f"objects.{step}"] > 0 and second[f"objects.{step}"] == 0 for step in range(STEPS))
    compared = [name for name in expected if not name.startswith("objects.")]
    for name in compared:
        assert first[name].equal(second[name]), name
        scale = expected[name].abs().max().clamp(min=1e-9)
        assert (first[name] - expected[name]).abs().max() <= ROUNDING * scale, name


if __name__ == "__main__":
    make_networks_short(pytest.MonkeyPatch())  # as the fixture
    take_steps(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
