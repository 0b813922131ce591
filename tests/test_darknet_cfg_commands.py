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
from boxwright.recipe.of_cfg import read_names
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
def folder(tmp_path: Path) -> Path:
    """net.cfg, net.weights with random numbers, and my.names in a folder."""
    (tmp_path / "net.cfg").write_text(CFG)
    (tmp_path / "my.names").write_bytes(b"cat\r\nbig dog\r\n")
    torch.manual_seed(0)
    model = models.build(recipe.of_cfg(tmp_path / "net.cfg").model)
    darknet.write(tmp_path / "net.weights", model, header=darknet.Header(0, 2, 5, 640))
    return tmp_path


def test_cfg_is_loaded_as_a_recipe(folder: Path) -> None:
    found = recipe.load(folder / "net.cfg", {"predict.threshold": 0.4})
    assert (found.name, found.model.classes, found.model.task) == ("net", 2, "detect")
    assert (found.data.canvas.size, found.data.canvas.fit, found.data.canvas.resize) == (
        (64, 96),
        "letterbox",
        "darknet",
    )
    assert (found.predict.threshold, found.predict.nms.kind, found.predict.nms.iou) == (0.4, "greedy", 0.45)
    assert recipe.of_cfg(folder / "net.cfg", folder / "my.names").data.names == ("cat", "big dog")
    three = found.with_names(["a", "b", "c"])
    assert models.build(three.model)(torch.zeros(1, 3, 64, 96))[0].shape == (1, 24, 4, 6)
    (folder / "again.yaml").write_text(three.to_yaml())
    assert recipe.load(folder / "again.yaml") == three


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("", "standard"), ("nms_kind=default\n", "standard"), ("nms_kind=diounms\n", "greedy"),
        ("nms_kind=diounms\nbeta_nms=1\n", "diou"),
    ],
)  # fmt: skip
def test_nms_settings_come_from_the_last_head(tmp_path: Path, lines: str, kind: str) -> None:
    (tmp_path / "a.cfg").write_text(CFG.replace("nms_kind=greedynms\n", lines))
    assert recipe.load(tmp_path / "a.cfg").predict.nms.kind == kind


def test_imported_checkpoint_needs_no_cfg(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / name) for name in ("net.weights", "net.cfg", "my.names", "net.safetensors")]
    assert status_of("import", files[0], "--cfg", files[1], "--names", files[2], "-o", files[3]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"net.weights: 4 layers, {8 * (4 + 27) + 21 * 9:,} numbers taken, 0 left over"
    assert lines[1] == "keys without effect on predictions: learning_rate"
    (folder / "net.cfg").unlink()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = bw.load(files[3])(image, threshold=0.001)
    (folder / "net.cfg").write_text(CFG)
    wanted = bw.load(files[0], cfg=files[1], names=["cat", "big dog"])(image, threshold=0.001)
    assert len(found) > 0
    assert found.names == ("cat", "big dog")
    assert torch.equal(found.boxes, wanted.boxes)


def test_unusual_activations_are_logged_by_every_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "net.cfg").write_text(CFG.replace("=leaky", "=leaky ; slope 0.1"))
    assert status_of("show", str(folder / "net.cfg")) == 0
    line = "activation=leaky;slope0.1 is not an activation of Darknet, which reads it as relu"
    assert line in capsys.readouterr().err
    weights = str(folder / "net.weights")
    assert status_of("import", weights, "--cfg", str(folder / "net.cfg"), "-o", str(folder / "a.safetensors")) == 0
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
def test_names_file(folder: Path, log: list[str], text: str, expected: list[str] | str) -> None:
    """Blank lines after the names are ignored; equal names, as in Darknet's list of ImageNet, are numbered."""
    (folder / "my.names").write_text(text)
    if isinstance(expected, str):
        with pytest.raises(bw.InputError, match=expected):
            recipe.of_cfg(folder / "net.cfg", folder / "my.names")
        return
    assert list(recipe.of_cfg(folder / "net.cfg", folder / "my.names").data.names) == expected
    assert ("holds 3 names, the .cfg has classes=2" in "\n".join(log)) == (text.count("\n") == 3)


