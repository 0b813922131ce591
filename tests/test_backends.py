"""Exported files in ONNX Runtime, OpenVINO and PyTorch: `Predictor` answers the same with each of them.

What the runtimes are given here is checked against PyTorch's own network; the files are made by `boxwright.export`.
"""

import gc
import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import boxwright as bw
from agreement import assert_same_classes, assert_same_detections, by_label
from boxwright import cli, models, recipe
from boxwright.errors import InputError
from boxwright.export import bench
from boxwright.export.complete import complete_graph
from boxwright.formats import open_dataset
from boxwright.predict import stream
from boxwright.predict.predictor import Predictor
from boxwright.runtimes import openvino as openvino_files
from boxwright.runtimes.base import runtime as base
from boxwright.runtimes.base import torch_runtime
from boxwright.runtimes.base.graph import raw_graph
from boxwright.runtimes.base.metadata import KEY, Metadata, fingerprint
from boxwright.runtimes.base.open import open_runtime, read_metadata
from boxwright.runtimes.base.runtime import RuntimeOptions
from boxwright.runtimes.serialization import onnx_file
from boxwright.weights import checkpoint
from signal_stack import signal_stack
from test_models import CASES, CLASSIFIERS

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.runtimes

SIDE = 64
LOW = 0.3
SETTINGS = {"data.canvas.size": [SIDE, SIDE], "model.width": 0.125, "data.workers": 0, "evaluate.batch": 3}


def plan(**changes):
    chosen = recipe.load("demo", SETTINGS | {key.replace("__", "."): value for key, value in changes.items()})
    return chosen.with_names(("blue", "red"))


def network(chosen, seed=0):
    """With random weights, batch norms that have seen something, and raw maps that differ from cell to cell."""
    torch.manual_seed(seed)
    model = models.build(chosen.model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, 0, 3 / module.in_channels**0.5)
            nn.init.zeros_(module.bias)
    return model.eval()


def card_of(model, chosen, kind="raw", outputs=None):
    return Metadata(chosen, kind, "float32", outputs or tuple(model.raw_names), fingerprint(model), bw.__version__)


