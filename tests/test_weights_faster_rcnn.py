"""Other people's files for Faster R-CNN: the MindSpore zoo's checkpoints and classifiers, torchvision, timm.

The zoo's files are written by protobuf's encoder from the recipe of names in `oracles/faster_rcnn_dcn`.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.models.faster_rcnn import Config, FasterRCNN, build
from boxwright.nn.resnet import ResNet
from boxwright.ops.boxes import clip
from boxwright.ops.nms import suppress
from boxwright.predict.predictor import Predictor
from boxwright.recipe import NMSConfig, Recipe
from boxwright.types import Batch, Detections, Frame
from boxwright.weights import mindspore
from boxwright.weights.names.faster_rcnn import Names
from canvases import detect
from oracle_weights import ORACLES, Array, mindspore_input, mindspore_recipe, sampled_pair
from test_resnet import randomise_norms
from test_weights_mindspore import pack

pytestmark = pytest.mark.slow

FOLDER = ORACLES / "faster_rcnn_dcn"
ZOO = recipe.load("faster_rcnn_r50_dcn_coco").model.model_dump()
PLAIN = {"deform": "none"}


def settings(**model: Any) -> Recipe:
    return recipe.from_tree({"name": "x", "model": {"name": "faster_rcnn", "classes": 80} | model}, "test")


def make(chosen: Recipe) -> FasterRCNN:
    assert isinstance(chosen.model, Config)
    return build(chosen.model).eval()


class BackboneOnly(nn.Module):
    """What of the detector a classifier's file can fill; the rest would only take time."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.backbone = ResNet(config.depth, deform=config.deform, padding=config.padding)


def parameters(name: str) -> list[dict[str, Any]]:
    file = FOLDER / name
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    rows: list[dict[str, Any]] = json.loads(text)["parameters"]
    return rows


@pytest.mark.parametrize(("depth", "file"), [(50, "r50.json"), (101, "r101.json.gz"), (152, "r152.json.gz")])
def test_parameter_names_and_shapes_match_the_zoo(depth: int, file: str) -> None:
    chosen = settings(**ZOO | {"depth": depth})
    with torch.device("meta"):
        state = make(chosen).state_dict()
    names = Names(chosen.model)
    shapes = {
        names.mindspore(own): list(reversed(tensor.shape) if names.mindspore_transposed(own) else tensor.shape)
        for own, tensor in state.items()
    }
    without_place = {own for own in state if names.mindspore(own) is None}
    assert {own.rpartition(".")[2] for own in without_place} == {"mean", "std", "num_batches_tracked"}
    del shapes[None]
    assert shapes == {row["name"]: row["shape"] for row in parameters(f"params_network_{file}")}


@dataclass
class Loaded:
    """The zoo's training checkpoint, what it was made of, and the network that holds it."""

    values: dict[str, Array]
    settings: Recipe
    model: FasterRCNN
    report: weights.LoadReport


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """All entries of a training checkpoint in their order. Those of the optimizer hold one number each: they are
    skipped by name."""
    values = mindspore_recipe(FOLDER / "params_network_r50.json")
    file = tmp_path_factory.mktemp("zoo") / "a.ckpt"
    with file.open("wb") as stream:
        for row in [*parameters("params_train_ckpt_r50.json.gz"), {"name": "epoch_num"}, {"name": "step_num"}]:
            stream.write(pack({row["name"]: values.get(row["name"], np.zeros(1, np.float32))}))
    chosen = settings(**ZOO)
    model = make(chosen)
    report = weights.load(model, file, chosen)
    file.unlink()
    return Loaded(values, chosen, model, report)


