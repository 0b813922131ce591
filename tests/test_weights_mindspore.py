"""MindSpore's .ckpt: files written by MindSpore and by protobuf itself, names, prefixes, and broken files.

`oracles/mindspore_ckpt` was written by mindspore.save_checkpoint (2.7.0): plain.ckpt, crc.ckpt (crc_check=True), and
sliced.ckpt (slice size set to 1 KiB, so that its one tensor lies in three pieces).
"""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.weights import darknet, mindspore
from boxwright.weights.identify import the_recipe_of
from boxwright.weights.names.yolov3 import Names
from test_cli import status_of

WRITTEN = Path(__file__).parent / "oracles" / "mindspore_ckpt"


def checkpoint_class() -> Any:
    """The message `Checkpoint` as mindspore/ccsrc/utils/checkpoint.proto defines it, made by protobuf."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="checkpoint.proto", syntax="proto2")
    tensor = file.message_type.add(name="TensorProto")
    tensor.field.add(name="dims", number=1, label=field.LABEL_REPEATED, type=field.TYPE_INT64)
    tensor.field.add(name="tensor_type", number=2, label=field.LABEL_REQUIRED, type=field.TYPE_STRING)
    tensor.field.add(name="tensor_content", number=3, label=field.LABEL_REQUIRED, type=field.TYPE_BYTES)
    value = file.message_type.add(name="Value")
    value.field.add(name="tag", number=1, label=field.LABEL_REQUIRED, type=field.TYPE_STRING)
    value.field.add(
        name="tensor", number=2, label=field.LABEL_REQUIRED, type=field.TYPE_MESSAGE, type_name="TensorProto"
    )
    checkpoint = file.message_type.add(name="Checkpoint")
    checkpoint.field.add(name="value", number=1, label=field.LABEL_REPEATED, type=field.TYPE_MESSAGE, type_name="Value")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Checkpoint"))


Checkpoint = checkpoint_class()


def pack(tensors: dict[str, Any], dims: list[int] | None = None, kind: str = "Float32") -> bytes:
    """A checkpoint by protobuf's own encoder; `dims` and `kind` may lie."""
    message = Checkpoint()
    for name, array in tensors.items():
        value = message.value.add(tag=name)
        value.tensor.dims.extend(array.shape if dims is None else dims)
        value.tensor.tensor_type, value.tensor.tensor_content = kind, array.tobytes()
    content: bytes = message.SerializeToString()
    return content


