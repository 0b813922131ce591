"""Every file listed in docs/backbones.md initializes the backbone of every recipe in its row."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from boxwright import models, recipe, weights
from boxwright.darknet_cfg.layers import Convolution
from boxwright.weights import checkpoint, darknet, mindspore
from boxwright.weights.names import timm
from test_weights_mindspore import pack

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
CLASSIFIERS = {"darknet53": "darknet53_imagenet_256_darknet", "cspdarknet53": "cspdarknet53_imagenet_256_darknet"}


def build(name: str, **changes: object) -> tuple[nn.Module, recipe.Recipe]:
    settings = recipe.load(name, {"data.names": [], **{key.replace("__", "."): one for key, one in changes.items()}})
    model = models.build(settings.model)
    with torch.no_grad():
        for part in model.modules():  # else all batch norms are alike
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    return model, settings


def boxwright_files(folder: Path, network: str) -> list[Path]:
    model, settings = build(CLASSIFIERS[network], model__classes=7)
    checkpoint.save(folder / "model.safetensors", model, settings)
    return [folder / "model.safetensors"]


def darknet_files(folder: Path, network: str) -> list[Path]:
    model, _ = build(CLASSIFIERS[network], model__classes=7)
    convolutions = sum(isinstance(part, nn.Conv2d) for part in model.backbone.modules())  # type: ignore[union-attr]
    darknet.write(folder / "x.weights", model)
    darknet.write(folder / f"x.conv.{convolutions}", model, convolutions=convolutions)
    return [folder / "x.weights", folder / f"x.conv.{convolutions}"]


def darknet_file_with_neck(folder: Path) -> list[Path]:
    """Up to the first head's last layer but one."""
    model, _ = build("yolov4_coco_608_darknet", model__classes=7)
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
    darknet.write(folder / "yolov4.conv.137", model, convolutions=names.index("head8.out"))
    return [folder / "yolov4.conv.137"]


def darknet_cfg_file(folder: Path) -> list[Path]:
    """Layers 0 to 141: all but the head of stride 32."""
    model, settings = build("yolov4_csp_640", model__classes=7)
    layers = settings.model.plan.layers[:142]  # type: ignore[attr-defined]
    convolutions = sum(isinstance(layer, Convolution) for layer in layers)
    darknet.write(folder / "yolov4-csp.conv.142", model, convolutions=convolutions)
    return [folder / "yolov4-csp.conv.142"]


def tiny_darknet_file(folder: Path) -> list[Path]:
    """Without the cut, which ends inside the backbone; it has a test in test_tiny_darknet."""
    model, _ = build("tiny_darknet_imagenet_224_darknet", model__classes=7)
    darknet.write(folder / "tiny.weights", model)
    return [folder / "tiny.weights"]


def mindspore_files(folder: Path, name: str, *, classifier: bool) -> list[Path]:
    """The entries of the backbone. classifier: as the zoo's classifier names them, else as a detector's."""
    model, settings = build(name)
    state = model.state_dict()
    found = {
        foreign.removeprefix("feature_map.") if classifier else foreign: state[own].numpy()
        for foreign, own in mindspore.table(model, settings).items()
        if own.startswith("backbone.")
    }
    (folder / "backbone.ckpt").write_bytes(b"".join(pack({key: value}) for key, value in found.items()))
    return [folder / "backbone.ckpt"]


def timm_files(folder: Path, network: str) -> list[Path]:
    """timm's names, for the layers that there are; test_weights_classifiers has timm's own network."""
    full = pytest.importorskip("timm").create_model(network, pretrained=False).state_dict()
    wanted, _ = build(CLASSIFIERS[network])
    names = wanted.state_dict().keys()
    state = {name: one for name, one in full.items() if not getattr(timm, network)({name: one}).keys() - names}
    safetensors.torch.save_file(state, folder / "timm.safetensors")
    return [folder / "timm.safetensors"]


