"""The command `quantize`: INT8 files, their loss of AP, and layers that stay float.

The truth: arithmetic of 8 bits written down here in numpy, OpenVINO's and ONNX's own account of what a file holds.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import class_folder
from boxwright import cli, models, recipe
from boxwright.errors import InputError
from boxwright.export import int8, int8_files, sensitivity
from boxwright.export.int8 import quantize
from boxwright.export.timing import side_by_side
from boxwright.metrics.comparison import Difference
from boxwright.predict import predictor
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.open import read_metadata
from boxwright.runtimes.openvino import core
from boxwright.runtimes.serialization import onnx_file
from boxwright.weights import checkpoint
from signal_stack import signal_stack
from small_run import SMALL

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.runtimes

LAYERS = 13  # convolutions of YOLOv3-tiny
LEFT = {".int8.json", ".int8.md", ".int8.png"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe `demo` made small, with random weights and the classes of `tiny_coco`."""
    chosen = recipe.load("demo", SMALL).with_names(["blue", "red"])
    torch.manual_seed(3)
    model = models.build(chosen.model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.2)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    checkpoint.save(file, model, chosen)
    return file


def int8_layers(file: Path) -> list[str]:
    """Layers of an OpenVINO file whose weights are stored as 8 bits."""
    model = core().read_model(file)
    found = []
    for op in model.get_ops():
        if op.get_type_name() == "Convolution":
            weight = op.input_value(1).get_node()
            while weight.get_type_name() != "Constant":
                weight = weight.input_value(0).get_node()
            if weight.get_element_type() == openvino.Type.i8:
                found.append(op.get_friendly_name())
    return found


def kinds_of_convolutions(file: Path) -> list[int]:
    """How an ONNX file stores the weights of its convolutions."""
    graph = onnx.load(file).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    sources = {node.output[0]: node for node in graph.node}
    return [kinds[sources[node.input[1]].input[0]] for node in graph.node if node.op_type == "Conv"]


def nodes(weights: Path, folder: Path) -> dict[str, list[str]]:
    """Names of the layers in the graph, from a separate export."""
    loaded = predictor.load(weights)
    onnx_file.write(raw_graph(loaded.model, loaded.recipe), folder / "again.onnx", "{}", deform="plain")
    return onnx_file.layers(folder / "again.onnx")


