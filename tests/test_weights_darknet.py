"""Darknet's .weights: the layout of the file, cuts, other classes, and everything that may be wrong with one."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError, one_line
from boxwright.recipe import Recipe
from boxwright.weights import darknet, mindspore

SHARED = Path(__file__).parents[2] / "shared" / "weights"
HEADER = struct.pack("<iiiQ", 0, 2, 5, 0)
trained = pytest.mark.skipif(not SHARED.is_dir(), reason="no trained weights: ../shared/weights is absent")


class Toy(nn.Module):
    """Two convolutions: with batch norm (2 outputs, 3 inputs, 1 x 1), with bias (1 output, 2 inputs, 1 x 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.second = nn.Conv2d(2, 1, 1)


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    """YOLOv3-tiny with an eighth of the channels and the same layers."""
    return recipe.load("yolov3_tiny_coco_416_darknet", {"model.width": 0.125})


def build(settings: Recipe) -> nn.Module:
    model = models.build(settings.model)
    assert isinstance(model, nn.Module)
    return model


def with_classes(settings: Recipe, classes: int) -> Recipe:
    return settings.with_names([f"class{k}" for k in range(classes)])


def write_numbers(path: Path, count: int) -> Path:
    path.write_bytes(HEADER + np.full(count, 0.5, "<f4").tobytes())
    return path


def test_order_of_numbers_matches_darknet(tmp_path: Path) -> None:
    """Hand-worked: biases, scales, means, variances, weights; then biases, weights. 14 + 3 numbers."""
    model = Toy()
    with torch.no_grad():
        model.first[1].bias.copy_(torch.tensor([1.0, 2.0]))
        model.first[1].weight.copy_(torch.tensor([3.0, 4.0]))
        model.first[1].running_mean.copy_(torch.tensor([5.0, 6.0]))
        model.first[1].running_var.copy_(torch.tensor([7.0, 8.0]))
        model.first[0].weight.copy_(torch.arange(9.0, 15.0).view(2, 3, 1, 1))
        model.second.bias.fill_(15.0)
        model.second.weight.copy_(torch.tensor([16.0, 17.0]).view(1, 2, 1, 1))
    darknet.write(tmp_path / "toy.weights", model)
    assert (tmp_path / "toy.weights").read_bytes() == HEADER + np.arange(1, 18, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("header", "raw"),
    [
        (darknet.Header(0, 1, 0, 204800000), struct.pack("<iiiI", 0, 1, 0, 204800000)),
        (darknet.Header(0, 2, 0, 32013312), struct.pack("<iiiQ", 0, 2, 0, 32013312)),
        (darknet.Header(1, 0, 0, 2**40), struct.pack("<iiiQ", 1, 0, 0, 2**40)),
    ],
)
def test_32_and_64_bit_headers(tmp_path: Path, tiny: Recipe, header: darknet.Header, raw: bytes) -> None:
    model, file = build(tiny), tmp_path / "a.weights"
    darknet.write(file, model, header=header)
    assert file.read_bytes().startswith(raw)
    with file.open("rb") as stream:
        assert darknet.read_header(stream, file) == header
    other = build(tiny)
    weights.load(other, file, tiny)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["yolov3_coco_416", "yolov3_coco_416_darknet", "yolov3_640_coco"])
def test_yolov3_has_62_001_757_numbers(name: str) -> None:
    """The published yolov3.weights has 248,007,048 bytes, darknet53.conv.74 has 162,482,580; headers of 20."""
    settings = recipe.load(name)
    with torch.device("meta"):
        plan = darknet.layers(build(settings))
    assert len(plan) == 75
    assert darknet.count(plan) == (248007048 - 20) // 4 == 62001757
    assert darknet.count(plan[:52]) == (162482580 - 20) // 4


def test_different_number_of_classes_is_an_error(tmp_path: Path, tiny: Recipe) -> None:
    three, file = with_classes(tiny, 3), tmp_path / "x.weights"
    darknet.write(file, build(tiny))
    with pytest.raises(InputError, match="that is 80 classes against 3; --set model") as error:
        weights.load(build(three), file, three)
    assert "\n" not in str(error.value)