def test_zoo_training_checkpoint_loads_completely(zoo: Loaded) -> None:
    assert len(zoo.report.matched) == len(zoo.values) == 321
    assert zoo.report.missing + zoo.report.unexpected + zoo.report.mismatched == ()
    state = zoo.model.state_dict()
    for own, theirs in {  # not by our own table of names
        "backbone.bn1.running_var": "backbone.bn1.moving_variance",
        "backbone.layer2.0.conv2.weight": "backbone.layer2.0.defconv.conv.weight",
        "backbone.layer4.2.conv2.mask.weight": "backbone.layer4.2.defconv.m_conv.weight",
        "backbone.layer3.0.downsample.1.bias": "backbone.layer3.0.bn_down_sample.beta",
        "neck.outer.3.bias": "fpn_ncek.fpn_convs_list.3.bias",
        "rpn.deltas.weight": "rpn_with_loss.rpn_convs_list.0.rpn_reg.weight",
    }.items():
        np.testing.assert_array_equal(state[own].numpy(), zoo.values[theirs], own)
    for own, theirs in {"fc1": "shared_fc_0", "fc2": "shared_fc_1", "classes": "cls_scores"}.items():
        np.testing.assert_array_equal(state[f"head.{own}.weight"].numpy(), zoo.values[f"rcnn.{theirs}.weight"].T)


def test_zoo_checkpoint_round_trip(zoo: Loaded, tmp_path: Path) -> None:
    mindspore.write(tmp_path / "b.ckpt", zoo.model, zoo.settings)
    written = dict(mindspore.entries(tmp_path / "b.ckpt"))
    (tmp_path / "b.ckpt").unlink()
    assert written.keys() == zoo.values.keys()
    assert all(np.array_equal(written[name].numpy(), zoo.values[name]) for name in zoo.values)


@torch.no_grad()
def test_backbone_and_pyramid_match_the_zoo(zoo: Loaded) -> None:
    oracle = np.load(FOLDER / "forward_192x320.npz")
    maps = zoo.model.backbone(torch.from_numpy(mindspore_input(oracle)))
    levels = zoo.model.neck(maps)
    for name, ours in zip(("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6"), (*maps, *levels), strict=True):
        assert_close(oracle, name, ours)


def nearest(found: Array, wanted: Array) -> Array:
    """Of each row of `wanted`, the distance of the nearest row of `found`: equal scores may swap places."""
    return np.abs(found[:, None] - wanted[None]).max(-1).min(0)


def _count(found: Detections, settings: NMSConfig, threshold: float, by: float) -> int:
    """Detections that stay where both thresholds are stricter by `by`: of 2366, one score lies on the threshold."""
    stricter = settings.model_copy(update={"iou": settings.iou - by})
    return len(suppress([found[found.scores > threshold + by]], stricter)[0])


