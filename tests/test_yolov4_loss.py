"""YOLOv4's loss against the numbers of the MindSpore zoo, and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle_weights
from boxwright import models, recipe
from boxwright.models import yolov3
from boxwright.models.yolov4 import LossConfig, loss_terms, yolov4_loss
from boxwright.ops.anchors import Cells, flatten
from boxwright.ops.iou import ciou, zoo_giou
from boxwright.ops.losses import at_targets
from boxwright.ops.targets import assign_best, assign_similar
from boxwright.types import Batch
from from_the_host import NoNumbersFromTheHost
from oracle_weights import ORACLES, Array
from zoo_loss import SCALES, as_zoo, batch_of, boxes_of, predictions, targets_of, zoo_assignment

# The zoo's numbers (NOTES of the oracles); coarse scale first.
PAIRS = ((12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401))
ANCHORS = torch.tensor(PAIRS).float().view(3, 3, 2).flip(0)
REACH = (1.05, 1.1, 1.2)
ZOO = LossConfig()
CIOU = LossConfig(box_loss="ciou", normalize="boxes")
PARTS = LossConfig(box_loss="mse", box=1, assign_iou=1, normalize="boxes")


@pytest.fixture(params=["192x256", "416x416"])
def oracle(request: pytest.FixtureRequest) -> dict[str, Array]:
    with np.load(ORACLES / "yolov4" / f"loss_{request.param}.npz") as stored:
        return dict(stored)


def cells_of(size: tuple[int, int]) -> Cells:
    strides = list(SCALES.values())
    return Cells.of([(size[0] // s, size[1] // s) for s in strides], strides, ANCHORS, REACH)


def test_giou_matches_the_zoo(oracle: dict[str, Array]) -> None:
    """Pairs that overlap, that are apart on one axis, and on both."""
    pred, truth = torch.from_numpy(oracle["giou.pred"]), torch.from_numpy(oracle["giou.gt"])
    np.testing.assert_allclose(zoo_giou(pred, truth).numpy(), oracle["giou.value"][:, 0], rtol=1e-5, atol=1e-6)
    apart = (torch.maximum(pred, truth)[:, :2] > torch.minimum(pred, truth)[:, 2:]).sum(1)
    assert apart.bincount().tolist() == [18, 28, 18]


@pytest.mark.parametrize("prefix", ["", "smooth."])
def test_loss_and_gradient_match_the_zoo_given_its_assignment(oracle: dict[str, Array], prefix: str) -> None:
    """The zoo's ignore test compares only with the boxes of a scale, so each scale is tested separately."""
    size = tuple(oracle["hw"].tolist())
    total = 0.0
    for k, (scale, raw) in enumerate(predictions(oracle).items()):
        raw.requires_grad_()
        y_true = torch.from_numpy(oracle_weights.sparse(oracle, f"{prefix}y_true.{scale}"))
        cells = Cells.of([raw.shape[2:]], [SCALES[scale]], ANCHORS[k : k + 1], REACH[k : k + 1])
        terms = loss_terms(flatten((raw,), 3), cells, *targets_of(y_true, size), ZOO)
        terms = {name: term / 2 for name, term in terms.items()}  # two images
        loss = torch.stack(list(terms.values())).sum()
        total += loss.item()
        assert loss.item() == pytest.approx(oracle[f"{prefix}loss.{scale}"], rel=1e-5)
        if not prefix:
            for ours, theirs in (("box", "box"), ("objectness", "conf"), ("classes", "cls")):
                assert terms[ours].item() == pytest.approx(oracle[f"loss.{scale}.{theirs}"], rel=1e-5)
            (gradient,) = torch.autograd.grad(loss, raw)
            theirs, same = oracle_weights.sampled_pair(oracle, f"grad.{scale}", gradient.numpy())
            np.testing.assert_allclose(same, theirs, rtol=1e-4, atol=1e-6)
    assert total == pytest.approx(oracle[f"{prefix}loss"], rel=1e-5)


@pytest.mark.parametrize(("prefix", "smoothing"), [("", 0.0), ("smooth.", 0.1)])
def test_assignment_matches_the_zoo_except_for_floored_centers(
    oracle: dict[str, Array], prefix: str, smoothing: float
) -> None:
    cells = cells_of(oracle["hw"].tolist())
    floored = assign_similar(boxes_of(oracle, floor=True), cells, 80, 0.213, smoothing)
    ours, theirs = as_zoo(floored, oracle), zoo_assignment(oracle, prefix)
    if prefix:
        # With smoothing the zoo forgets the class of the earlier of two objects in a cell; ours keeps both.
        one_hot, first = theirs[..., 5:] > 0.5, zoo_assignment(oracle, "")[..., 5:] > 0
        theirs[..., 5:] = torch.where(first & ~one_hot, 0.9, theirs[..., 5:])
    torch.testing.assert_close(ours, theirs)
    assert int(floored.positive.sum()) == int((theirs[..., 4] > 0).sum())

    exact = assign_similar(boxes_of(oracle, floor=False), cells, 80, 0.213, smoothing)
    assert (exact.boxes - floored.boxes).abs().max() == 0.5  # the oracle has a box with an odd sum of coordinates


