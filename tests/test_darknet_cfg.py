"""Networks of .cfg files against numbers that Darknet itself computed: ../shared/oracles/darknet_cfg.

Each network's weights are written as a file first, so that text, layers, file and decoding are tested together. Raw
maps agree to 1e-4 of their largest value, boxes and scores to 1e-3 of the image and 1e-5.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright import recipe, weights
from boxwright.darknet_cfg.layers import Layer
from boxwright.darknet_cfg.plan import Plan, plan, with_size
from boxwright.darknet_cfg.text import read_cfg
from boxwright.models.darknet_cfg import CfgClassifier, CfgDetector
from boxwright.nn.network import Network
from boxwright.recipe import Recipe
from boxwright.weights import darknet
from oracle_weights import Array, cfg_recipe, darknet_pair

ORACLES = Path(__file__).parents[2] / "shared" / "oracles" / "darknet_cfg"
pytestmark = pytest.mark.skipif(not ORACLES.is_dir(), reason="../shared/oracles is absent")
SMALL = (
    "custom-classifier-7c 56x64_s0", "custom-parts 64x96_s0", "custom-parts 96x64_s3", "custom-tiny-odd 160x224_s0",
    "custom-tiny-odd 96x64_s3", "custom-yolov4-tiny-3c 160x224_s3", "efficientnet_b0 224x224_s0",
    "enet-coco 160x224_s0", "yolov2-tiny 160x224_s0", "yolov7-tiny 160x224_s0",
)  # fmt: skip
LARGE = (
    "Gaussian_yolov3_BDD 160x224_s0", "csresnext50-panet-spp 160x224_s0", "custom-yolov3-half-1c 256x320_s0",
    "darknet19 160x224_s3", "resnet18 256x256_s0", "resnet50 160x224_s0", "yolov2 160x224_s0", "yolov3-spp 160x224_s0",
    "yolov3-tiny-prn 160x224_s0", "yolov4-csp 160x224_s0", "yolov4-sam-mish-csp-reorg-bfm 192x256_s0",
    "yolov4-tiny-3l 160x224_s0", "yolov4x-mish 160x224_s0",
)  # fmt: skip
CASES = (*SMALL, *(pytest.param(case, marks=pytest.mark.slow) for case in LARGE))


def recipe_at(network: str, size: tuple[int, int], folder: Path) -> Recipe:
    """The recipe of a .cfg whose [net] has another size, as the numbers were computed."""
    file = folder / f"{network}.cfg"
    file.write_text(with_size(read_cfg(ORACLES / "cfg" / file.name), *size))
    return recipe.of_cfg(file)


def check_layers(model: Network, network: Plan, oracle: dict[str, Array], images: torch.Tensor) -> None:
    """Every layer that was kept; of a [region], AlexeyAB's order is another, so the layer before it is compared."""
    kept = sorted(int(key.split("_")[1]) for key in oracle if key.startswith("layer_") and key.count("_") == 1)
    numbers = [k for k in kept if network.layers[k].section.kind != "region"]
    assert numbers
    assert isinstance(model, CfgDetector | CfgClassifier)
    with torch.inference_mode():
        outputs = model.layers(images, numbers)
    for number, output in zip(numbers, outputs, strict=True):
        expected, ours = darknet_pair(oracle, number, output[0].numpy())
        assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max(), f"layer {number}"


