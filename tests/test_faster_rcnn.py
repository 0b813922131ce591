"""Faster R-CNN as a whole: torchvision's detections from torchvision's weights, and the cases at the edges."""

import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import boxwright
from agreement import assert_same_detections
from boxwright import recipe
from boxwright.errors import InputError
from boxwright.images.canvas import frame_for, resize_to_canvas
from boxwright.models.faster_rcnn import Config, FasterRCNN, Targets, build
from boxwright.types import Batch, Detections
from test_resnet import randomise_norms

pytestmark = pytest.mark.slow

SHORT, LONG = 128, 208  # px of the shorter and the longer side, at most
# a landscape as it is and a portrait made larger; neither fills the canvas, nor the next multiple of 32 px
SIZES = [(128, 208), (150, 121)]


def random_image(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise around a dark part."""
    image = np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    image[height // 4 : 3 * height // 4, width // 4 : 2 * width // 3] //= 4
    return image


def torchvision_detector(classes: int, image: Tensor) -> Any:
    """Its detector with random weights, set so that boxes of several classes score high and low on `image`."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=classes,
        min_size=SHORT,
        max_size=LONG,
        box_score_thresh=0.05,
    )
    randomise_norms(model)
    with torch.no_grad():
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(8)
    last, seen = model.eval().roi_heads.box_predictor.cls_score, []
    hook = last.register_forward_hook(lambda _, given, logits: seen.append((given[0], logits)))
    with torch.no_grad():
        model([image])
        hook.remove()
        features, logits = seen[0]
        last.weight.div_(logits.std(0).mean())
        last.bias.copy_(-(last.weight @ features.mean(0)))
    return model


@torch.inference_mode()
def test_detections_match_torchvision(torchvision_ops: ModuleType, tmp_path: Path) -> None:
    """From its own weights, of images that do not fill the canvas, each by itself and both in one batch."""
    example_images = [random_image(*size) for size in SIZES]
    images = [torch.from_numpy(one).permute(2, 0, 1).float() / 255 for one in example_images]
    theirs = torchvision_detector(11, images[0])
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    canvas = {"size": [224, 256], "short_side": SHORT, "long_side": LONG}
    changes = {f"data.canvas.{key}": value for key, value in canvas.items()}
    changes |= {"model.classes": 10, "data.names": [], "model.norm_eps": 1e-5, "predict.batch": 3}
    ours = boxwright.load(tmp_path / "a.pth", recipe.load("faster_rcnn_r50_coco_torchvision", changes))
    (tmp_path / "a.pth").unlink()
    found = [ours(one, threshold=0.05) for one in example_images] + ours(example_images, threshold=0.05)
    wanted = [theirs([one])[0] for one in images] + theirs(images)
    for mine, one in zip(found, wanted, strict=True):
        assert len(mine) == len(one["scores"]) == 100
        assert len(set(one["labels"].tolist())) > 3
        assert float(one["scores"].max() - one["scores"].min()) > 0.05
        expected = Detections(one["boxes"], one["scores"], one["labels"] - 1)
        assert_same_detections(mine, expected, threshold=0.05, score=1e-3, box=0.5, keep=100)


@torch.inference_mode()
def test_pixels_outside_the_image_have_no_effect(model: FasterRCNN) -> None:
    """Pixels outside the image have no effect, and proposals end at its border; images that fill the canvas need no
    extents."""
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(3))
    extents = torch.tensor([[61.0, 128.0], [96.0, 75.0]])
    other = images.clone()
    other[0, :, 61:], other[1, :, :, 75:] = 7, torch.nan
    raw, same = model(images, extents), model(other, extents)
    assert all(torch.equal(one, two) for one, two in zip(raw, same, strict=True))
    assert raw[3].any(1).all()
    limits = torch.tensor([[128.0, 61, 128, 61], [75, 96, 75, 96]])[:, None]
    assert (raw[0] <= limits).all()
    assert (raw[0] == limits).any(1)[:, 2:].all()  # some reach the edges
    mean = images.clone()
    mean[0, :, 61:], mean[1, :, :, 75:] = model.mean, model.mean
    for one, two in zip(model.pyramid(images, extents), model.pyramid(mean), strict=True):
        torch.testing.assert_close(one, two)
    whole = torch.tensor([[96.0, 128.0]] * 2)
    assert all(torch.equal(one, two) for one, two in zip(model(images, whole), model(images), strict=True))


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
@pytest.mark.parametrize("change", [{"model.clip_proposals_to": "image"}, {"data.canvas.trim": True}])
def test_fit_without_image_at_top_left_is_rejected(fit: str, change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(InputError, match=rf"data.canvas.fit: found {fit}, {key}.* needs an image at the top left"):
        recipe.load("faster_rcnn_r50_dcn_coco_standard", {"data.canvas.fit": fit} | change)


@pytest.fixture(scope="module", params=["standard", "zoo"])
def model(request: pytest.FixtureRequest) -> FasterRCNN:
    """Small in all but the network; with frozen statistics, as the recipes train it."""
    name = {"standard": "faster_rcnn_r50_dcn_coco_standard", "zoo": "faster_rcnn_r50_dcn_coco"}[request.param]
    few = {"train_proposals": 100, "test_proposals": 50, "samples": 128, "max_positives": 64}
    changes = {f"model.rpn.{key}": value for key, value in few.items()}
    changes |= {"model.roi.samples": 64, "model.roi.max_positives": 32}
    loaded = recipe.load(name, changes | {"model.classes": 4, "data.names": []})
    assert isinstance(loaded.model, Config)
    torch.manual_seed(0)
    return build(loaded.model).eval()


def batch(size: tuple[int, int], boxes: list[Tensor], rows: int | None = None) -> Batch:
    """A random image for each entry of `boxes` (n, 4)."""
    rows = max(len(one) for one in boxes) if rows is None else rows
    padded = torch.stack([torch.nn.functional.pad(one, (0, 0, 0, rows - len(one))) for one in boxes])
    labels = torch.stack([torch.where(torch.arange(rows) < len(one), torch.arange(rows) % 4, -1) for one in boxes])
    images = torch.rand(len(boxes), 3, *size, generator=torch.Generator().manual_seed(1))
    return Batch(images, padded, labels, torch.zeros_like(labels, dtype=torch.bool), (), torch.arange(len(boxes)))


NONE = torch.zeros(0, 4)
SOME = torch.tensor([[4.0, 6, 40, 50], [20, 10, 90, 60], [1, 1, 12, 14]])


def many_boxes(count: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] - 12.0, size[0] - 12.0])
    return torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=generator) * 8), 1)


