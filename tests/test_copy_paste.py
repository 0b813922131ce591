"""Objects pasted from other images of a batch: against painting their rectangles one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.batches import transforms
from boxwright.batches.copy_paste import OBJECTS
from boxwright.batches.transforms import augment
from boxwright.recipe import AugmentConfig
from boxwright.types import Batch, Frame

SIDE = 64
ALWAYS = AugmentConfig(copy_paste=1.0)
KEY = {"seed": 3, "step": 11, "rank": 0}
MAX_HIDDEN = 0.3  # of an object, as the documentation says


def batch_of(count: int, rows: int = 4, seed: int = 0, side: int = SIDE) -> Batch:
    """Images of noise with 0 to `rows` boxes of whole px in the content, each of another label; a few are crowd."""
    draw, size = np.random.default_rng(seed), (side, side - 16)
    images = torch.from_numpy(draw.integers(0, 256, (count, 3, side, side), dtype=np.uint8))
    low = draw.integers(0, side * 2 // 3, (count, rows, 2))
    boxes = torch.from_numpy(np.concatenate([low, low + draw.integers(4, side // 3, (count, rows, 2))], -1)).float()
    boxes = boxes.minimum(torch.tensor([side - 16, side, side - 16, side])) + torch.tensor([8, 0, 8, 0])
    labels = torch.arange(count * rows).view(count, rows)
    labels[torch.arange(rows) >= torch.from_numpy(draw.integers(0, rows + 1, (count, 1)))] = -1
    labels[(boxes[..., 2:] <= boxes[..., :2]).any(-1)] = -1
    ignore = torch.from_numpy(draw.random((count, rows)) < 0.15) & (labels >= 0)
    return Batch(images, boxes, labels, ignore, (Frame(0, "", size, (side, side), (1.0, 1.0), (0.0, 8.0)),) * count)


def run(batch: Batch, step: int = 0, config: AugmentConfig = ALWAYS, mosaic: bool = True) -> Batch:
    size = (int(batch.images.shape[2]), int(batch.images.shape[3]))
    return augment(batch, config, size=size, seed=1, step=step, rank=0, mosaic=mosaic)


def covers(box: Tensor, side: int = SIDE) -> Tensor:
    """(H, W) bool: the px of a box of whole px."""
    x, y = torch.arange(side), torch.arange(side)[:, None]
    return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


def hidden_too_much(boxes: Tensor, ignore: Tensor, covered: Tensor) -> bool:
    shares = [float((covers(box) & covered).sum() / max(int(covers(box).sum()), 1)) for box in boxes]
    return any(share > (0 if region else MAX_HIDDEN) for share, region in zip(shares, ignore.tolist(), strict=True))


def test_pasted_pixels_boxes_and_labels() -> None:
    """Pixels, boxes and labels of every pasted object, that nothing else changes, and what must not be covered."""
    counts = []
    for seed in range(12):
        batch = batch_of(6, seed=seed)
        result, rows = run(batch, step=seed), batch.labels.shape[1]
        assert torch.equal(result.boxes[:, :rows], batch.boxes)
        assert torch.equal(result.labels[:, :rows], batch.labels)
        assert torch.equal(result.ignore, torch.nn.functional.pad(batch.ignore, (0, OBJECTS)))
        for image in range(6):
            painted, boxes, regions, sources = batch.images[image].clone(), [], [], set()
            for box, label in zip(result.boxes[image, rows:], result.labels[image, rows:].tolist(), strict=True):
                if label < 0:
                    assert not box.any()
                    continue
                source, row = divmod(label, rows)
                assert not batch.ignore[source, row]
                original = batch.boxes[source, row]
                x1, y1, x2, y2 = original.int().tolist()
                left, top, right, bottom = box.int().tolist()
                assert (right - left, bottom - top) == (x2 - x1, y2 - y1)
                assert left >= 8
                assert right <= SIDE - 8  # inside the image
                others = [i for i in range(rows) if i != row and batch.labels[source, i] >= 0]
                assert not hidden_too_much(batch.boxes[source, others], batch.ignore[source, others], covers(original))
                painted[:, top:bottom, left:right] = batch.images[source, :, y1:y2, x1:x2]
                sources.add(source)
                boxes.append(box)
            assert torch.equal(result.images[image], painted / 255)
            real = batch.labels[image] >= 0
            regions = torch.stack([covers(box) for box in boxes]).any(0) if boxes else torch.zeros(SIDE, SIDE).bool()
            assert not hidden_too_much(batch.boxes[image, real], batch.ignore[image, real], regions)
            for place, box in enumerate(boxes[:-1]):  # of what was pasted before
                later = torch.stack([covers(each) for each in boxes[place + 1 :]]).any(0)
                assert not hidden_too_much(box[None], torch.tensor([False]), later)
            assert len(sources) <= 1
            assert image not in sources
            assert len({*result.labels[image, rows:].tolist()} - {-1}) == len(boxes)  # none twice
            counts.append(len(boxes))
    assert {*counts} == {0, 1, 2, 3}
    assert sum(counts) > 50


def test_fractional_boxes_beyond_the_image_are_clipped() -> None:
    """The rectangle has the px that the box touches, inside the image."""
    batch = replace(batch_of(2), labels=torch.tensor([[-1] * 4, [7, -1, -1, -1]]))
    batch.boxes[1, 0] = torch.tensor([7.5, 10.25, 20.75, 20.5])  # the image starts at 8
    result = run(batch)
    shift = result.boxes[0, 4] - torch.tensor([8, 10.25, 20.75, 20.5])
    assert result.labels[0, 4:].tolist() == [7, -1, -1]
    x, y = shift[:2].int().tolist()
    assert shift.tolist() == [x, y, x, y]
    expected = batch.images[0].clone()
    expected[:, 10 + y : 21 + y, 8 + x : 21 + x] = batch.images[1, :, 10:21, 8:21]
    assert torch.equal(result.images[0], expected / 255)


def one_small_object(count: int) -> Batch:
    """A small object in each image of 64 px, which has room for others."""
    batch = batch_of(count, 1)
    batch.boxes[:] = torch.tensor([20.0, 20, 24, 24])
    return replace(batch, labels=torch.arange(count)[:, None], ignore=torch.zeros(count, 1, dtype=torch.bool))


def test_pasting_probability() -> None:
    result = run(one_small_object(400), config=AugmentConfig(copy_paste=0.25))
    receives = (result.labels[:, 1:] >= 0).any(1)
    assert float(receives.float().mean()) == pytest.approx(0.25, abs=0.065)  # 3 sigma
    corners = result.boxes[:, 1:, :2][result.labels[:, 1:] >= 0]
    assert corners.amin(0).tolist() == pytest.approx([8, 0], abs=4)  # anywhere in the image
    assert corners.amax(0).tolist() == pytest.approx([56 - 4, 64 - 4], abs=4)


def test_object_count_and_source_image_are_uniform() -> None:
    batch = batch_of(300, 3)
    grid = torch.tensor([[10.0, 10, 13, 13], [30, 30, 33, 33], [40, 40, 43, 43]])
    batch = replace(
        batch, boxes=grid.repeat(300, 1, 1), labels=torch.arange(900).view(300, 3), ignore=batch.ignore & False
    )
    result = run(batch)
    counts = (result.labels[:, 3:] >= 0).sum(1).bincount(minlength=4)[1:] / 300
    assert counts.tolist() == pytest.approx([1 / 3] * 3, abs=0.09)  # 3 sigma
    first = result.labels[:, 3][result.labels[:, 3] >= 0]
    distance = (first // 3 - torch.arange(300)[result.labels[:, 3] >= 0]) % 300
    assert distance.min() >= 1
    assert float(distance.float().mean()) == pytest.approx(150, abs=15)  # 3 sigma
    assert ((first % 3).bincount() / len(first)).tolist() == pytest.approx([1 / 3] * 3, abs=0.09)


def test_pasted_objects_together_hide_at_most_the_limit() -> None:
    """Each of three hides 20 x 20 of 48 x 64 px, 13%; so two may, and not three."""
    batch = batch_of(2, 3)
    squares = torch.tensor([[8.0, 0, 28, 20], [30, 0, 50, 20], [8, 22, 28, 42]])
    large = torch.tensor([[8.0, 0, 56, 64]]).repeat(3, 1)
    labels, ignore = torch.tensor([[9, -1, -1], [0, 1, 2]]), torch.zeros(2, 3, dtype=torch.bool)
    batch = replace(batch, boxes=torch.stack([large, squares]), labels=labels, ignore=ignore)
    counts = [int((run(batch, step).labels[0, 3:] >= 0).sum()) for step in range(30)]
    assert {*counts} == {1, 2}


def test_pasting_does_not_depend_on_global_rng() -> None:
    batch = batch_of(8)
    torch.manual_seed(0)
    result = run(batch, 5)
    torch.manual_seed(1)
    again = run(batch, 5)
    for name in ("images", "boxes", "labels", "ignore"):
        assert torch.equal(getattr(result, name), getattr(again, name))
    assert not torch.equal(result.images, run(batch, 6).images)


def test_cases_without_pasting() -> None:
    """By default, in the last epochs, with one image, without boxes, of regions, over a region, where nothing fits."""
    batch = batch_of(6)
    for result in (run(batch, config=AugmentConfig()), run(batch, mosaic=False)):
        assert torch.equal(result.images, batch.images / 255)
        assert torch.equal(result.labels, batch.labels)
    regions = torch.zeros_like(batch.boxes) + torch.tensor([0.0, 0, SIDE, SIDE])
    everywhere = replace(batch, boxes=torch.cat([batch.boxes, regions[:, :1]], 1),
                         labels=torch.cat([batch.labels, batch.labels[:, :1] * 0], 1),
                         ignore=torch.cat([batch.ignore, batch.ignore[:, :1] | True], 1))  # fmt: skip
    narrow = replace(batch.frames[0], size=(3, 3))
    for kept in (
        one_small_object(1),
        replace(batch, boxes=batch.boxes[:, :0], labels=batch.labels[:, :0], ignore=batch.ignore[:, :0]),
        replace(batch, ignore=batch.labels >= 0),
        everywhere,
        replace(one_small_object(2), frames=(narrow, one_small_object(2).frames[0]), labels=torch.tensor([[-1], [3]])),
    ):
        result = run(kept)
        assert torch.equal(result.images, kept.images / 255)
        assert (result.labels[:, kept.labels.shape[1] :] == -1).all()


def test_labeled_classes_are_the_intersection_of_both_images() -> None:
    labeled = torch.tensor([[True, False], [True, True], [False, True]])
    batch = replace(one_small_object(3), labels=torch.tensor([[0], [-1], [-1]]), labeled=labeled)
    seen = set()
    for step in range(8):
        result = run(batch, step)
        assert result.labeled is not None
        for image, own in ((1, [True, True]), (2, [False, True])):
            pasted = bool((result.labels[image, 1:] >= 0).any())
            assert result.labeled[image].tolist() == ([own[0], False] if pasted else own)
            seen.add(pasted)
        assert result.labeled[0].tolist() == [True, False]
    assert seen == {True, False}


def test_pasted_objects_are_warped_with_the_image() -> None:
    batch = batch_of(4)
    plain, flipped = run(batch), run(batch, config=AugmentConfig(copy_paste=1.0, flip=1.0))
    torch.testing.assert_close(flipped.images, plain.images.flip(-1), atol=2e-4, rtol=0)
    x1, y1, x2, y2 = plain.boxes.unbind(-1)
    mirrored = torch.stack([SIDE - x2, y1, SIDE - x1, y2], -1)
    kept = flipped.labels >= 0
    assert int(kept.sum()) > int((batch.labels >= 0).sum())
    torch.testing.assert_close(flipped.boxes[kept], mirrored[kept])


def test_disabled_copy_paste_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "copy_paste", None)  # not called
    augment(batch_of(4), AugmentConfig(mosaic=1.0), size=(SIDE, SIDE), **KEY)