class Part(nn.Module):
    """Stands in for a detector whose names MindSpore knows: two tensors of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(2, 3, 1)
        self.register_buffer("mean", torch.zeros(3, 1, 1))


WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1)
BIAS = np.array([7, 8, 9], np.float32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[Part, Recipe]:
    """A small model under the names of a real one."""
    table = {"out.weight": "head.conv6.weight", "out.bias": "head.conv6.bias"}
    monkeypatch.setattr(Names, "mindspore", lambda self, parameter: table.get(parameter))
    return Part(), recipe.load("yolov3_coco_416")


@pytest.mark.parametrize("name", ["plain.ckpt", "crc.ckpt"])
def test_file_written_by_mindspore(name: str) -> None:
    found = dict(mindspore.entries(WRITTEN / name))
    noise = np.random.default_rng(0).standard_normal((2, 3, 1, 1)).astype(np.float32)
    expected = {
        "yolo_network.conv.weight": torch.from_numpy(noise),
        "half": torch.tensor([[1, -2.5]], dtype=torch.float16),
        "brain": torch.tensor([1, -2.5, 3], dtype=torch.bfloat16),
        "scalar": torch.tensor(3.25),
        "long": torch.tensor([-1, 2**40]),
        "flag": torch.tensor([True, False]),
        "byte": torch.tensor([1, 200], dtype=torch.uint8),
        "double": torch.tensor([1e300], dtype=torch.float64),
    }
    assert found.keys() == expected.keys()  # global_step and moments are left out
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def test_sliced_tensor_written_by_mindspore() -> None:
    ((name, tensor),) = mindspore.entries(WRITTEN / "sliced.ckpt")
    assert name == "big"
    assert torch.equal(tensor, torch.arange(600.0).view(300, 2))


def test_scalar_with_dims_0_of_an_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(pack({"a": np.float32(2.5)}, dims=[0]))
    ((_, tensor),) = mindspore.entries(tmp_path / "a.ckpt")
    assert torch.equal(tensor, torch.tensor(2.5))


def test_writer_matches_protobuf(tmp_path: Path, small: tuple[Part, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = small
    model.out.weight.data = torch.from_numpy(WEIGHT)
    model.out.bias.data = torch.from_numpy(BIAS)
    mindspore.write(tmp_path / "a.ckpt", model, settings, prefix="yolo_network.")
    expected = {"yolo_network.head.conv6.weight": WEIGHT, "yolo_network.head.conv6.bias": BIAS}
    assert (tmp_path / "a.ckpt").read_bytes() == pack(expected)
    monkeypatch.setattr(mindspore, "SLICE", 8)
    mindspore.write(tmp_path / "b.ckpt", model, settings)
    parsed = Checkpoint.FromString((tmp_path / "b.ckpt").read_bytes())
    assert [value.tag for value in parsed.value] == ["head.conv6.weight"] * 3 + ["head.conv6.bias"] * 2
    other = Part()
    weights.load(other, tmp_path / "b.ckpt", settings)
    assert torch.equal(other.out.weight, model.out.weight)
    assert torch.equal(other.out.bias, model.out.bias)


@pytest.mark.parametrize("prefix", ["", "yolo_network.", "ema."])
def test_prefixes_are_stripped_and_optimizer_entries_ignored(
    tmp_path: Path, small: tuple[Part, Recipe], prefix: str
) -> None:
    model, settings = small
    tensors = {
        f"{prefix}head.conv6.bias": BIAS,
        f"{prefix}head.conv6.weight": WEIGHT,
        f"moments.{prefix}head.conv6.weight": 0 * WEIGHT,
        "momentum": BIAS[:1],
        "global_step": BIAS[:1],
        "learning_rate": BIAS,
    }
    file = tmp_path / "a.ckpt"
    file.write_bytes(pack(tensors))
    report = weights.load(model, file, settings)
    assert set(report.matched) == {"out.weight", "out.bias"}
    assert not report.missing
    assert not report.unexpected
    assert torch.equal(model.out.weight, torch.from_numpy(WEIGHT))
    assert torch.equal(model.out.bias, torch.from_numpy(BIAS))


def test_same_tensor_under_two_prefixes_is_an_error(tmp_path: Path, small: tuple[Part, Recipe]) -> None:
    file = tmp_path / "a.ckpt"
    file.write_bytes(pack({"head.conv6.bias": BIAS, "ema.head.conv6.bias": BIAS}))
    with pytest.raises(InputError, match="twice"):
        weights.load(small[0], file, small[1])


def test_leftover_and_missing_entries(tmp_path: Path, small: tuple[Part, Recipe]) -> None:
    model, settings = small
    file = tmp_path / "a.ckpt"
    file.write_bytes(pack({"head.conv6.bias": BIAS, "head.conv7.bias": BIAS}))
    with pytest.raises(InputError, match=r"1 are missing \(out.weight\), 1 have no place in the model \(head.conv7"):
        weights.load(model, file, settings)
    report = weights.load(model, file, settings, transfer=True)
    assert (report.matched, report.missing, report.unexpected) == (("out.bias",), ("out.weight",), ("head.conv7.bias",))


def test_half_precision_is_converted_to_float32(tmp_path: Path, small: tuple[Part, Recipe]) -> None:
    model, settings = small
    file = tmp_path / "a.ckpt"
    halves = {"head.conv6.bias": BIAS.astype(np.float16), "head.conv6.weight": WEIGHT.astype(np.float16)}
    file.write_bytes(pack(halves, kind="Float16"))
    weights.load(model, file, settings)
    assert model.out.bias.dtype == torch.float32
    assert torch.equal(model.out.bias, torch.from_numpy(BIAS))


def test_checksum_detects_damage(tmp_path: Path) -> None:
    content = bytearray((WRITTEN / "crc.ckpt").read_bytes())
    content[60] ^= 1
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        list(mindspore.entries(tmp_path / "a.ckpt"))


HUGE = b"\xff\xff\xff\xff\xff\xff\xff\x7f"  # 2^56 - 1 as a varint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is a text and no checkpoint\n", "not a MindSpore checkpoint|truncated"),
        (b"\x0a" + HUGE + b"abc", "declares 72,057,594,037,927,935 bytes, 3 are left"),
        (b"\x0a\x80", "has no end"),
        (b"\xff" * 30, "has no end"),
        (b"\x10\x01", "holds no parameters"),
        (pack({"a": BIAS})[:-1], "declares"),
        (pack({"a": BIAS}, dims=[2**31, 2**31]), "holds 12 bytes, Float32 of shape"),
        (pack({"a": BIAS}, dims=[-3, -1]), "holds 12 bytes"),
        (pack({"a": BIAS}, dims=[2**62, 4]), "holds 12 bytes"),
        (pack({"a": BIAS[:0]}, dims=[0, 2**62]), "holds 0 bytes"),
        (pack({"a": BIAS}, kind="Float33"), "Float33"),
        (pack({"a": BIAS}) + pack({"a": BIAS}, kind="Int32"), "disagree"),
        (b"\x0a\x03\x0a\x01a", "a: holds no tensor"),
        (b"\x0a\x05\x0a\x01\xff\x12\x00", "not text"),
        (pack({"a\nb": BIAS}), "not text"),
    ],
)
def test_invalid_files_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(content)
    settings = recipe.load("yolov3_coco_416")
    with torch.device("meta"):
        model = models.build(settings.model)
    with pytest.raises(InputError, match=message) as error:
        weights.load(model, file, settings)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncation_at_any_byte_is_rejected_or_loses_tensors(tmp_path: Path) -> None:
    """Cut at any byte: an InputError, or fewer whole tensors; nothing else."""
    whole = (WRITTEN / "plain.ckpt").read_bytes()
    number = len(list(mindspore.entries(WRITTEN / "plain.ckpt")))
    file = tmp_path / "x.ckpt"
    for end in range(1, len(whole)):
        file.write_bytes(whole[:end])
        try:
            assert len(list(mindspore.entries(file))) < number
        except InputError:
            continue


def test_checksum_trailer_matches_mindspore() -> None:
    plain, checked = ((WRITTEN / name).read_bytes() for name in ("plain.ckpt", "crc.ckpt"))
    assert checked == plain + b"crc_num" + b"\0" * 6 + struct.pack(">I", zlib.crc32(plain))


@pytest.mark.parametrize(("name", "number"), [("yolov3_coco_416", 366), ("yolov3_640_coco", 366)])
def test_mindspore_names_are_unique(name: str, number: int) -> None:
    """366 = 72 convolutions with batch norm x 5 + 3 with bias x 2, as the original networks hold."""
    settings = recipe.load(name)
    with torch.device("meta"):
        model = models.build(settings.model)
    assert len(mindspore.table(model, settings)) == number


def test_network_without_mindspore_names_is_an_error(tmp_path: Path) -> None:
    settings = recipe.load("yolov3_tiny_coco_416_darknet", {"model.width": 0.125})
    model = models.build(settings.model)
    with pytest.raises(InputError, match="no such network"):
        mindspore.write(tmp_path / "x.ckpt", model, settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "prefix", "classes"),
    [
        ("tiny_darknet_imagenet_224", "network.", 1000),
        ("tiny_darknet_cifar10", "", 10),
        pytest.param("yolov3_coco_416", "yolo_network.", 80, marks=pytest.mark.slow),
        pytest.param("yolov3_640_coco", "ema.", 3, marks=pytest.mark.slow),
        pytest.param("faster_rcnn_r50_dcn_coco", "", 3, marks=pytest.mark.slow),
    ],
)
def test_recipe_is_detected_from_tensors(tmp_path: Path, name: str, prefix: str, classes: int) -> None:
    """By tensors alone, also of a training cell, and of other numbers of classes than the recipe has."""
    shipped = recipe.load(name)
    chosen = shipped.with_overrides(
        {} if classes == shipped.model.classes else {"model.classes": classes, "data.names": []}
    )
    mindspore.write(tmp_path / "a.ckpt", models.build(chosen.model), chosen, prefix=prefix)
    found, what = the_recipe_of(tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").unlink()
    assert (found.name, found.model) == (name, chosen.model)
    assert what.startswith("a checkpoint of MindSpore")


@pytest.mark.slow
def test_ambiguous_recipe_is_an_error(tmp_path: Path) -> None:
    chosen = recipe.load("tiny_darknet_cifar10", {"model.classes": 3, "data.names": []})
    mindspore.write(tmp_path / "a.ckpt", models.build(chosen.model), chosen)
    words = "a checkpoint of MindSpore of 3 classes; fits tiny_darknet_cifar10, tiny_darknet_imagenet_224; name the one"
    with pytest.raises(InputError, match=words):
        the_recipe_of(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("name", "suffix", "needed"),
    [("tiny_darknet_imagenet_224", "ckpt", "model.classes=N"), ("tiny_darknet_imagenet_224_darknet", "weights", "=7")],
)
def test_import_uses_the_number_of_classes_of_the_file(
    tmp_path: Path, name: str, suffix: str, needed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a recipe is named, unless --set says how many; then the message says what to set."""
    chosen = recipe.load(name, {"model.classes": 7, "data.names": []})
    file, out = tmp_path / f"a.{suffix}", tmp_path / "a.safetensors"
    if suffix == "ckpt":
        mindspore.write(file, models.build(chosen.model), chosen)
    else:
        darknet.write(file, models.build(chosen.model))
    arguments = ("import", str(file), "--recipe", name, "-o", str(out))
    other = ("--set", "model.classes=9", "--set", "data.names=[]")
    assert status_of(*arguments, *other) == 2
    line = capsys.readouterr().err
    assert "...." not in line
    assert f"{needed} --set 'data.names=[]', or --transfer" in line
    assert status_of(*arguments) == 0
    stored = weights.stored_recipe(out)
    assert stored is not None
    assert stored.model.classes == 7


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [
        ("ckpt", lambda content: content[:-3], "truncated"),
        ("ckpt", lambda content: content.replace(b"Float32", b"Float99", 1), "holds Float99"),
        ("weights", lambda content: content[:-3], "ends inside a number"),
        ("weights", lambda content: b"\xff" * 4 + content, "not a Darknet weights file"),
        ("weights", lambda content: content[:-4], "fits no shipped recipe .* truncated"),
    ],
)
def test_damaged_file_is_not_reported_as_unknown_network(
    suffix: str, change: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    chosen, file = recipe.load("tiny_darknet_cifar10"), tmp_path / f"a.{suffix}"
    if suffix == "ckpt":
        mindspore.write(file, models.build(chosen.model), chosen)
    else:
        darknet.write(file, models.build(chosen.model))
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=words):
        the_recipe_of(file)