def resnet_files(folder: Path, depth: int) -> list[Path]:
    """torchvision's names, which are those of our backbone; test_weights_faster_rcnn has torchvision's own network."""
    state = build(f"faster_rcnn_r{depth}_coco_mmdet")[0].state_dict()
    tensors = {name.removeprefix("backbone."): one for name, one in state.items() if name.startswith("backbone.")}
    torch.save(tensors, folder / "resnet.pth")
    return [folder / "resnet.pth"]


# What a row's first cell says -> the files
MAKERS: dict[str, Callable[[Path], list[Path]]] = {
    "a run of `darknet53_imagenet_256*`": lambda folder: boxwright_files(folder, "darknet53"),
    "a run of `cspdarknet53_imagenet_256*`": lambda folder: boxwright_files(folder, "cspdarknet53"),
    "`darknet53.weights`, truncated": lambda folder: darknet_files(folder, "darknet53"),
    "`csdarknet53-omega.weights`, truncated": lambda folder: darknet_files(folder, "cspdarknet53"),
    "`yolov4.conv.137`": darknet_file_with_neck,
    "`yolov4-csp.conv.142`": darknet_cfg_file,
    "`tiny.weights`, truncated": tiny_darknet_file,
    "the zoo's backbone `.ckpt` for YOLOv3": lambda folder: mindspore_files(folder, "yolov3_coco_416", classifier=True),
    "the zoo's backbone `.ckpt` for YOLOv4": lambda folder: mindspore_files(folder, "yolov4_coco_608", classifier=True),
    "MindYOLO's": lambda folder: mindspore_files(folder, "yolov3_640_coco", classifier=False),
    "timm's `darknet53`": lambda folder: timm_files(folder, "darknet53"),
    "timm's `cspdarknet53`": lambda folder: timm_files(folder, "cspdarknet53"),
    "torchvision's or timm's `resnet50`": lambda folder: resnet_files(folder, 50),
    "torchvision's or timm's `resnet101`": lambda folder: resnet_files(folder, 101),
}
# In yolov4_csp_640, whose layers have Darknet's numbers, those up to 104
BACKBONE = re.compile(r"backbone\.|layers\.(\d\d?|10[0-4])\.")
OWN = re.compile(r"num_batches|\.conv2\.(offset|mask)\.")  # no file of a classifier has these
ROWS = [
    [cell.strip() for cell in line.split("|")[1:3]]
    for line in PAGE.read_text(encoding="utf-8").partition("| file |")[2].partition("\n\n")[0].splitlines()[2:]
]


def test_page_rows_match_the_file_makers() -> None:
    assert [sum(row.startswith(start) for start in MAKERS) for row, _ in ROWS] == [1] * len(MAKERS)


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[re.sub(r"[^\w.]+", "_", row) for row, _ in ROWS])
def test_listed_files_initialize_backbones_of_listed_recipes(
    row: int, tmp_path: Path, short_networks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxwright.nn.darknet.STEM", 32)  # as timm's
    monkeypatch.setattr("boxwright.nn.cspdarknet.STEM", 32)  # as YOLOv4's, whose width is a setting
    file, starts = ROWS[row]
    made = next(make for start, make in MAKERS.items() if file.startswith(start))(tmp_path)
    for name in re.findall(r"`(\w+)`", starts):
        model, settings = build(name, model__classes=9)
        for path in made:
            before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            report = weights.load(model, path, settings, transfer=True)
            kept = [key for key in report.fresh if BACKBONE.match(key) and not OWN.search(key)]
            assert not kept, f"{path.name} leaves {kept[:3]} of {name} as they were"
            moved = [
                key for key, one in before.items() if BACKBONE.match(key) and one.ndim == 4 and not OWN.search(key)
            ]
            assert moved
            if path == made[0]:
                assert not any(torch.equal(before[key], model.state_dict()[key]) for key in moved)


@pytest.mark.parametrize("name", [name for name in recipe.names() if name != "yolov4_csp_640"])
def test_backbone_prefix_is_the_same_in_all_recipes(name: str) -> None:
    with torch.device("meta"):
        settings = recipe.load(name)
        model = models.build(settings.model)
    assert any(key.startswith("backbone.") for key in model.state_dict())