def test_full_loss_matches_the_zoo_except_for_the_ignore_rule(oracle: dict[str, Array]) -> None:
    """From boxes to terms: all but objectness, which ours tests against the boxes of every scale."""
    rows = flatten(tuple(predictions(oracle).values()), 3)
    terms = yolov4_loss(rows, cells_of(oracle["hw"].tolist()), boxes_of(oracle, floor=True), ZOO)
    for ours, theirs in (("box", "box"), ("classes", "cls")):
        assert terms[ours].item() == pytest.approx(sum(oracle[f"loss.{scale}.{theirs}"] for scale in "lms"), rel=1e-5)
    smooth = replace_setting(ZOO, label_smoothing=0.1)
    smoothed = yolov4_loss(rows, cells_of(oracle["hw"].tolist()), boxes_of(oracle, floor=True), smooth)
    if oracle["hw"].tolist() == [192, 256]:  # the other has two objects in a cell, of which the zoo then forgets one
        dearer = sum(oracle[f"smooth.loss.{scale}"] - oracle[f"loss.{scale}"] for scale in "lms")
        assert (smoothed["classes"] - terms["classes"]).item() == pytest.approx(dearer, abs=1e-3)
    every = sum(oracle[f"loss.{scale}.conf"] for scale in "lms")
    assert 0.9 * every < terms["objectness"].item() <= every * (1 + 1e-6)


