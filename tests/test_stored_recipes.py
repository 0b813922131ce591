"""Names, sizes and settings stored in untrusted files are untrusted as well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from boxwright import config, models, recipe
from boxwright.cli import networks
from boxwright.errors import InputError
from boxwright.export import run as export
from boxwright.models import yolov3
from boxwright.predict import loading
from boxwright.weights import checkpoint, darknet
from boxwright.weights.shapes import without_memory

SMALL = recipe.load(
    "demo", {"model.width": 0.03, "data.canvas.size": [64, 64], "data.names": ["a", "b", "c"], "model.classes": 3}
)
NAMES = {
    "a\nb": "a control character",
    "a\rb": "a control character",
    "\x1b[31mred": "a control character",
    "a\0b": "a control character",
    "a\u2028b": "a line break",
    "\ud800": "a lone surrogate",
    "x" * 201: "201 letters",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items(), ids=range(len(NAMES)))
def test_invalid_class_names_are_rejected(name: str, words: str) -> None:
    assert words in config.class_name_fault(name)
    with pytest.raises(InputError, match=words) as caught:
        recipe.load("demo", {"data.names": [name, "b", "c", "d", "e"], "model.classes": 5})
    assert "data.names" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["car", "x" * 200, "Größe", "自動車", "a\u00a0b", "👩\u200d🚀", "US$", "../a", ""])
def test_valid_class_names_of_all_scripts(name: str) -> None:
    assert config.class_name_fault(name) == ""
    assert recipe.load("demo", {"data.names": [name], "model.classes": 1}).data.names == (name,)


@pytest.mark.parametrize(
    "name", ["../outside/production", "/tmp/x", "a/b", "a\\b", ".hidden", "..", "", "-o", "a b", "a\n", "x" * 65, "a\0"]
)
def test_recipe_names_that_are_not_file_names_are_rejected(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name: needed at most 64 letters"):
        recipe.load("demo", {"name": name})
    with pytest.raises(InputError, match=r"m\.safetensors: stored recipe: name: needed"):
        loading.recipe_of(stored(tmp_path, SMALL.tree() | {"name": name}), None)


def stored(folder: Path, tree: object, tensors: dict[str, Tensor] | None = None) -> Path:
    """A file of weights with an arbitrary recipe."""
    file = folder / "m.safetensors"
    safetensors.torch.save_file(tensors or {"a": torch.zeros(1)}, file, {"recipe": json.dumps(tree)})
    return file


def in_metadata_file(folder: Path, tree: object) -> Path:
    """Darknet weights with a card beside them."""
    card = {"kind": "raw", "precision": "float32", "fingerprint": "", "version": "1", "outputs": [], "recipe": tree}
    file = folder / "m.weights"
    file.write_bytes(bytes(100))
    Path(f"{file}.json").write_text(json.dumps(card))
    return file


def changed(**changes: object) -> dict[str, Any]:
    return config.override(SMALL.tree(), {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize("write", [stored, in_metadata_file])
def test_only_safe_keys_of_a_stored_recipe_are_used(write: Callable[[Path, object], Path], tmp_path: Path) -> None:
    theirs = changed(
        data__workers=400, data__cache="/elsewhere", data__root="/elsewhere", data__max_boxes=1, data__kind="voc",
        data__names=["a", "b", "c"], data__canvas__fill=7, train__epochs=9, train__freeze=["network"],
        evaluate__threshold=0.125, predict__nms__iou=0.375, predict__batch=1_000_000, summary="x",
    )  # fmt: skip
    found = loading.recipe_of(write(tmp_path, theirs), None).tree()
    plain = recipe.load("demo").tree()
    fresh = recipe.Recipe(name="x", model=SMALL.model).tree()
    assert {key: found["data"][key] for key in ("workers", "cache", "root", "max_boxes")} == {
        "workers": 2, "cache": "", "root": "", "max_boxes": None,
    }  # fmt: skip
    assert (found["train"], found["expect"], found["summary"]) == (fresh["train"], fresh["expect"], "")
    assert (found["model"], found["name"]) == (theirs["model"], plain["name"])
    assert (found["data"]["canvas"], found["data"]["names"], found["data"]["kind"]) == (
        theirs["data"]["canvas"], theirs["data"]["names"], "voc",
    )  # fmt: skip
    assert (found["evaluate"]["threshold"], found["predict"]["nms"]["iou"]) == (0.125, 0.375)
    assert found["predict"]["batch"] == 2**23 // 64**2  # the largest batch for canvases of 64 px
    assert found["evaluate"]["batch"] == theirs["evaluate"]["batch"]


BAD = {
    "wokers": ({"data.wokers": 3}, "data.wokers: unknown key (did you mean 'workers'?)"),
    "canvas": ({"data.canvas.size": [16384, 16384]}, "data.canvas.size: found (16384, 16384), at most 16,777,216 px"),
    "short": ({"data.canvas.short_side": 16000}, "data.canvas.short_side: found 16000, at most"),
    "long": ({"data.canvas.long_side": 10**9}, "data.canvas.long_side: input should be less than or equal to"),
    "candidates": ({"predict.nms.pre_nms_top_k": 10**9}, "nms.pre_nms_top_k: input should be less"),
    "classes": ({"model.classes": 30_000_000}, "model.classes: input should be less than or equal to 32768"),
    "width": ({"model.width": 1e300}, "model.width: input should be less than or equal to 100"),
    "number": ({"train.schedule.lr": 10**4000}, "train.schedule.lr: "),
    "step": ({"train.seed": 10**4000}, "train.seed: "),
    "names": ({"data.names": ["a\nb"] * 3}, "data.names.0: a control character"),
}


@pytest.mark.parametrize("write", [stored, in_metadata_file])
@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_invalid_stored_recipes_are_rejected(
    write: Callable[[Path, object], Path], changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    file = write(tmp_path, config.override(SMALL.tree(), changes))
    with pytest.raises(InputError) as caught:
        loading.recipe_of(file, None)
    assert words in str(caught.value)
    assert file.name in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "text", ['{"name": ' + "9" * 5000 + "}", "{", "[" * 100_000, '{"name": 1, "name": 2}', "[]", "1"]
)
def test_metadata_that_is_not_a_recipe_is_rejected(text: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"recipe": text})
    with pytest.raises(InputError, match=r"m\.safetensors: (the|stored) recipe"):
        loading.recipe_of(tmp_path / "m.safetensors", None)


@pytest.mark.parametrize("changes", [{"model.width": 40}, {"model.classes": 30_000, "data.names": []}])
def test_sizes_are_checked_before_memory_is_allocated(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, build = yolov3.build(SMALL.model).state_dict(), yolov3.build  # type: ignore[arg-type]

    def without_parameters(settings: yolov3.Config) -> yolov3.YOLOv3:
        network = build(settings)
        assert all(parameter.is_meta for parameter in network.parameters())
        return network

    monkeypatch.setattr(yolov3, "build", without_parameters)
    file = stored(tmp_path, config.override(SMALL.tree(), changes), tensors)
    with pytest.raises(InputError, match=r"m\.safetensors: \d+ tensors fit, \d+ differ \((out16|backbone)"):
        loading.load_network(file, None, "cpu", ())


@pytest.mark.parametrize(
    "name", ["demo", "yolov3_640_coco", "yolov4_tiny_coco_416_darknet", "faster_rcnn_r50_coco_torchvision",
             "tiny_darknet_cifar10", "darknet53_imagenet_256"],
)  # fmt: skip
def test_networks_on_the_meta_device(name: str) -> None:
    """Shapes and buffers as those of a network with memory."""
    settings: Any = recipe.load(name).model
    torch.manual_seed(0)
    empty = without_memory(settings)
    assert torch.equal(torch.rand(1), torch.manual_seed(0) and torch.rand(1))  # nothing was drawn
    full = models.build(settings)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert [(key, value.shape) for key, value in empty.named_parameters()] == [
        (key, value.shape) for key, value in full.named_parameters()
    ]
    assert len(list(full.buffers())) > 2
    for (key, found), (other, expected) in zip(empty.named_buffers(), full.named_buffers(), strict=True):
        assert key == other
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("source", "name"),
    [("runs/mine", "mine"), ("runs/mine/best", "mine"), ("runs/mine/last/", "mine"), ("runs/v1.0", "v1.0"),
     ("a/x.safetensors", "x"), ("x.conv.74", "x.conv"), (".", "here")],
)  # fmt: skip
def test_default_output_is_named_after_the_source(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "runs/mine/best").mkdir(parents=True)
    (tmp_path / "here" / "runs/mine/last").mkdir()
    (tmp_path / "here" / "runs/v1.0").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export.default_name(source) == name


def test_export_does_not_overwrite_the_file_of_a_stored_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name in the file is that of another file of the user's."""
    monkeypatch.chdir(tmp_path)
    network = yolov3.build(SMALL.model)  # type: ignore[arg-type]
    checkpoint.save("theirs.safetensors", network, SMALL.with_overrides({"name": "production"}))
    Path("production.torchscript").write_text("mine")
    report = export.export_model("theirs.safetensors", "torchscript")
    assert Path(report.file) == Path("theirs.torchscript")
    assert Path("production.torchscript").read_text() == "mine"
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "production.torchscript", "theirs.safetensors", "theirs.torchscript", "theirs.torchscript.parity.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "to", "out", "link"),
    [
        ("a.weights", "darknet", "a.weights", None),
        ("a.weights", "darknet", "b.weights", "b.weights"),  # another name of the same file
        ("a.bin", "openvino", "a.xml", None),  # its second file would be the source
        ("a.bin", "openvino", None, None),
        ("a.weights", "darknet", "b.weights", "b.weights.json"),
    ],
)
def test_export_does_not_overwrite_its_inputs(
    source: str, to: str, out: str | None, link: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(source).write_bytes(b"weights")
    Path(f"{source}.json").write_text("card")
    if link:
        Path(link).hardlink_to(f"{source}.json" if link.endswith(".json") else source)
    with pytest.raises(InputError, match="would take the place of"):
        export.export_model(source, to, out)
    assert Path(source).read_bytes() == b"weights"


@pytest.mark.parametrize("out", ["w.weights", "w.pth", "w", "same.safetensors"])
def test_import_does_not_overwrite_its_inputs(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    darknet.write("w.weights", yolov3.build(SMALL.model))  # type: ignore[arg-type]
    Path("same.safetensors").hardlink_to("w.weights")
    before = Path("w.weights").read_bytes()
    with pytest.raises(InputError, match=r"needed \.safetensors|would take the place of w\.weights"):
        networks.import_("w.weights", "demo", out, False, ["model.width=0.03"])
    assert Path("w.weights").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"w.weights", "same.safetensors"}
