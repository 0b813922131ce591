"""Complete graphs: images in, detections out. The truth is `Predictor`, whose parts have tests of their own."""

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agreement import assert_same_classes, by_label
from boxwright import models, recipe
from boxwright.export.complete import complete_graph
from boxwright.images.canvas import Pixels, frame_for, resize_to_canvas
from boxwright.nn import resnet
from boxwright.ops.nms import suppress
from boxwright.ops.nms_loop import nms_loop
from boxwright.predict.predictor import Predictor
from boxwright.recipe import CanvasConfig, NMSConfig, Recipe
from boxwright.runtimes.base.graph import Graph
from boxwright.runtimes.openvino import core
from boxwright.tasks.detect_graph import MAX_CANDIDATES, candidates
from boxwright.tasks.graph_canvas import on_canvas
from boxwright.types import Detections, Frame
from canvases import on_canvases
from test_canvas import waves

pytestmark = pytest.mark.runtimes

Run = Callable[[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]
SIZES = [(50, 70), (200, 310), (310, 170), (96, 64), (64, 96), (33, 150), (128, 128), (128, 96), (480, 640), (1, 7)]
FITS = {
    "stretch": {"size": (96, 64)},
    "letterbox": {"size": (96, 64)},
    "corner": {"size": (96, 160)},
    "zoo_corner": {"size": (96, 160)},
    "mmdet_corner": {"size": (96, 160), "short_side": 96, "long_side": 150},
    "torchvision_corner": {"size": (96, 160), "short_side": 96, "long_side": 150},
    "detectron2_corner": {"size": (96, 160), "short_side": 96, "long_side": 150},
    "crop": {"size": (64, 64), "short_side": 72},
}
KINDS = ["linear", "area", "zoo", "darknet", "float", "pillow"]
needs_runtimes = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime", "openvino")),
    reason="needs the extras onnx and openvino",
)


def canvas_of(fit: str, resize: str) -> CanvasConfig:
    return CanvasConfig.model_validate({"fit": fit, "resize": resize, "fill": 127.5} | FITS[fit])


def same_pixels(got: Tensor, wanted: Pixels, resize: str) -> None:
    """linear to the bit. Elsewhere a sum that ends half way between two gray values may be rounded to either."""
    apart = np.abs(got.numpy() - wanted.astype(np.float32))
    if resize == "linear":
        assert apart.max() == 0
    elif resize in ("darknet", "float"):
        assert apart.max() < 2e-2  # OpenCV's and PyTorch's own sums in float32
    else:
        assert apart.max() <= 2  # zoo_corner resizes twice
        # at 1.5 times the size a sixth of Pillow's sums end half way, in each direction
        assert (apart > 0).mean() < (0.2 if resize == "pillow" else 0.06)


def unlike_pillow(frame: Frame, canvas: CanvasConfig) -> bool:
    """Whether a new px has its middle on the border of two old ones, between which Pillow's rounding errors choose: a
    graph knows these for stretched images only."""
    ends = zip(
        frame.size, (round(side * scale) for side, scale in zip(frame.size, frame.scale, strict=True)), strict=True
    )
    borders = any(((2 * np.arange(new) + 1) * old % (2 * new) == 0).any() for old, new in ends if new < old)
    return canvas.resize == "zoo" and canvas.fit != "stretch" and borders


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("resize", KINDS)
def test_canvas_matches_the_predictor(fit: str, resize: str) -> None:
    canvas = canvas_of(fit, resize)
    for seed, (h, w) in enumerate(SIZES):
        image = waves(seed, h, w)
        frame = frame_for((h, w), canvas, 0)
        images, placed = on_canvas(torch.from_numpy(image)[None], canvas)
        if not unlike_pillow(frame, canvas):
            same_pixels(images[0].permute(1, 2, 0), resize_to_canvas(image, frame, canvas), resize)
        boxes = torch.tensor([[0.0, 0.0, w, h], [w / 3, h / 4, w / 2, h / 3]])
        torch.testing.assert_close(placed.to_original(frame.to_canvas(boxes)), boxes, atol=1e-3, rtol=1e-5)
        edges = [round(edge) for edge in frame.content[2:]]
        assert (placed.offset + placed.extent).flip(0).tolist() == edges