def test_loss_weights_of_terms_and_scales(oracle: dict[str, Array]) -> None:
    """The zoo's bbox_class_loss_coff and detect_head_loss_coff."""
    rows, cells = flatten(tuple(predictions(oracle).values()), 3), cells_of(oracle["hw"].tolist())
    batch = boxes_of(oracle, floor=True)
    plain = yolov4_loss(rows, cells, batch, ZOO)
    weighted = yolov4_loss(rows, cells, batch, replace_setting(ZOO, box=20, objectness=0.5, classes=3))
    for name, factor in (("box", 2), ("objectness", 0.5), ("classes", 3)):
        assert weighted[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-6)
    fine = yolov4_loss(rows, cells, batch, replace_setting(ZOO, scales=(1, 0.5, 0.25)))
    for ours, theirs in (("box", "box"), ("classes", "cls")):
        expected = sum(
            weight * oracle[f"loss.{scale}.{theirs}"] for scale, weight in zip("sml", (1, 0.5, 0.25), strict=True)
        )
        assert fine[ours].item() == pytest.approx(expected, rel=1e-5)
    parts = [
        yolov4_loss(rows, cells, batch, replace_setting(ZOO, scales=one)) for one in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert sum(part["objectness"].item() for part in parts) == pytest.approx(plain["objectness"].item(), rel=1e-5)
    assert parts[0]["objectness"] > parts[1]["objectness"] > parts[2]["objectness"]  # as many cells


def one_scale() -> Cells:
    """Two anchors, 10 x 10 and 40 x 10, on 4 x 4 cells of 16 px."""
    return Cells.of([(4, 4)], [16], torch.tensor([[[10.0, 10.0], [40.0, 10.0]]]))


def test_anchor_assignment_by_hand() -> None:
    """By hand, 0.213 as limit: 10 x 10 overlaps the second anchor by 0.25; 10 x 8 by 0.2 only; 2 x 2 neither (0.04 and
    0.01), so that its best one alone takes it. Padding and a box without height claim nothing."""
    boxes = torch.tensor([[[3.0, 3, 13, 13], [19, 4, 29, 12], [39, 7, 41, 9], [0, 0, 0, 0], [50, 20, 60, 20]]])
    targets = assign_similar(batch_of(boxes, torch.tensor([[0, 1, 2, -1, 1]]), (64, 64)), one_scale(), 3, 0.213)
    cells, classes = targets.cell[targets.positive], targets.classes[targets.positive]
    learnt = dict(zip(cells.tolist(), classes.argmax(1).tolist(), strict=True))
    assert learnt == {0: 0, 1: 1, 2: 2, 16: 0}  # first anchor, columns 0, 1, 2; second anchor, column 0
    assert bool((classes.sum(1) == 1).all())


def test_anchor_above_the_iou_limit_wins_over_best_but_poor_anchor() -> None:
    """The zoo writes the best anchors of all boxes first and the similar ones of all boxes after."""
    good, poor = [3.0, 3, 13, 13], [7.0, 7, 9, 9]
    targets = assign_similar(
        batch_of(torch.tensor([[good, poor]]), torch.tensor([[0, 1]]), (64, 64)), one_scale(), 2, 0.213
    )
    row = int((targets.positive & (targets.cell == 0)).nonzero()[0, 1])
    assert targets.boxes[0, row].tolist() == good
    assert targets.classes[0, row].tolist() == [1, 1]


@pytest.mark.parametrize("settings", [ZOO, CIOU], ids=["zoo", "ciou"])
def test_perfect_prediction_has_almost_zero_loss(settings: LossConfig) -> None:
    boxes = torch.tensor([[[20.0, 20, 30, 30], [0, 0, 0, 0]]])
    batch, cells = batch_of(boxes, torch.tensor([[1, -1]]), (64, 64)), one_scale()
    rows = torch.full((1, 32, 8), -12.0)
    for cell in (5, 21):  # row 1, column 1 of both anchors
        place = (25 - 16) / 16
        logs = (10 / cells.anchor[cell]).log().tolist()
        rows[0, cell] = torch.tensor([math.log(place / (1 - place))] * 2 + [*logs, 12.0, -12.0, 12.0, -12.0])
    terms = yolov4_loss(rows, cells, batch, settings)
    assert all(term.item() < 2e-3 for term in terms.values())
    worse = rows.clone()
    worse[0, 5, 0] += 1
    assert yolov4_loss(worse, cells, batch, settings)["box"] > terms["box"] + 0.1


def test_box_loss_by_hand() -> None:
    """One anchor's cell predicts 10 x 10 at (24, 24); the object is as large and 5 px further right."""
    cells = Cells.of([(4, 4)], [16], torch.tensor([[[10.0, 10.0]]]))
    batch = batch_of(torch.tensor([[[24.0, 19, 34, 29]]]), torch.tensor([[0]]), (64, 64))
    rows = torch.zeros(1, 16, 6)
    weight = 2 - 100 / 64**2
    giou = 1 / 3  # 50 of 150 shared, and the enclosing box is the union
    term = yolov4_loss(rows, cells, batch, LossConfig(box=3))["box"]
    assert term.item() == pytest.approx(3 * weight * (1 - giou), rel=1e-3)  # eps is 1e-6 of the input
    distance = 5**2 / (15**2 + 10**2)
    term = yolov4_loss(rows, cells, batch, LossConfig(box=3, box_loss="ciou"))["box"]
    assert term.item() == pytest.approx(3 * weight * (1 - giou + distance), rel=1e-4)


def test_loss_normalization_by_images_or_boxes() -> None:
    """Two images, three cells with an object, and a crowd region, which is none."""
    boxes = torch.tensor([[[3.0, 3, 13, 13], [39, 39, 41, 41]], [[0, 0, 60, 60], [0, 0, 0, 0]]])
    crowd = torch.tensor([[False, False], [True, False]])
    batch = batch_of(boxes, torch.tensor([[0, 1], [0, -1]]), (64, 64), crowd)
    rows = torch.randn(2, 32, 7, generator=torch.Generator().manual_seed(0))
    by_images = yolov4_loss(rows, one_scale(), batch, ZOO)
    by_boxes = yolov4_loss(rows, one_scale(), batch, replace_setting(ZOO, normalize="boxes"))
    for name, term in by_images.items():
        assert term.item() * 2 == pytest.approx(by_boxes[name].item() * 3)
    nothing = yolov4_loss(rows, one_scale(), replace(batch, labels=torch.full_like(batch.labels, -1)), CIOU)
    assert nothing["objectness"] > 0
    assert nothing["box"] == nothing["classes"] == 0


def test_loss_with_yolov3_terms_matches_yolov3() -> None:
    """With the best anchors only; and a center reaches beyond its cell: at the cell's edge its place is not 0 but
    0.05 / 1.1, where the loss is least."""
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(2, 6, 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 4 + torch.rand(2, 6, 2, generator=generator) * 16), -1)
    batch = batch_of(boxes, torch.randint(0, 3, (2, 6), generator=generator), (64, 64))
    cells, rows = one_scale(), torch.randn(2, 32, 8, generator=generator)
    ours = yolov4_loss(rows, cells, batch, replace_setting(PARTS, normalize="images"))
    theirs = yolov3.loss_terms(rows, cells, assign_best(batch, cells, 3), batch, ignore_iou=0.7)
    assert ours["box"].item() * 2 == pytest.approx((theirs["xy"] + theirs["wh"]).item(), rel=1e-6)
    for name in ("objectness", "classes"):
        assert ours[name].item() * 2 == pytest.approx(theirs[name].item(), rel=1e-6)

    wide = Cells.of([(4, 4)], [16], torch.tensor([[[10.0, 10.0]]]), [1.1])
    edge = batch_of(torch.tensor([[[11.0, 11, 21, 21]]]), torch.tensor([[0]]), (64, 64))
    logits = torch.zeros(1, 16, 8, requires_grad=True)
    place = 0.05 / 1.1
    best = logits + torch.tensor(place).logit()
    yolov4_loss(best, wide, edge, PARTS)["box"].backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[..., :2], torch.zeros(1, 16, 2), rtol=0, atol=1e-6)
    low, high = wide.boxes(best[0, 5, :4].detach(), torch.tensor(5)).chunk(2)
    torch.testing.assert_close((low + high) / 2, torch.tensor([16.0, 16.0]))


