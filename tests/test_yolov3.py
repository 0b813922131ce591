"""YOLOv3 and YOLOv3-tiny against the numbers of the original engines."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oracle_weights
from boxwright import recipe
from boxwright.config import validate
from boxwright.errors import InputError
from boxwright.models import yolov3
from boxwright.ops import losses
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.targets import assign_best
from boxwright.weights import names
from oracle_weights import ORACLES
from zoo_loss import SCALES, as_zoo, batch_of, boxes_of, predictions, targets_of, zoo_assignment

ZOO = ORACLES / "yolov3_darknet53"
DARKNET = ORACLES / "darknet"
MAPS = ("big", "medium", "small")  # the zoo's words for strides 32, 16, 8


def zoo_model() -> yolov3.YOLOv3:
    """The zoo's system filled from the recipe of names, in evaluation mode."""
    model = yolov3.build(recipe.load("yolov3_coco_416").model)
    values = oracle_weights.mindspore_recipe(ZOO / "params_network.json")
    state = model.state_dict()
    for name, tensor in state.items():
        theirs = names.of(model.config).mindspore(name)
        if theirs is not None:
            tensor.copy_(torch.from_numpy(values[theirs]))
    return model.eval()


def darknet_model(name: str, cfg: str) -> yolov3.YOLOv3:
    """Darknet's system filled layer by layer in declaration order, in evaluation mode."""
    model = yolov3.build(recipe.load(name).model)
    layers = oracle_weights.darknet_layers(DARKNET / cfg)
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    norms = iter([part for part in model.modules() if isinstance(part, nn.BatchNorm2d)])
    with torch.no_grad():
        for convolution, layer in zip(convolutions, layers, strict=True):
            values = {field: torch.from_numpy(array) for field, array in layer.arrays().items()}
            convolution.weight.copy_(values["weights"])
            if layer.norm:
                norm = next(norms)
                norm.bias.copy_(values["biases"])
                norm.weight.copy_(values["scales"])
                norm.running_mean.copy_(values["mean"])
                norm.running_var.copy_(values["var"])
            else:
                convolution.bias.copy_(values["biases"])
    return model.eval()