def test_transfer_from_a_different_number_of_classes(tmp_path: Path, tiny: Recipe) -> None:
    three, source, file = with_classes(tiny, 3), build(tiny), tmp_path / "x.weights"
    darknet.write(file, source)
    model = build(three)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = weights.load(model, file, three, transfer=True)
    heads = {name for name, tensor in before.items() if tensor.shape != source.state_dict()[name].shape}
    assert len(heads) == 4
    assert set(report.mismatched) == heads
    assert not report.missing
    assert not report.unexpected
    for name, tensor in model.state_dict().items():
        expected = before[name] if name in heads else source.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_partial_backbone_file(tmp_path: Path, tiny: Recipe) -> None:
    """yolov3-tiny.conv.15 ends before the first head; what it lacks is listed."""
    source, model, file = build(tiny), build(tiny), tmp_path / "yolov3-tiny.conv.15"
    darknet.write(file, source, convolutions=9)
    with pytest.raises(InputError, match="a cut with 9 of 13 convolutions"):
        weights.load(model, file, tiny)
    report = weights.load(model, file, tiny, transfer=True)
    kept = {name for layer in darknet.layers(model)[:9] for name, _ in layer}
    assert set(report.matched) == kept
    assert set(report.missing) == {name for layer in darknet.layers(model)[9:] for name, _ in layer}
    assert str(len(report.missing)) in str(report)
    for name in kept:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name]), name


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize("missing", [1, 7, 30_000])
def test_truncated_file_error_shows_found_and_needed_counts(
    tmp_path: Path, tiny: Recipe, missing: int, transfer: bool
) -> None:
    model = build(tiny)
    needed = darknet.count(darknet.layers(model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = write_numbers(tmp_path / "x.weights", needed - missing)
    with pytest.raises(InputError, match=f"holds {needed - missing:,} numbers, the model takes {needed:,}; it ends"):
        weights.load(model, file, tiny, transfer=transfer)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("transfer", [False, True])
def test_too_many_numbers_is_an_error(tmp_path: Path, tiny: Recipe, transfer: bool) -> None:
    model = build(tiny)
    file = write_numbers(tmp_path / "x.weights", darknet.count(darknet.layers(model)) + 5)
    with pytest.raises(InputError, match="5 are left over"):
        weights.load(model, file, tiny, transfer=transfer)


def test_complete_classifier_file_is_recognized(tmp_path: Path) -> None:
    """darknet53.weights (41,645,640 numbers) goes on with a classifier where a detector has a convolution."""
    settings = recipe.load("yolov3_coco_416_darknet")
    with torch.device("meta"):
        model = build(settings)
    file = tmp_path / "darknet53.weights"
    with file.open("wb") as stream:
        stream.write(HEADER)
        stream.truncate(166582580)  # sparse: takes no space
    with pytest.raises(InputError, match=r"it is a classifier of 1000 classes \(--transfer loads its backbone\)"):
        weights.load(model, file, settings)
    with file.open("r+b") as stream:
        stream.truncate(166582580 - 4)
    with pytest.raises(InputError, match="it ends inside convolution 54 of 75"):
        weights.load(model, file, settings, transfer=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\0\0\0\0\2\0", "truncated"),
        (struct.pack("<iii", 0, 2, 0) + b"\0\0\0\0", "ends inside its header"),
        (b"this is a text, and a long one at that", "not a Darknet weights file"),
        (HEADER, "holds 0 numbers.*ends after its header, so it is truncated"),
        (HEADER + b"\0\0\0\0\0\0", "ends inside a number"),
    ],
)
def test_invalid_files_are_rejected(tmp_path: Path, tiny: Recipe, content: bytes, message: str) -> None:
    file = tmp_path / "x.weights"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        weights.load(build(tiny), file, tiny)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_non_finite_numbers_are_rejected(tmp_path: Path, tiny: Recipe) -> None:
    source, file = build(tiny), tmp_path / "x.weights"
    next(source.parameters()).data.view(-1)[3] = float("nan")
    darknet.write(file, source)
    with pytest.raises(InputError, match="not finite"):
        weights.load(build(tiny), file, tiny)


@pytest.mark.slow
@trained
def test_published_weights_round_trip_byte_for_byte(tmp_path: Path) -> None:
    settings, file = recipe.load("yolov3_tiny_coco_416_darknet"), SHARED / "yolov3-tiny.weights"
    model = build(settings)
    report = weights.load(model, file, settings)
    assert len(report.matched) == 13 * 2 + 11 * 3  # 11 of 13 convolutions have batch norm
    assert not report.fresh
    with file.open("rb") as stream:
        header = darknet.read_header(stream, file)
    assert header == darknet.Header(0, 2, 0, 32013312)
    darknet.write(tmp_path / "again.weights", model, header=header)
    assert (tmp_path / "again.weights").read_bytes() == file.read_bytes()
    darknet.write(tmp_path / "plain.weights", model)
    assert (tmp_path / "plain.weights").read_bytes() == HEADER + file.read_bytes()[20:]


@trained
def test_old_header_of_published_weights() -> None:
    """tiny.weights is version 0.1.0: 16 bytes of header."""
    file = SHARED / "tiny.weights"
    with file.open("rb") as stream:
        assert darknet.read_header(stream, file) == darknet.Header(0, 1, 0, 204800000)
        assert stream.tell() == 16


@pytest.mark.parametrize(
    ("name", "recipe_name"),
    [
        ("a.weights", "yolov3_coco_416"),
        ("a.ckpt", "yolov3_coco_416_darknet"),
        ("a.weights", "yolov4_dota_608"),
        ("a.ckpt", "yolov4_coco_608_darknet"),
    ],
)
def test_darknet_and_zoo_weights_are_not_interchangeable(
    name: str, recipe_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names and numbers would fit. Reading 250 MB is left out here."""
    (tmp_path / name).write_bytes(bytes(20))
    monkeypatch.setattr(darknet, "read", lambda *_, **__: {})
    monkeypatch.setattr(mindspore, "read", lambda *_, **__: ({}, []))
    with pytest.raises(InputError, match="such files belong to networks with"):
        weights.load(torch.nn.Identity(), tmp_path / name, recipe.load(recipe_name))


@pytest.mark.parametrize("found", [60_000_000, 61_234_567, 64_000_000])
def test_error_messages_are_not_truncated(found: int) -> None:
    """They are not cut, also for large networks and long names."""
    plan = [[(name, torch.Size([size]))] for name, size in (("a", 60_000_000), ("b", 2_359_296))]
    line = f"{'x' * 32}.weights holds {found:,} numbers, the model takes 62,359,296"
    with pytest.raises(InputError) as error:
        darknet._cut(found, plan, line, transfer=False)
    assert one_line(str(error.value)) == str(error.value)