def test_nearest_matches_pillow_on_pixel_borders() -> None:
    """128 to 96 px: the middle of every third new px is a border, where Pillow's running sum of doubles decides."""
    canvas = CanvasConfig(size=(96, 96), resize="zoo")
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    images, _ = on_canvas(torch.from_numpy(image)[None], canvas)
    wanted = resize_to_canvas(image, frame_for((128, 128), canvas, 0), canvas)
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), wanted)
    without_errors = (2 * np.arange(96) + 1) * 128 // 192
    assert not np.array_equal(image[without_errors][:, without_errors], wanted)


def many_boxes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of three images; the last has nothing above 0.2."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(3, count, 2, generator=generator) * 120
    boxes = torch.cat((low, low + torch.rand(3, count, 2, generator=generator) * 40), -1)
    scores = torch.rand(3, count, generator=generator) * torch.tensor([[1.0], [0.6], [0.2]])
    return boxes, scores, torch.randint(3, (3, count), generator=generator)


def expected_detections(boxes: Tensor, scores: Tensor, labels: Tensor, settings: NMSConfig) -> list[Detections]:
    found = [Detections(*(part[i][scores[i] >= 0.2] for part in (boxes, scores, labels))) for i in range(len(boxes))]
    return suppress(found, settings, lowest=0.2)


RULES: list[dict[str, Any]] = [
    {"kind": "standard"},
    {"kind": "standard", "plus_one": True},
    {"kind": "diou", "iou": 0.2},
]
RULES += [{"kind": "greedy", "iou": 0.1}, {"kind": "soft"}, {"kind": "soft_linear", "plus_one": True, "iou": 0.1}]


class NMSModule(nn.Module):
    def __init__(self, settings: NMSConfig) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return nms_loop(boxes, scores, labels, 3, self.settings, 0.2)


@pytest.mark.parametrize("keep", [5, 300])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
def test_exported_nms_matches_nms(rule: dict[str, Any], keep: int) -> None:
    settings = NMSConfig.model_validate(rule | {"max_detections": keep})
    boxes, scores, labels = many_boxes(200, 1)
    chosen, gained = NMSModule(settings)(boxes, scores, labels)
    for i, wanted in enumerate(expected_detections(boxes, scores, labels, settings)):
        count = len(wanted)
        assert (len(wanted) > 4) == (i < 2)
        assert (gained[i] >= 0).sum() == count
        torch.testing.assert_close(gained[i, :count], wanted.scores)
        assert torch.equal(boxes[i, chosen[i, :count]], wanted.boxes)
        assert torch.equal(labels[i, chosen[i, :count]], wanted.labels)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("rule", RULES[2:5], ids=lambda rule: rule["kind"])
