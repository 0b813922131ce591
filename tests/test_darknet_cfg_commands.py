"""The commands of someone who comes with a .cfg and .weights, and yolo-fastest-1.1, a trained network of that kind.

Reference of yolo-fastest: `detector test` on three images, boxes not cut to the image.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import boxwright as bw
from agreement import assert_same_detections
from boxwright import models, recipe
from boxwright.config import ModelConfig
from boxwright.nn.network import Network
from boxwright.ops.boxes import clip, cxcywh_to_xyxy
from boxwright.predict.predictor import AnyPredictor
from boxwright.types import Detections
from boxwright.weights import cfg_report, checkpoint, darknet
from test_cli import status_of

SHARED = Path(__file__).parents[2] / "shared"
FASTEST = SHARED / "weights" / "extra" / "yolo-fastest-1.1.weights"
DARKNET = SHARED / "oracles" / "darknet"
NAMES = DARKNET / "cfg" / "coco.names"
trained = pytest.mark.skipif(not (FASTEST.is_file() and NAMES.is_file()), reason="../shared is absent")
CFG = """# My own.
[net]
width=96
height=64
channels=3
learning_rate=0.001
letter_box=1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=8
stride=8
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=0,1,2
num=3
classes=2
anchors=9,8, 20,30, 50,40
nms_kind=greedynms
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """net.cfg, net.weights with random numbers, and my.names in a folder."""
    (tmp_path / "net.cfg").write_text(CFG)
    (tmp_path / "my.names").write_bytes(b"cat\r\nbig dog\r\n")
    torch.manual_seed(0)
    model = models.build(recipe.of_cfg(tmp_path / "net.cfg").model)
    darknet.write(tmp_path / "net.weights", model, header=darknet.Header(0, 2, 5, 640))
    return tmp_path


def test_a_cfg_is_a_recipe(mine: Path) -> None:
    found = recipe.load(mine / "net.cfg", {"predict.threshold": 0.4})
    assert (found.name, found.model.classes, found.model.task) == ("net", 2, "detect")
    assert (found.data.canvas.size, found.data.canvas.fit, found.data.canvas.resize) == (
        (64, 96),
        "letterbox",
        "darknet",
    )
    assert (found.predict.threshold, found.predict.nms.kind, found.predict.nms.iou) == (0.4, "greedy", 0.45)
    assert recipe.of_cfg(mine / "net.cfg", mine / "my.names").data.names == ("cat", "big dog")
    three = found.with_names(["a", "b", "c"])
    assert models.build(three.model)(torch.zeros(1, 3, 64, 96))[0].shape == (1, 24, 4, 6)
    (mine / "again.yaml").write_text(three.to_yaml())
    assert recipe.load(mine / "again.yaml") == three


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("", "standard"), ("nms_kind=default\n", "standard"), ("nms_kind=diounms\n", "greedy"),
        ("nms_kind=diounms\nbeta_nms=1\n", "diou"),
    ],
)  # fmt: skip
def test_nms_is_that_of_the_last_head(tmp_path: Path, lines: str, kind: str) -> None:
    (tmp_path / "a.cfg").write_text(CFG.replace("nms_kind=greedynms\n", lines))
    assert recipe.load(tmp_path / "a.cfg").predict.nms.kind == kind