@torch.inference_mode()
@pytest.mark.parametrize("size", ["192x320", pytest.param("768x1280", marks=pytest.mark.slow)])
def test_full_forward_pass_matches_the_zoo(zoo: Loaded, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalized image to detections; the zoo divides boxes by the image's scale before it suppresses."""
    oracle, model = np.load(FOLDER / f"forward_{size}.npz"), zoo.model
    images = torch.from_numpy(mindspore_input(oracle)) * model.std + model.mean
    maps, given = model.pyramid(images), torch.from_numpy(oracle["proposals"][None, :, :4])
    objectness, boxes = model.rpn(maps)
    first = 0
    for level, one in enumerate(maps):
        many = 3 * one.shape[2] * one.shape[3]
        for name, stage in (("rpn_cls", objectness), ("rpn_reg", boxes)):
            part = stage[:, first : first + many].reshape(1, *one.shape[2:], -1).permute(0, 3, 1, 2)
            assert_close(oracle, f"{name}.{level}", part)
        first += many
    features = model.features(maps, given)
    assert_close(oracle, "roi_feats", features[0])
    logits, deltas = model.head(features)
    assert_close(oracle, "cls_logits", logits[0, ::8])
    assert_close(oracle, "reg_logits", deltas[0])

    def remembered(again: Tensor, extents: Tensor | None) -> tuple[Tensor, ...]:
        """The maps of the same image, which take seconds."""
        assert extents is None
        torch.testing.assert_close(again, images)
        return maps

    monkeypatch.setattr(model, "pyramid", remembered)
    raw = model(images)
    assert raw[3].sum() == oracle["proposal_mask"].sum() == 1000
    assert nearest(raw[0][0].numpy(), oracle["proposals"][:, :4]).max() <= 0.01  # px
    height, width, *scale = oracle["img_metas"][0].tolist()
    canvas = images.shape[2], images.shape[3]
    frame = Frame(0, "", (int(height), int(width)), canvas, (scale[0], scale[1]))
    chosen = recipe.load("faster_rcnn_r50_dcn_coco")
    every = chosen.evaluate.nms.model_copy(update={"max_detections": 10000})
    (decoded,) = model.decode(raw, chosen.evaluate.threshold / 2)
    cut = replace(decoded, boxes=frame.to_original(clip(decoded.boxes, canvas)))
    fewest, most = (_count(cut, every, chosen.evaluate.threshold, by) for by in (1e-5, -1e-5))
    assert fewest <= oracle["detections.total"] <= most <= fewest + 10
    predictor = Predictor(model, chosen)
    (found,) = detect(predictor, images * 255, [frame], chosen.evaluate.threshold, every)
    best, labels = oracle["detections.boxes_scores"], oracle["detections.label0"]
    area = (best[:, 2:4] - best[:, :2]).min(1) > 0  # what lies wholly on the edge we leave out
    assert area.sum() > 90
    ours = np.column_stack((found.boxes, found.scores * 100, found.labels * 1000))
    theirs = np.column_stack((best * [1, 1, 1, 1, 100], labels * 1000))
    assert nearest(ours, theirs[area]).max() <= 0.02  # px, and per cent of score


@torch.no_grad()
def test_losses_match_the_zoo(zoo: Loaded) -> None:
    """With the first candidates drawn, as in the engine's run, instead of random ones.

    The `classes` term cannot be met exactly. MindSpore's kernel skips a box without width on the left edge and leaves
    its features as the memory happened to be (zeros in the forward runs). 30 of the 512 samples are such boxes; what
    they must have cost there is a plausible cross entropy.
    """
    oracle, model = np.load(FOLDER / "train_targets_losses.npz"), zoo.model
    images = torch.from_numpy(mindspore_input(oracle)) * model.std + model.mean
    labels = torch.from_numpy(oracle["gt_labels"]).long()
    labels = torch.where(labels > 0, labels - 1, -1)
    batch = Batch(images, torch.from_numpy(oracle["gt_bboxes"]), labels, torch.zeros_like(labels, dtype=torch.bool), ())
    maps = model.pyramid(images)
    found, grid, objectness, deltas = model.propose(maps, images, 2000, 2000)
    first = model.rpn_targets(batch, grid, torch.arange(len(grid), 0, -1.0)[None])
    second = model.roi_targets(batch, found, torch.arange(2008, 0, -1.0)[None])
    logits, class_deltas = model.head(model.features(maps, second.boxes))
    terms = model.rpn_loss(first, objectness, deltas) | model.roi_loss(second, logits, class_deltas, labels)
    for ours, theirs in {"rpn_objectness": "rpn_cls", "rpn_boxes": "rpn_reg", "boxes": "rcnn_reg"}.items():
        assert float(terms[ours]) == pytest.approx(float(oracle[f"loss.{theirs}_loss"]), rel=1e-5), ours
    lost = (second.sampled & (second.boxes[..., 2] < 0.001))[0]
    blank = torch.logsumexp(logits[0, lost], 1) - logits[0, lost, 0]
    assert lost.sum() == 30
    rest = (float(oracle["loss.rcnn_cls_loss"]) - float(terms["classes"])) * 512 + float(blank.sum())
    assert 2 < rest / 30 < 5  # of zeros: 4.2


def assert_close(oracle: Any, name: str, ours: Tensor) -> None:
    """Within 1e-3 of the largest value."""
    expected, found = sampled_pair(oracle, name, ours.numpy())
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max(), name


@pytest.fixture(scope="module")
def classifier(torchvision_ops: ModuleType) -> dict[str, Tensor]:
    """The state dict of torchvision's ResNet-50; timm's has the same names."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    randomise_norms(model)
    state: dict[str, Tensor] = model.state_dict()
    return state


def zoo_classifier_name(name: str) -> str:
    """As the zoo's ResNet calls it (research/cv/faster_rcnn_dcn/src/FasterRcnn and official/cv/ResNet)."""
    name = name.replace("downsample", "down_sample_layer").replace("fc.", "end_point.")
    name = name.replace("running_mean", "moving_mean").replace("running_var", "moving_variance")
    if re.search(r"bn\d\.|layer\.1\.", name):
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return name


@pytest.fixture(scope="module", params=["torchvision.pth", "timm.safetensors", "zoo.ckpt", "converted.ckpt"])
def classifier_file(
    request: pytest.FixtureRequest, classifier: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """One classifier under the names of four origins."""
    file: Path = tmp_path_factory.mktemp("classifier") / request.param
    if file.suffix == ".pth":
        torch.save(classifier, file)
    elif file.suffix == ".safetensors":
        safetensors.torch.save_file(classifier, file)
    else:
        prefix = "backbone." if file.stem == "converted" else ""
        with file.open("wb") as stream:
            for name, tensor in classifier.items():
                if not name.endswith("num_batches_tracked"):
                    stream.write(pack({prefix + zoo_classifier_name(name): tensor.numpy()}))
    yield file
    file.unlink()


@pytest.mark.parametrize("choice", ["plain", "filled", "not-filled"])
def test_backbone_from_a_classifier(classifier_file: Path, classifier: dict[str, Tensor], choice: str) -> None:
    """Everything but the classifier's last layer arrives; conv2 of deformable layers by choice, and reported."""
    deform = "none" if choice == "plain" else "zoo"
    chosen = settings(deform=deform, conv2_fills_deform=choice == "filled")
    model = BackboneOnly(chosen.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = weights.load(model, classifier_file, chosen, transfer=True)
    left = {name for name in classifier if name.startswith("fc.")}
    if choice == "not-filled":
        left |= {name for name in classifier if re.match(r"layer[2-4]\.\d+\.conv2", name)}
        assert len(left) == 2 + 13
    for name, tensor in classifier.items():
        own = f"backbone.{name}"
        strength = 2 if choice == "filled" and re.match(r"layer[2-4]\.\d+\.conv2", name) else 1
        if own in before and not name.endswith("num_batches_tracked"):
            assert torch.equal(model.state_dict()[own], before[own] if name in left else strength * tensor), name
    from_the_zoo = classifier_file.suffix == ".ckpt"
    prefix = "backbone." if classifier_file.stem == "converted" else ""
    reported = {prefix + zoo_classifier_name(name) for name in left} if from_the_zoo else left
    assert set(report.unexpected) == reported
    fresh = {name for name in before if re.search(r"conv2\.(offset|mask)", name)}
    fresh |= {f"backbone.{name}" for name in left if not name.startswith("fc.")}
    assert set(report.missing) == fresh
    with pytest.raises(InputError, match="--transfer to"):
        weights.load(model, classifier_file, chosen)


@torch.no_grad()
def test_filled_deformable_layers_match_standard_convolutions(classifier: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(classifier, tmp_path / "a.pth")
    image, maps = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)), []
    for deform in ("none", "standard"):
        chosen = settings(deform=deform, padding="symmetric")
        model = BackboneOnly(chosen.model).eval()
        weights.load(model, tmp_path / "a.pth", chosen, transfer=True)
        maps.append(model.backbone(image))
    for plain, deformable in zip(*maps, strict=True):
        torch.testing.assert_close(deformable, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))


@pytest.fixture(scope="module")
def detector(torchvision_ops: ModuleType) -> Any:
    """torchvision's Faster R-CNN of 91 classes."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    randomise_norms(model)
    return model.eval()


@pytest.fixture(scope="module")
def detector_file(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("detector") / "a.pth"
    torch.save(detector.state_dict(), file)
    yield file
    file.unlink()


@torch.no_grad()
def test_coco_detector_of_torchvision_loads_completely(detector: Any, detector_file: Path) -> None:
    """It loads wholly; each class keeps its own row; the pyramid is the same."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    chosen = settings(**PLAIN)
    model = make(chosen)
    report = weights.load(model, detector_file, chosen)
    assert report.missing + report.unexpected + report.mismatched == ()
    theirs = detector.state_dict()
    known = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    names = (Path(recipe.__file__).parents[1] / "recipes" / "names" / "coco.txt").read_text().splitlines()
    for part, numbers in (("classes", "cls_score"), ("deltas", "bbox_pred")):
        for leaf in ("weight", "bias"):
            ours = model.state_dict()[f"head.{part}.{leaf}"].unflatten(0, (81, -1))
            other = theirs[f"roi_heads.box_predictor.{numbers}.{leaf}"].unflatten(0, (91, -1))
            for row, name in enumerate(["__background__", *names]):
                assert torch.equal(ours[row], other[known.index(name)]), name
    images = torch.randn(1, 3, 64, 96)
    expected = detector.backbone(images).values()
    for found, other in zip(model.neck(model.backbone(images)), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    with torch.device("meta"):
        whole = make(settings(classes=90, **PLAIN))
        others = make(settings(classes=7, **PLAIN))
    assert weights.load(whole, detector_file, settings(classes=90, **PLAIN)).fresh == ()
    report = weights.load(others, detector_file, settings(classes=7, **PLAIN), transfer=True)
    assert set(report.fresh) == {f"head.{part}.{leaf}" for part in ("classes", "deltas") for leaf in ("weight", "bias")}


def test_older_torchvision_names(detector: Any) -> None:
    """Before its 0.13, the pyramid's and the RPN's convolutions were not wrapped (torchvision/ops/feature_pyramid_
    network.py and models/detection/rpn.py, `_load_from_state_dict`, still read those names)."""
    new = {name: tensor.to("meta") for name, tensor in detector.state_dict().items()}
    old = {re.sub(r"(_blocks\.\d|rpn\.head\.conv)\.0(\.0)?\.", r"\1.", name): tensor for name, tensor in new.items()}
    assert len(set(old) - set(new)) == 8 * 2 + 2
    chosen = settings(classes=90, **PLAIN).model
    assert isinstance(chosen, Config)
    with torch.device("meta"):
        own = build(chosen).state_dict()
    for theirs in (new, old):
        found = Names(chosen).translate(theirs)
        assert found.keys() == own.keys() - {"mean", "std"}


def test_own_checkpoints_are_not_translated(tmp_path: Path) -> None:
    """Our own file of 90 classes is not taken for one by COCO's ids."""
    chosen = settings()
    with torch.device("meta"):
        model = make(chosen)
    tensors = {"head.classes.weight": torch.zeros(91, 1024), "head.fc2.bias": torch.zeros(1024)}
    torch.save(tensors, tmp_path / "a.pt")
    report = weights.load(model, tmp_path / "a.pt", chosen, transfer=True)
    assert report.matched == ("head.fc2.bias",)
    assert report.mismatched == ("head.classes.weight",)


def test_torchvision_names_are_translated_only_for_faster_rcnn(tmp_path: Path) -> None:
    """Another model's names translate none of torchvision's: nothing fits."""
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "a.pt")
    yolo = recipe.load("yolov3_coco_416")
    with torch.device("meta"):
        model = models.build(yolo.model)
    with pytest.raises(InputError, match="none of its tensors fits"):
        weights.load(model, tmp_path / "a.pt", yolo, transfer=True)