@pytest.mark.parametrize(
    ("size", "boxes", "rows"),
    [
        ((96, 128), [SOME, NONE], None),
        ((96, 128), [NONE, NONE], 3),
        ((96, 128), [NONE, NONE], 0),
        ((96, 128), [many_boxes(300, (96, 128)), SOME], None),
        ((160, 96), [SOME, SOME[:1]], None),
        ((32, 32), [SOME[2:], NONE], None),
        ((96, 96), [torch.tensor([[5.0, 5, 5, 40], [7, 7, 7, 7]]), SOME], None),
    ],
    ids=["one-empty-image", "all-empty-padded", "all-empty", "300-boxes", "portrait", "32x32", "no-area"],
)
def test_forward_loss_backward_decode(
    model: FasterRCNN, size: tuple[int, int], boxes: list[Tensor], rows: int | None
) -> None:
    given = batch(size, boxes, rows)
    proposals, logits, deltas, valid = raw = model(given.images)
    assert proposals.shape == (2, 50, 4)
    assert logits.shape == (2, 50, 5)
    assert deltas.shape == (2, 50, 20)
    assert valid.shape == (2, 50)
    assert valid[:, 0].all()
    assert (proposals >= 0).all()
    assert (proposals <= torch.tensor([size[1], size[0]] * 2)).all()
    assert all(len(one) == 4 * int(rows) for one, rows in zip(model.decode(raw, 0.0), valid.sum(1), strict=True))
    model.zero_grad()
    terms = model.loss(given)
    assert list(terms) == ["rpn_objectness", "rpn_boxes", "classes", "boxes"]
    torch.stack(list(terms.values())).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    objects = any((one[:, 2:] > one[:, :2]).all(1).any() for one in boxes)
    assert terms["classes"].item() > 0
    assert (terms["boxes"].item() > 0) == objects  # each object is a proposal of its own


def test_all_300_boxes_are_candidates_and_have_anchors(model: FasterRCNN) -> None:
    """No box is beyond a limit: all are candidates of the second stage, and each has an anchor."""
    given = batch((96, 128), [many_boxes(300, (96, 128))])
    maps = model.pyramid(given.images)
    found, *_ = model.propose(maps, given.images, 10, 10)
    second = model.roi_targets(given, found, torch.arange(310, 0, -1.0)[None])
    assert second.positive.sum() == 32
    assert torch.equal(second.boxes[0, :32], given.boxes[0, :32])
    last = model.roi_targets(given, found, torch.arange(310.0)[None])
    assert 299 in last.idx[0][last.positive[0]]


def test_sampling_is_a_function_of_the_keys(model: FasterRCNN) -> None:
    given = batch((96, 128), [SOME, SOME])
    keyed = [replace(given, keys=torch.tensor(keys)) for keys in ([3, 9], [3, 9], [4, 9])]
    with torch.no_grad():
        first, again, other = (model.loss(one) for one in keyed)
        alone = model.loss(Batch(*(part[:1] for part in batch_parts(given)), (), torch.tensor([3])))
        second = model.loss(Batch(*(part[1:] for part in batch_parts(given)), (), torch.tensor([9])))
    assert first == again
    assert first["rpn_objectness"] != other["rpn_objectness"]
    assert first["classes"] != other["classes"]
    for name in ("rpn_objectness", "rpn_boxes"):  # what is drawn for an image does not depend on its neighbors
        torch.testing.assert_close(first[name], (alone[name] + second[name]) / 2)


