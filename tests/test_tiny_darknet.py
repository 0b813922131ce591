"""Tiny-DarkNet against both engines it comes from, through their files, and with Darknet's trained weights.

Bounds as in `test_weights_oracles.py`: outputs agree to 1e-4 of their largest value.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import oracle_weights
from agreement import assert_same_classes, by_label
from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.images.canvas import read_canvas
from boxwright.nn.classifier import ImageClassifier
from boxwright.recipe import Recipe
from boxwright.types import Classes
from boxwright.weights import darknet, mindspore
from oracle_weights import ORACLES, Array
from test_weights_oracles import assert_close, build, every_nth, run, undo_normalization, write_ckpt

ZOO = ORACLES / "tinydarknet"
DARKNET = ORACLES / "darknet"
SHARED = Path(__file__).parents[2] / "shared"
TRAINED = SHARED / "weights" / "tiny.weights"
SIZES = [(224, 224), (200, 232), (256, 192)]


def classifier(settings: Recipe) -> ImageClassifier:
    model = build(settings)
    assert isinstance(model, ImageClassifier)
    return model


def outputs_of(model: nn.Module, kind: type[nn.Module], images: Array) -> list[Array]:
    """What each layer of this kind gives, in the order of the network."""
    found: list[Array] = []
    layers = [part for part in model.modules() if isinstance(part, kind)]
    hooks = [part.register_forward_hook(lambda part, given, out: found.append(out.numpy())) for part in layers]
    run(model, images)
    for hook in hooks:
        hook.remove()
    return found


@pytest.fixture(scope="module")
def from_darknet(tmp_path_factory: pytest.TempPathFactory) -> ImageClassifier:
    settings = recipe.load("tiny_darknet_imagenet_224_darknet")
    model = classifier(settings)
    file = tmp_path_factory.mktemp("darknet") / "tiny.weights"
    file.write_bytes(oracle_weights.darknet_recipe(DARKNET / "tiny.cfg"))
    report = weights.load(model, file, settings)
    assert report.missing + report.unexpected + report.mismatched == ()
    return model


@pytest.mark.parametrize("size", SIZES)
def test_layers_match_darknet(from_darknet: ImageClassifier, size: tuple[int, int]) -> None:
    """At three sizes, one with odd maps: a pool, the end of the last stage, the classes before and after the mean."""
    images = oracle_weights.darknet_input(*size, seed=0)
    convolutions = outputs_of(from_darknet, nn.Conv2d, images)
    activations = outputs_of(from_darknet, nn.LeakyReLU, images)
    (logits,) = run(from_darknet, images)
    with np.load(DARKNET / "tiny" / f"{size[0]}x{size[1]}_s0.npz") as oracle:
        for layer, ours in ((18, activations[-1]), (19, convolutions[-1]), (20, logits[..., None, None])):
            assert_close(oracle_weights.darknet_pair(oracle, layer, ours[0]))
        (best,) = from_darknet.decode((torch.from_numpy(logits),), 1000)
        scores = torch.zeros(1000).index_put((best.labels,), best.scores)
        assert_close((oracle["layer_21"], scores.numpy()))


def test_written_file_equals_the_darknet_file(from_darknet: ImageClassifier, tmp_path: Path) -> None:
    """Through our reader and our writer: the complete file, and the start of it as Darknet's `partial` cuts it."""
    known = json.loads((DARKNET / "weight_files.json").read_text())["tiny"]
    cut = sum(layer.number < known["cutoff"] for layer in oracle_weights.darknet_layers(DARKNET / "tiny.cfg"))
    for name, count in (("full", None), ("partial", cut)):
        file = tmp_path / "tiny.weights"
        darknet.write(file, from_darknet, header=darknet.Header(0, 2, 0, 12800), convolutions=count)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == known[f"{name}_sha256"]


def test_transfer_from_a_truncated_file(from_darknet: ImageClassifier, tmp_path: Path) -> None:
    """tiny.conv.14, and the whole file: all but the last layer."""
    settings = recipe.load("tiny_darknet_imagenet_224_darknet").with_names(["red", "white", "platelet"])
    for name, convolutions, matched in (("tiny.conv.14", 10, 10 * 5), ("tiny.weights", None, 15 * 5)):
        darknet.write(tmp_path / name, from_darknet, convolutions=convolutions)
        model = classifier(settings)
        with pytest.raises(InputError, match="--transfer"):
            weights.load(model, tmp_path / name, settings)
        report = weights.load(model, tmp_path / name, settings, transfer=True)
        assert len(report.matched) == matched
        assert {"last.weight", "last.bias"} <= set(report.fresh)
        assert len(report.fresh) == 15 * 5 + 2 - matched


@pytest.fixture(scope="module")
def zoo_values() -> dict[str, Array]:
    return oracle_weights.mindspore_recipe(ZOO / "params_network.json")


