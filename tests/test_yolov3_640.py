"""MindYOLO's YOLOv3 against numbers of the original: raw maps, decoding, losses and their gradients, NMS."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from boxwright.models import yolov3_640
from boxwright.models.yolov3_640 import STRIDES, Config, build, candidates
from boxwright.ops.nms import suppress
from boxwright.recipe import NMSConfig
from boxwright.types import Batch, Detector, Frame
from boxwright.weights.names.yolov3_640 import Names
from oracle_weights import ORACLES, mindspore_input, mindspore_recipe, sampled_pair

HERE = ORACLES / "mindyolo_yolov3"
LEVELS = ("p5", "p4", "p3")  # coarse first, as our maps


def oracle(name):
    with np.load(HERE / f"{name}.npz") as file:
        return dict(file)


def as_theirs(raw):
    """(B, A*(5+C), h, w) -> MindYOLO's (B, A, h, w, 5+C)."""
    return raw.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2)


def as_ours(array):
    return torch.from_numpy(array).permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous()


def batch_of(boxes, labels, size=(64, 64), ignore=None):
    """Boxes (B, M, 4) and labels (B, M) as a batch with blank images."""
    boxes, labels = torch.as_tensor(boxes, dtype=torch.float32), torch.as_tensor(labels)
    frame = Frame(0, "", size, size, (1.0, 1.0))
    ignore = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else torch.as_tensor(ignore)
    return Batch(torch.zeros(len(boxes), 3, *size), boxes, labels, ignore, (frame,) * len(boxes))


def without_weights(**changes):
    """A network of which only the anchors are real: enough for loss and decoding of given raw maps."""
    with torch.device("meta"):
        model = build(Config(**changes))
    model.anchors = torch.tensor(Config().anchors).view(3, 3, 2).flip(0)
    return model


@pytest.fixture(scope="module")
def network():
    """All 61.9 million weights, made from their names."""
    theirs = mindspore_recipe(HERE / "params_network.json")
    model = without_weights()
    names = Names(model.config)
    state = {name: torch.zeros(3, 1, 1) if name == "mean" else torch.ones(3, 1, 1) for name in ("mean", "std")}
    for name, value in model.state_dict().items():
        if source := names.mindspore(name):
            state[name] = torch.from_numpy(theirs.pop(source).reshape(value.shape))
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
    assert not theirs, f"without a counterpart: {sorted(theirs)}"
    model.load_state_dict(state, assign=True)
    return model.eval()


def test_model_implements_detector():
    with torch.device("meta"):
        assert isinstance(build(Config()), Detector)


