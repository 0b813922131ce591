"""The command `export`: files with the same outputs, and the parity check that rejects others.

The content of each kind of file has separate tests; here a file is written, read back and compared.
"""

import json
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import boxwright as bw
import small_run
from agreement import assert_same_classes, by_label
from boxwright import cli, models, recipe, runtimes
from boxwright.datatools import scenes
from boxwright.errors import InputError
from boxwright.export import parity, run
from boxwright.export.parity_limits import LIMITS as LIMITS_OF
from boxwright.export.parity_predictions import match
from boxwright.export.parity_raw import differences
from boxwright.export.run import export_model
from boxwright.files import atomic_write_group
from boxwright.predict.loading import load_network
from boxwright.recipe import Recipe, TrainConfig
from boxwright.runtimes.base.graph import Graph, raw_graph
from boxwright.runtimes.base.metadata import Metadata, fingerprint
from boxwright.types import Classes, Detections
from boxwright.weights import checkpoint
from canvases import on_canvases
from test_real_weights import darknets_partners

pytestmark = pytest.mark.runtimes

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights"
DARKNET = SHARED / "oracles" / "darknet"
TINY = "yolov3_tiny_coco_416_darknet"
CLASSIFIER = "tiny_darknet_imagenet_224_darknet"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs shared/weights")
GRAPHS = ["onnx", "openvino", "torchscript", "pt2"]


def saved(folder: Path, name: str = "demo", **changes: Any) -> Path:
    """A small network with random weights that knows its recipe. Its batch norms have seen images, so that the
    answers depend on what is shown, as those of a trained network do."""
    settings = small_run.SMALL | {"data.names": ["car", "truck", "tank"]} if name == "demo" else {}
    chosen = recipe.load(name, settings | {key.replace("__", "."): value for key, value in changes.items()})
    torch.manual_seed(1)
    model = models.build(chosen.model)
    if chosen.model.name != "faster_rcnn":  # type: ignore[attr-defined]
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        canvases, _ = on_canvases([scenes.render(7, index).image for index in range(2)], chosen.data.canvas)
        with torch.no_grad():
            model.train()(canvases.float() / 255)
    file = folder / "w.safetensors"
    checkpoint.save(file, model, chosen)
    return file


def files_beside_weights(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"w.safetensors"}


# Real weights


@pytest.fixture(scope="module", params=["onnx", "openvino", "darknet"])
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """yolov3-tiny.weights in that format."""
    file = tmp_path_factory.mktemp("detector") / f"again{runtimes.target(request.param).suffix}"
    export_model(WEIGHTS / "yolov3-tiny.weights", request.param, file, recipe=TINY, data=None)
    return file


@needs_weights
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_detections_match_darknet_in_every_format(detector: Path, fit: str) -> None:
    predictor = bw.load(detector, overrides={"data.canvas.fit": fit})
    cases = 0
    for name, reference in json.loads((DARKNET / "real" / "yolov3-tiny_detections.json").read_text()).items():
        for key in [key for key in reference if key.startswith(f"{fit}_thresh_")]:
            threshold = float(key.rpartition("_")[2])
            found = predictor(DARKNET / "images" / name, threshold=threshold)
            assert found.names[16] == "dog"
            darknets_partners(found, reference[key], threshold)
            cases += 1
    assert cases >= 6


@needs_weights
def test_detections_match_darknet_in_a_complete_file(tmp_path: Path) -> None:
    """Images of three sizes, nothing but the file, which OpenVINO may run as well as ONNX Runtime."""
    file = tmp_path / "x.onnx"
    export_model(WEIGHTS / "yolov3-tiny.weights", "onnx", file, recipe=TINY, complete=True)
    references = json.loads((DARKNET / "real" / "yolov3-tiny_detections.json").read_text())
    for backend in ("onnxruntime", "openvino"):
        predictor = bw.load(file, backend=backend)
        assert predictor.recipe.data.canvas.fit == "stretch"
        for name, reference in references.items():
            darknets_partners(predictor(DARKNET / "images" / name), reference["stretch_thresh_0.25"], 0.25)