def test_import_reports_and_the_checkpoint_stands_alone(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(mine / name) for name in ("net.weights", "net.cfg", "my.names", "net.safetensors")]
    assert status_of("import", files[0], "--cfg", files[1], "--names", files[2], "-o", files[3]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"net.weights: 4 layers, {8 * (4 + 27) + 21 * 9:,} numbers taken, 0 left over"
    assert lines[1] == "keys without effect on predictions: learning_rate"
    (mine / "net.cfg").unlink()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = bw.load(files[3])(image, threshold=0.001)
    (mine / "net.cfg").write_text(CFG)
    wanted = bw.load(files[0], cfg=files[1], names=["cat", "big dog"])(image, threshold=0.001)
    assert len(found) > 0
    assert found.names == ("cat", "big dog")
    assert torch.equal(found.boxes, wanted.boxes)


def test_unusual_activations_are_logged_by_every_command(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "net.cfg").write_text(CFG.replace("=leaky", "=leaky ; slope 0.1"))
    assert status_of("show", str(mine / "net.cfg")) == 0
    line = "activation=leaky;slope0.1 is not an activation of Darknet, which reads it as relu"
    assert line in capsys.readouterr().err
    weights = str(mine / "net.weights")
    assert status_of("import", weights, "--cfg", str(mine / "net.cfg"), "-o", str(mine / "a.safetensors")) == 0
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat \nbig dog\n\n \n", ["cat", "big dog"]),
        ("cat\ncat\n", ["cat (0)", "cat (1)"]),
        ("a\nb\nc\n", ["a", "b"]),
        ("cat\n\n", "holds 1 names, the .cfg has classes=2"),
        ("\ncat\n", "my.names line 1: empty, needed a class name"),
        ("cat\na\tb\n", "my.names line 2: a control character in the class name"),
    ],
)
def test_names(mine: Path, log: list[str], text: str, expected: list[str] | str) -> None:
    """Blank lines after the names are ignored; equal names, as in Darknet's list of ImageNet, are numbered."""
    (mine / "my.names").write_text(text)
    if isinstance(expected, str):
        with pytest.raises(bw.InputError, match=expected):
            recipe.of_cfg(mine / "net.cfg", mine / "my.names")
        return
    assert list(recipe.of_cfg(mine / "net.cfg", mine / "my.names").data.names) == expected
    assert ("holds 3 names, the .cfg has classes=2" in "\n".join(log)) == (text.count("\n") == 3)


def test_the_summary_of_classes_without_names(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 64), (200, 30, 30)).save(mine / "a.png")
    arguments = ["--cfg", str(mine / "net.cfg"), "--out", str(mine / "found"), "--threshold", "0.001"]
    assert status_of("predict", str(mine / "net.weights"), str(mine / "a.png"), *arguments) == 0
    assert re.match(r"1 image: \d+ of class [01]", capsys.readouterr().out)


def test_export_writes_the_numbers_and_the_text_again(mine: Path) -> None:
    arguments = ["--cfg", str(mine / "net.cfg"), "--to", "darknet", "-o", str(mine / "out.weights")]
    assert status_of("export", str(mine / "net.weights"), *arguments, "--set", "predict.threshold=0.001") == 0
    assert (mine / "out.weights").read_bytes()[20:] == (mine / "net.weights").read_bytes()[20:]
    assert (mine / "out.cfg").read_text() == CFG
    assert bw.load(mine / "out.weights").recipe.model == recipe.load(mine / "net.cfg").model


