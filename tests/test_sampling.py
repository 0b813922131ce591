"""Anchors, box coding, assignment and sampling of two-stage detectors, against the MindSpore zoo and torchvision."""

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.models.faster_rcnn import STRIDES, Config, FasterRCNN, Targets
from boxwright.nn import rpn
from boxwright.nn.roi import level_of
from boxwright.nn.rpn import Proposals, anchors, base_anchors, kept_at_once, propose
from boxwright.ops.boxes import clip
from boxwright.ops.coding import decode, encode
from boxwright.ops.iou import pairwise_iou
from boxwright.ops.nms import keep_greedily
from boxwright.ops.sampling import Matches, match, priorities, sample, sample_balanced
from boxwright.recipe import NMSConfig, load
from boxwright.types import Batch
from oracle_weights import ORACLES, sparse

FOLDER = ORACLES / "faster_rcnn_dcn"
RATIOS = (0.5, 1.0, 2.0)
ONES = torch.ones(4)
BOX_STDS = torch.tensor([0.1, 0.1, 0.2, 0.2])


@pytest.fixture(scope="module")
def zoo() -> dict[str, Tensor]:
    with np.load(FOLDER / "components.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_anchors_match_the_zoo(zoo: dict[str, Tensor]) -> None:
    base = base_anchors(STRIDES, 8, RATIOS, plus_one=True)
    for level, stride in enumerate(STRIDES):
        assert torch.equal(base[level].double(), zoo[f"anchors.base.{stride}"])
        assert torch.equal(anchors(base[level : level + 1], [(3, 4)], [stride]), zoo[f"anchors.grid.{stride}"])
    shapes = [(768 // stride, 1280 // stride) for stride in STRIDES]
    assert len(anchors(base, shapes, STRIDES)) == 245520


def test_anchors_match_torchvision(torchvision_ops: ModuleType) -> None:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    shapes = [(40, 52), (20, 26), (10, 13), (5, 7), (3, 4)]  # what a canvas of 160 x 208 gives
    generator = AnchorGenerator(tuple((8 * stride,) for stride in STRIDES), (RATIOS,) * 5)
    images = ImageList(torch.zeros(1, 3, 160, 208), [(160, 208)])
    # torchvision divides the canvas by the map, which is no whole number at the coarse levels: one at a time
    for level, (shape, stride) in enumerate(zip(shapes, STRIDES, strict=True)):
        images.tensors = torch.zeros(1, 3, shape[0] * stride, shape[1] * stride)
        maps = [torch.zeros(1, 1, *(shape if other == level else (1, 1))) for other in range(5)]
        cells = [base.shape[0] * maps[i].shape[2] * maps[i].shape[3] for i, base in enumerate(generator.cell_anchors)]
        theirs = generator(images, maps)[0].split(cells)[level]
        ours = anchors(base_anchors(STRIDES, 8, RATIOS, plus_one=False)[level : level + 1], [shape], [stride])
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "stds"), [("unit", ONES), ("rcnn", BOX_STDS)])
def test_box_coding_matches_the_zoo(zoo: dict[str, Tensor], name: str, stds: Tensor) -> None:
    encoded = encode(zoo["box.gt"], zoo["box.anchor"], stds, plus_one=True)
    torch.testing.assert_close(encoded, zoo[f"box.encode.{name}"])
    decoded = decode(zoo["box.delta"], zoo["box.anchor"], stds, plus_one=True)
    torch.testing.assert_close(clip(decoded, (192, 320)), zoo[f"box.decode.{name}"])


def test_box_coding_matches_torchvision(torchvision_ops: ModuleType, zoo: dict[str, Tensor]) -> None:
    from torchvision.models.detection._utils import BoxCoder

    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        coder, stds = BoxCoder(weights), 1 / torch.tensor(weights)
        theirs = coder.encode_single(zoo["box.gt"], zoo["box.anchor"])
        torch.testing.assert_close(encode(zoo["box.gt"], zoo["box.anchor"], stds), theirs)
        far = zoo["box.delta"].clone()
        far[::5, 2:] = 30  # beyond the limit
        theirs = coder.decode_single(far, zoo["box.anchor"])
        torch.testing.assert_close(decode(far, zoo["box.anchor"], stds), theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("plus_one", [False, True])
def test_decode_inverts_encode(zoo: dict[str, Tensor], plus_one: bool) -> None:
    deltas = encode(zoo["box.gt"], zoo["box.anchor"], BOX_STDS, plus_one)
    torch.testing.assert_close(
        decode(deltas, zoo["box.anchor"], BOX_STDS, plus_one), zoo["box.gt"], rtol=1e-5, atol=1e-3
    )
    nothing = torch.zeros(2, 4)
    assert encode(nothing, nothing, ONES, plus_one).isfinite().all()


def test_iou_and_nms_match_the_zoo(zoo: dict[str, Tensor]) -> None:
    overlap = pairwise_iou(zoo["box.gt"], zoo["box.anchor"], plus_one=True)
    torch.testing.assert_close(overlap, zoo["box.iou_gt_by_anchor"])
    for threshold in (0.5, 0.7):
        boxes = zoo[f"nms.{threshold}.boxes"][:, :4]
        settings = NMSConfig(iou=threshold)
        kept = keep_greedily(boxes, torch.zeros(len(boxes), dtype=torch.int64), settings)
        assert torch.equal(kept, zoo[f"nms.{threshold}.keep"])


def test_fpn_levels_match_the_zoo(zoo: dict[str, Tensor]) -> None:
    ours, theirs = level_of(zoo["roi.level.rois"][:, 1:], 4, plus_one=True), zoo["roi.level"][:, 0].long()
    # One box is 448 px wide to the last bit, where the levels meet and MindSpore's logarithm of 8.000001 falls short.
    (border,) = (ours != theirs).nonzero()[:, 0].tolist()
    assert zoo["roi.level.rois"][border].tolist() == [0, 2, 3, 449, 450]
    assert (ours[border], theirs[border]) == (3, 2)


def test_fpn_levels_match_torchvision(torchvision_ops: ModuleType) -> None:
    from torchvision.ops.poolers import LevelMapper

    corner = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 100
    sides = torch.exp(torch.rand(500, 2, generator=torch.Generator().manual_seed(1)) * 7)
    boxes = torch.cat((corner, corner + sides), 1)
    assert torch.equal(level_of(boxes, 4, plus_one=False), LevelMapper(2, 5)([boxes]))
    assert torch.equal(level_of(torch.zeros(1, 4), 4, plus_one=False), torch.zeros(1, dtype=torch.int64))


@pytest.fixture(scope="module")
def network() -> FasterRCNN:
    """The zoo's rules around a network that is never run."""
    config = load("faster_rcnn_r50_dcn_coco").model
    assert isinstance(config, Config)
    with torch.device("meta"):
        model = FasterRCNN(config)
    model.unit, model.delta_stds = ONES, BOX_STDS
    return model


@pytest.fixture(scope="module")
def training() -> tuple[dict[str, np.ndarray], Batch]:
    with np.load(FOLDER / "train_targets_losses.npz") as arrays:
        oracle = dict(arrays)
    labels = torch.from_numpy(oracle["gt_labels"]).long() - 1  # theirs start after the background, and end in -1
    labels = labels.clamp(min=-1)
    boxes, nothing = torch.from_numpy(oracle["gt_bboxes"]), torch.zeros_like(labels, dtype=torch.bool)
    return oracle, Batch(torch.zeros(1, 3, 192, 320), boxes, labels, nothing, ())


def prefetch_map(count: int) -> Tensor:
    """Priorities by which the first candidates are sampled, as where the zoo's numbers were made."""
    return torch.arange(count, 0, -1.0)[None]


def test_zoo_samples_only_anchors_inside_the_image(
    zoo: dict[str, Tensor], network: FasterRCNN, training: tuple
) -> None:
    boxes = torch.cat((zoo["box.anchor"], zoo["box.gt"] - 20))
    _, batch = training
    # all that counts is negative, since nothing is there
    targets = network.rpn_targets(
        Batch(batch.images, *(x[:, :0] for x in batch_rows(batch)), ()), boxes, prefetch_map(80)
    )
    sampled = torch.zeros(80, dtype=torch.bool).scatter(0, targets.idx[0][targets.sampled[0]], True)
    assert torch.equal(sampled, zoo["box.valid_192x320"])


def test_allowed_border_of_anchors(training: tuple) -> None:
    _, batch = training  # 320 x 192 px
    grid = torch.tensor([[0.0, 0, 319, 191], [-8, 0, 20, 20], [0, -9, 20, 20], [300, 0, 327, 20], [0, 180, 20, 200]])
    for border, usable in ((None, [0, 1, 2, 3, 4]), (0, [0]), (8, [0, 1, 3]), (8.5, [0, 1, 3]), (9, [0, 1, 2, 3, 4])):
        with torch.device("meta"):
            model = FasterRCNN(Config(classes=80, deform="none", rpn={"allowed_border": border}))
        model.unit = ONES
        none = Batch(batch.images, *(rows[:, :0] for rows in batch_rows(batch)), ())
        targets = model.rpn_targets(none, grid, prefetch_map(5))
        assert sorted(targets.idx[0][targets.sampled[0]].tolist()) == usable


def batch_rows(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.boxes, batch.labels, batch.ignore


def dense(targets: Targets, values: Tensor, count: int) -> np.ndarray:
    """values (1, K, ...) of the samples at their indices among all `count` candidates."""
    chosen = targets.sampled[0]
    full = torch.zeros(count, *values.shape[2:])
    full[targets.idx[0][chosen]] = values[0][chosen].float()
    return full.numpy()


def test_rpn_targets_match_the_zoo(network: FasterRCNN, training: tuple) -> None:
    oracle, batch = training
    grid = anchors(base_anchors(STRIDES, 8, RATIOS, True), [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5)], STRIDES)
    targets = network.rpn_targets(batch, grid, prefetch_map(len(grid)))
    drawn = dense(targets, torch.ones_like(targets.sampled), len(grid))
    np.testing.assert_array_equal(drawn, sparse(oracle, "rpn.label_weight"))
    positive = dense(targets, targets.positive, len(grid))
    np.testing.assert_array_equal(positive, sparse(oracle, "rpn.bbox_weight"))
    labels = sparse(oracle, "rpn.label")
    labels[0] = 0  # where the zoo's unused slots add up; the anchor reaches over the edge
    np.testing.assert_array_equal(positive, labels)
    deltas = dense(targets, targets.deltas, len(grid))
    expected = sparse(oracle, "rpn.bbox_target") * positive[:, None]
    np.testing.assert_allclose(deltas, expected, rtol=1e-5, atol=1e-6)


def test_roi_targets_match_the_zoo(network: FasterRCNN, training: tuple) -> None:
    oracle, batch = training
    found = Proposals(*(torch.from_numpy(oracle[f"rcnn.{key}"])[None] for key in ("proposals", "proposal_mask")))
    targets = network.roi_targets(batch, found, prefetch_map(2008))
    drawn = oracle["rcnn.mask"][:, 0] > 0
    np.testing.assert_array_equal(targets.sampled[0].numpy(), drawn)
    np.testing.assert_allclose(targets.boxes[0][drawn], oracle["rcnn.bboxes"][drawn])
    np.testing.assert_allclose(targets.deltas[0][drawn], oracle["rcnn.deltas"][drawn], rtol=1e-5, atol=1e-6)
    labels = torch.where(targets.positive, batch.labels.gather(1, targets.matched_gt_idx) + 1, 0)[0]
    np.testing.assert_array_equal(labels[drawn], oracle["rcnn.labels"][drawn])


def boxes_of(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32).view(1, -1, 4)


def matched(candidates: Tensor, objects: Tensor, crowd: list[bool] | None = None, **changes: float) -> Matches:
    valid_gt = torch.ones(objects.shape[:2], dtype=torch.bool)
    in_crowd = torch.zeros_like(valid_gt) if crowd is None else torch.tensor([crowd])
    limits = {"positive": 0.7, "negative": 0.3, "minimum": 0.3} | changes
    return match(candidates, torch.ones(candidates.shape[:2], dtype=torch.bool), objects, valid_gt, in_crowd, **limits)


def test_match_by_hand() -> None:
    objects = boxes_of((0, 0, 10, 10), (100, 0, 110, 10))
    candidates = boxes_of(
        (0, 0, 10, 8),  # 0.8 of the first
        (0, 0, 10, 5),  # 0.5: neither
        (100, 0, 110, 4),  # 0.4, yet the best of the second
        (102, 0, 112, 2),  # 1/7 of the second
        (50, 50, 60, 60),
    )
    found = matched(candidates, objects)
    assert found.positive.tolist() == [[True, False, True, False, False]]
    assert found.negative.tolist() == [[False, False, False, True, True]]
    assert found.matched_gt_idx[0, 0] == 0
    assert found.matched_gt_idx[0, 2] == 1
    assert matched(candidates, objects, minimum=0.41).positive.tolist() == [[True, False, False, False, False]]


def test_match_of_an_anchor_best_for_two_objects_is_the_last() -> None:
    """Both objects have no better candidate; the first overlaps it more."""
    found = matched(boxes_of((0, 0, 10, 10), (50, 0, 60, 10)), boxes_of((0, 0, 10, 9), (0, 0, 10, 5)))
    assert found.positive.tolist() == [[True, False]]
    assert found.matched_gt_idx[0, 0] == 1


def test_match_ignores_crowd_regions() -> None:
    candidates = boxes_of((0, 0, 10, 10), (0, 0, 40, 10), (70, 0, 80, 10))
    found = matched(candidates, boxes_of((0, 0, 20, 20)), [True])
    assert not found.positive.any()
    assert found.negative.tolist() == [[False, False, True]]  # the second lies half inside
    found = matched(boxes_of((0, 0, 60, 10)), boxes_of((0, 0, 20, 20)), [True])
    assert found.negative.all()


def test_match_in_chunks_gives_equal_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many objects are processed in chunks, which must not affect the result."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 300, 2, generator=generator) * 100
    objects = torch.cat((low, low + 5 + torch.rand(2, 300, 2, generator=generator) * 30), -1)
    candidates = objects[:, :200] + torch.randn(2, 200, 4, generator=generator) * 3
    whole = matched(candidates, objects, [index % 7 == 0 for index in range(300)] * 1)
    monkeypatch.setattr("boxwright.ops.sampling.MAX_PAIRS_PER_CHUNK", 2 * 200 * 7)
    parts = matched(candidates, objects, [index % 7 == 0 for index in range(300)] * 1)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert 20 < whole.positive.sum() < 380


def test_sample_by_hand() -> None:
    wanted = torch.tensor([[True, False, True, True], [False, False, False, True], [False] * 4])
    priority = torch.tensor([[0.1, 0.9, 0.0, 0.5]]).expand(3, -1)
    found = sample(wanted, priority, 2)
    assert found.idx.tolist() == [[3, 0], [3, 0], [0, 0]]
    assert found.sampled.tolist() == [[True, True], [True, False], [False, False]]
    assert sample(wanted, priority, 6).sampled.sum(1).tolist() == [3, 1, 0]
    assert sample(wanted[:, :0], priority[:, :0], 3).sampled.tolist() == [[False] * 3] * 3


def test_sample_balanced() -> None:
    positive = torch.arange(100) < torch.tensor([[50], [3]])
    found = sample_balanced(Matches(torch.zeros(2, 100).long(), positive, ~positive), torch.rand(2, 100), 40, 10)
    assert [one.sampled.sum(1).tolist() for one in found] == [[10, 3], [30, 37]]
    assert positive.gather(1, found[0].idx)[found[0].sampled].all()
    assert not positive.gather(1, found[1].idx)[found[1].sampled].any()


def test_priorities_are_uniform_and_independent() -> None:
    keys = torch.tensor([0, 1, 2, 2**32 - 1])
    values = priorities(keys, 20000)
    assert values.min() >= 0
    assert values.max() < 1
    assert torch.equal(values[2:3], priorities(keys[2:3], 20000))  # of neighbors in the batch nothing is seen
    assert torch.equal(values[:, :500], priorities(keys, 500))
    assert (values.mean(1) - 0.5).abs().max() < 0.01
    assert (values.var(1) - 1 / 12).abs().max() < 0.003
    between = torch.corrcoef(torch.cat((values, values.roll(1, 1), priorities(keys + 1, 20000))))
    distinct = between[~torch.eye(12, dtype=torch.bool)].abs()
    assert distinct.sort().values[:-6].max() < 0.03  # keys that follow each other stand in it twice


def test_proposals_by_hand() -> None:
    """Two levels of two anchors; the second level's worse box lies on its better one; one overhangs the image."""
    grid = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 40, 40], [20, 20, 40, 41]])
    scores = torch.tensor([[2.0, 1.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]])
    settings = {"pre_nms_top_k": 2, "iou": 0.7, "plus_one": False}
    extents = torch.tensor([[32.0, 30.0]] * 2)
    found = propose(scores, torch.zeros(2, 4, 4), grid, [2, 2], extents, proposals=5, **settings)
    assert found.valid.tolist() == [[True, True, False, False, False]] * 2
    assert found.boxes[0, :3].tolist() == [[20, 20, 30, 32], [0, 0, 10, 10], [0, 0, 0, 0]]
    assert found.boxes[1, :2].tolist() == [[0, 0, 10, 10], [20, 20, 30, 32]]
    few = propose(scores, torch.zeros(2, 4, 4), grid, [2, 2], extents, proposals=1, **settings)
    assert few.boxes[:, 0].tolist() == [[20, 20, 30, 32], [0, 0, 10, 10]]