@pytest.mark.parametrize("name", ["obj.data", "data.YAML", "net.cfg"])
def test_data_set_file_given_as_names_is_an_error(folder: Path, name: str) -> None:
    (folder / name).write_text("classes = 2\ntrain = train.txt\nnames = my.names\n")
    with pytest.raises(bw.InputError, match="needed a text with one class name per line"):
        read_names(folder / name, 2)


def test_summary_of_classes_without_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 64), (200, 30, 30)).save(folder / "a.png")
    arguments = ["--cfg", str(folder / "net.cfg"), "--out", str(folder / "found"), "--threshold", "0.001"]
    assert status_of("predict", str(folder / "net.weights"), str(folder / "a.png"), *arguments) == 0
    assert re.match(r"1 image: \d+ of class [01]", capsys.readouterr().out)


def test_export_writes_the_same_weights_and_cfg(folder: Path) -> None:
    arguments = ["--cfg", str(folder / "net.cfg"), "--to", "darknet", "-o", str(folder / "out.weights")]
    assert status_of("export", str(folder / "net.weights"), *arguments, "--set", "predict.threshold=0.001") == 0
    assert (folder / "out.weights").read_bytes()[20:] == (folder / "net.weights").read_bytes()[20:]
    assert (folder / "out.cfg").read_text() == CFG
    assert bw.load(folder / "out.weights").recipe.model == recipe.load(folder / "net.cfg").model