def example_images(count=3):
    draw = np.random.default_rng(3)
    return [draw.integers(0, 256, (50 + 9 * i, 90 - 7 * i, 3)).astype(np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """model, recipe, and a folder with one.onnx, two.onnx (two images at a time), any.onnx (any number), one.xml,
    whole.onnx (from image to boxes) and w.safetensors."""
    folder = tmp_path_factory.mktemp("files")
    chosen = plan(predict__threshold=LOW)
    model = network(chosen)
    text = card_of(model, chosen).to_text()
    onnx_file.write(raw_graph(model, chosen), folder / "one.onnx", text)
    onnx_file.write(raw_graph(model, chosen, 2), folder / "two.onnx", text)
    onnx_file.write(raw_graph(model, chosen, dynamic_batch=True), folder / "any.onnx", text)
    openvino_files.save(openvino_files.read(folder / "one.onnx"), folder / "one.xml", text)
    whole = complete_graph(model, chosen)
    onnx_file.write(whole, folder / "whole.onnx", card_of(model, chosen, "complete", whole.outputs).to_text())
    checkpoint.save(folder / "w.safetensors", model, chosen)
    return model, chosen, folder


@pytest.fixture
def two_threads():
    """As on a machine with two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


FILES = [
    ("one.onnx", "onnxruntime"), ("two.onnx", "onnxruntime"), ("any.onnx", "onnxruntime"), ("one.onnx", "openvino"),
    ("two.onnx", "openvino"), ("any.onnx", "openvino"), ("one.xml", "openvino"), ("w.safetensors", "torch"),
]  # fmt: skip


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize(("file", "runtime"), FILES)
def test_detections_are_the_same_with_every_backend(made, file, runtime, together, two_threads):
    model, chosen, folder = made
    theirs = Predictor(model, chosen)(example_images())
    loaded = bw.load(folder / file, backend=runtime, runtime_options=RuntimeOptions(together))
    assert loaded.runtime.name == runtime
    ours = loaded(example_images())
    assert min(map(len, theirs)) > 5
    for a, b in zip(ours, theirs, strict=True):
        assert_same_detections(a, b, threshold=LOW, score=1e-5, box=1e-3)
        assert a.names == ("blue", "red")
    assert [len(one) for one in loaded([])] == []


@pytest.mark.parametrize(("file", "runtime"), [FILES[1], FILES[6], FILES[7]])
def test_pickled_predictor_keeps_its_file_and_runtime(made, file, runtime):
    loaded = bw.load(made[2] / file, backend=runtime)
    there = pickle.loads(pickle.dumps(loaded))
    assert there.runtime.name == runtime
    for a, b in zip(there(example_images()), loaded(example_images()), strict=True):
        assert len(a) > 5
        assert torch.allclose(a.boxes, b.boxes, atol=1e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_raw_outputs_match_pytorch_for_any_batch_size(made, runtime):
    model, _, folder = made
    for file, shape in (("one.onnx", 1), ("two.onnx", 2), ("any.onnx", None)):
        opened, metadata = open_runtime(folder / file, runtime)
        assert opened.shape == (shape, 3, SIDE, SIDE)
        assert metadata.outputs == model.raw_names
        for count in (1, 2, 5):
            images = torch.rand(count, 3, SIDE, SIDE)
            with torch.no_grad():
                expected = model(images)
            for a, b in zip(opened.forward(images), expected, strict=True):
                assert a.shape == b.shape
                assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))


def test_deleted_openvino_models_restore_the_signal_stack(made):
    """A core of its own for each model left it unmapped: the end of a loader's worker was then a segmentation fault."""
    _, _, folder = made
    bw.load(folder / "one.xml")
    before = signal_stack()
    loaded = [bw.load(folder / "one.xml") for _ in range(2)]
    while loaded:
        loaded.pop(0)
        gc.collect()
    assert signal_stack() == before


def test_loaded_file_has_meta_weights_and_its_recipe(made):
    _, chosen, folder = made
    loaded = bw.load(folder / "one.onnx")
    assert all(weight.is_meta for weight in loaded.model.parameters())
    assert (loaded.recipe.model, loaded.recipe.data.canvas) == (chosen.model, chosen.data.canvas)
    assert read_metadata(folder / "one.onnx") == read_metadata(folder / "one.xml")
    changed = bw.load(folder / "one.onnx", overrides={"predict.threshold": 0.5})
    assert changed.recipe.predict.threshold == 0.5


def test_auto_backend_falls_back_to_installed_runtimes(made, monkeypatch):
    _, _, folder = made
    assert bw.load(folder / "one.onnx").runtime.name == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert bw.load(folder / "one.onnx").runtime.name == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"^openvino is not installed.*pip install 'boxwright\[openvino\]'$"):
        bw.load(folder / "one.xml")
    with pytest.raises(InputError, match=r"pip install 'boxwright\[openvino\]'$"):
        bw.load(folder / "one.onnx")


@pytest.mark.parametrize(("name", "changes"), CASES + CLASSIFIERS)
def test_batch_norm_is_fused_into_convolutions(name, changes):
    module = models.module(name)
    chosen = module.Config.model_validate({"name": name, "classes": 3} | changes)
    torch.manual_seed(0)
    model = module.build(chosen).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.running_var, 0.8, 1.2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fused = torch_runtime.fused(model)
    left = [part for part in fused.modules() if isinstance(part, nn.BatchNorm2d)]
    deformable = changes.get("deform", "none") != "none"
    assert len(left) == (sum(block.conv2.__class__ is not nn.Conv2d for block in blocks(fused)) if deformable else 0)
    images = torch.rand(1, 3, 64, 64)
    extra = (torch.tensor([[64.0, 64.0]]),) if "extents" in model.inputs else ()
    with torch.no_grad():
        part = next(name for name in ("maps", "logits", "backbone") if hasattr(model, name))
        expected, found = (getattr(one, part)(images) for one in (model, fused))
        for a, b in zip(_tuple(found), _tuple(expected), strict=True):
            assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))
        assert len(fused(images, *extra)) == len(model.raw_names)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def blocks(model):
    return [part for part in model.modules() if hasattr(part, "conv2") and hasattr(part, "bn2")]