@pytest.fixture(scope="module")
def from_zoo(zoo_values: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> ImageClassifier:
    """Filled from a training checkpoint: with moments and learning_rate, in the order of the optimizer."""
    settings = recipe.load("tiny_darknet_imagenet_224")
    model = classifier(settings)
    file = tmp_path_factory.mktemp("zoo") / "a.ckpt"
    write_ckpt(file, ZOO / "params_train_ckpt.json", zoo_values)
    report = weights.load(model, file, settings)
    assert len(zoo_values) == len(report.matched) == 16 * 5
    assert report.missing + report.unexpected + report.mismatched == ()
    return model


@pytest.mark.parametrize("size", [224, 227])
def test_layers_match_the_zoo(from_zoo: ImageClassifier, size: int) -> None:
    """Each block after its activation, and the logits, for two images; 227 has odd maps."""
    with np.load(ZOO / f"forward_{size}x{size}.npz") as oracle:
        generator = np.random.default_rng(int(oracle["input_seed"]))
        images = generator.standard_normal(oracle["input_shape"]).astype(np.float32)
        example_images = undo_normalization(from_zoo, images).astype(np.float32)
        (logits,) = run(from_zoo, example_images)
        assert_close(oracle_weights.sampled_pair(oracle, "logits", logits))
        blocks = outputs_of(from_zoo, nn.LeakyReLU, example_images)
        assert len(blocks) == 16
        for number, ours in enumerate(blocks, 1):
            assert_close(oracle_weights.sampled_pair(oracle, f"conv{number}", ours))


def test_zoo_checkpoint_round_trip(from_zoo: ImageClassifier, zoo_values: dict[str, Array], tmp_path: Path) -> None:
    mindspore.write(tmp_path / "b.ckpt", from_zoo, recipe.load("tiny_darknet_imagenet_224"))
    written = dict(mindspore.entries(tmp_path / "b.ckpt"))
    assert written.keys() == zoo_values.keys()
    assert all(np.array_equal(written[name].numpy(), zoo_values[name]) for name in written)


def test_zoo_checkpoint_for_cifar_needs_1000_classes(zoo_values: dict[str, Array], tmp_path: Path) -> None:
    """Its network always has 1000 outputs: rejected for ten classes, read with the command in the recipe's header."""
    write_ckpt(tmp_path / "a.ckpt", ZOO / "params_network.json", zoo_values)
    ten = recipe.load("tiny_darknet_cifar10")
    with pytest.raises(InputError, match=r"5 differ \(last.conv.weight is \[1000, 128, 1, 1\]"):
        weights.load(classifier(ten), tmp_path / "a.ckpt", ten)
    all_outputs = ten.with_overrides(["model.classes=1000", "data.names=[]"])
    report = weights.load(classifier(all_outputs), tmp_path / "a.ckpt", all_outputs)
    assert len(report.matched) == 16 * 5


def test_darknet_variant_cannot_be_written_for_the_zoo() -> None:
    settings = recipe.load("tiny_darknet_imagenet_224_darknet")
    with pytest.raises(InputError, match=r"last\.weight has no name in MindSpore"):
        mindspore.table(classifier(settings), settings)


def test_initialization_matches_the_zoo() -> None:
    """A normal distribution of deviation 0.02 cut at 0.04 has 0.8796 of that deviation (truncated at two sigma)."""
    torch.manual_seed(0)
    kernels = torch.cat(
        [p.detach().flatten() for p in classifier(recipe.load("tiny_darknet_imagenet_224")).parameters() if p.ndim == 4]
    )
    assert float(kernels.abs().max()) <= 0.04
    assert float(kernels.std()) == pytest.approx(0.02 * 0.8796, rel=0.005)


@pytest.mark.skipif(not TRAINED.is_file(), reason="needs shared/weights/tiny.weights")
@pytest.mark.parametrize(("preparation", "fit"), [("short_side_crop", "crop"), ("letterbox", "letterbox")])
@pytest.mark.parametrize("image", ["dog.png", "eagle.png", "person.png"])
def test_top5_of_trained_weights_matches_darknet(image: str, preparation: str, fit: str) -> None:
    """From the image to Darknet's five best classes: its order, its names, its probabilities to 2e-3."""
    settings = recipe.load("tiny_darknet_imagenet_224_darknet", {"data.canvas.fit": fit})
    model = classifier(settings)
    weights.load(model, TRAINED, settings)
    file = SHARED / "oracles" / "darknet" / "images" / image
    canvas, _ = read_canvas(str(file), settings.data.canvas, 0)
    images = canvas.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    (logits,) = run(model, images)
    with np.load(DARKNET / "real" / "raw.npz") as oracle:
        key = f"{image}_tiny_{preparation}"
        assert_close(every_nth(oracle[f"{key}_input"], images), 1e-6)
        assert_close((oracle[f"{key}_logits"], logits[0]), 2e-4)
    (best,) = model.decode((torch.from_numpy(logits),), 5)
    expected = json.loads((DARKNET / "real" / "tiny_top5.json").read_text())[image][preparation]
    assert_same_classes(by_label(best), {label: score for label, _, score in expected}, score=2e-3)
    assert [settings.data.names[label] for label, _, _ in expected] == [name for _, name, _ in expected]


def test_top_k_classes_by_hand() -> None:
    """Softmax of log 1, log 2, log 5 is 1/8, 2/8, 5/8; no more than there are."""
    model = classifier(recipe.load("tiny_darknet_cifar10", {"model.classes": 3, "data.names": ["a", "b", "c"]}))
    logits = torch.tensor([[1.0, 5.0, 2.0], [2.0, 1.0, 5.0]]).log()
    first, second = model.decode((logits,), 5)
    assert isinstance(first, Classes)
    assert (first.labels.tolist(), second.labels.tolist()) == ([1, 2, 0], [2, 0, 1])
    assert first.scores.tolist() == pytest.approx([5 / 8, 2 / 8, 1 / 8])
    assert [len(one) for one in model.decode((logits,), 2)] == [2, 2]


def test_classes_with_underflowing_scores_are_ranked_by_logits() -> None:
    model = models.build(recipe.load("tiny_darknet_cifar10").model)
    logits = torch.tensor([[300.0, -50, -40, -60, -30, 0, -20, -90, -10, -80]])
    (best,) = model.decode((logits,), 5)
    assert best.labels.tolist() == [0, 5, 8, 6, 4]
    assert best.scores.tolist() == [1, 0, 0, 0, 0]