def test_export_does_not_overwrite_inputs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The .cfg is written beside the .weights; a default name may be that of the original."""
    monkeypatch.chdir(folder)
    source, before = folder / "old.weights", (folder / "net.cfg").read_bytes()
    (folder / "net.weights").rename(source)
    (folder / "net.weights").write_bytes(b"older")
    arguments = ("export", str(source), "--cfg", "net.cfg", "--to", "darknet")
    assert "net.cfg: would take the place of" in run(folder, capsys, *arguments, "-o", "net.weights")
    assert (folder / "net.cfg").read_bytes() == before
    assert status_of("import", str(source), "--cfg", "net.cfg", "-o", "net.safetensors") == 0
    capsys.readouterr()
    assert "no net.weights.json" in run(folder, capsys, "export", "net.safetensors", "--to", "darknet")
    assert (folder / "net.weights").read_bytes() == b"older"
    assert "mindir, om, onnx" in (line := run(folder, capsys, "export", "net.safetensors", "--to", "foo"))
    assert line.rstrip().endswith(", triton")


@pytest.mark.parametrize(("to", "suffix", "other"), [("darknet", ".weights", ".cfg"), ("openvino", ".xml", ".bin")])
def test_export_beside_an_unrelated_file_is_rejected(
    folder: Path, capsys: pytest.CaptureFixture[str], to: str, suffix: str, other: str
) -> None:
    (folder / f"out{other}").write_bytes(b"older")
    arguments = ["--cfg", str(folder / "net.cfg"), "--to", to, "-o", str(folder / f"out{suffix}")]
    line = run(folder, capsys, "export", str(folder / "net.weights"), *arguments)
    assert f"out{other}: exists without out{suffix}" in line
    assert [(file.name, file.read_bytes()) for file in folder.glob("out*")] == [(f"out{other}", b"older")]


def run(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error line of a command that rejects its input."""
    assert status_of(*arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert len(line.rstrip("\n")) <= 200
    return line


def test_rejected_import_allocates_no_weights(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = models.build

    def without_memory_only(config: ModelConfig) -> Network:
        network = build(config)
        assert all(parameter.is_meta for parameter in network.parameters())
        return network

    (folder / "big.cfg").write_text(CFG.replace("filters=8", "filters=9"))
    monkeypatch.setattr(models, "build", without_memory_only)
    out = ("-o", str(folder / "net.safetensors"))
    line = run(folder, capsys, "import", str(folder / "net.weights"), "--cfg", str(folder / "big.cfg"), *out)
    assert "truncated or of another network" in line


@pytest.mark.slow
def test_mismatched_files_are_rejected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, cfg, names = (str(folder / name) for name in ("net.weights", "net.cfg", "my.names"))
    out = ("-o", str(folder / "net.safetensors"))
    Path(names).write_text("cat\n")
    line = run(folder, capsys, "import", weights, "--cfg", cfg, "--names", names, *out)
    assert "holds 1 names, the .cfg has classes=2" in line
    assert "fits no shipped recipe as a whole; give its --cfg" in run(folder, capsys, "import", weights, *out)
    assert "found with a recipe" in run(folder, capsys, "import", weights, "--cfg", cfg, "--recipe", "demo", *out)
    assert "is the .cfg of a network, needed its weights" in run(folder, capsys, "predict", cfg, "x.jpg")
    assert "names: found without cfg" in run(folder, capsys, "predict", weights, "x.jpg", "--names", names)
    content = Path(weights).read_bytes()
    Path(weights).write_bytes(content[:-8])
    line = run(folder, capsys, "import", weights, "--cfg", cfg, *out)
    assert "it ends inside layer 2 of the .cfg (187 of 189 numbers): truncated or of another network" in line
    Path(weights).write_bytes(content[: -4 * 189])
    assert "189 too few after layer 0 of the .cfg" in run(folder, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content[:20])
    assert "it ends after its header" in run(folder, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content + bytes(12))
    assert "3 are left over after layer 2 of the .cfg" in run(folder, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content + bytes(27 * 4 * 40_000))
    assert "are left over after layer 2 of the .cfg" in run(folder, capsys, "import", weights, "--cfg", cfg, *out)
    Path(weights).write_bytes(content + bytes(27 * 4))
    assert "that is 3 classes against 2" in run(folder, capsys, "import", weights, "--cfg", cfg, *out)
    Path(cfg).write_text("[net]\nwidth=64\nheight=64\nchannels=3\n[conv]\nfilters=9\n")
    line = run(folder, capsys, "predict", weights, "x.jpg", "--cfg", cfg)
    assert "line 5, [convolutional]: the last layer gives 36,864 numbers, needed at most 32,768 classes" in line
    Path(cfg).write_text(CFG.replace("filters=21", "filters=255"))
    assert "set its filters=21" in run(folder, capsys, "predict", weights, "x.jpg", "--cfg", cfg)
    assert not Path(out[1]).exists()


def test_stored_cfg_is_validated(folder: Path) -> None:
    """A checkpoint may come from anyone: its text is read as strictly."""
    found = recipe.of_cfg(folder / "net.cfg")
    checkpoint.save(folder / "a.safetensors", models.build(found.model), found)
    content = (folder / "a.safetensors").read_bytes()
    assert content.count(b"size=8\\\\nstride=8") == 1
    (folder / "a.safetensors").write_bytes(content.replace(b"size=8\\\\nstride=8", b"size=8\\\\nstride=0"))
    with pytest.raises(bw.InputError, match="needed a stride of 1 or more"):
        bw.load(folder / "a.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not DARKNET.is_dir(), reason="../shared/oracles is absent")
@pytest.mark.parametrize(
    ("cfg", "name"),
    [
        ("yolov4-tiny", "yolov4_tiny_coco_416_darknet"), ("yolov3-tiny-as-trained", "yolov3_tiny_coco_416_darknet"),
        ("tiny", "tiny_darknet_imagenet_224_darknet"), ("yolov3-tiny", ""),
    ],
)  # fmt: skip
def test_published_networks_are_recognized(cfg: str, name: str) -> None:
    """By their outputs: yolov3-tiny.cfg has the same numbers as published, and other anchors."""
    config = recipe.load(DARKNET / "cfg" / f"{cfg}.cfg").model
    torch.manual_seed(0)
    assert cfg_report.published(models.build(config), config) == name


@pytest.mark.skipif(not DARKNET.is_dir(), reason="../shared/oracles is absent")
def test_network_for_large_images_only_is_not_recognized(tmp_path: Path) -> None:
    """A window of 14 x 14 px instead of a mean over the map: the same weights, but no output for small images."""
    text = (DARKNET / "cfg" / "tiny.cfg").read_text()
    (tmp_path / "net.cfg").write_text(text.replace("[avgpool]", "[local_avgpool]\nsize=14\nstride=14\npadding=0\n"))
    config = recipe.load(tmp_path / "net.cfg").model
    assert cfg_report.published(models.build(config), config) == ""


def assert_matches_darknet(predictor: AnyPredictor, image: str, wanted: list[dict[str, object]]) -> None:
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
def test_yolo_fastest_detections_match_darknet(form: str, tmp_path: Path) -> None:
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
        assert_matches_darknet(predictor, image, rows["stretch"])