@needs_weights
def test_darknet_weights_round_trip_byte_for_byte(detector: Path) -> None:
    if detector.suffix == ".weights":  # but for the header, which says how many images were learned from
        assert detector.read_bytes()[20:] == (WEIGHTS / "yolov3-tiny.weights").read_bytes()[20:]


@needs_weights
@pytest.mark.parametrize("to", ["onnx", "openvino", "darknet"])
def test_top5_classes_match_darknet_in_every_format(tmp_path: Path, to: str) -> None:
    file = tmp_path / f"again{runtimes.target(to).suffix}"
    export_model(WEIGHTS / "tiny.weights", to, file, recipe=CLASSIFIER)
    for name, references in json.loads((DARKNET / "real" / "tiny_top5.json").read_text()).items():
        for preparation, fit in (("short_side_crop", "crop"), ("letterbox", "letterbox")):
            predictor = bw.load(file, overrides={"data.canvas.fit": fit})
            best = predictor(DARKNET / "images" / name)
            expected = {label: score for label, _, score in references[preparation]}
            assert_same_classes(by_label(best), expected, score=2e-3)


# What is written


@pytest.mark.parametrize("to", GRAPHS)
def test_exported_file_is_self_contained(tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The file contains the recipe with the requested size; the report lists the comparisons."""
    weights, file = saved(tmp_path), tmp_path / f"x{runtimes.target(to).suffix}"
    with pytest.raises(SystemExit) as leaving:
        cli.main(["export", str(weights), "--to", to, "-o", str(file), "--size", "64", "128"])
    assert not leaving.value.code
    assert "on 4 rendered images: raw tensors within" in capsys.readouterr().out
    companions = {"x.bin"} if to == "openvino" else set()
    assert files_beside_weights(tmp_path) == {file.name, f"{file.name}.parity.json"} | companions

    predictor = bw.load(file, trust=True)
    original = bw.load(weights, overrides={"data.canvas.size": [64, 128]})
    assert predictor.runtime is not None
    assert predictor.recipe == original.recipe
    assert predictor.names == ("car", "truck", "tank")
    report = json.loads((tmp_path / f"{file.name}.parity.json").read_text())
    assert report["passed"]
    assert report["fingerprint"] == fingerprint(original.model)
    assert [(row["name"], row["shape"]) for row in report["raw"]] == [
        ("stride32", [1, 24, 2, 4]), ("stride16", [1, 24, 4, 8])
    ]  # fmt: skip
    assert report["predictions"]["compared"] > 10


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("to", ["torchscript", "pt2"])
def test_commands_accept_pytorch_programs_as_weights(
    tmp_path: Path, to: str, complete: bool, tiny_coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thresholds = {"predict__threshold": 0.02, "evaluate__threshold": 0.02}
    weights = saved(tmp_path, model__classes=2, data__names=["blue", "red"], **thresholds)
    file = tmp_path / f"x{runtimes.target(to).suffix}"
    export_model(weights, to, file, complete=complete)
    found: list[list[float]] = []
    for source in (weights, file):
        scores = []
        for verb, words in (("predict", [str(tiny_coco), "--no-draw"]), ("evaluate", ["--data", str(tiny_coco)])):
            out = tmp_path / source.name.replace(".", "_") / verb
            with pytest.raises(SystemExit) as leaving:
                cli.main([verb, str(source), *words, "--out", str(out), "--trust-file"])
            assert not leaving.value.code, capsys.readouterr().err
            rows = json.loads((out / "detections.json").read_text())
            if verb == "predict":
                rows = [row for image in rows["images"] for row in image["detections"]]
            scores += sorted(row["score"] for row in rows)
        found.append(scores)
    assert len(found[0]) > 10
    assert found[1] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_float16_file_is_half_as_large(tmp_path: Path, to: str) -> None:
    weights, file = saved(tmp_path), tmp_path / f"x{runtimes.target(to).suffix}"
    export_model(weights, to, file, half=True)
    size = file.with_suffix({"onnx": ".onnx", "openvino": ".bin"}[to]).stat().st_size
    assert 0.45 <= size / weights.stat().st_size < 0.65
    assert json.loads((tmp_path / f"{file.name}.parity.json").read_text())["precision"] == "float16"


@pytest.mark.parametrize(("name", "to"), [("tiny_darknet_cifar10", "ckpt"), ("demo", "darknet")])
def test_formats_without_metadata_have_a_json_beside(tmp_path: Path, name: str, to: str) -> None:
    weights, file = saved(tmp_path, name), tmp_path / f"x{runtimes.target(to).suffix}"
    export_model(weights, to, file)
    beside = {"x.cfg"} if to == "darknet" else set()
    assert files_beside_weights(tmp_path) == {file.name, f"{file.name}.json", f"{file.name}.parity.json"} | beside
    again, original = bw.load(file), bw.load(weights)
    assert again.recipe == original.recipe
    for tensor, other in zip(again.model.parameters(), original.model.parameters(), strict=True):
        assert torch.equal(tensor, other)


def test_average_precision_is_compared_on_labeled_images(tmp_path: Path, tiny_coco: Path) -> None:
    weights = saved(tmp_path, model__classes=2, data__names=["blue", "red"])
    report = export_model(weights, "onnx", tmp_path / "x.onnx", data=str(tiny_coco))
    assert report.content["images"] == "4 of 4 images of val"
    assert report.content["quality"]["measure"] == "AP"
    assert report.content["quality"]["pytorch"] == pytest.approx(report.content["quality"]["file"], abs=1e-3)


# The gate


def wrong_mean(model: nn.Module, *rest: Any) -> Graph:
    """An exporter that forgets a tenth of the mean."""
    graph = raw_graph(model, *rest)
    broken: Any = deepcopy(graph.module)
    broken.mean += 0.1
    return replace(graph, module=broken)


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_export_with_a_wrong_mean_is_rejected(
    tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, file = saved(tmp_path), tmp_path / f"x{runtimes.target(to).suffix}"
    monkeypatch.setattr(run, "raw_graph", wrong_mean)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["export", str(weights), "--to", to, "-o", str(file)])
    assert leaving.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert "not written, for output stride32 differs from PyTorch's by" in error
    assert files_beside_weights(tmp_path) == {f"{file.name}.parity.json"}
    report = json.loads((tmp_path / f"{file.name}.parity.json").read_text())
    assert not report["passed"]
    assert report["first_difference"]["name"] == "stride32"
    assert report["first_difference"]["worst"] > report["limits"]["raw"]
    if to == "onnx":  # where the mean is taken off
        assert report["first_inside"]["operator"] == "Sub"


def test_rejected_export_keeps_the_existing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, file = saved(tmp_path), tmp_path / "x.xml"
    for name in ("x.xml", "x.bin"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(run, "raw_graph", wrong_mean)
    with pytest.raises(InputError, match="not written"):
        export_model(weights, "openvino", file)
    assert (file.read_text(), file.with_suffix(".bin").read_text()) == ("x.xml", "x.bin")
    assert files_beside_weights(tmp_path) == {"x.xml", "x.bin", "x.xml.parity.json"}


def test_companion_that_cannot_be_replaced_keeps_existing_file(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("old")
    (tmp_path / "x.bin").mkdir()

    def write() -> None:
        with atomic_write_group(tmp_path / "x.xml") as tmp:
            tmp.write_text("new")
            tmp.with_suffix(".bin").write_text("new")

    with pytest.raises(InputError, match=r"x\.bin: cannot be written"):
        write()
    assert (tmp_path / "x.xml").read_text() == "old"
    assert files_beside_weights(tmp_path) == {"x.xml", "x.bin"}


LIMITS = LIMITS_OF["float32"]


def found(*rows: tuple[float, int, float]) -> Detections:
    """(score, label, left edge) of boxes of 10 x 10 px."""
    boxes = torch.tensor([[x, 0, x + 10, 10] for *_, x in rows]).view(-1, 4)
    scores, labels = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows], dtype=torch.int64)
    return Detections(boxes, scores, labels)


def test_detections_are_matched_one_to_one() -> None:
    """By hand, on an image of 100 px: edges may differ by 0.1 px, scores by 0.001."""
    ours = found((0.9, 0, 20), (0.8, 1, 40), (0.7, 0, 60))
    assert match(ours, ours, 0.1, 100, LIMITS) == (3, 3, [])
    swapped = found((0.9, 0, 20), (0.7005, 0, 60.05), (0.8, 1, 40))
    assert match(ours, swapped, 0.1, 100, LIMITS)[:2] == (3, 3)
    for other in (
        found((0.9, 0, 20), (0.8, 1, 40), (0.7, 0, 60.2)),  # too far
        found((0.9, 0, 20), (0.8, 1, 40), (0.705, 0, 60)),  # another score
        found((0.9, 0, 20), (0.8, 1, 40), (0.7, 1, 60)),  # another class
    ):
        compared, matched, alone = match(ours, other, 0.1, 100, LIMITS)
        assert (compared, matched) == (4, 2)  # the one of each side that has no partner
        assert [row["only_in"] for row in alone] == ["PyTorch", "the file"]
    compared, matched, alone = match(ours, found((0.9, 0, 20), (0.8, 1, 40)), 0.1, 100, LIMITS)
    assert (compared, matched, alone[0]["score"]) == (3, 2, pytest.approx(0.7))
    twice = found((0.9, 0, 20), (0.9, 0, 20.01), (0.8, 1, 40), (0.7, 0, 60))  # one partner is not enough for two
    assert match(ours, twice, 0.1, 100, LIMITS)[:2] == (4, 3)
    assert match(twice, ours, 0.1, 100, LIMITS)[:2] == (4, 3)
    assert match(found(), found(), 0.1, 100, LIMITS) == (0, 0, [])


def test_detections_at_the_threshold_are_not_compared() -> None:
    """0.1004 is within 0.001 of the threshold, 0.1."""
    ours, theirs = found((0.9, 0, 20), (0.1004, 0, 60)), found((0.9, 0, 20))
    assert match(ours, theirs, 0.1, 100, LIMITS)[:2] == (1, 1)
    assert match(ours, theirs, 0.05, 100, LIMITS)[:2] == (2, 1)


def test_classes_are_matched_by_label_and_score() -> None:
    ours = Classes(torch.tensor([0.6, 0.3, 0.05]), torch.tensor([4, 2, 7]))
    same = Classes(torch.tensor([0.6, 0.3, 0.05]), torch.tensor([4, 2, 8]))  # the last place is a tie
    other = Classes(torch.tensor([0.6, 0.3, 0.05]), torch.tensor([2, 4, 7]))
    assert match(ours, same, 0.05, 1, LIMITS)[:2] == (2, 2)
    assert match(ours, other, 0.05, 1, LIMITS)[:2] == (5, 1)


def test_raw_difference_is_relative_to_the_largest_value() -> None:
    ours = torch.tensor([[4.0, -8.0]]), torch.tensor([[1.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])
    theirs = torch.tensor([[4.0, -8.08]]), torch.tensor([[float("nan")]]), torch.ones(1, 2), torch.tensor([[2.0]])
    worst = [share for _, share, _ in differences("abcd", ours, theirs, LIMITS)]
    assert worst == [pytest.approx(0.01), float("inf"), float("inf"), 0]


def test_proposals_may_be_reordered_but_not_replaced() -> None:
    names = ("proposals", "logits", "deltas", "valid")
    torch.manual_seed(0)
    ours = torch.rand(1, 200, 4) * 100, torch.rand(1, 200, 3), torch.rand(1, 200, 12), torch.arange(200)[None] < 190
    order = torch.randperm(200)
    swapped = [one[:, order] for one in ours]
    assert all(share == 0 for _, share, _ in differences(names, ours, swapped, LIMITS, two_stage=True))
    swapped[1] = swapped[1].flip(1)  # the logits of other proposals
    assert [share > 0.1 for _, share, _ in differences(names, ours, swapped, LIMITS, two_stage=True)] == [
        False,
        True,
        False,
        False,
    ]
    none = [*ours[:3], torch.zeros_like(ours[3])]
    assert [share for _, share, _ in differences(names, none, none, LIMITS, two_stage=True)] == [0, 0, 0, 0]
    swapped[0] = swapped[0] + 3
    assert next(iter(differences(names, ours, swapped, LIMITS, two_stage=True)))[1] > 0.01


def test_complete_file_is_compared_at_a_lower_threshold(tmp_path: Path) -> None:
    """At threshold 0.99 the file finds nothing; the report is of one with a lower threshold."""
    weights, file = saved(tmp_path, predict__threshold=0.99), tmp_path / "x.torchscript"
    report = export_model(weights, "torchscript", file, complete=True)
    assert report.content["predictions"]["compared"] > 10
    assert report.content["kind"] == "complete"
    assert report.content["raw"] == []
    predictor = bw.load(file, trust=True)
    assert predictor.recipe.predict.threshold == 0.99
    assert len(predictor(scenes.render(0, 0).image)) == 0


def test_complete_file_without_detections_is_rejected(tmp_path: Path) -> None:
    """No score reaches 0.01 either: nothing was compared, so nothing is verified."""
    weights = saved(tmp_path)
    model, chosen, _ = load_network(weights, None, "cpu", ())
    for name, bias in model.named_parameters():
        if name in ("out32.bias", "out16.bias"):
            bias.data.view(3, -1)[:, 4] -= 40  # whether there is anything
    checkpoint.save(weights, model.to(memory_format=torch.contiguous_format), chosen)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"nothing is found on 4 rendered images .*--data"):
        export_model(weights, "torchscript", tmp_path / "x.torchscript", complete=True)
    assert files_beside_weights(tmp_path) == {"x.torchscript.parity.json"}


def test_infinite_differences_are_valid_json(tmp_path: Path) -> None:
    report = parity.ParityReport(tmp_path / "x.onnx", "wrong", {"raw": [{"worst": float("inf")}]})

    def reject_constant(word: str) -> None:
        raise AssertionError(word)  # Infinity is no word of JSON

    tree = json.loads(report.save().read_text(), parse_constant=reject_constant)
    assert tree["raw"] == [{"worst": "Infinity"}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"predictions": {"matched": 8, "compared": 9, "unmatched": [{"image": 3}]}}, "8 of 9 predictions"),
        ({"quality": {"measure": "AP", "pytorch": 0.5, "file": 0.502}}, "AP is 0.5020, in PyTorch 0.5000"),
    ],
)
def test_reasons_to_reject(change: dict[str, Any], reason: str) -> None:
    good = {
        "first_difference": None,
        "predictions": {"matched": 9, "compared": 9, "unmatched": []},
        "quality": {"measure": "AP", "pytorch": 0.5, "file": 0.4995},
    }
    assert parity._reason(good | change, LIMITS).startswith(reason)
    assert bool(parity._reason(good | change, LIMITS)) == bool(reason)


# Bad input


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--to", "tflite"],
            "--to: found 'tflite', needed one of ckpt, darknet, mindir, om, onnx, openvino, pt2, torchscript",
        ),
        (["--to", "onnx", "--size", "100", "96"], "found [100, 96] px, the model needs multiples of 32"),
        (["--to", "onnx", "--size", "100000", "96"], "less than or equal to 16384 (found 100000)"),
        (["--to", "onnx", "--split", "train"], "--split train: found without --data"),
        (["--to", "onnx", "-o", "x.xml"], "found the suffix '.xml', needed .onnx"),
        (["--to", "onnx", "--batch", "2", "--dynamic-batch"], "found both, needed one"),
        (["--to", "darknet", "--half", "--with-nms"], "--half, --with-nms: --to darknet writes weights without"),
        (["--to", "torchscript", "--half"], "--half: found with --to torchscript, goes with onnx and openvino"),
        (["--to", "onnx", "--chip", "Ascend310P3"], "--chip: found with --to onnx, goes with om"),
        (["--to", "onnx", "--recipe", "faster_rcnn_r50_coco_torchvision"], "w.safetensors"),
        (["--to", "onnx", "--recipe", "nothing"], "there is no recipe 'nothing'"),
        (["--to", "ckpt"], "has no name in MindSpore"),
        (["--to", "onnx", "--data", "nowhere"], "nowhere"),
        (["--to", "onnx", "-o", "no/such/folder/x.onnx"], "cannot be written"),
    ],
)
def test_invalid_options_are_an_error_and_leave_no_file(
    tmp_path: Path, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["export", str(weights), *words])
    out, error = capsys.readouterr()
    assert (leaving.value.code, out) == (2, "")
    assert told in error
    assert error.count("\n") == 1
    assert files_beside_weights(tmp_path) == set()


def test_files_that_are_not_models_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        export_model(tmp_path / "w.weights", "onnx", recipe=TINY)
    (tmp_path / "text.weights").write_text("these are not the numbers that you are looking for")
    with pytest.raises(InputError, match="not a Darknet weights file"):
        export_model(tmp_path / "text.weights", "onnx", recipe=TINY)


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2", "x.torchscript"])
def test_export_of_an_exported_file_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="is an exported file, needed weights"):
        export_model(tmp_path / name, "openvino", recipe="demo")


def test_unrelated_json_beside_weights_is_ignored(tmp_path: Path) -> None:
    """Weights with a recipe of their own need none beside them."""
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run").rename(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run.json").write_text('{"loss": 1}')
    assert bw.load(tmp_path / "run").names == ("car", "truck", "tank")


def test_weights_are_not_overwritten_by_their_export(tmp_path: Path) -> None:
    weights = saved(tmp_path)
    export_model(weights, "darknet", tmp_path / "demo.weights")
    before = (tmp_path / "demo.weights").read_bytes()
    with pytest.raises(InputError, match="would take the place of"):
        export_model(tmp_path / "demo.weights", "darknet", tmp_path / "demo.weights")
    assert (tmp_path / "demo.weights").read_bytes() == before


def test_darknet_export_of_a_two_stage_model_is_rejected(tmp_path: Path) -> None:
    weights = saved(tmp_path, "faster_rcnn_r50_coco_torchvision", data__canvas__size=[64, 64])
    with pytest.raises(InputError, match="Darknet's files hold convolutions"):
        export_model(weights, "darknet", tmp_path / "x.weights")
    assert files_beside_weights(tmp_path) == set()


@pytest.mark.parametrize(
    ("to", "absent", "extra"),
    [("onnx", "onnxscript", "onnx"), ("openvino", "openvino", "openvino"), ("mindir", "mindspore", "mindspore")],
)
def test_missing_extra_is_named(
    tmp_path: Path, to: str, absent: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=rf"pip install 'boxwright\[{extra}\]'"):
        export_model(weights, to, tmp_path / f"x{runtimes.target(to).suffix}")
    assert files_beside_weights(tmp_path) == set()


def test_metadata_round_trip(tmp_path: Path) -> None:
    metadata = Metadata(recipe.load("demo"), "raw", "float32", ("a", "b"), "0f", "0.1.0")
    again = Metadata.from_text(metadata.to_text(), "x")
    assert replace(again, recipe=metadata.recipe) == metadata
    assert isinstance(again.recipe, Recipe)
    for part in ("name", "model", "evaluate", "predict"):
        assert getattr(again.recipe, part) == getattr(metadata.recipe, part)
    assert again.recipe.train == TrainConfig()  # how it was trained is not taken
    with pytest.raises(InputError, match="x: its 'boxwright' metadata: not JSON"):
        Metadata.from_text("1" * 5000, "x")  # more digits than Python reads