def batch_parts(given: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return given.images, given.boxes, given.labels, given.ignore


def test_crowd_regions_are_neither_object_nor_background(model: FasterRCNN) -> None:
    whole = torch.tensor([[0.0, 0, 128, 96]])
    given = batch((96, 128), [whole])
    given = replace(given, ignore=torch.ones_like(given.ignore))
    maps = model.pyramid(given.images)
    found, grid, *_ = model.propose(maps, given.images, 50, 50)
    first = model.rpn_targets(given, grid, torch.ones(1, len(grid)))
    inside = grid[first.idx[0][first.sampled[0]]]
    assert not first.positive.any()
    assert ((inside[:, :2] < 0).any(1) | (inside[:, 2] > 128) | (inside[:, 3] > 96)).all()
    assert not model.roi_targets(given, found, torch.ones(1, 51)).sampled.any()


def test_image_without_searched_classes_adds_no_background_loss(model: FasterRCNN) -> None:
    given = batch((96, 128), [NONE, NONE])
    none, all_classes = (replace(given, labeled=torch.full((2, 4), known)) for known in (False, True))
    with torch.no_grad():
        full, same, spared = (model.loss(each) for each in (given, all_classes, none))
    assert full == same
    assert full["classes"] > 0
    assert spared["classes"] == 0
    assert spared["rpn_objectness"] <= full["rpn_objectness"]


def test_canvas_size_not_divisible_by_32_is_rejected(model: FasterRCNN) -> None:
    with pytest.raises(InputError, match=r"data.canvas.size: found 96 x 100 px, the network needs multiples of 32"):
        model(torch.zeros(1, 3, 96, 100))


def test_boxes_of_a_portrait_image_with_zoo_resize(tmp_path: Path) -> None:
    """Boxes come back inside a portrait image that was resized twice."""
    chosen = recipe.load("faster_rcnn_r50_dcn_coco", {"data.canvas.size": [96, 160], "model.rpn.test_proposals": 50})
    assert isinstance(chosen.model, Config)
    torch.manual_seed(0)
    predictor = boxwright.Predictor(build(chosen.model).eval(), chosen)
    image = np.random.default_rng(0).integers(0, 255, (120, 80, 3), dtype=np.uint8)
    frame = frame_for((120, 80), chosen.data.canvas, 0)
    assert resize_to_canvas(image, frame, chosen.data.canvas).shape == (96, 160, 3)
    assert frame.scale[0] == frame.scale[1]
    found = predictor(image, threshold=0.0)
    assert len(found) > 0
    assert (found.boxes[:, 2] <= 80).all()
    assert (found.boxes[:, 3] <= 120).all()
    assert float(found.boxes[:, 3].max()) > 100


@torch.no_grad()
def test_nan_weights_give_nan_loss_without_exception(model: FasterRCNN) -> None:
    """A run that diverges must reach the engine's check of its loss."""
    model = copy.deepcopy(model)
    model.rpn.deltas.bias.fill_(torch.nan)
    images = torch.rand(1, 3, 64, 64)
    objects = torch.tensor([[[5.0, 5.0, 40.0, 40.0]]])
    label = torch.zeros(1, 1, dtype=torch.int64)
    terms = model.train().loss(Batch(images, objects, label, label > 0, ()))
    assert not torch.stack(list(terms.values())).isfinite().all()
    assert len(model.eval()(images)) == 4


def test_small_objects_have_a_positive_anchor_except_in_the_zoo(model: FasterRCNN) -> None:
    """Squares of 8 px, which no anchor overlaps by 0.3: they have a positive one except in the zoo."""
    corner = torch.arange(8).float()[:, None] * 11 + 3
    given = batch((96, 128), [torch.cat((corner, corner, corner + 8, corner + 8), 1)])
    maps = model.pyramid(given.images)
    *_, grid, objectness, _ = model.propose(maps, given.images, 10, 10)
    targets = model.rpn_targets(given, grid, torch.rand(1, objectness.shape[1]))
    owners = set(targets.matched_gt_idx[0][targets.positive[0] & targets.sampled[0]].tolist())
    assert owners == (set() if model.config.rpn.min_pos_iou else set(range(8)))


def test_roi_loss_by_hand(model: FasterRCNN) -> None:
    """Three samples, one of them not drawn: an object of class 2 (of 4) and background."""
    yes, no = torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
    rows = torch.zeros(1, 3, dtype=torch.int64)
    wanted = torch.tensor([[[0.5, -3.0, 0.0, 0.0]] * 3])
    targets = Targets(torch.zeros(1, 3, 4), rows, yes, no, rows, wanted)
    logits = torch.zeros(1, 3, 5)
    logits[0, 0, 3] = 2.0  # e^2 of e^2 + 4
    deltas = torch.zeros(1, 3, 20)
    deltas[0, 0, 12:16] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # apart by 0.5 and by 4
    terms = model.roi_loss(targets, logits, deltas, torch.tensor([[2]]))
    assert float(terms["classes"]) == pytest.approx((np.log(np.e**2 + 4) - 2 + np.log(5)) / 2)
    assert float(terms["boxes"]) == pytest.approx((0.5 * 0.5**2 + 4 - 0.5) / 2)