def test_export_replaces_no_input(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The .cfg is written beside the .weights; a default name may be that of the original."""
    monkeypatch.chdir(mine)
    source, before = mine / "old.weights", (mine / "net.cfg").read_bytes()
    (mine / "net.weights").rename(source)
    (mine / "net.weights").write_bytes(b"older")
    arguments = ("export", str(source), "--cfg", "net.cfg", "--to", "darknet")
    assert "net.cfg: would take the place of" in run(mine, capsys, *arguments, "-o", "net.weights")
    assert (mine / "net.cfg").read_bytes() == before
    assert status_of("import", str(source), "--cfg", "net.cfg", "-o", "net.safetensors") == 0
    capsys.readouterr()
    assert "no net.weights.json" in run(mine, capsys, "export", "net.safetensors", "--to", "darknet")
    assert (mine / "net.weights").read_bytes() == b"older"
    assert "mindir, om, onnx" in (line := run(mine, capsys, "export", "net.safetensors", "--to", "foo"))
    assert line.rstrip().endswith(", triton")


@pytest.mark.parametrize(("to", "suffix", "other"), [("darknet", ".weights", ".cfg"), ("openvino", ".xml", ".bin")])
def test_export_beside_a_file_of_another_writes_no_report(
    mine: Path, capsys: pytest.CaptureFixture[str], to: str, suffix: str, other: str
) -> None:
    (mine / f"out{other}").write_bytes(b"older")
    arguments = ["--cfg", str(mine / "net.cfg"), "--to", to, "-o", str(mine / f"out{suffix}")]
    line = run(mine, capsys, "export", str(mine / "net.weights"), *arguments)
    assert f"out{other}: exists without out{suffix}" in line
    assert [(file.name, file.read_bytes()) for file in mine.glob("out*")] == [(f"out{other}", b"older")]


def run(mine: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error line of a command that rejects its input."""
    assert status_of(*arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert len(line.rstrip("\n")) <= 200
    return line


def test_import_takes_no_memory_for_a_network_that_does_not_fit(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = models.build

    def without_memory_only(config: ModelConfig) -> Network:
        network = build(config)
        assert all(parameter.is_meta for parameter in network.parameters())
        return network

    (mine / "big.cfg").write_text(CFG.replace("filters=8", "filters=9"))
    monkeypatch.setattr(models, "build", without_memory_only)
    out = ("-o", str(mine / "net.safetensors"))
    line = run(mine, capsys, "import", str(mine / "net.weights"), "--cfg", str(mine / "big.cfg"), *out)
    assert "truncated or of another network" in line


@pytest.mark.slow
def test_files_that_do_not_belong_together(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, cfg, names = (str(mine / name) for name in ("net.weights", "net.cfg", "my.names"))
    out = ("-o", str(mine / "net.safetensors"))
    Path(names).write_text("cat\n")
    line = run(mine, capsys, "import", weights, "--cfg", cfg, "--names", names, *out)
    assert "holds 1 names, the .cfg has classes=2" in line
    assert "fits no shipped recipe as a whole; give its --cfg" in run(mine, capsys, "import", weights, *out)
    assert "found with a recipe" in run(mine, capsys, "import", weights, "--cfg", cfg, "--recipe", "demo", *out)
    assert "is the .cfg of a network, needed its weights" in run(mine, capsys, "predict", cfg, "x.jpg")
    assert "names: found without cfg" in run(mine, capsys, "predict", weights, "x.jpg", "--names", names)
    content = Path(weights).read_bytes()
    Path(weights).write_bytes(content[:-8])
    line = run(mine, capsys, "import", weights, "--cfg", cfg, *out)
    assert "it ends inside layer 2 of the .cfg (187 of 189 numbers): truncated or of another network" in line
    Path(weights).write_bytes(content[: -4 * 189])
    assert "189 too few after layer 0 of the .cfg" in run(mine, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content[:20])
    assert "it ends after its header" in run(mine, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content + bytes(12))
    assert "3 are left over after layer 2 of the .cfg" in run(mine, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content + bytes(27 * 4 * 40_000))
    assert "are left over after layer 2 of the .cfg" in run(mine, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content + bytes(27 * 4))
    assert "that is 3 classes against 2" in run(mine, capsys, "import", weights, "--cfg", cfg, *out)
    Path(cfg).write_text("[net]\nwidth=64\nheight=64\nchannels=3\n[conv]\nfilters=9\n")
    line = run(mine, capsys, "predict", weights, "x.jpg", "--cfg", cfg)
    assert "line 5, [convolutional]: the last layer gives 36,864 numbers, needed at most 32,768 classes" in line
    Path(cfg).write_text(CFG.replace("filters=21", "filters=255"))
    assert "set its filters=21" in run(mine, capsys, "predict", weights, "x.jpg", "--cfg", cfg)
    assert not Path(out[1]).exists()


def test_a_stored_cfg_is_checked_as_any_other(mine: Path) -> None:
    """A checkpoint may come from anyone: its text is read as strictly."""
    found = recipe.of_cfg(mine / "net.cfg")
    checkpoint.save(mine / "a.safetensors", models.build(found.model), found)
    content = (mine / "a.safetensors").read_bytes()
    assert content.count(b"size=8\\\\nstride=8") == 1
    (mine / "a.safetensors").write_bytes(content.replace(b"size=8\\\\nstride=8", b"size=8\\\\nstride=0"))
    with pytest.raises(bw.InputError, match="needed a stride of 1 or more"):
        bw.load(mine / "a.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not DARKNET.is_dir(), reason="../shared/oracles is absent")
@pytest.mark.parametrize(
    ("cfg", "name"),
    [
        ("yolov4-tiny", "yolov4_tiny_coco_416_darknet"), ("yolov3-tiny-as-trained", "yolov3_tiny_coco_416_darknet"),
        ("tiny", "tiny_darknet_imagenet_224_darknet"), ("yolov3-tiny", ""),
    ],
)  # fmt: skip
def test_published_networks_are_known(cfg: str, name: str) -> None:
    """By their outputs: yolov3-tiny.cfg has the same numbers as published, and other anchors."""
    config = recipe.load(DARKNET / "cfg" / f"{cfg}.cfg").model
    torch.manual_seed(0)
    assert cfg_report.published(models.build(config), config) == name


@pytest.mark.skipif(not DARKNET.is_dir(), reason="../shared/oracles is absent")
def test_a_network_that_takes_only_large_images_is_compared_with_published_ones(tmp_path: Path) -> None:
    """A window of 14 x 14 px instead of a mean over the map: the same weights, but no output for small images."""
    text = (DARKNET / "cfg" / "tiny.cfg").read_text()
    (tmp_path / "net.cfg").write_text(text.replace("[avgpool]", "[local_avgpool]\nsize=14\nstride=14\npadding=0\n"))
    config = recipe.load(tmp_path / "net.cfg").model
    assert cfg_report.published(models.build(config), config) == ""


def check_fastest(predictor: AnyPredictor, image: str, wanted: list[dict[str, object]]) -> None:
    found = predictor(DARKNET / "images" / f"{image}.png")
    height, width = found.size
    relative = torch.tensor([row["box_cxcywh_relative"] for row in wanted])
    boxes = clip(cxcywh_to_xyxy(relative * torch.tensor([width, height, width, height])), found.size)
    labels = torch.tensor([row["class_id"] for row in wanted])
    theirs = Detections(boxes, torch.tensor([row["score"] for row in wanted]), labels)
    assert_same_detections(found, theirs, threshold=0.25, score=2e-3, box=1)
    assert sorted(found.class_names) == sorted(str(row["name"]) for row in wanted)


@trained
@pytest.mark.parametrize(
    "form",
    [
        "weights", "safetensors", "again", pytest.param("openvino", marks=[pytest.mark.runtimes, pytest.mark.slow]),
    ],
)  # fmt: skip
def test_yolo_fastest_finds_what_darknet_finds(form: str, tmp_path: Path) -> None:
    """An OpenVINO file is made of an ONNX file."""
    if form == "openvino":
        pytest.importorskip("openvino")
    given = {"cfg": FASTEST.with_suffix(".cfg"), "names": NAMES}
    settings = recipe.of_cfg(given["cfg"], NAMES)
    file = FASTEST
    if form == "safetensors":
        file = tmp_path / "fastest.safetensors"
        checkpoint.save(file, bw.load(FASTEST, **given).model, settings)
        given = {}
    elif form != "weights":
        file = tmp_path / f"fastest.{ {'again': 'weights', 'openvino': 'xml'}[form] }"
        bw.export_model(FASTEST, {"again": "darknet"}.get(form, form), file, recipe=settings)
        given = {"cfg": file.with_suffix(".cfg"), "names": NAMES} if form == "again" else {}
    if form == "again":
        assert file.read_bytes()[20:] == FASTEST.read_bytes()[20:]
    predictor = bw.load(file, **given)
    reference = json.loads((DARKNET / "real" / "yolo-fastest-1.1_detections.json").read_text())
    assert len(reference) == 3
    for image, rows in reference.items():
        check_fastest(predictor, image, rows["stretch"])