def test_trace_keeps_the_nms_loop(rule: dict[str, Any]) -> None:
    """It was traced on an image without detections, and runs on others."""
    settings = NMSConfig.model_validate(rule)
    boxes, scores, labels = many_boxes(200, 1)
    nothing = boxes[2:], scores[2:], labels[2:]
    traced = torch.jit.trace(NMSModule(settings), nothing, check_trace=False)
    for got, wanted in zip(traced(boxes, scores, labels), NMSModule(settings)(boxes, scores, labels), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("per_class", [1, 4])
@pytest.mark.parametrize("most", [30, 30000])
def test_candidates_are_the_top_scores(per_class: int, most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, scores = torch.rand(2, 900, per_class, 4, generator=generator), torch.rand(2, 900, 4, generator=generator)
    found, values, labels = candidates(boxes, scores, most)
    count = min(most, MAX_CANDIDATES)
    order = scores.flatten(1).argsort(1, descending=True)[:, :count]
    assert torch.equal(values, scores.flatten(1).gather(1, order))
    assert torch.equal(labels, order % 4)
    for i in range(2):
        assert torch.equal(found[i], boxes[i, order[i] // 4, order[i] % per_class])


# In the runtimes


class Canvases(nn.Module):
    """All kinds of resizing, each with a fit."""

    pairs = (("linear", "letterbox"), ("zoo", "stretch"), ("area", "zoo_corner"), ("darknet", "crop"))
    pairs += (("float", "torchvision_corner"), ("linear", "mmdet_corner"), ("pillow", "detectron2_corner"))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(on_canvas(images, canvas_of(fit, kind))[0] for kind, fit in self.pairs)


def in_pytorch(graph: Graph) -> Run:
    def eager(images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        with torch.inference_mode():
            return [one.numpy() for one in graph.module(torch.from_numpy(images))]

    return eager


def runs(graph: Graph, folder: Path) -> dict[str, Run]:
    """The graph's module itself, and its file in ONNX Runtime and OpenVINO."""
    import onnxruntime

    from boxwright.runtimes.serialization import onnx_file

    file = folder / "graph.onnx"
    onnx_file.write(graph, file, "{}", deform="plain")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    compiled = core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "pytorch": in_pytorch(graph),
        "onnxruntime": lambda images: session.run(None, {"images": images}),
        "openvino": lambda images: [np.array(one) for one in compiled(images).values()],
    }


@needs_runtimes
def test_canvases_match_in_every_runtime(tmp_path: Path) -> None:
    names = tuple(f"{kind}_{fit}" for kind, fit in Canvases.pairs)
    example = {"images": torch.zeros(2, 50, 70, 3, dtype=torch.uint8)}
    graph = Graph(Canvases().eval(), example, names, {"images": {1: "height", 2: "width"}})
    for run in runs(graph, tmp_path).values():
        for h, w in [(50, 70), (200, 310), (310, 170), (128, 128)]:
            images = np.stack([waves(seed, h, w) for seed in range(2)])
            for (kind, fit), canvases in zip(Canvases.pairs, run(images), strict=True):
                canvas = canvas_of(fit, kind)
                wanted = resize_to_canvas(images[1], frame_for((h, w), canvas, 0), canvas)
                same_pixels(torch.from_numpy(canvases[1]).permute(1, 2, 0), wanted, kind)


@needs_runtimes
@pytest.mark.parametrize("rule", [RULES[1], RULES[4]], ids=lambda rule: rule["kind"])
def test_nms_matches_in_onnxruntime(rule: dict[str, Any], tmp_path: Path) -> None:
    """The operator, on boxes of few px, where counting both ends matters; and the loop."""
    import onnxruntime

    from boxwright.runtimes.serialization import onnx_file

    settings = NMSConfig.model_validate(rule | {"max_detections": 300})
    boxes, scores, labels = many_boxes(200, 1)
    given = {"boxes": boxes / 10, "scores": scores, "labels": labels}
    onnx_file.write(Graph(NMSModule(settings).eval(), given, ("chosen", "gained"), {}), tmp_path / "a.onnx", "{}")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    chosen, gained = session.run(None, {name: one.numpy() for name, one in given.items()})
    used = {node.op_type for node in importlib.import_module("onnx").load(tmp_path / "a.onnx").graph.node}
    assert ("NonMaxSuppression" in used) == (rule["kind"] == "standard")
    for i, wanted in enumerate(expected_detections(*given.values(), settings)):
        count = len(wanted)
        assert (gained[i] >= 0).sum() == count
        np.testing.assert_allclose(gained[i, :count], wanted.scores, atol=1e-6)
        assert torch.equal(given["boxes"][i, chosen[i, :count]], wanted.boxes)


GRAY = np.full((120, 90, 3), 128, np.uint8)
IMAGES = [np.stack([waves(seed, h, w) for seed in range(3)]) for h, w in [(120, 90), (200, 310)]]


def pseudo_trained_model(name: str, **changes: Any) -> tuple[nn.Module, Recipe]:
    """A small network whose outputs depend on the image, like a trained one's, and its recipe."""
    chosen = recipe.load(name, {key.replace("__", "."): value for key, value in changes.items()})
    # With seed 1 this deep network likes two classes of one box equally well to 1e-4, and rounding would choose.
    torch.manual_seed(6 if name == "yolov4_coco_608" else 1)
    model = models.build(chosen.model)
    with torch.no_grad():
        if chosen.model.name == "faster_rcnn":  # type: ignore[attr-defined]
            model.head.classes.weight.mul_(60)
            return model.eval(), chosen
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = 1.0
        images = on_canvases([image for some in IMAGES for image in some], chosen.data.canvas)[0].float() / 255
        model.train()(images)
        for layer in model.eval().modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None and chosen.model.task == "detect":
                spread: list[Tensor] = []
                hook = layer.register_forward_hook(lambda _layer, _given, out, spread=spread: spread.append(out.std()))
                model(images)
                hook.remove()
                layer.weight.mul_(2 / spread[0])  # scores from 0 to 1
                if chosen.model.name == "yolox":  # a layer for each kind of number
                    layer.weight.div_(4 if layer.out_channels == 4 else 1)
                    continue
                layer.weight.view(3, -1, layer.in_channels)[:, :4] /= 4  # boxes not far from the anchors in size
                layer.bias.view(3, -1)[:, 4] = -4
    return model.eval(), chosen


def with_unambiguous_threshold(model: nn.Module, chosen: Recipe, images: list[Pixels]) -> Recipe:
    """With a threshold that no score is near, in the widest gap among the 10 to 60 best of all images: two runtimes
    are never equal to the last digit."""
    best = torch.cat([one.scores for one in Predictor(model, chosen)(images)]).sort(descending=True).values[10:60]
    gap = int((best[:-1] - best[1:]).argmax())
    return chosen.with_overrides({"predict.threshold": float(best[gap : gap + 2].mean())})


TINY = {"model__width": 0.25, "data__canvas__size": [96, 128], "predict__threshold": 0.02}
FEW = {"model__rpn__test_proposals": 60, "predict__threshold": 0.02, "data__canvas__size": [96, 128]}
DETECTORS = [
    ("yolov4_tiny_coco_416_darknet", TINY),
    ("demo", TINY | {"predict__nms__kind": "soft", "predict__temperatures": [0.5, 2.0, 1.5]}),
    ("yolov4_coco_608", TINY | {"data__canvas__resize": "linear"}),
    ("yolov3_640_coco", {"data__canvas__size": [64, 96], "predict__threshold": 0.001}),
    # a gray level in some hundredths of the pixels, as `linear` rounds them, moves its random boxes by a pixel
    (
        "yolov3_640_modern",
        {"data__canvas__size": [64, 96], "data__canvas__resize": "float", "predict__threshold": 0.001},
    ),
    ("faster_rcnn_r50_dcn_coco", FEW),
]
# whose parts the others have: the graph is run in PyTorch, and not exported
PARTS_OF_OTHERS = {"yolov4_coco_608", "yolov3_640_coco"}
# for any number of images, which takes an export almost twice as long
DYNAMIC = {"demo", "faster_rcnn_r50_dcn_coco"}


def same_detections(rows: list[np.ndarray[Any, Any]], wanted: Detections) -> None:
    """One to one: each has a partner of its class, equal within 0.05 px and 1e-3. Rows beyond are empty."""
    boxes, scores, labels = (torch.from_numpy(one) for one in rows)
    count = len(wanted)
    assert (labels >= 0).tolist() == [True] * count + [False] * (len(labels) - count)
    assert not boxes[count:].any()
    assert not scores[count:].any()
    assert (scores.diff() <= 0).all()
    if count:
        apart = torch.cdist(boxes[:count], wanted.boxes, p=torch.inf)
        apart += 1e3 * (labels[:count, None] != wanted.labels) + 1e3 * (scores[:count, None] - wanted.scores).abs()
        partner = apart.argmin(1)
        assert sorted(partner.tolist()) == list(range(count))
        assert torch.equal(labels[:count], wanted.labels[partner])
        torch.testing.assert_close(boxes[:count], wanted.boxes[partner], atol=0.05, rtol=0)
        torch.testing.assert_close(scores[:count], wanted.scores[partner], atol=1e-3, rtol=0)


@needs_runtimes
@pytest.mark.usefixtures("short_networks")
@pytest.mark.parametrize(("name", "changes"), DETECTORS, ids=[f"{name}" for name, _ in DETECTORS])
def test_detections_match_the_predictor(
    name: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "faster_rcnn_r50_dcn_coco":  # one network with blocks that do not change the shape, too
        monkeypatch.setattr(resnet, "BLOCKS", {50: (2, 2, 2, 2)})
    model, chosen = pseudo_trained_model(name, **changes)
    chosen = with_unambiguous_threshold(model, chosen, [image for some in IMAGES for image in some])
    graph = complete_graph(model, chosen, 3, name in DYNAMIC)
    assert graph.outputs == ("boxes", "scores", "labels")
    predictor, seen = Predictor(model, chosen), 0
    found = {"pytorch": in_pytorch(graph)} if name in PARTS_OF_OTHERS else runs(graph, tmp_path)
    for run in found.values():
        for images in IMAGES:
            for batch in (images[:1], images) if name in DYNAMIC else (images,):
                answers = run(batch)
                for i, wanted in enumerate(predictor(list(batch))):
                    same_detections([part[i] for part in answers], wanted)
                    seen += len(wanted)
        if name == "yolov4_tiny_coco_416_darknet":  # which finds nothing in a gray image
            boxes, scores, labels = (part[0] for part in run(np.stack([GRAY] * 3)))
            assert (boxes.shape, len(predictor(GRAY))) == ((300, 4), 0)
            same_detections([boxes, scores, labels], predictor(GRAY))
    assert seen > 8 * len(found)


def test_detections_match_in_pytorch_programs(tmp_path: Path) -> None:
    from boxwright.runtimes import pt2, torchscript

    temperatures = np.linspace(0.5, 2, 80).tolist()
    model, chosen = pseudo_trained_model("yolov4_tiny_coco_416_darknet", **TINY, predict__temperatures=temperatures)
    chosen = with_unambiguous_threshold(model, chosen, [image for some in IMAGES for image in some])
    graph = complete_graph(model, chosen, dynamic_batch=True)
    torchscript.write(graph, tmp_path / "a.torchscript", "{}")
    pt2.write(graph, tmp_path / "a.pt2", "{}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        programs = [torch.jit.load(tmp_path / "a.torchscript"), torch.export.load(tmp_path / "a.pt2").module()]
    predictor = Predictor(model, chosen)
    for program in programs:
        for images in IMAGES:
            for batch in (images[:1], images):
                with torch.inference_mode():
                    answers = [part.numpy() for part in program(torch.from_numpy(batch))]
                for i, wanted in enumerate(predictor(list(batch))):
                    same_detections([part[i] for part in answers], wanted)


@needs_runtimes
def test_classes_match_the_predictor(tmp_path: Path) -> None:
    model, chosen = pseudo_trained_model(
        "tiny_darknet_imagenet_224_darknet", data__canvas__size=[64, 64], predict__temperatures=[2.0]
    )
    predictor = Predictor(model, chosen)
    for run in runs(complete_graph(model, chosen, dynamic_batch=True), tmp_path).values():
        for images in IMAGES:
            for batch in (images[:1], images):
                scores, labels = run(batch)
                for i, wanted in enumerate(predictor(list(batch))):
                    found = dict(zip(labels[i].tolist(), scores[i].tolist(), strict=True))
                    assert_same_classes(found, by_label(wanted), score=1e-5)
