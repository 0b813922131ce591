"""DarkNet-53 and CSPDarkNet-53 as classifiers, and their way into the detectors: Darknet's files, the MindSpore zoo's,
timm's, and our own runs.

Bounds as in `test_weights_oracles.py`: outputs agree to 1e-4 of their largest value.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import oracle_weights
from boxwright import recipe, weights
from boxwright.errors import InputError
from boxwright.weights import checkpoint, darknet, mindspore
from oracle_weights import ORACLES
from test_weights_oracles import assert_close, build, run, write_ckpt

pytestmark = pytest.mark.slow

DARKNET = ORACLES / "darknet"
RECIPE = {"darknet53": "darknet53_imagenet_256_darknet", "csdarknet53-omega": "cspdarknet53_imagenet_256_darknet"}
DETECTOR = {"darknet53": "yolov3_coco_416", "csdarknet53-omega": "yolov4_coco_608_darknet"}
TIMM = {"darknet53": "darknet53_imagenet_256", "cspdarknet53": "cspdarknet53_imagenet_256"}
LAYERS = {"darknet53": (74, 76), "csdarknet53-omega": (104, 106)}  # the end of the backbone, the logits


@pytest.fixture(scope="module", params=["darknet53", "csdarknet53-omega"])
def loaded_classifier(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, nn.Module, Path]]:
    """(network, the classifier filled from its .weights file, that file); up to 167 MB, removed after the module."""
    network: str = request.param
    settings = recipe.load(RECIPE[network])
    model = build(settings)
    file = tmp_path_factory.mktemp("darknet") / f"{network}.weights"
    file.write_bytes(oracle_weights.darknet_recipe(DARKNET / f"{network}.cfg"))
    report = weights.load(model, file, settings)
    assert report.missing + report.unexpected + report.mismatched == ()
    yield network, model, file
    file.unlink()


@pytest.mark.parametrize("size", [(256, 256), (192, 288)])
def test_layer_outputs_match_darknet(loaded_classifier: tuple[str, nn.Module, Path], size: tuple[int, int]) -> None:
    network, model, _ = loaded_classifier
    images = oracle_weights.darknet_input(*size, seed=0)
    (*_, end) = run(model.backbone, images)  # type: ignore[union-attr,arg-type]
    (logits,) = run(model, images)
    with np.load(DARKNET / network / f"{size[0]}x{size[1]}_s0.npz") as oracle:
        for layer, ours in zip(LAYERS[network], (end[0], logits[0][:, None, None]), strict=True):
            assert_close(oracle_weights.darknet_pair(oracle, layer, ours))
        probabilities = torch.from_numpy(logits[0]).softmax(0).numpy()
        assert_close((oracle[f"layer_{LAYERS[network][1] + 1}"], probabilities))


def test_written_files_match_darknet_byte_for_byte(
    loaded_classifier: tuple[str, nn.Module, Path], tmp_path: Path
) -> None:
    network, model, file = loaded_classifier
    known = json.loads((DARKNET / "weight_files.json").read_text())[network]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == known["full_sha256"]
    layers = oracle_weights.darknet_layers(DARKNET / f"{network}.cfg")
    cut = sum(layer.number < known["cutoff"] for layer in layers)
    for name, count in (("full", None), ("partial", cut)):
        written = tmp_path / "x.weights"
        darknet.write(written, model, header=darknet.Header(0, 2, 0, 12800), convolutions=count)
        assert hashlib.sha256(written.read_bytes()).hexdigest() == known[f"{name}_sha256"]
        written.unlink()


def test_detector_loads_the_backbone_of_a_classifier(
    loaded_classifier: tuple[str, nn.Module, Path], tmp_path: Path
) -> None:
    """From our run and from Darknet's complete file: the same backbone and nothing else, which the report confirms."""
    network, model, file = loaded_classifier
    run_folder = tmp_path / "run"
    (run_folder / "best").mkdir(parents=True)
    checkpoint.save(run_folder / "best" / "model.safetensors", model, recipe.load(RECIPE[network]))
    settings = recipe.load(DETECTOR[network])
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.")}
    for source in (run_folder, file):
        detector = build(settings)
        with pytest.raises(InputError):
            weights.load(detector, source, settings)
        report = weights.load(detector, source, settings, transfer=True)
        assert not any(name.startswith("backbone.") for name in report.fresh)
        assert set(report.unexpected) == {"classifier.weight", "classifier.bias"}
        state = detector.state_dict()
        assert all(torch.equal(state[name], own[name]) for name in own if "num_batches" not in name)
        assert "stay fresh (" in str(report)
        assert "2 of the file left over (classifier." in str(report)
        assert "backbone" not in str(report)


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says about itself while it is imported
        return pytest.importorskip("timm")


