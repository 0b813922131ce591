"""Transfer training as YOLOv4's page describes it: from a detector of other classes, with frozen stages."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from boxwright import models, recipe
from boxwright.engine.train import train
from boxwright.weights import checkpoint
from small_run import SMALL, lines

FROZEN = ("backbone.stem", "backbone.down")
CHANGES = SMALL | {
    "train.epochs": 4,
    "train.batch": 4,
    "train.evaluate_every": 2,
    "train.freeze": list(FROZEN),
    "train.ema.decay": 0,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of five other classes."""
    file = tmp_path_factory.mktemp("start") / "five.safetensors"
    base = recipe.load("yolov4_tiny_coco_416_darknet").with_names(list("abcde"))
    small = base.with_overrides({"model.width": 0.125, "data.canvas.size": [96, 96]})
    torch.manual_seed(3)
    checkpoint.save(file, models.build(small.model), small)
    return file


@pytest.mark.slow
def test_transfer_keeps_frozen_stages_and_trains_the_rest(
    start: Path, tiny_coco: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(
        "yolov4_tiny_coco_416_darknet", tiny_coco, tmp_path / "run", weights=start, transfer=True, overrides=CHANGES
    )
    log = capfd.readouterr().err
    assert "4 stay fresh (out16.*, out32.*)" in log

    before, after = load_file(start), load_file(run / "last" / "model.safetensors")
    assert before["out16.weight"].shape[0] == 3 * (5 + 5)
    assert after["out16.weight"].shape[0] == 3 * (5 + 2)
    frozen = [name for name in before if name.startswith(FROZEN)]
    assert len(frozen) > 4
    for name in frozen:
        assert torch.equal(before[name], after[name]), name  # the statistics of batch norm as well
    learned = [name for name in before if name.endswith("conv.weight") and name not in frozen]
    for name in learned:
        assert not torch.equal(before[name], after[name]), name

    scored = [line for line in lines(run) if "AP" in line]
    assert [line["epoch"] for line in scored] == [1, 3]
    best = json.loads((run / "metrics.json").read_text())["summary"]["AP"]
    assert best == pytest.approx(max(line["AP"] for line in scored))
    assert recipe.load(run / "recipe.yaml").data.names == ("blue", "red")