def test_number_of_weights_matches_darknet() -> None:
    for network, classes, numbers in (("darknet53", 80, 62_001_757), ("tiny", 80, (35_434_956 - 20) // 4)):
        anchors = yolov3.COCO_ANCHORS[: 9 if network == "darknet53" else 6]
        with torch.device("meta"):
            model = yolov3.build(yolov3.Config(network=network, classes=classes, anchors=anchors))
        running = [buffer for name, buffer in model.named_buffers() if "running" in name]
        assert sum(tensor.numel() for tensor in [*model.parameters(), *running]) == numbers


def test_parameter_names_match_the_zoo() -> None:
    rows = json.loads((ZOO / "params_network.json").read_text())["parameters"]
    with torch.device("meta"):
        model = yolov3.build(recipe.load("yolov3_coco_416").model)
        tiny = yolov3.build(recipe.load("yolov3_tiny_coco_416_darknet").model)
    shapes = {names.of(model.config).mindspore(name): list(tensor.shape) for name, tensor in model.state_dict().items()}
    del shapes[None]
    assert shapes == {row["name"]: row["shape"] for row in rows}
    assert {names.of(tiny.config).mindspore(name) for name in tiny.state_dict()} == {None}


@pytest.mark.slow
def test_forward_and_decode_match_the_zoo() -> None:
    model = zoo_model()
    for size in (320, 416):
        with np.load(ZOO / f"forward_{size}x{size}.npz") as stored:
            oracle = dict(stored)
        images = torch.from_numpy(oracle_weights.mindspore_input(oracle)) * model.std + model.mean
        with torch.no_grad():
            raw = model(images)
        (found,) = model.decode(raw, 0.0)
        # threshold 0 keeps every cell, in the order scale, anchor, row, column
        assert len(found) == 3 * sum((size // stride) ** 2 for stride in SCALES.values())
        start = 0
        for name, stride, ours in zip(MAPS, SCALES.values(), raw, strict=True):
            theirs, same = oracle_weights.sampled_pair(oracle, f"raw.{name}", ours.numpy())
            assert np.abs(theirs - same).max() <= 1e-4 * np.abs(theirs).max()
            h = w = size // stride
            part = found[start : start + 3 * h * w]
            start += 3 * h * w
            if f"decoded.{name}" in oracle:
                assert_decoded(
                    part.boxes.view(3, h, w, 4),
                    part.scores.view(3, h, w),
                    part.labels.view(3, h, w),
                    torch.from_numpy(oracle[f"decoded.{name}"][0]),
                    size,
                )


def assert_decoded(boxes: Tensor, scores: Tensor, labels: Tensor, theirs: Tensor, size: int) -> None:
    """theirs (h, w, 3, 85): center and size relative to the input, objectness, class probabilities."""
    theirs = theirs.permute(2, 0, 1, 3)
    center, side = theirs[..., :2] * size, theirs[..., 2:4] * size
    torch.testing.assert_close(
        boxes, torch.cat((center - side / 2, center + side / 2), -1), rtol=1e-4, atol=size * 1e-5
    )
    best, label = theirs[..., 5:].max(-1)
    torch.testing.assert_close(scores, best * theirs[..., 4], rtol=1e-4, atol=1e-6)
    assert torch.equal(labels, label)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cfg", "heads"),
    [("yolov3_coco_416_darknet", "yolov3", (81, 93, 105)), ("yolov3_tiny_coco_416_darknet", "yolov3-tiny", (15, 22))],
)
def test_forward_and_decode_match_darknet(name: str, cfg: str, heads: tuple[int, ...]) -> None:
    model = darknet_model(name, f"{cfg}.cfg")
    for height, width in ((224, 320), (416, 416)):
        with torch.no_grad():
            raw = model(torch.from_numpy(oracle_weights.darknet_input(height, width, seed=0)))
        with np.load(DARKNET / cfg / f"{height}x{width}_s0.npz") as oracle:
            for layer, ours in zip(heads, raw, strict=True):
                theirs, same = oracle_weights.darknet_pair(oracle, layer, ours[0].numpy())
                assert np.abs(theirs - same).max() <= 1e-4 * np.abs(theirs).max()
            assert_yolo_layers(model, raw, oracle, heads, (height, width))


def assert_yolo_layers(
    model: yolov3.YOLOv3,
    raw: tuple[Tensor, ...],
    oracle: dict[str, np.ndarray],
    heads: tuple[int, ...],
    size: tuple[int, int],
) -> None:
    """Darknet's [yolo] layers hold probabilities and, for x and y, the place in the cell; our decoded boxes agree."""
    cells = model.cells(raw)
    rows = flatten(raw, 3)
    boxes = cells.boxes(rows[..., :4])[0]
    center, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    ours = torch.cat(((center - cells.corner) / cells.stride, side / cells.anchor, rows[0, :, 4:].sigmoid()), 1)
    start = 0
    for layer, one in zip(heads, raw, strict=True):
        h, w = one.shape[2:]
        part = ours[start : start + 3 * h * w].view(3, h, w, 85).permute(0, 3, 1, 2)
        start += 3 * h * w
        # [yolo] leaves w and h as logarithms
        part = torch.cat((part[:, :2], part[:, 2:4].log(), part[:, 4:]), 1).reshape(255, h, w)
        theirs, same = oracle_weights.darknet_pair(oracle, layer + 1, part.numpy())
        assert np.abs(theirs - same).max() <= 1e-4 * np.abs(theirs).max()
    assert cells.size == size


@pytest.fixture(params=["192x256", "416x416"])
def loss_oracle(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    with np.load(ZOO / f"loss_{request.param}.npz") as stored:
        return dict(stored)


def zoo_anchors(size: tuple[int, int]) -> Tensor:
    """The anchors as the zoo uses them: it divides a width by the input's height and a height by its width, which
    is the same as other anchors (in px) with the right division."""
    height, width = size
    anchors = torch.tensor(yolov3.COCO_ANCHORS).float().view(3, 3, 2).flip(0)
    return anchors * torch.tensor([width / height, height / width])


@pytest.mark.parametrize("prefix", ["", "smooth."])
def test_loss_and_gradient_match_the_zoo_given_its_assignment(loss_oracle: dict[str, np.ndarray], prefix: str) -> None:
    size = tuple(loss_oracle["hw"].tolist())
    total = 0.0
    for k, (scale, raw) in enumerate(predictions(loss_oracle).items()):
        raw.requires_grad_()
        y_true = torch.from_numpy(oracle_weights.sparse(loss_oracle, f"{prefix}y_true.{scale}"))
        cells = Cells.of([raw.shape[2:]], [SCALES[scale]], zoo_anchors(size)[k : k + 1])
        terms = yolov3.loss_terms(flatten((raw,), 3), cells, *targets_of(y_true, size), ignore_iou=0.7)
        terms = {name: term / 2 for name, term in terms.items()}  # two images
        loss = torch.stack(list(terms.values())).sum()
        total += loss.item()
        assert loss.item() == pytest.approx(loss_oracle[f"{prefix}loss.{scale}"], rel=1e-5)
        if not prefix:
            for ours, theirs in (("xy", "xy"), ("wh", "wh"), ("objectness", "conf"), ("classes", "cls")):
                assert terms[ours].item() == pytest.approx(loss_oracle[f"loss.{scale}.{theirs}"], rel=1e-5)
            (gradient,) = torch.autograd.grad(loss, raw)
            theirs, same = oracle_weights.sampled_pair(loss_oracle, f"grad.{scale}", gradient.numpy())
            np.testing.assert_allclose(same, theirs, rtol=1e-4, atol=1e-6)
    assert total == pytest.approx(loss_oracle[f"{prefix}loss"], rel=1e-5)


@pytest.mark.parametrize(("prefix", "smoothing"), [("", 0.0), ("smooth.", 0.1)])
def test_assignment_matches_the_zoo_except_for_floored_centers(
    loss_oracle: dict[str, np.ndarray], prefix: str, smoothing: float
) -> None:
    height, width = loss_oracle["hw"].tolist()
    anchors = torch.tensor(yolov3.COCO_ANCHORS).float().view(3, 3, 2).flip(0)
    cells = Cells.of([(height // s, width // s) for s in SCALES.values()], list(SCALES.values()), anchors)
    floored = assign_best(boxes_of(loss_oracle, floor=True), cells, 80, smoothing)
    torch.testing.assert_close(as_zoo(floored, loss_oracle), zoo_assignment(loss_oracle, prefix))

    exact = assign_best(boxes_of(loss_oracle, floor=False), cells, 80, smoothing)
    moved = (exact.boxes - floored.boxes).abs()
    assert moved.max() == 0.5  # the oracle has a box with an odd sum of coordinates
    assert torch.equal(exact.classes, floored.classes)


def test_cell_of_two_objects_keeps_last_box_and_both_classes() -> None:
    boxes = torch.tensor([[[8.0, 8, 40, 40], [9, 9, 41, 41], [0, 0, 0, 0], [9, 9, 9, 41]]])
    labels = torch.tensor([[2, 0, -1, 1]])
    cells = Cells.of(
        [(2, 2), (4, 4), (8, 8)], [32, 16, 8], torch.tensor(yolov3.COCO_ANCHORS).float().view(3, 3, 2).flip(0)
    )
    targets = assign_best(batch_of(boxes, labels, (64, 64)), cells, 3)
    assert targets.positive.tolist() == [[False, True, False, False]]  # padding and the box without width own nothing
    assert targets.classes[0, 1].tolist() == [1, 0, 1]
    # 32 x 32 fits 33x23 best (IoU .71; 30x61 has .49): the finest scale, third anchor; center 25, 25: row 3, column 3
    assert targets.cell[0, 1] == 12 + 48 + 2 * 64 + 3 * 8 + 3


def small(**changes: object) -> yolov3.YOLOv3:
    settings: dict[str, object] = {"network": "tiny", "classes": 3, "width": 0.25, "anchors": yolov3.COCO_ANCHORS[:6]}
    torch.manual_seed(0)
    return yolov3.build(yolov3.Config.model_validate(settings | changes))


def test_crowd_regions_are_ignored_in_the_loss() -> None:
    model = small()
    raw = tuple(torch.zeros(1, 24, n, n) for n in (2, 4))
    boxes, labels = torch.tensor([[[0.0, 0, 64, 64]]]), torch.tensor([[0]])

    def objectness(ignore: bool) -> tuple[float, float]:
        batch = batch_of(boxes, labels, (64, 64), torch.tensor([[ignore]]))
        terms = model.loss_of_raw(raw, batch)
        return terms["objectness"].item(), terms["classes"].item()

    inside = model.cells(raw).boxes(flatten(raw, 3)[..., :4])[0]
    # logits are 0, so a counted cell costs log 2; counted: less than 0.7 of its box lies in the region
    cut = inside.clamp(0, 64)
    shared = ((cut[:, 2:] - cut[:, :2]) / (inside[:, 2:] - inside[:, :2])).prod(-1)
    counted = int((shared < 0.7).sum())
    assert 0 < counted < 60
    # the region may be an object of its size, which would take anchor 62 x 45 of the cell right of and below (32, 32)
    counted -= 1  # of which 47 x 38.5 px, less than 0.7, lie in the region
    assert objectness(ignore=True) == pytest.approx((counted * np.log(2), 0.0), rel=1e-5)
    as_object = objectness(ignore=False)
    assert as_object[0] > counted * np.log(2)
    assert as_object[1] == pytest.approx(3 * np.log(2), rel=1e-5)


def test_loss_is_independent_of_the_ignore_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    raw = tuple(torch.randn(2, 24, n, n, generator=torch.Generator().manual_seed(1)) for n in (4, 8))
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(2, 30, 2, generator=generator) * 80
    boxes = torch.cat((corner, corner + 4 + torch.rand(2, 30, 2, generator=generator) * 44), -1)
    labels = torch.randint(0, 3, (2, 30), generator=generator)
    batch = batch_of(boxes, labels, (128, 128))
    whole = model.loss_of_raw(raw, batch)
    monkeypatch.setattr(losses, "OVERLAPS_AT_ONCE", 1000)
    pieces = model.loss_of_raw(raw, batch)
    assert {name: term.item() for name, term in whole.items()} == {name: term.item() for name, term in pieces.items()}


def test_perfect_box_still_has_objectness_loss() -> None:
    """The cell of an object is never spared by the ignore test, however well its box lies."""
    model = small()
    raw = tuple(torch.zeros(1, 24, n, n) for n in (2, 4))
    for one in raw:
        one.view(1, 3, 8, -1)[:, :, 4] = -5.0
    cells = model.cells(raw)
    cell = 3 * 4 + 16 + 5  # stride 16, second anchor, row 1, column 1
    box = cells.boxes(torch.zeros(1, 4), torch.tensor([cell]))
    terms = model.loss_of_raw(raw, batch_of(box[None], torch.tensor([[0]]), (64, 64)))
    padding = model.loss_of_raw(raw, batch_of(box[None], torch.tensor([[-1]]), (64, 64)))
    every_cell = 60 * np.log1p(np.exp(-5))
    assert terms["objectness"].item() == pytest.approx(5, abs=0.5)
    assert padding["objectness"].item() == pytest.approx(every_cell, rel=1e-4)  # padding spares none
    assert terms["wh"].item() == pytest.approx(0, abs=1e-9)


def test_loss_normalization_by_images_or_boxes() -> None:
    """Three objects in two images, and a crowd region, which is not an object."""
    boxes = torch.tensor([[[8.0, 8, 40, 40], [50, 50, 60, 60]], [[8, 8, 30, 40], [2, 50, 20, 60]]])
    crowd = torch.tensor([[False, False], [False, True]])
    batch = batch_of(boxes, torch.tensor([[2, 0], [1, 1]]), (64, 64), crowd)
    raw = tuple(torch.randn(2, 24, n, n, generator=torch.Generator().manual_seed(1)) for n in (2, 4))
    by_images = small(loss={"normalize": "images"}).loss_of_raw(raw, batch)
    by_boxes = small(loss={"normalize": "boxes"}).loss_of_raw(raw, batch)
    for name in by_images:
        assert by_images[name].item() * 2 == pytest.approx(by_boxes[name].item() * 3)
    empty = replace(batch, labels=torch.full_like(batch.labels, -1))
    nothing = small(loss={"normalize": "boxes"}).loss_of_raw(raw, empty)
    assert nothing["objectness"] > 0
    assert nothing["classes"] == nothing["xy"] == nothing["wh"] == 0


def test_decode_by_hand() -> None:
    """One cell speaks: stride 16, second anchor, row 1, column 2 of a 64 x 96 input."""
    raw = tuple(torch.full((1, 24, h, w), -20.0) for h, w in ((2, 3), (4, 6)))
    cell = raw[1].view(1, 3, 8, 4, 6)[0, 1, :, 1, 2]
    cell[:] = torch.tensor([0.0, 0.0, np.log(2.0), 1000.0, 20.0, np.log(1 / 3), np.log(3.0), -20.0])
    one = small().decode(raw, 0.2)[0]
    several = small(multi_label=True).decode(raw, 0.2)[0]
    # center (2.5 * 16, 1.5 * 16); width twice the anchor of 16; a height logarithm of 1000 stays finite
    assert one.boxes[0, [0, 2]].tolist() == pytest.approx([40 - 16, 40 + 16])
    assert bool(one.boxes.isfinite().all())
    assert one.labels.tolist() == [1]
    assert one.scores.tolist() == pytest.approx([0.75])
    assert several.labels.tolist() == [0, 1]
    assert several.scores.tolist() == pytest.approx([0.25, 0.75])
    assert torch.equal(several.boxes[0], several.boxes[1])
    assert len(small().decode(raw, 0.8)[0]) == 0


def test_normalization_is_part_of_the_model() -> None:
    model = small(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()
    plain = small().eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    with torch.no_grad():
        for ours, theirs in zip(model(images), plain((images - mean) / std), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchors": [[1, 1]] * 5}, "anchors holds 5 pairs, darknet53 needs 9"),
        ({"network": "tiny"}, "anchors holds 9 pairs, tiny needs 6"),
        ({"width": 0.5}, "width is 0.5"),
        ({"std": [1, 0, 1]}, "std.1"),
        ({"loss": {"normalise": "boxes"}}, "did you mean 'normalize'"),
    ],
)
def test_invalid_config_is_a_one_line_error(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as fault:
        validate(yolov3.Config, {"name": "yolov3", "classes": 3} | changes, "mine.yaml")
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_size_not_a_multiple_of_32_is_rejected() -> None:
    with pytest.raises(InputError, match="100 x 64 px"):
        small()(torch.zeros(1, 3, 100, 64))