@pytest.fixture(params=["darknet53", "cspdarknet53"])
def from_timm(request: pytest.FixtureRequest, timm: ModuleType) -> tuple[str, nn.Module]:
    """(timm's name, its network with random weights, gains and statistics)."""
    torch.manual_seed(5)
    theirs = timm.create_model(request.param, pretrained=False).eval()
    with torch.no_grad():
        for part in theirs.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.7, 1.1)
                part.bias.normal_(0, 0.1)
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.8, 1.2)
    return request.param, theirs


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_logits_match_timm(from_timm: tuple[str, nn.Module], suffix: str, tmp_path: Path) -> None:
    """Nothing is left over and nothing is fresh; logits are timm's."""
    name, theirs = from_timm
    file = tmp_path / f"{name}{suffix}"
    save_file(theirs.state_dict(), file) if suffix == ".safetensors" else torch.save(theirs.state_dict(), file)
    settings = recipe.load(TIMM[name])
    model = build(settings)
    report = weights.load(model, file, settings)
    assert report.missing + report.unexpected + report.mismatched == ()
    images = torch.from_numpy(oracle_weights.darknet_input(96, 64, seed=1))
    with torch.inference_mode():
        (logits,) = model(images)
        expected = theirs((images - model.mean) / model.std)  # type: ignore[operator]
    assert_close((expected.numpy(), logits.numpy()))
    assert float(expected.std()) > 0.01


def test_detector_loads_the_backbone_of_a_timm_classifier(from_timm: tuple[str, nn.Module], tmp_path: Path) -> None:
    name, theirs = from_timm
    file = tmp_path / f"{name}.safetensors"
    save_file(theirs.state_dict(), file)
    settings = recipe.load({"darknet53": "yolov3_coco_416_darknet", "cspdarknet53": "yolov4_coco_608_darknet"}[name])
    classifier_settings = recipe.load(TIMM[name])
    classifier, detector = build(classifier_settings), build(settings)
    weights.load(classifier, file, classifier_settings)
    report = weights.load(detector, file, settings, transfer=True)
    assert not any(entry.startswith("backbone.") for entry in report.fresh)
    assert set(report.unexpected) == {"classifier.weight", "classifier.bias"}
    ours, state = classifier.state_dict(), detector.state_dict()
    assert all(torch.equal(ours[key], state[key]) for key in ours if key.startswith("backbone."))