@pytest.mark.parametrize("size", [320, pytest.param(640, marks=pytest.mark.slow)])
def test_raw_outputs_and_decoding_match_mindyolo(network, size):
    truth = oracle(f"forward_{size}x{size}")
    with torch.inference_mode():
        raw = network(torch.from_numpy(mindspore_input(truth)))
        decoded = network.predictions(raw)
    for level, one in zip(LEVELS, raw, strict=True):
        expected, ours = sampled_pair(truth, f"raw.{level}", as_theirs(one).numpy())
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    counts = [3 * (size // stride) ** 2 for stride in STRIDES]
    fine_first = torch.cat(decoded.split(counts, 1)[::-1], 1)
    expected, ours = sampled_pair(truth, "decoded", fine_first.numpy())
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def loss_case(name):
    """(truth, raw maps with gradients, batch) of one oracle of losses."""
    truth = oracle(name)
    h, w = truth["hw"].tolist()
    generator = np.random.default_rng(int(truth["pred_seed"]))
    drawn = {}
    for level, stride in (("p3", 8), ("p4", 16), ("p5", 32)):
        shape = (2, 3, h // stride, w // stride, 85)
        drawn[level] = generator.standard_normal(shape).astype(np.float32)
        expected, ours = sampled_pair(truth, f"pred.{level}", drawn[level])
        np.testing.assert_array_equal(ours, expected)
    boxes = np.zeros((2, 7, 4))
    labels = np.full((2, 7), -1)
    for image in range(2):
        rows = truth[f"boxes.{image}"]
        boxes[image, : len(rows)], labels[image, : len(rows)] = rows[:, :4], rows[:, 4]
    raw = tuple(as_ours(drawn[level]).requires_grad_() for level in LEVELS)
    return truth, raw, batch_of(boxes, labels, (h, w))


@pytest.fixture(scope="module")
def plain():
    return without_weights()


@pytest.mark.parametrize("name", ["loss_192x256", "loss_256x256"])
def test_loss_and_gradient_match_mindyolo(plain, name):
    truth, raw, batch = loss_case(name)
    terms = plain.loss_of_raw(raw, batch)
    total = sum(terms.values())
    total.backward()
    expected = truth["loss.items(loss,box,obj,cls)"] * 2  # our terms are multiplied by the images
    ours = [total.item(), *(terms[key].item() for key in ("box", "obj", "cls"))]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    np.testing.assert_allclose(total.item(), truth["loss.total_times_batch"], rtol=1e-5)
    for level, one in zip(LEVELS, raw, strict=True):
        expected, ours = sampled_pair(truth, f"grad.{level}", as_theirs(one.grad).numpy())
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def boxes_case():
    """Small raw maps for 64 x 64 and two boxes, the second one padded."""
    torch.manual_seed(3)
    raw = tuple(torch.randn(1, 255, 64 // stride, 64 // stride) for stride in STRIDES)
    return raw, [[[10.0, 12, 40, 50], [0, 0, 0, 0]]], [[7, -1]]


def test_padding_only_leaves_objectness_loss(plain):
    raw, boxes, _ = boxes_case()
    raw = tuple(one.requires_grad_() for one in raw)
    terms = plain.loss_of_raw(raw, batch_of(boxes, [[-1, -1]]))
    sum(terms.values()).backward()
    assert terms["box"] == 0
    assert terms["cls"] == 0
    # by hand: every cell's target is 0, weighted by scale
    by_hand = sum(
        weight * torch.nn.functional.softplus(as_theirs(one)[..., 4]).mean()
        for one, weight in zip(raw, (0.4, 1, 4), strict=True)
    )
    torch.testing.assert_close(terms["obj"], 0.7 * by_hand)
    assert all(one.grad.isfinite().all() for one in raw)


def test_loss_with_zero_rows_of_boxes(plain):
    raw, _, _ = boxes_case()
    terms = plain.loss_of_raw(raw, batch_of(np.zeros((1, 0, 4)), np.zeros((1, 0), np.int64)))
    assert terms["obj"] > 0
    assert terms["box"] == terms["cls"] == 0


def test_padding_does_not_change_the_loss(plain):
    raw, boxes, labels = boxes_case()
    alone = plain.loss_of_raw(raw, batch_of([boxes[0][:1]], [[7]]))
    assert plain.loss_of_raw(raw, batch_of(boxes, labels)) == alone
    padded_crowd = batch_of([[boxes[0][0], [0, 0, 64, 64]]], [[7, -1]], ignore=[[False, True]])
    assert plain.loss_of_raw(raw, padded_crowd) == alone


def test_crowd_regions_are_ignored_in_the_loss(plain):
    """By hand: cells whose center lies in x 12 to 40, y 0 to 28 add nothing to the mean objectness, nor do those that
    an object there would take. Its center is (26, 14), so these are the same but for one at stride 16, right of the
    first, with the anchors 30 x 61 and 62 x 45."""
    raw, _, _ = boxes_case()
    crowd = batch_of([[[12.0, 0, 40, 28], [0, 0, 0, 0]]], [[3, -1]], ignore=[[True, False]])
    terms = plain.loss_of_raw(raw, crowd)
    # (rows, columns) of those cells; centers at stride 32: 16, 48; 16: 8, 24, 40, 56; 8: 4, 12 (on the border), 20, ...
    hidden = ((slice(0, 1), slice(0, 1)), (slice(0, 2), slice(1, 2)), (slice(0, 3), slice(1, 5)))
    by_hand = 0
    for one, weight, (rows, columns) in zip(raw, (0.4, 1, 4), hidden, strict=True):
        errors = torch.nn.functional.softplus(as_theirs(one)[..., 4])
        errors[:, :, rows, columns] = 0
        if weight == 1:
            errors[:, :2, 0, 2] = 0
        by_hand += weight * errors.mean()
    torch.testing.assert_close(terms["obj"], 0.7 * by_hand)
    assert terms["box"] == terms["cls"] == 0


def test_object_in_a_crowd_region_is_still_trained(plain):
    """A crowd over everything leaves the cells of the object, and those only, in the objectness."""
    raw, boxes, _ = boxes_case()
    raw = tuple(one.requires_grad_() for one in raw)
    crowd = batch_of([[boxes[0][0], [0, 0, 64, 64]]], [[7, 3]], ignore=[[False, True]])
    terms = plain.loss_of_raw(raw, crowd)
    alone = plain.loss_of_raw(raw, batch_of([boxes[0][:1]], [[7]]))
    assert terms["box"] == alone["box"]
    assert terms["cls"] == alone["cls"]
    learns_boxes = [one != 0 for one in torch.autograd.grad(alone["box"], raw)]
    objectness = torch.autograd.grad(terms["obj"], raw)
    assert any(one.any() for one in objectness)
    for ours, theirs in zip(objectness, learns_boxes, strict=True):
        assert torch.equal(as_theirs(ours)[..., 4] != 0, as_theirs(theirs)[..., 2])


def assigned(center, side=32.0):
    """(column, row) of the cells at stride 32 on a 96 x 64 canvas (3 columns, 2 rows) that a square box takes."""
    (x, y), half = center, side / 2
    batch = batch_of([[[x - half, y - half, x + half, y + half]]], [[0]])
    taken, cell, _ = yolov3_640._assign(batch, torch.tensor([[1.0, 1.0]]), 32, (2, 3), 4.0)
    cells = [divmod(int(c), 3)[::-1] for c in cell[taken]]
    assert len(cells) == len(set(cells)), "a cell taken twice"
    return set(cells)


@pytest.mark.parametrize(
    ("center", "cells"),
    [
        ((40, 10), {(1, 0), (0, 0)}),  # left of its cell's middle; nothing above the first row
        ((56, 24), {(1, 0), (2, 0), (1, 1)}),  # right and below
        ((10, 60), {(0, 1)}),  # a corner of the canvas
        ((64, 48), {(2, 1), (1, 1)}),  # on a border: the lower side only; y at the middle, the last row
    ],
)
def test_assigned_cells_by_hand(center, cells):
    assert assigned(center) == cells


def test_anchor_ratio_limit():
    assert assigned((40, 10), side=32 * 3.99)
    assert assigned((40, 10), side=32 / 3.99)
    assert not assigned((40, 10), side=32 * 4.0)
    assert not assigned((40, 10), side=32 / 4.0)


def test_last_box_of_a_cell_wins():
    taken = torch.tensor([[[True, True, True, False, True]]])
    cell = torch.tensor([[[2, 0, 2, 2, 3]]])
    assert yolov3_640._last_row(taken, cell, 5).tolist() == [[[2, 0, 3, 5, 0]]]


def test_label_smoothing_by_hand():
    """By hand, for the same prediction everywhere; the box takes anchors of all three scales."""
    raw, boxes, labels = boxes_case()
    raw = tuple(torch.ones_like(one) for one in raw)
    smooth = without_weights(loss={"label_smoothing": 0.2})
    truth = torch.full((80,), 0.1)
    truth[7] = 0.9
    by_hand = torch.nn.functional.binary_cross_entropy(torch.ones(80).sigmoid(), truth)
    terms = smooth.loss_of_raw(raw, batch_of(boxes, labels))
    assert terms["cls"].item() == pytest.approx(0.3 * 3 * by_hand.item())


def test_gradients_of_two_processes_match_one(plain, monkeypatch):
    """Averaged gradients of the halves, each divided by the mean count of both, are the gradient of the whole."""
    _, raw, batch = loss_case("loss_256x256")
    sum(plain.loss_of_raw(raw, batch).values()).backward()
    halves = [
        replace(batch, images=batch.images[i : i + 1], boxes=batch.boxes[i : i + 1], labels=batch.labels[i : i + 1],
                ignore=batch.ignore[i : i + 1]) for i in range(2)
    ]  # fmt: skip
    counts = [[], []]
    for i, half in enumerate(halves):
        monkeypatch.setattr(
            yolov3_640, "across_processes", lambda n, minimum, i=i: counts[i].append(n) or n.clamp(min=1)
        )
        plain.loss_of_raw(tuple(one[i : i + 1] for one in raw), half)
    whole = [one.grad.clone() for one in raw]
    for one in raw:
        one.grad = None
    monkeypatch.setattr(yolov3_640, "processes", lambda: 2)
    for i, half in enumerate(halves):
        means = iter([(a + b) / 2 for a, b in zip(*counts, strict=True)])
        monkeypatch.setattr(yolov3_640, "across_processes", lambda n, minimum, means=means: next(means))
        (sum(plain.loss_of_raw(tuple(one[i : i + 1] for one in raw), half).values()) / 2).backward()
    assert counts[0] != counts[1]
    for one, expected in zip(raw, whole, strict=True):
        torch.testing.assert_close(one.grad, expected, rtol=1e-5, atol=1e-8)


def predictions_of_the_oracle(truth):
    generator = np.random.default_rng(int(truth["pred_seed"]))
    shape = truth["pred.shape"].tolist()
    xy = generator.uniform(40, 600, (*shape[:2], 2))
    wh = np.exp(generator.normal(4.3, 0.6, (*shape[:2], 2)))
    rest = 1 / (1 + np.exp(-(2.5 * generator.standard_normal((*shape[:2], shape[2] - 4)) - 5)))
    made = np.concatenate((xy, wh, rest), 2).astype(np.float32)
    expected, ours = sampled_pair(truth, "pred", made)
    np.testing.assert_array_equal(ours, expected)
    return torch.from_numpy(made)


def test_candidates_and_nms_match_mindyolo():
    """Multi-label candidates above 0.001, then greedy suppression: the 300 rows MindYOLO keeps."""
    truth = oracle("post")
    found = candidates(predictions_of_the_oracle(truth), 0.001)
    (kept,) = suppress(found, NMSConfig(iou=0.65, pre_nms_top_k=30000, max_detections=300))
    ours = torch.cat((kept.boxes, kept.scores[:, None], kept.labels[:, None].float()), 1).numpy()
    np.testing.assert_allclose(ours, truth["nms.eval"], rtol=1e-6, atol=1e-4)


def test_candidates_by_hand():
    rows = torch.tensor([
        [[10.0, 20, 4, 6, 0.8, 0.5, 0.9], [10, 20, 4, 6, 0.4, 1.0, 1.0], [10, 20, 4, 6, 0.5, 0.9, 1.0]],
        [[1.0, 2, 1, 1, 0.1, 1.0, 1.0]] * 3,
    ])  # fmt: skip
    first, second = candidates(rows, 0.5)
    assert first.boxes.tolist() == [[8, 17, 12, 23]] * 2  # 0.8 x 0.5 and 0.5 x 0.9 are too low, and objectness 0.4 is
    assert first.labels.tolist() == [1, 1]
    assert first.scores.tolist() == pytest.approx([0.72, 0.5])
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)


def test_decode_by_hand(plain):
    """One certain cell: column 3, row 1 of stride 8, its second anchor (16 x 30 px)."""
    raw = tuple(torch.full((1, 255, 32 // stride * 2, 32 // stride * 4), -20.0) for stride in STRIDES)
    raw[2].view(1, 3, 85, 8, 16)[0, 1, :5, 1, 3] = torch.tensor([0.0, 0, 0, 0, 20])
    raw[2].view(1, 3, 85, 8, 16)[0, 1, 5 + 42, 1, 3] = 20
    (found,) = plain.decode(raw, 0.5)
    assert found.labels.tolist() == [42]
    assert found.boxes.tolist() == [[28 - 8, 12 - 15, 28 + 8, 12 + 15]]


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return build(Config(classes=3))


def test_initial_biases_match_class_priors(fresh):
    for head, stride in zip((fresh.head32, fresh.head16, fresh.head8), STRIDES, strict=True):
        bias = head.output.bias.detach().view(3, 8)
        spread = head.output.in_channels**-0.5  # torch draws the rest within this
        torch.testing.assert_close(
            bias[:, 4].exp(), torch.full((3,), 8 * stride**2 / 640**2), rtol=1.1 * spread, atol=0
        )
        torch.testing.assert_close(bias[:, 5:].exp(), torch.full((3, 3), 0.6 / 2.000001), rtol=1.1 * spread, atol=0)
        assert bias[:, :4].abs().max() <= spread


@pytest.mark.slow
def test_gradient_reaches_every_weight(fresh):
    batch = batch_of([[[10.0, 12, 40, 50], [2, 2, 60, 60], [30, 5, 40, 25]]] * 2, [[0, 2, 1]] * 2)
    batch = replace(batch, images=torch.rand(2, 3, 64, 64))
    fresh.train()
    sum(fresh.loss(batch).values()).backward()
    silent = [name for name, value in fresh.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent


def test_normalization_is_part_of_the_model(network):
    """forward takes RGB in [0, 1]; the same image normalized outside gives the same maps."""
    shifted = copy.copy(network)
    shifted._buffers = dict(network._buffers, mean=torch.full((3, 1, 1), 0.5), std=torch.full((3, 1, 1), 0.25))
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for inside, outside in zip(shifted(images), network((images - 0.5) / 0.25), strict=True):
            torch.testing.assert_close(inside, outside)


def test_darknet53_backbone_is_first(network):
    """The convolutions of darknet53.conv.74 (162,482,580 bytes with its header of 20) come first."""
    modules = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    backbone = [m for m in network.backbone.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    assert modules[:104] == backbone
    numbers = sum(m.weight.numel() if isinstance(m, torch.nn.Conv2d) else 4 * m.num_features for m in backbone)
    assert numbers * 4 == 162_482_580 - 20