class TestFiles:
    @pytest.mark.usefixtures("figures")
    def test_openvino(self, weights: Path, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a scorer in place of AP: INT8 is worth less than float32 as long as all layers are in 8 bits."""

        def compare(files: Any, file: Path, val: Any) -> Difference:
            kept = file == files.float32 or len(int8_layers(file)) < LAYERS
            return Difference("AP", 0.8, 0.8 if kept else 0.5, 0.01, 0.5)

        monkeypatch.setattr(int8._Files, "compare", compare)
        out = tmp_path / "m.xml"
        core().get_versions("CPU")
        before = signal_stack()  # NNCF makes cores of its own
        report = quantize(weights, tiny_coco, out, images=3)
        assert signal_stack() == before
        assert {file.name for file in tmp_path.iterdir()} == {"m.xml", "m.bin"} | {f"m.xml{end}" for end in LEFT}
        assert report.floats == (report.layers[0].layer,)
        held = int8_layers(out)
        assert len(held) == LAYERS - 1
        assert not {name.removesuffix("/WithoutBiases") for name in held} & set(
            nodes(weights, tmp_path)[report.floats[0]]
        )
        assert report.after.size == out.stat().st_size + out.with_suffix(".bin").stat().st_size
        assert report.calibrated_on == "3 of 12 images of train"
        content = json.loads((tmp_path / "m.xml.int8.json").read_text())
        assert content["floats"] == list(report.floats)
        assert content["drop"] == 0
        assert content["difference"]["interval"] == pytest.approx([-0.0196, 0.0196], abs=1e-4)
        assert report.rows()[0][3] == "drop 0.0000 [-0.0196, 0.0196] of 0.005"
        assert len(content["layers"]) == LAYERS
        assert (tmp_path / "m.xml.int8.md").read_text().count("| float |") == 1
        self._check_metadata_and_outputs(out, weights)

    def test_onnxruntime(self, weights: Path, tiny_coco: Path, tmp_path: Path) -> None:
        out = tmp_path / "m.onnx"
        quantize(weights, tiny_coco, out, backend="onnxruntime", images=5, max_drop=1)
        assert kinds_of_convolutions(out) == [onnx.TensorProto.INT8] * LAYERS
        self._check_metadata_and_outputs(out, weights)

    @staticmethod
    def _check_metadata_and_outputs(out: Path, weights: Path) -> None:
        metadata = read_metadata(out)
        assert (metadata.kind, metadata.precision, metadata.recipe.data.names) == ("raw", "int8", ("blue", "red"))
        image = np.random.default_rng(1).integers(0, 256, (96, 96, 3)).astype(np.uint8)
        canvas = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        plain, small = predictor.load(weights), predictor.load(out)
        with torch.inference_mode():
            wanted = plain.model(canvas)
        assert small.runtime is not None
        for one, other in zip(wanted, small.runtime.forward(canvas), strict=True):
            gap = float((one - other).square().mean().sqrt() / one.std())
            assert 0 < gap < 0.2  # 13 layers of 8 bits; without calibration it is 1 and more

    def test_classifier(self, tmp_path: Path) -> None:
        data = class_folder.write(tmp_path / "data", {"train": 2, "val": 2})
        chosen = recipe.load(class_folder.RECIPE, class_folder.SMALL).with_names(sorted(class_folder.COLORS))
        torch.manual_seed(0)
        model = models.build(chosen.model)
        checkpoint.save(tmp_path / "c.safetensors", model, chosen)
        out = tmp_path / "c.onnx"  # for ONNX Runtime: OpenVINO's correction layer by layer takes three times as long
        report = quantize(tmp_path / "c.safetensors", data, out, backend="onnxruntime", images=4, max_drop=1)
        assert report.measure == "top-1"
        assert report.measured_on.startswith("6 images of val")
        layers = sum(isinstance(one, nn.Conv2d) for one in model.modules())
        assert kinds_of_convolutions(out) == [onnx.TensorProto.INT8] * layers


class FakeFiles:
    """Replaces the files: that many layers must stay float until AP does not drop."""

    int8 = Path("int8")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.kept: list[list[str]] = []

    def quantize(self, kept: list[str]) -> None:
        self.kept.append(kept)

    def compare(self, file: Path, val: Any) -> Difference:
        return Difference("AP", 0.8, 0.8 if len(self.kept[-1]) >= self.needed else 0.8 - 0.0051, 0.001, 0.5)


class TestSearch:
    @pytest.mark.parametrize(("needed", "tried"), [(0, [0]), (1, [0, 1]), (3, [0, 1, 2, 4])])
    def test_number_of_float_layers_doubles_until_the_drop_is_met(self, needed: int, tried: list[int]) -> None:
        work = FakeFiles(needed)
        trials, difference = int8._search(work, None, 0.005, list("abcdefg"))  # type: ignore[arg-type]
        assert work.kept == [list("abcdefg")[:count] for count in tried]
        assert [trial.floats for trial in trials] == [tuple(kept) for kept in work.kept]
        assert trials[-1].quality == difference.b == 0.8

    def test_drop_just_below_the_limit_is_accepted(self) -> None:
        assert len(int8._search(FakeFiles(9), None, 0.0052, list("ab"))[0]) == 1  # type: ignore[arg-type]

    def test_network_without_layers_is_an_error(self) -> None:
        with pytest.raises(InputError, match="0 of 0 layers in float"):
            int8._search(FakeFiles(9), None, 0.005, [])  # type: ignore[arg-type]

    def test_unreachable_limit_is_an_error(self) -> None:
        work = FakeFiles(9)
        with pytest.raises(
            InputError, match=r"found 0.005; 0.7949 is further below 0.8000, even with 4 of 8 layers in"
        ):
            int8._search(work, None, 0.005, list("abcdefgh"))  # type: ignore[arg-type]
        assert [len(kept) for kept in work.kept] == [0, 1, 2, 4]


class TwoConvolutions(nn.Module):
    """A convolution of 1 x 1 that scales, and one that adds up channels."""

    raw_names = ("sum", "map")

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(2, 2, 1, groups=2, bias=False)
        self.sum = nn.Conv2d(2, 1, 1, bias=False)
        self.unused = nn.Conv2d(1, 1, 1)
        self.scale.weight.data = torch.tensor([1.0, 127.3]).view(2, 1, 1, 1)
        self.sum.weight.data = torch.tensor([127.0, 0.4]).view(1, 2, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        map_ = self.scale(x)
        return self.sum(map_), map_


class TestSensitivity:
    IMAGES = (torch.tensor([[-0.6, 0.1], [0.3, 1.0]]).view(1, 2, 1, 2),)

    def test_sensitivity_by_hand(self) -> None:
        """Inputs from -0.6 to 1 in 255 steps. The weights of `scale` are whole steps, of `sum` 0.4 becomes 0."""
        found = {one.layer: one.change for one in sensitivity.sensitivity(TwoConvolutions(), self.IMAGES)}
        assert found.keys() == {"scale", "sum"}  # not the one that nothing reaches
        x = np.array([[-0.6, 0.1], [0.3, 1.0]])
        w, v = np.array([1.0, 127.3]), np.array([127.0, 0.4])

        def steps(values: np.ndarray) -> np.ndarray:
            low, high = min(values.min(), 0), max(values.max(), 0)
            step = (high - low) / 255
            return (np.clip(np.rint(values / step) + round(-low / step), 0, 255) - round(-low / step)) * step

        def share(one: np.ndarray, other: np.ndarray) -> float:
            return float(np.sqrt(((one - other) ** 2).mean() / (one**2).mean()))

        map_, changed = w[:, None] * x, w[:, None] * steps(x)
        of_scale = [share(v @ map_, v @ changed), share(map_, changed)]
        of_sum = [share(v @ map_, np.array([127.0, 0.0]) @ steps(map_)), 0.0]
        assert found["scale"] == pytest.approx(np.mean(of_scale), rel=1e-4)
        assert found["sum"] == pytest.approx(np.mean(of_sum), rel=1e-4)

    def test_network_is_not_modified(self) -> None:
        model = TwoConvolutions().train()
        before = [one.clone() for one in model.state_dict().values()]
        sensitivity.sensitivity(model, self.IMAGES)
        assert model.training
        assert all(torch.equal(one, other) for one, other in zip(before, model.state_dict().values(), strict=True))
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_networks_are_timed_alternately() -> None:
    calls: list[str] = []
    ms = side_by_side([lambda _: calls.append("a"), lambda _: calls.append("b")], [torch.zeros(1)], rounds=4)  # type: ignore[arg-type,func-returns-value]
    assert len(ms) == 2
    assert "".join(calls) == "ab" * 7


class TestBadInput:
    def test_invalid_arguments(self, weights: Path, tiny_coco: Path, tmp_path: Path) -> None:
        def assert_rejected(match: str, *arguments: Any, **words: Any) -> None:
            with pytest.raises(InputError, match=match):
                quantize(weights, tiny_coco, *arguments, **words)

        assert_rejected("^--backend: found 'tensorrt', needed one of openvino, onnxruntime$", backend="tensorrt")
        assert_rejected("^--images: found 0, needed at least one image to calibrate on$", images=0)
        assert_rejected("^--max-drop: found 2, needed a number from 0 to 1", max_drop=2)
        assert_rejected(r"m.onnx: found the suffix '.onnx', needed .xml for --backend openvino$", tmp_path / "m.onnx")

    def test_errors_are_reported_before_export(
        self, weights: Path, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unwritable output and a missing NNCF are reported before anything is exported or measured."""
        monkeypatch.setattr(int8, "_Files", None)
        with pytest.raises(InputError, match=r"absent/m.xml: cannot be written"):
            quantize(weights, tiny_coco, tmp_path / "absent" / "m.xml", images=1)
        monkeypatch.setattr(int8, "load_for_export", None)
        monkeypatch.setitem(sys.modules, "nncf", None)
        with pytest.raises(InputError, match=r"^quantize: nncf is not installed"):
            quantize(weights, tiny_coco, tmp_path / "m.xml")

    def test_two_stage_detector_is_rejected(
        self, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = recipe.load("faster_rcnn_r50_dcn_coco_standard")
        model = nn.Identity()
        model.two_stage = models.module("faster_rcnn").FasterRCNN.two_stage
        monkeypatch.setattr(int8, "load_for_export", lambda *_: (model, chosen))
        with pytest.raises(InputError, match=r"^w: quantize takes YOLO and classifiers, found Faster R-CNN; .*--half$"):
            quantize("w", tiny_coco, tmp_path / "m.xml")

    def test_missing_calibration_split_is_an_error(self, weights: Path, tiny_coco: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no split 'train'; it holds val$"):
            quantize(weights, self._copy(tiny_coco, tmp_path, "val"), tmp_path / "m.xml")
        assert not list(tmp_path.glob("m.*"))

    @staticmethod
    def _copy(data: Path, folder: Path, *splits: str, **changes: Any) -> Path:
        (folder / "data" / "annotations").mkdir(parents=True)
        for split in splits:
            (folder / "data" / split).symlink_to(data / split)
            labels = json.loads((data / "annotations" / f"{split}.json").read_text()) | changes
            (folder / "data" / "annotations" / f"{split}.json").write_text(json.dumps(labels))
        return folder / "data"

    def test_validation_without_objects_is_an_error(self, weights: Path, tiny_coco: Path, tmp_path: Path) -> None:
        folder = self._copy(tiny_coco, tmp_path, "train", "val", annotations=[])
        with pytest.raises(InputError, match=r"split val holds no object, needed some to measure AP on"):
            quantize(weights, folder, tmp_path / "m.xml", images=1)

    @pytest.mark.parametrize(("module", "backend"), [("nncf", "onnxruntime"), ("openvino", "openvino")])
    def test_missing_extra_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, backend: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=r"is not installed.*; pip install 'boxwright\[openvino"):
            int8_files.write_int8(backend, tmp_path / "a.onnx", tmp_path / "b", "", [], [])

    def test_command_line(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["quantize", str(tmp_path / "none.safetensors"), "--data", str(tmp_path)])
        assert stopped.value.code == 2
        assert "none.safetensors" in capsys.readouterr().err