@pytest.mark.parametrize("prefix", ["", "network.", "train.network."])
def test_yolov3_loads_the_backbone_of_a_zoo_classifier(prefix: str, tmp_path: Path) -> None:
    """The zoo's classifier, with and without the prefix of a training cell; its last layers have no place here."""
    rows = json.loads((ORACLES / "yolov3_darknet53" / "params_network.json").read_text())["parameters"]
    inner = [row for row in rows if row["name"].startswith("feature_map.backbone.")]
    entries = {prefix + row["name"].removeprefix("feature_map."): row["shape"] for row in inner}
    entries["head.end_point.weight"] = [10, 1024]
    listed = [{"name": name, "shape": shape, "dtype": "Float32"} for name, shape in entries.items()]
    for name in ("params_network.json", "entries.json"):
        (tmp_path / name).write_text(json.dumps({"parameters": listed}))
    # a number of its own for each layer, so that two exchanged ones are seen
    values = {name: np.full(shape, k, np.float32) for k, (name, shape) in enumerate(entries.items())}
    write_ckpt(tmp_path / "a.ckpt", tmp_path / "entries.json", values)
    settings = recipe.load("yolov3_coco_416")
    with torch.device("meta"):
        model = build(settings)
    tensors, unexpected = mindspore.read(tmp_path / "a.ckpt", model, settings, transfer=True)
    (tmp_path / "a.ckpt").unlink()
    assert unexpected == ["head.end_point.weight"]
    theirs = {f"feature_map.{name.removeprefix(prefix)}": value for name, value in values.items()}
    names = {own: foreign for foreign, own in mindspore.table(model, settings).items() if foreign in theirs}
    assert len(names) == 52 * 5
    assert tensors.keys() == names.keys()
    assert all(np.array_equal(tensors[own].numpy(), theirs[foreign]) for own, foreign in names.items())


@pytest.mark.parametrize("content", ["odd", "flat", "empty"])
def test_timm_names_with_invalid_shapes_are_rejected(content: str, tmp_path: Path) -> None:
    """Shapes of no such network are rejected in one line, without a crash."""
    strange = {"odd": torch.ones(3, 3, 1, 1), "flat": torch.ones(3), "empty": torch.ones(0, 0)}[content]
    names = ["conv_exp.conv.weight", "conv_transition.conv.weight", "conv_exp.bn.weight", "conv_down.conv.weight"]
    save_file(
        {f"stages.0.{name}": strange.clone() for name in names} | {"head.fc.weight": strange},
        tmp_path / "x.safetensors",
    )
    settings = recipe.load("cspdarknet53_imagenet_256")
    with pytest.raises(InputError) as error:
        weights.load(build(settings), tmp_path / "x.safetensors", settings, transfer=True)
    assert "\n" not in str(error.value)


def test_imagenet_class_orders(timm: ModuleType) -> None:
    """By WordNet's ids in rising order, as timm and torchvision have the classes, and in Darknet's; the same names."""
    ids = recipe.class_names("imagenet_wordnet_ids")  # in Darknet's order
    darknets, usual = recipe.class_names("imagenet_darknet"), recipe.class_names("imagenet")
    assert len(set(ids)) == len(set(usual)) == len(set(darknets)) == 1000
    assert all(name == name.strip() != "" for name in usual)
    assert [name for _, name in sorted(zip(ids, darknets, strict=True))] == list(usual)
    info = timm.data.ImageNetInfo()
    assert sorted(ids) == info.label_names()
    # and the words fit the ids: timm's words of each class hold ours
    descriptions = [info.index_to_description(k).lower() for k in range(1000)]
    assert [
        name for name, words in zip(usual, descriptions, strict=True) if name.partition(" (")[0].lower() not in words
    ] == []


def test_yolov4_loads_partial_weights(tmp_path: Path) -> None:
    """yolov4.conv.137, of the size that Darknet's `partial` writes: all but the last layers of the three heads."""
    known = json.loads((DARKNET / "weight_files.json").read_text())["yolov4"]
    file = tmp_path / f"yolov4.conv.{known['cutoff']}"
    with file.open("wb") as stream:
        stream.write(darknet.Header(0, 2, 0, 0).to_bytes())
        stream.truncate(known["partial_bytes"])  # sparse: takes no space
    settings = recipe.load("yolov4_coco_608_darknet").with_names(["a", "b"])
    with torch.device("meta"):
        model = build(settings)
    filled = darknet.read(file, model, settings, transfer=True)
    layers = darknet.layers(model)
    cut = sum(layer.number < 137 for layer in oracle_weights.darknet_layers(DARKNET / "yolov4.cfg"))
    assert set(filled) == {name for layer in layers[:cut] for name, _ in layer}
    assert all(name.startswith("head") for layer in layers[cut:][:2] for name, _ in layer)