def _tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_bfloat16_needs_processor_support(made, monkeypatch):
    model, _, folder = made
    monkeypatch.setattr(torch_runtime, "has_bfloat16", lambda device: False)
    with pytest.raises(InputError, match="bfloat16: this processor has no instructions"):
        bw.load(folder / "w.safetensors", runtime_options=RuntimeOptions(bfloat16=True))
    monkeypatch.setattr(torch_runtime, "has_bfloat16", lambda device: True)
    images = torch.rand(2, 3, SIDE, SIDE)
    rough = bw.load(folder / "w.safetensors", runtime_options=RuntimeOptions(bfloat16=True)).runtime.forward(images)
    with torch.no_grad():
        exact = model(images)
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32
        assert 0 < float((a - b).abs().max() / b.abs().max()) < 0.1  # 8 bits of mantissa


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ("absent.onnx", {}, "absent.onnx: there is no such file"),
        ("text.onnx", {"backend": "onnxruntime"}, "text.onnx: not an ONNX model"),
        ("text.onnx", {}, "text.onnx: not an ONNX model"),
        ("text.xml", {}, "text.xml: not a model that OpenVINO can read"),
        ("empty.onnx", {}, "empty.onnx: the file is empty"),
        ("plain.onnx", {}, "plain.onnx: holds no 'boxwright' metadata.*written by `boxwright export`"),
        ("wrong.onnx", {}, "wrong.onnx: its 'boxwright' metadata: not JSON"),
        ("one.onnx", {"backend": "torch"}, "backend torch does not run .onnx files; needed openvino or onnxruntime"),
        ("one.xml", {"backend": "onnxruntime"}, "backend onnxruntime does not run .xml files; needed openvino"),
        ("one.onnx", {"device": "cuda"}, "found device cuda; exported files run on the cpu"),
        ("one.onnx", {"recipe": "yolov4_coco_608"}, "recipe yolov4_coco_608 does not fit"),
        (
            "one.onnx",
            {"overrides": {"data.canvas.size": [96, 96]}},
            r"found \[96, 96\], the file is made for \[64, 64\]",
        ),
        (
            "one.onnx",
            {"runtime_options": RuntimeOptions(compile=True)},
            "compile: found with backend openvino, which has none",
        ),
        ("w.safetensors", {"backend": "openvino"}, "export it first: boxwright export .*w.safetensors --to openvino"),
        ("w.safetensors", {"backend": "onnxruntime"}, "export it first: .* --to onnx"),
    ],
)
def test_invalid_files_and_options_are_reported_in_one_line(made, tmp_path, capfd, file, words, message):
    """One line, and none from the runtimes' own readers."""
    _, _, folder = made
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "text.xml").write_text("hello")
    (tmp_path / "empty.onnx").touch()
    for name, metadata in (("plain", {}), ("wrong", {KEY: "hello"})):
        kind = onnx.TensorProto.FLOAT
        ends = [onnx.helper.make_tensor_value_info(end, kind, [1, 3, 8, 8]) for end in "xy"]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / f"{name}.onnx")
    path = (folder if (folder / file).exists() else tmp_path) / file
    with pytest.raises(InputError, match=message) as error:
        bw.load(path, **words)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("kind", "shape"), [("FLOAT", [5]), ("INT64", [1, 3, 64, 64]), ("FLOAT", None)])