def replace_setting(settings: LossConfig, **changes: object) -> LossConfig:
    return LossConfig.model_validate(settings.model_dump() | changes)


@pytest.mark.parametrize("settings", [ZOO, CIOU, PARTS], ids=["zoo", "ciou", "parts"])
def test_gradients_are_finite_without_host_synchronization(settings: LossConfig) -> None:
    """Wild predictions, boxes outside the canvas, boxes without an area, padding, crowds."""
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(2, 40, 2, generator=generator) * 300 - 60
    boxes = torch.cat((corner, corner + torch.rand(2, 40, 2, generator=generator) * 200), -1)
    boxes[:, ::7, 2:] = boxes[:, ::7, :2]
    labels = torch.randint(-1, 80, (2, 40), generator=generator)
    batch = batch_of(boxes, labels, (192, 256), torch.rand(2, 40, generator=generator) < 0.2)
    cells = cells_of((192, 256))
    rows = (20 * torch.randn(2, len(cells.corner), 85, generator=generator)).requires_grad_()
    with NoNumbersFromTheHost():
        terms = yolov4_loss(rows, cells, batch, settings)
        torch.stack(list(terms.values())).sum().backward()
    assert all(bool(term.isfinite()) for term in terms.values())
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())


def test_loss_of_images_without_boxes() -> None:
    batch = batch_of(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), (64, 64))
    rows: Tensor = torch.zeros(2, 32, 7)
    terms = yolov4_loss(rows, one_scale(), batch, ZOO)
    assert terms["box"] == terms["classes"] == 0
    assert terms["objectness"].item() == pytest.approx(32 * math.log(2))


def test_more_than_90_objects_are_assigned() -> None:
    """100 objects in as many cells; all are learnt."""
    places = torch.cartesian_prod(torch.arange(10), torch.arange(10)).float() * 16 + 8
    boxes = torch.cat((places - 5, places + 5), 1)[None]
    cells = Cells.of([(10, 10)], [16], torch.tensor([[[10.0, 10.0]]]))
    targets = assign_similar(batch_of(boxes, torch.zeros(1, 100, dtype=torch.int64), (160, 160)), cells, 1, 0.213)
    assert sorted(targets.cell[targets.positive].tolist()) == list(range(100))
    found = at_targets(torch.arange(100.0).view(1, 100, 1), targets)[targets.positive]
    assert sorted(found[:, 0].tolist()) == list(range(100))


def test_ciou_and_giou_of_identical_boxes_are_1() -> None:
    box = torch.tensor([[0.2, 0.3, 0.6, 0.5]])
    assert zoo_giou(box, box).item() == pytest.approx(1, abs=2e-5)
    assert ciou(box, box).item() == pytest.approx(1, abs=2e-5)


def test_anchor_on_two_scales_is_assigned_on_both() -> None:
    """YOLOv4-tiny has 81 x 82 twice, and Darknet's heads both take the object that fits it best."""
    model = models.module("yolov4").build(recipe.load("yolov4_tiny_coco_416_darknet").model)
    cells = model.cells(tuple(torch.zeros(1, 255, side, side) for side in (13, 26)))
    boxes = torch.tensor([[[100.0, 100, 181, 182], [10, 10, 33, 37]]])
    labels = torch.zeros(1, 2, dtype=torch.int64)
    targets = assign_similar(Batch(torch.zeros(1, 3, 416, 416), boxes, labels, labels > 0, ()), cells, 80, 1.0)
    own = targets.cell[targets.positive]
    assert sorted(cells.stride[own].flatten().tolist()) == [16, 16, 32]
    assert sorted(cells.anchor[own].tolist()) == [[23, 27], [81, 82], [81, 82]]