def check_boxes(model: CfgDetector, raw: tuple[torch.Tensor, ...], wanted: Array, size: tuple[int, int]) -> None:
    """wanted: the best boxes of Darknet's decoder, each with its best class only."""
    model.config = model.config.model_copy(update={"multi_label": False})
    (found,) = model.decode(raw, 0.01)
    best = found.scores.argsort(descending=True)[: len(wanted)]
    sides = torch.tensor([size[1], size[0]])
    corners = found.boxes[best].view(-1, 2, 2) / sides
    boxes = torch.cat((corners.mean(1), corners[:, 1] - corners[:, 0]), 1).numpy()
    assert len(boxes) == len(wanted)
    assert np.abs(found.scores[best].numpy() - wanted[:, 5]).max() < 1e-5
    apart = np.abs(boxes[:, None] - wanted[None, :, :4]).max(2) + (found.labels[best].numpy()[:, None] != wanted[:, 4])
    assert apart.min(1).max() < 1e-3
    assert apart.min(0).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_layers_and_boxes_match_darknet(case: str, tmp_path: Path) -> None:
    network, name = case.split()
    height, width = map(int, name.split("_")[0].split("x"))
    settings = recipe_at(network, (height, width), tmp_path)
    described, file = plan(settings.model.cfg), tmp_path / "net.weights"  # type: ignore[attr-defined]
    content = cfg_recipe(described)
    known = json.loads((ORACLES / "weight_files.json").read_text())[network]
    assert len(content) == known["bytes"]
    assert hashlib.sha256(content).hexdigest() == known["sha256"]
    file.write_bytes(content)
    model = weights.build(file, settings).eval()
    darknet.write(file, model, header=darknet.Header(0, 2, 0, 12800))
    assert file.read_bytes() == content
    file.unlink()

    oracle = dict(np.load(ORACLES / network / f"{name}.npz"))
    draw = np.random.default_rng(int(name.rpartition("_s")[2]))
    images = torch.from_numpy(draw.random((1, 3, height, width), dtype=np.float32))
    check_layers(model, described, oracle, images)
    with torch.inference_mode():
        raw = model(images)
    heads = [head.inputs[0] for head in described.heads] or [described.last.inputs[0]]
    assert isinstance(model, CfgDetector | CfgClassifier)
    if isinstance(model, CfgDetector):
        assert heads == oracle["heads"].tolist()
        for number, level in zip(heads, raw, strict=True):
            expected, ours = darknet_pair(oracle, number, level[0].numpy())
            assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()
        check_boxes(model, raw, oracle["boxes"], (height, width))
    else:
        expected, ours = darknet_pair(
            oracle, described.last.section.index, model.scores(raw[0])[0].numpy()[:, None, None]
        )
        assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


def test_boxes_at_another_input_size_match_darknet(tmp_path: Path) -> None:
    """The [net] of the file need not be changed: what is decoded follows the map, not the text."""
    settings = recipe_at("custom-yolov4-tiny-3c", (320, 512), tmp_path)
    oracle = dict(np.load(ORACLES / "custom-yolov4-tiny-3c" / "160x224_s3.npz"))
    file = tmp_path / "net.weights"
    file.write_bytes(cfg_recipe(plan(settings.model.cfg)))  # type: ignore[attr-defined]
    model = weights.build(file, settings).eval()
    assert isinstance(model, CfgDetector)
    images = torch.from_numpy(np.random.default_rng(3).random((1, 3, 160, 224), dtype=np.float32))
    with torch.inference_mode():
        check_boxes(model, model(images), oracle["boxes"], (160, 224))


def test_shipped_yolov4_csp_matches_published_cfg() -> None:
    """Layer by layer, at 640; loss and NMS also follow the file."""
    text = with_size(read_cfg(ORACLES / "cfg" / "yolov4-csp.cfg"), 640, 640)
    shipped = recipe.load("yolov4_csp_640")
    ours, theirs = plan(shipped.model.cfg), plan(text)  # type: ignore[attr-defined]
    assert (ours.image, ours.strides) == (theirs.image, theirs.strides)

    def facts(layer: Layer) -> tuple[object, ...]:
        return layer.section.kind, *(getattr(layer, each.name) for each in fields(layer) if each.name != "section")

    assert [facts(layer) for layer in ours.layers] == [facts(layer) for layer in theirs.layers]


def test_shipped_yolov4_csp_has_loss_settings_of_published_cfg(tmp_path: Path) -> None:
    file = tmp_path / "yolov4-csp.cfg"
    file.write_text(with_size(read_cfg(ORACLES / "cfg" / file.name), 640, 640))
    shipped, published = recipe.load("yolov4_csp_640"), recipe.load(file)
    theirs, ours = (each.model.model_dump()["loss"] for each in (published, shipped))
    # which would hold back objectness until boxes fit: see the recipe
    assert (theirs.pop("objectness_smooth"), ours.pop("objectness_smooth")) == ((False, True, True), (False,))
    assert ours == theirs
    assert shipped.data.canvas == published.data.canvas
    assert (shipped.evaluate, shipped.predict) == (published.evaluate, published.predict)
    assert shipped.train.batch * shipped.train.accumulate == published.train.batch * published.train.accumulate
    assert shipped.train.schedule.lr == published.train.schedule.lr
    for key in ("jitter", "scale", "hue", "saturation", "value", "translate", "flip"):
        assert getattr(shipped.train.augment, key) == getattr(published.train.augment, key), key