def test_model_without_image_input_is_rejected(tmp_path, runtime, kind, shape):
    ends = [onnx.helper.make_tensor_value_info(end, getattr(onnx.TensorProto, kind), shape) for end in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m.onnx: does not take images as our networks do; needed .* export`$"):
        open_runtime(tmp_path / "m.onnx", runtime)


def test_exported_classifier_matches_pytorch(tmp_path):
    chosen = recipe.load("tiny_darknet_cifar10", {"data.canvas.size": [32, 32]})
    model = network(chosen)
    onnx_file.write(raw_graph(model, chosen), tmp_path / "c.onnx", card_of(model, chosen).to_text())
    plain = bw.Predictor(model, chosen)(example_images())
    for runtime in ("onnxruntime", "openvino"):
        for a, b in zip(bw.load(tmp_path / "c.onnx", backend=runtime)(example_images()), plain, strict=True):
            assert_same_classes(by_label(a), by_label(b), score=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_complete_graph_matches_pytorch(made, tiny_coco, runtime):
    model, chosen, folder = made
    loaded = bw.load(folder / "whole.onnx", backend=runtime)
    inside = chosen.with_overrides({"evaluate.nms": chosen.predict.nms.model_dump()})
    for a, b in zip(loaded(example_images()), Predictor(model, chosen)(example_images()), strict=True):
        assert len(b) > 5
        assert a.size == b.size
        assert_same_detections(a, b, threshold=LOW, score=1e-4, box=0.05)
    data = open_dataset(tiny_coco, "val")
    ours, theirs = bw.evaluate(loaded, data), bw.evaluate(Predictor(model, inside), data, threshold=LOW)
    assert ours.ap50 == pytest.approx(theirs.ap50, abs=1e-3)
    assert ours.info["threshold"] == LOW


class Fixed(base.Runtime):
    """Three rows for every image, the last of them empty."""

    name, channels_last = "fixed", False

    def run(self, inputs):
        assert inputs[0].dtype == torch.uint8
        assert len(inputs[0]) == self.shape[0]
        boxes = torch.tensor([[1.0, 2, 30, 40], [5, 5, 9, 9], [0, 0, 0, 0]])
        answers = boxes, torch.tensor([0.9, 0.6, 0.0]), torch.tensor([1, 0, -1])
        return [torch.stack([one] + [0 * one] * (self.shape[0] - 1)) for one in answers]


def complete(chosen, batch=1, **overrides):
    model = network(chosen)
    wanted = chosen.with_overrides({key.replace("__", "."): value for key, value in overrides.items()})
    return Predictor(model, wanted, "cpu", Fixed((batch, None, None, 3)), card_of(model, chosen, "complete"))


@pytest.mark.parametrize("batch", [1, 2])
def test_complete_graph_with_images_of_different_sizes(batch):
    found = complete(plan(predict__threshold=0.5), batch)(example_images(3))
    assert [one.labels.tolist() for one in found] == [[1, 0]] * 3


def test_settings_inside_a_complete_graph_cannot_be_changed():
    chosen = plan(predict__threshold=0.5)
    predictor = complete(chosen)
    found = predictor(example_images(1)[0])
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.labels.tolist() == [1, 0]
    assert found.size == (50, 90)
    assert predictor(example_images(1)[0], threshold=0.7).labels.tolist() == [1]
    assert predictor(example_images(1)[0], classes=["blue"]).scores.tolist() == pytest.approx([0.6])
    assert predictor.recipe.evaluate.threshold == 0.5
    lowest = plan(predict__threshold=0.0)
    # rows that stand for nothing stay out at any threshold
    assert complete(lowest)(example_images(1)[0]).labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"threshold: found 0.3, the file has 0.5 inside; .*--raw"):
        predictor(example_images(1)[0], threshold=0.3)
    with pytest.raises(InputError, match=r"nms: found .* it is inside the file"):
        predictor(example_images(1)[0], iou=0.9)
    assert complete(chosen, predict__threshold=0.7)(example_images(1)[0]).labels.tolist() == [1]
    renamed = complete(chosen, data__names=["Boot", "Haus"])
    assert renamed.names == renamed(example_images(1)[0]).names == ("Boot", "Haus")
    assert renamed(example_images(1)[0], classes=["Boot"]).class_names == ["Boot"]
    for words, message in (
        ({"model__anchors": [[9, 9]] * 6}, "model: found other values than those in the file; .*--raw"),
        ({"predict__temperatures": [2.0, 2.0]}, "predict.temperatures: found other values than those in the file"),
        ({"predict__threshold": 0.3}, "threshold: found 0.3, the file has 0.5 inside"),
        ({"predict__nms__iou": 0.9}, "nms: found .* it is inside the file"),
        ({"data__canvas__size": [96, 96]}, "data.canvas: found other values than those in the file; .*--raw"),
        ({"evaluate__threshold": 0.3}, "threshold: found 0.3, the file has 0.5 inside"),
        ({"evaluate__nms__iou": 0.9}, "nms: found .* it is inside the file"),
    ):
        with pytest.raises(InputError, match=message):
            complete(chosen, **words)
    with pytest.raises(InputError, match="cannot be read"):
        predictor("none.jpg")


def test_commands_accept_exported_files(made, tmp_path, tiny_coco, capsys):
    _, _, folder = made
    image = cv2.cvtColor(example_images(1)[0], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "p.png"), image)
    rows = {}
    for file, runtime in (("w.safetensors", "auto"), ("one.onnx", "onnxruntime"), ("one.xml", "auto")):
        out = tmp_path / f"out_{file}"
        words = [
            "predict",
            str(folder / file),
            str(tmp_path / "p.png"),
            "--out",
            str(out),
            "--no-draw",
            "--backend",
            runtime,
        ]
        with pytest.raises(SystemExit) as leaving:
            cli.main(words)
        assert leaving.value.code == 0
        assert [path.name for path in out.iterdir()] == ["detections.json"]
        (row,) = json.loads((out / "detections.json").read_text())["images"]
        assert row["drawn"] is None
        rows[file] = [(one["label"], *one["box"]) for one in row["detections"]]
    first, *others = rows.values()
    assert len(first) > 5
    for other in others:
        assert np.allclose(first, other, atol=1e-2)
    assert "drawn" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as leaving:
        cli.main(["evaluate", str(folder / "one.xml"), "--data", str(tiny_coco), "--out", str(tmp_path / "eval")])
    assert leaving.value.code == 0
    assert json.loads((tmp_path / "eval/metrics.json").read_text())["images"] == 4


class Rendezvous(base.Runtime):
    """Answers once as many parts are being looked at as there are streams, and remembers them."""

    name, channels_last = "rendezvous", False

    def __init__(self, network, streams):
        super().__init__((None, 3, SIDE, SIDE), streams)
        self.network, self.met, self.parts = network, threading.Barrier(streams), []

    def run(self, inputs):
        self.parts.append((len(inputs[0]), torch.get_num_threads(), threading.get_ident()))
        self.met.wait(5)
        with torch.inference_mode():
            return self.network(*inputs)


def test_streams_share_images_and_cores(two_threads):
    model = network(plan())
    streams = Rendezvous(model, RuntimeOptions(5).streams())
    images = torch.rand(5, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model(images)
    for ours, theirs in zip(streams.forward(images), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert sorted(streams.parts)[0][:2] == (2, 1)
    assert sorted(streams.parts)[1][:2] == (3, 1)
    streams.parts.clear()
    # called by a stream, which runs all of them
    both = [streams.pool.submit(streams.forward, images) for _ in range(2)]
    assert [len(one.result()[0]) for one in both] == [5, 5]
    assert [part[:2] for part in streams.parts] == [(5, 1), (5, 1)]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize(
    ("cores", "images", "step", "streams"),
    [
        (1, 8, None, 1), (2, 8, None, 2), (7, 8, None, 7), (8, 99, None, 8), (10, 8, None, 5), (12, 8, None, 6),
        (13, 8, None, 1), (64, 8, None, 8), (8, 1, None, 1), (8, 3, None, 2), (8, 8, 4, 2), (8, 8, 8, 1), (8, 2, 8, 1),
    ],
)  # fmt: skip
def test_number_of_streams(cores, images, step, streams, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert RuntimeOptions(images).streams(step) == streams


@pytest.mark.parametrize(
    ("file", "runtime"), [("any.onnx", "onnxruntime"), ("any.onnx", "openvino"), ("w.safetensors", "torch")]
)
def test_each_core_is_a_stream_for_many_images(made, file, runtime, two_threads):
    """OpenVINO answered one question after the other, with one of its two streams, where the batch was free."""
    _, _, folder = made
    for together, streams in ((4, 2), (1, 1)):
        opened = bw.load(folder / file, backend=runtime, runtime_options=RuntimeOptions(together)).runtime
        assert opened.streams == streams
        sizes = []
        opened.run = lambda inputs, run=opened.run, sizes=sizes: sizes.append(len(inputs[0])) or run(inputs)
        opened.forward(torch.rand(4, 3, SIDE, SIDE))
        assert sizes == [4 // streams] * streams


@pytest.mark.parametrize(
    ("file", "together", "streams", "own", "spinning"),
    [("any.onnx", 4, 2, 1, "0"), ("two.onnx", 4, 2, 1, "0"), ("two.onnx", 3, 1, 2, "1"), ("any.onnx", 1, 1, 2, "1")],
)
def test_onnxruntime_threads_times_streams_equal_cores(made, file, together, streams, own, spinning, two_threads):
    _, _, folder = made
    runner, _ = open_runtime(folder / file, "onnxruntime", RuntimeOptions(together))
    options = runner.session.get_session_options()
    assert (runner.streams, options.intra_op_num_threads) == (streams, own)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spinning


def predicted(predictor, files):
    batch = predictor.recipe.predict.batch
    return stream.predict_all(predictor, files, predictor.args(), batch=batch)


def gray_images(folder, grays):
    files = []
    for index, gray in enumerate(grays):
        files.append(folder / f"{index}.png")
        cv2.imwrite(str(files[-1]), np.full((40, 40, 3), gray, np.uint8))
    return files


def test_streams_run_all_prediction_steps_in_parallel(tmp_path, two_threads):
    """Each waits for the other where the network is, so the images are read by both before."""
    chosen = plan(predict__batch=4)
    model = network(chosen)
    files = gray_images(tmp_path, range(100, 109))
    streams = Rendezvous(model, 2)
    cv2.setNumThreads(2)
    predictor = Predictor(model, chosen, runtime=streams)
    placing, opencv = [], []

    def preprocess(image, number, **options):
        placing.append(threading.get_ident())
        opencv.append(cv2.getNumThreads())
        return Predictor.preprocess(predictor, image, number, **options)

    predictor.preprocess = preprocess
    found = predicted(predictor, files)
    assert [one.path for one in found] == [str(file) for file in files]
    assert sorted(size for size, _, _ in streams.parts) == [1, 1, 1, 2, 2, 2]
    assert set(placing) == {thread for _, _, thread in streams.parts}
    assert len(set(placing)) == 2
    assert set(opencv) == {1}
    assert cv2.getNumThreads() == 2


@pytest.mark.parametrize(
    ("count", "batch", "streams", "step", "sizes"),
    [
        (20, 8, 1, 1, [8, 8, 4]), (17, 8, 2, 1, [4, 4, 4, 2, 1, 1, 1]), (3, 8, 2, 1, [1, 1, 1]), (0, 8, 2, 1, []),
        (20, 8, 2, 8, [8, 8, 4]), (9, 2, 4, 1, [1] * 9), (14, 12, 2, 4, [8, 4, 2]),
    ],
)  # fmt: skip
def test_batches_of_streams_are_equal_and_smaller_at_the_end(count, batch, streams, step, sizes):
    runner = SimpleNamespace(runtime=SimpleNamespace(streams=streams, shape=(step,)))
    parts = stream._split_batches(count, batch, runner)
    assert [len(part) for part in parts] == sizes
    assert [one for part in parts for one in part] == list(range(count))


@pytest.mark.parametrize("place", ["cuda", "cpu"])
def test_prediction_steps_overlap_only_with_an_accelerator(place, tmp_path):
    """There the answers to batch 1 wait until the network is at batch 2, and the network on batch 1 until batch 2 is
    read; on a CPU all of whose cores look at one batch, batch 2 is not begun before batch 1 is answered."""
    read, second = threading.Event(), threading.Event()
    chosen = plan(predict__batch=1)

    class Waiting(Predictor):
        turn = 0

        def preprocess(self, image, number=0, **options):
            if number == 1:
                read.set()
            return super().preprocess(image, number, **options)

        def forward(self, images):
            self.turn += 1
            if self.turn == 2:
                second.set()
            assert read.wait(5) if place == "cuda" or self.turn == 2 else not read.wait(0.2)
            return super().forward(images)

        def postprocess(self, raw, images, args):
            assert second.wait(5) if place == "cuda" or self.turn == 2 else not read.wait(0.2)
            return super().postprocess(raw, images, args)

    files = gray_images(tmp_path, (100, 200))
    waiting = Waiting(network(chosen), chosen, place)
    waiting.pipeline.device = torch.device("cpu")  # the accelerator is in name only
    found = predicted(waiting, files)
    assert [one.path for one in found] == [str(file) for file in files]
    assert all(one.image is None for one in found)


def test_prediction_restores_training_mode_after_all_batches(tmp_path, two_threads):
    """Several are under way, and the one that ends first must not end it for the others."""
    chosen = plan(predict__batch=2)
    model = network(chosen).train()
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    predictor = Predictor(model, chosen, runtime=Rendezvous(model, 2))
    predicted(predictor, gray_images(tmp_path, range(100, 112)))
    assert modes == [False] * 12
    assert model.training


def test_chunks_of_a_batch_are_joined_in_order():
    numbers = torch.arange(5.0)[:, None]
    for size in (1, 2, 3, 5, 8, None):
        parts = base.chunks((numbers, -numbers), size)
        assert size is None or {len(one) for part in parts for one in part} == {size}
        doubled = base.joined([(2 * a, b.half(), a.long()) for a, b in parts], 5)
        assert torch.equal(doubled[0], 2 * numbers)
        assert torch.equal(doubled[1], -numbers)
        assert doubled[1].dtype == torch.float32
        assert doubled[2].dtype == torch.int64


def test_complete_files_take_reversed_and_read_only_arrays(made):
    loaded = bw.load(made[2] / "whole.onnx", backend="onnxruntime")
    (image,) = example_images(1)
    expected, bgr, fixed = loaded(image), image[..., ::-1].copy(), image.copy()
    assert len(expected) > 5
    fixed.flags.writeable = False
    for found in (loaded(bgr, bgr=True), loaded(bgr[..., ::-1]), loaded(fixed)):
        assert found.boxes.tolist() == expected.boxes.tolist()
        assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.usefixtures("figures")
def test_bench_times_every_installed_runtime(made, tmp_path, monkeypatch, two_threads):
    _, _, folder = made
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = bench.bench(folder / "one.onnx", tmp_path / "out", batches=(1, 2), rounds=1)
    assert [row.name for row in report.rows] == ["openvino", "openvino, throughput"]
    assert "pip install 'boxwright[onnx]'" in report.absent["onnxruntime"]
    assert "not timed: onnxruntime" in str(report)
    tree = json.loads((tmp_path / "out/bench.json").read_text())
    for row in tree["rows"]:
        assert set(row["network"]) == {"1", "2"}
        assert set(row["end_to_end"]) == {"1", str(row["best"])}
        assert all(ms > 0 for ms in (*row["network"].values(), *row["end_to_end"].values()))
    assert cv2.imread(str(tmp_path / "out/bench.png")).shape[2] == 3


def test_bench_rejects_complete_graphs_and_writes_nothing(made, tmp_path):
    with pytest.raises(InputError, match=r"whole.onnx: found a file of --with-nms, needed weights or one"):
        bench.bench(made[2] / "whole.onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_bench_times_an_exported_file_with_the_given_settings(made, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(bench, "load", lambda *args, **kwargs: opened.append(bw.load(*args, **kwargs)) or opened[-1])
    bench.bench(made[2] / "one.onnx", tmp_path, overrides={"predict.threshold": 0.01}, batches=(), rounds=1)
    assert {loaded.args().threshold for loaded in opened} == {0.01}
    needed = r"one.onnx: no runtime can run it: \S+one.onnx: data.canvas.size: found \[640, 640\], the file is made for"
    with pytest.raises(InputError, match=needed) as error:
        bench.bench(made[2] / "one.onnx", tmp_path, overrides={"data.canvas.size": [640, 640]}, batches=(), rounds=1)
    assert str(error.value).count("640, 640") == 1


def test_bench_exports_weights_for_each_runtime(made, tmp_path, two_threads):
    _, _, folder = made
    report = bench.bench(folder / "w.safetensors", tmp_path / "out", batches=(1,), rounds=1)
    sixteen = ["torch, bfloat16"] if torch_runtime.has_bfloat16(torch.device("cpu")) else []
    names = ["torch", "torch, throughput", *sixteen]
    names += ["onnxruntime", "onnxruntime, throughput", "openvino", "openvino, throughput"]
    assert [row.name for row in report.rows] == names
    assert report.absent == {}


def test_best_batch_size_has_the_least_time_per_image(tmp_path):
    rows = (bench.Row("a", {1: 8.0, 4: 5.0, 8: 6.0}, {1: 9.0, 4: 6.0}), bench.Row("b", {1: 2.0, 4: 2.5}, {1: 3.0}))
    assert [row.best for row in rows] == [4, 1]
    lines = str(bench.BenchReport(rows, {}, {}, tmp_path / "bench.png")).splitlines()
    assert lines[2].split() == ["a", "8.0", "(1.00)", "9.0", "(1.00)", "5.0", "(1.00)", "6.0", "(1.00)", "B", "=", "4"]
    assert lines[3].split() == ["b", "2.0", "(4.00)", "3.0", "(3.00)", "2.0", "(2.50)", "3.0", "(2.00)", "B", "=", "1"]


def test_bench_times_bfloat16_if_supported(made, tmp_path, monkeypatch):
    _, _, folder = made
    monkeypatch.setattr(torch_runtime, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    report = bench.bench(folder / "w.safetensors", tmp_path / "out", batches=(1,), rounds=1)
    assert [row.name for row in report.rows] == ["torch", "torch, bfloat16"]
    assert set(report.absent.values()) == {"not installed"}