@pytest.mark.parametrize(("rounds", "at_once"), [(0, 2**26), (0, 1), (31, 2**26)])
def test_nms_for_accelerators_equals_cpu_nms(rounds: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpn, "MAX_PAIRS_PER_CHUNK", at_once)
    draw, counts = torch.Generator().manual_seed(0), [150, 7, 90]
    corner = torch.rand(3, sum(counts), 2, generator=draw) * 60
    boxes = torch.cat((corner, corner + 10 + 20 * torch.rand(corner.shape, generator=draw)), -1)
    boxes[1, 100:] = 0  # what is beside the image
    wanted = rpn._kept(boxes, boxes[..., 0], counts, 0.3, rounds)
    assert 30 < int(wanted[0].sum()) < 200
    assert torch.equal(kept_at_once(boxes, counts, 0.3, rounds), wanted)


def test_nms_with_few_rounds_keeps_a_correct_subset() -> None:
    """Each box drops the next of ten, and three rounds see no further than three links: what they keep is right, as
    after any odd number."""
    assert rpn.TRAIN_NMS_ITERATIONS % 2 == 1
    x = torch.arange(10.0)[:, None] * 10
    chain = torch.cat((x, torch.zeros_like(x), x + 30, torch.full_like(x, 30)), 1)[None]
    for rounds, kept in ((3, [0, 2]), (rpn.TRAIN_NMS_ITERATIONS, [0, 2, 4, 6, 8])):
        assert kept_at_once(chain, [10], 0.45, rounds)[0].nonzero()[:, 0].tolist() == kept


def test_proposals_are_clipped_to_each_image() -> None:
    """The second image is 9 px wide: of two anchors one is cut, the other, beside it, becomes a line and goes. In the
    zoo a line is a pixel wide and stays."""
    grid = torch.tensor([[0.0, 0, 10, 10], [12, 0, 20, 10]])
    extents = torch.tensor([[32.0, 30.0], [5.0, 9.0]])
    for plus_one in (False, True):
        settings = {"pre_nms_top_k": 2, "proposals": 2, "iou": 0.7, "plus_one": plus_one}
        found = propose(torch.tensor([[1.0, 2.0]] * 2), torch.zeros(2, 2, 4), grid, [2], extents, **settings)
        assert found.valid.tolist() == [[True, True], [True, plus_one]]
        assert found.boxes[0].tolist() == [[12, 0, 20, 10], [0, 0, 10, 10]]
        assert found.boxes[1].tolist() == ([[9, 0, 9, 5], [0, 0, 9, 5]] if plus_one else [[0, 0, 9, 5], [0, 0, 0, 0]])
