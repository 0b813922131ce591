"""Augmentation: pixels and boxes are transformed together, and random numbers depend on seed, step and index only."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright import recipe
from boxwright.batches import copy_paste, transforms, warp
from boxwright.batches.transforms import augment, change_colors, step_size
from boxwright.batches.warp import to_device
from boxwright.images.canvas import frame_for, resize_to_canvas
from boxwright.recipe import AugmentConfig, CanvasConfig
from boxwright.tasks.detect import TASK
from boxwright.types import Batch, Frame
from from_the_host import NoNumbersFromTheHost
from test_canvas import waves

ORACLE = Path(__file__).parent / "oracles" / "preprocess" / "multiscale.npz"
EXPANDED = ORACLE.with_name("faster_rcnn_dcn.npz")
SIZE = 128
FILL = 100.0
KEY = {"seed": 3, "step": 11, "rank": 0}


def frame(
    size: tuple[int, int], offset: tuple[float, float] = (0.0, 0.0), content: tuple[int, int] | None = None
) -> Frame:
    return Frame(0, "", content or size, size, (1.0, 1.0), offset)


def rectangles(count: int, size: int = SIZE, seed: int = 0) -> Batch:
    """Black canvases, each with one white rectangle and its box; a second row is padding."""
    draw = np.random.default_rng(seed)
    images, boxes = torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.zeros(count, 2, 4)
    for i in range(count):
        (x, y), (w, h) = draw.integers(size // 4, size // 2, 2), draw.integers(size // 5, size // 3, 2)
        images[i, :, y : y + h, x : x + w] = 255
        boxes[i, 0] = torch.tensor([x, y, x + w, y + h])
    labels = torch.tensor([[4, -1]]).repeat(count, 1)
    return Batch(images, boxes, labels, torch.zeros(count, 2, dtype=torch.bool), (frame((size, size)),) * count)


def white_box(image: Tensor) -> list[float]:
    """xyxy of the pixels above 0.5 in (3, h, w); the fill is darker."""
    rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


def noise(count: int, size: int = 64, rows: int = 3) -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)
    corner = torch.rand(count, rows, 2, generator=draw) * size * 0.6
    boxes = torch.cat([corner, corner + size * 0.3], -1)
    labels = torch.randint(0, 5, (count, rows), generator=draw)
    return Batch(images, boxes, labels, torch.zeros(count, rows, dtype=torch.bool), (frame((size, size)),) * count)


def test_default_augmentation_changes_nothing() -> None:
    batch = noise(3)
    result = augment(batch, AugmentConfig(), size=(64, 64), **KEY)
    assert torch.equal(result.images, batch.images / 255)
    assert torch.equal(result.boxes, batch.boxes)
    assert torch.equal(result.labels, batch.labels)


def test_identity_warp_changes_nothing() -> None:
    batch = noise(3)
    result = augment(batch, AugmentConfig(translate=1e-9), size=(64, 64), **KEY)
    torch.testing.assert_close(result.images, batch.images / 255, atol=2e-4, rtol=0)
    torch.testing.assert_close(result.boxes, batch.boxes, atol=1e-4, rtol=0)


def test_flip_mirrors_and_double_flip_is_identity() -> None:
    batch, config = noise(3), AugmentConfig(flip=1.0)
    once = augment(batch, config, size=(64, 64), **KEY)
    torch.testing.assert_close(once.images, batch.images.flip(-1) / 255, atol=2e-4, rtol=0)
    mirrored = torch.stack(
        [64 - batch.boxes[..., 2], batch.boxes[..., 1], 64 - batch.boxes[..., 0], batch.boxes[..., 3]], -1
    )
    torch.testing.assert_close(once.boxes, mirrored)
    again = replace(once, images=(once.images * 255).round().to(torch.uint8))
    twice = augment(again, config, size=(64, 64), **KEY)
    torch.testing.assert_close(twice.boxes, batch.boxes)
    torch.testing.assert_close(twice.images, batch.images / 255, atol=4e-3, rtol=0)


def test_flip_probability() -> None:
    batch = rectangles(400, 16)
    result = augment(batch, AugmentConfig(flip=0.25), size=(16, 16), **KEY)
    flipped = (result.boxes[:, 0] - batch.boxes[:, 0]).abs().amax(1) > 0.01
    symmetric = (batch.boxes[:, 0, 0] + batch.boxes[:, 0, 2]) == 16
    assert flipped[~symmetric].float().mean() == pytest.approx(0.25, abs=0.07)  # 3 sigma


MOVES = {
    "scale": {"scale": (0.6, 1.2)},
    "jitter": {"jitter": 0.3},
    "translate": {"translate": 0.2},
    "expand": {"expand": 1.0},
    "expand combined": {"expand": 0.5, "flip": 0.5, "scale": (0.7, 1.2), "translate": 0.1},
    "random placement": {"scale": (0.5, 1.5), "jitter": 0.2, "translate": None},
    "flip combined": {"flip": 0.5, "scale": (0.7, 1.1), "translate": 0.1, "jitter": 0.1},
    "mosaic": {"mosaic": 1.0, "scale": (0.9, 1.4)},
    "half mosaic": {"mosaic": 0.5, "flip": 0.5, "scale": (0.8, 1.2), "expand": 0.3},
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("size", [(SIZE, SIZE), (192, 96)])
def test_boxes_match_the_transformed_pixels(name: str, size: tuple[int, int]) -> None:
    """White pixels match the boxes within 1 px, also at clipped edges and in every tile."""
    config = AugmentConfig.model_validate(MOVES[name] | {"min_side": 0.0})
    near, far = 0, 0.0
    for step in range(3):
        batch = rectangles(8, seed=step)
        result = augment(batch, config, size=size, seed=1, step=step, rank=0, fill=FILL)
        assert result.images.shape == (8, 3, *size)
        for image, boxes, labels, before in zip(result.images, result.boxes, result.labels, batch.boxes, strict=True):
            outer, inner = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
            for x1, y1, x2, y2 in boxes[labels == 4].tolist():
                outer[max(round(y1 - 1), 0) : round(y2 + 1), max(round(x1 - 1), 0) : round(x2 + 1)] = True
                inner[round(y1 + 1) : max(round(y2 - 1), 0), round(x1 + 1) : max(round(x2 - 1), 0)] = True
                far = max(far, (boxes[0] - before[0]).abs().max().item())
            white = image[0] > 0.5
            assert not (white & ~outer).any()
            assert not (inner & ~white).any()
            near += int(inner.sum())
    assert near > 2000
    assert far > 5


@pytest.mark.parametrize("change", [{"degrees": 30.0}, {"shear": 15.0}, {"perspective": 0.004}])
def test_boxes_enclose_rotated_sheared_and_warped_pixels(change: dict[str, float]) -> None:
    """The corners of a rotated rectangle are sharp, so its pixels may end a little inside the exact box."""
    batch = rectangles(8)
    result = augment(batch, AugmentConfig.model_validate(change), size=(SIZE, SIZE), **KEY, fill=FILL)
    for i in range(8):
        np.testing.assert_allclose(white_box(result.images[i]), result.boxes[i, 0], atol=2.0)
    assert (result.boxes[:, 0] - batch.boxes[:, 0]).abs().amax() > 2.5


def test_random_placement_fits_inside_or_covers_the_canvas() -> None:
    """translate null: a smaller image is inside the result, a larger one covers it (as in the zoo)."""
    canvases = replace(rectangles(32), images=torch.full((32, 3, SIZE, SIZE), 255, dtype=torch.uint8))
    small = augment(canvases, AugmentConfig(scale=(0.5, 0.5), translate=None), size=(SIZE, SIZE), **KEY, fill=0)
    large = augment(canvases, AugmentConfig(scale=(1.5, 1.5), translate=None), size=(SIZE, SIZE), **KEY, fill=0)
    boxes = torch.tensor([white_box(image) for image in small.images])
    assert (boxes[:, 2:] - boxes[:, :2] - SIZE / 2).abs().max() <= 1
    assert boxes[:, 0].min() < 10
    assert boxes[:, 2].max() > SIZE - 10
    assert large.images[..., 1:-1, 1:-1].min() > 0.9999


@pytest.mark.parametrize("chance", [0.0, 0.4, 1.0])
def test_expansion_stays_within_the_content(chance: float) -> None:
    """Factors are uniform from 1 to 4, positions uniform in the original region, and the aspect ratio is kept."""
    batch = noise(600, 64, 1)
    content = torch.tensor([16.0, 8, 64, 56])
    batch = replace(batch, boxes=content.expand(600, 1, 4), frames=(frame((64, 64), (8.0, 16.0), (48, 48)),) * 600)
    x1, y1, x2, y2 = augment(batch, AugmentConfig(expand=chance), size=(64, 64), **KEY).boxes[:, 0].T
    ratio = 48 / (x2 - x1)
    torch.testing.assert_close(y2 - y1, x2 - x1)
    expanded = ratio > 1.0001
    assert expanded.float().mean() == pytest.approx(chance, abs=0.06)  # 3 sigma
    for low, high, start in ((x1, x2, 16), (y1, y2, 8)):
        assert low.min() >= start - 1e-4
        assert high.max() <= start + 48 + 1e-4
    if expanded.any():
        assert ratio[expanded].mean() == pytest.approx(2.5, abs=0.17)  # uniform: std 3 / 12**0.5
        assert ratio[expanded].std() == pytest.approx(3 / 12**0.5, abs=0.1)
        across, down = ((low - start) / (48 - (high - low)) for low, high, start in ((x1, x2, 16), (y1, y2, 8)))
        for share in (across[expanded], down[expanded]):
            assert share.mean() == pytest.approx(0.5, abs=0.06)
            assert share.std() == pytest.approx(12**-0.5, abs=0.04)


@pytest.mark.parametrize(("index", "flipped"), [(0, False), (1, True), (2, True), (3, False)])
def test_expansion_matches_the_zoo(index: int, flipped: bool) -> None:
    """Ratio and position are computed from the first box of the reference; the second box and the image must match.

    The zoo mirrors boxes as x -> 1279 - x, here it is 1280 - x. Expanded images are interpolated once by the zoo and
    twice here, which differs for noise, but much less than a shift by 1 px.
    """
    oracle = np.load(EXPANDED)
    canvas = CanvasConfig(size=(768, 1280), fit="zoo_corner", fill=0)
    h, w = oracle[f"in_hw.{index}"].tolist()
    placed = frame_for((h, w), canvas, 0)
    image = torch.from_numpy(resize_to_canvas(waves(31 + index, h, w), placed, canvas)).permute(2, 0, 1)[None]
    before, after = oracle["boxes_in"][:, :4].astype(np.float64), oracle[f"train.{index}.boxes"][:2].astype(np.float64)
    if flipped:
        after[:, [0, 2]] = 1279 - after[:, [2, 0]]
    scale = (after[0, 2] - after[0, 0]) / (before[0, 2] - before[0, 0])
    ratio = np.array([placed.scale[0] / scale])
    extent = np.array([placed.content])
    room = (1 - 1 / ratio) * extent[:, 2:]
    position = np.where(room > 0.01, (after[:1, :2] - before[:1, :2] * scale) / room.clip(0.01), 0)
    assert ((position >= 0) & (position < 1)).all()
    matrix = transforms.expansion(extent, ratio, position)
    if flipped:
        matrix = np.array([[-1.0, 0, 1280], [0, 1, 0], [0, 0, 1]]) @ matrix
        after[:, [0, 2]] = 1280 - after[:, [2, 0]]
    boxes, none = placed.to_canvas(torch.from_numpy(before).float())[None], torch.zeros(1, 2)
    batch = Batch(image, boxes, none.long(), none.bool(), (placed,))
    geometry = warp.WarpGeometry(np.zeros((1, 1), np.int64), np.zeros((1, 1, 2)), np.full((1, 2), np.inf), matrix)
    result = warp.warp(batch, geometry, (768, 1280), fill=0, min_side=1, min_visible=0)
    np.testing.assert_allclose(result.boxes[0], after, atol=1e-3)
    mean, std = (np.float32(v)[:, None, None] for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    given, stride = (result.images[0].numpy() * 255 - mean) / std, int(oracle[f"train.{index}.image.stride"])
    off = [
        np.abs(np.roll(given, shift, axis).ravel()[::stride] - oracle[f"train.{index}.image.sub"]).mean()
        for shift, axis in ((0, 1), (1, 1), (-1, 1), (1, 2), (-1, 2))
    ]
    assert off[0] < 0.25 * min(off[1:])
    assert off[0] < (0.005 if ratio[0] > 1.01 else 1e-5)


def test_expansion_does_not_change_other_random_numbers() -> None:
    """Almost never expanded, with everything else set."""
    config = EVERYTHING.model_copy(update={"expand": 0.0, "mixup": 0.0})
    never = augment(noise(6), config, size=(64, 64), **KEY)
    hardly = augment(noise(6), config.model_copy(update={"expand": 1e-12}), size=(64, 64), **KEY)
    assert torch.equal(hardly.images, never.images)
    assert torch.equal(hardly.boxes, never.boxes)


def test_mosaic_combines_four_images_and_their_boxes() -> None:
    """Letterboxed canvases of four grays meet at the center, and their padding is not visible."""
    images, boxes = torch.full((4, 3, SIZE, SIZE), 250, dtype=torch.uint8), torch.zeros(4, 1, 4)
    for i in range(4):
        images[i, :, 32:96] = 40 * (i + 1)
        boxes[i, 0] = torch.tensor([0, 32, SIZE, 96])
    labels, frames = torch.arange(4)[:, None], (frame((SIZE, SIZE), (32.0, 0.0), (64, SIZE)),) * 4
    batch = Batch(images, boxes, labels, torch.zeros(4, 1, dtype=torch.bool), frames)
    config = AugmentConfig(mosaic=1.0)
    result = augment(batch, config, size=(SIZE, SIZE), **KEY, fill=0)
    assert result.labels.shape == (4, 4)
    gray = (result.images[:, 0] * 255).round().int()
    levels = torch.tensor([0, 40, 80, 120, 160], dtype=torch.int32)
    assert torch.isin(gray, levels).all()  # no padding (250), and nothing is blended between tiles
    # unscaled, two contents side by side are wider than the result, two on top of each other as high, but not centered
    covered = (gray > 0).any(-1)
    assert torch.equal(covered, (gray > 0).all(-1))
    assert covered.sum(-1).min() >= SIZE / 2 - 1
    assert not covered.all()
    for i in range(4):
        assert result.labels[i, 0] in (i, -1)  # its own image is the first tile
        for box, label in zip(result.boxes[i], result.labels[i], strict=True):
            if label >= 0:
                x1, y1, x2, y2 = box.round().int().tolist()
                assert (gray[i, y1:y2, x1:x2] == 40 * (label + 1)).all()
    assert (result.labels >= 0).sum() > 6
    assert torch.equal(augment(batch, config, size=(SIZE, SIZE), **KEY, mosaic=False).boxes, batch.boxes)


def test_mixup_keeps_boxes_of_both_images() -> None:
    batch, config = rectangles(8), AugmentConfig(mixup=1.0, translate=1e-9)
    result = augment(batch, config, size=(SIZE, SIZE), **KEY, fill=FILL)
    assert result.boxes.shape == (8, 4, 4)
    torch.testing.assert_close(result.boxes[:, 0], batch.boxes[:, 0], atol=1e-3, rtol=0)
    assert (result.labels == torch.tensor([4, -1, 4, -1])).all()
    for i in range(8):
        first, second = (result.boxes[i, row].round().int().tolist() for row in (0, 2))
        image = result.images[i, 0]
        partner = (batch.boxes[:, 0] - result.boxes[i, 2]).abs().amax(1).argmin()
        sources = batch.images[i, 0].float() / 255, batch.images[partner, 0].float() / 255
        if (only := (sources[0] > 0) & (sources[1] == 0)).any():
            share = image[only].median()
            assert 0.05 < share < 0.95  # Beta(8, 8)
            torch.testing.assert_close(image, share * sources[0] + (1 - share) * sources[1], atol=1e-3, rtol=0)
        assert image[first[1] + 2, first[0] + 2] > 0
        assert image[second[1] + 2, second[0] + 2] > 0
    assert augment(batch, config, size=(SIZE, SIZE), **KEY, mosaic=False).boxes.shape == (8, 2, 4)


def test_mixup_ratio_follows_beta_8_8() -> None:
    white = torch.full((300, 3, 2, 2), 255, dtype=torch.uint8)
    black = torch.zeros(300, 3, 2, 2, dtype=torch.uint8)
    none = torch.zeros(600, 0)
    batch = Batch(
        torch.cat([white, black]), none[..., None].expand(600, 0, 4), none.long(), none.bool(), (frame((2, 2)),) * 600
    )
    images = augment(batch, AugmentConfig(mixup=1.0, translate=1e-9), size=(2, 2), **KEY).images[:, 0, 0, 0]
    shares = images[:300][(images[:300] > 0.001) & (images[:300] < 0.999)]  # white blended with black
    assert len(shares) > 100
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.std() == pytest.approx((1 / (4 * 17)) ** 0.5, abs=0.03)  # variance of Beta(8, 8): 1 / (4 (2 * 8 + 1))


def test_clipped_boxes_are_not_targets() -> None:
    """Scaled by 2 about the center: the outer half is cropped."""
    inside, outside, half, sliver = [24, 24, 40, 40], [0, 0, 15, 15], [8, 24, 24, 40], [2, 24, 17, 40]
    boxes = torch.tensor([[inside, outside, half, sliver]], dtype=torch.float32)
    labels, ignore = torch.tensor([[0, 1, 2, 3]]), torch.zeros(1, 4, dtype=torch.bool)
    batch = Batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), boxes, labels, ignore, (frame((64, 64)),))
    config = AugmentConfig(scale=(2.0, 2.0), min_visible=0.3)
    result = augment(batch, config, size=(64, 64), **KEY)
    assert result.labels.tolist() == [[0, -1, 2, -1]]
    assert result.boxes[0, 0].tolist() == [16, 16, 48, 48]
    assert result.boxes[0, 2].tolist() == [0, 16, 16, 48]
    assert augment(batch, config.model_copy(update={"min_visible": 0.0}), size=(64, 64), **KEY).labels[0, 3] == 3
    assert augment(batch, config.model_copy(update={"min_side": 16.0}), size=(64, 64), **KEY).labels[0, 2] == -1


def test_crowd_regions_are_kept_while_any_area_remains() -> None:
    """Scaled by 2 about the center; the remaining regions would be too small for targets."""
    sliver, outside, thin = [2, 24, 17, 40], [0, 0, 16, 16], [24, 24, 40, 24.25]
    boxes, labels = torch.tensor([[sliver, outside, thin]], dtype=torch.float32), torch.tensor([[0, 1, 2]])
    ignore = torch.ones(1, 3, dtype=torch.bool)
    batch = Batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), boxes, labels, ignore, (frame((64, 64)),))
    config = AugmentConfig(scale=(2.0, 2.0), min_side=4.0, min_visible=0.3)
    result = augment(batch, config, size=(64, 64), **KEY)
    assert result.labels.tolist() == [[0, -1, 2]]
    assert result.ignore.tolist() == [[True, False, True]]
    assert result.boxes[0].tolist() == [[0, 16, 2, 48], [0, 0, 0, 0], [16, 16, 48, 16.5]]


def test_crowd_regions_are_transformed_and_stay_crowd() -> None:
    batch = rectangles(4)
    batch = replace(batch, ignore=batch.labels >= 0)
    result = augment(batch, AugmentConfig(flip=1.0), size=(SIZE, SIZE), **KEY)
    assert torch.equal(result.ignore, batch.ignore)
    assert not result.valid.any()
    assert not torch.equal(result.boxes, batch.boxes)


@pytest.mark.parametrize("name", MOVES)
def test_augmentation_of_images_without_boxes(name: str) -> None:
    empty = replace(
        noise(4), boxes=torch.zeros(4, 0, 4), labels=torch.zeros(4, 0).long(), ignore=torch.zeros(4, 0).bool()
    )
    result = augment(empty, AugmentConfig.model_validate(MOVES[name] | {"mixup": 0.5}), size=(64, 64), **KEY)
    assert result.boxes.shape == (4, 0, 4)


EVERYTHING = AugmentConfig(
    flip=0.5, scale=(0.3, 1.7), jitter=0.2, translate=0.2, degrees=20, shear=5, perspective=0.001, hue=0.5,
    saturation=(0.3, 3.0), value=(0.3, 3.0), mosaic=0.7, mixup=0.4, expand=0.2,
    copy_paste=0.7,
)  # fmt: skip


def test_results_are_valid_and_depend_only_on_seed_step_and_rank() -> None:
    batch = noise(6)
    torch.manual_seed(0)
    result = augment(batch, EVERYTHING, size=(64, 64), **KEY)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    again = augment(batch, EVERYTHING, size=(64, 64), **KEY)
    for name in ("images", "boxes", "labels", "ignore", "keys"):
        assert torch.equal(getattr(result, name), getattr(again, name))
    for change in ({"seed": 4}, {"step": 12}, {"rank": 1}, {"seed": -3}):
        assert not torch.equal(augment(batch, EVERYTHING, size=(64, 64), **(KEY | change)).images, result.images)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.images.isfinite().all()
    sides = (result.boxes[..., 2:] - result.boxes[..., :2])[result.labels >= 0]
    assert sides.min() > 1
    assert result.boxes.min() >= 0
    assert result.boxes.max() <= 64
    assert batch.images.dtype == torch.uint8


def test_two_processes_draw_the_same_random_numbers_as_one() -> None:
    batch = noise(6)
    config = EVERYTHING.model_copy(update={"mosaic": 0.0, "mixup": 0.0, "copy_paste": 0.0})
    single = augment(batch, config, size=(64, 64), **KEY)
    for rank in range(2):
        own = slice(3 * rank, 3 * rank + 3)
        half = Batch(batch.images[own], batch.boxes[own], batch.labels[own], batch.ignore[own], batch.frames[own])
        result = augment(half, config, size=(64, 64), **(KEY | {"rank": rank}))
        torch.testing.assert_close(result.images, single.images[own])
        torch.testing.assert_close(result.boxes, single.boxes[own])


@pytest.mark.parametrize("processes", [1, 2])
def test_seen_counts_images_of_all_processes(processes: int) -> None:
    """As Darknet's `seen`: of all processes, with those of the batch, whatever the size of the input is."""
    batch = noise(3)
    for size in (64, 32):
        changes = {"train.processes": processes, "train.accumulate": 2, "data.canvas.size": [size, size]}
        chosen = recipe.load("demo", changes)
        found = [TASK.augment(batch, chosen, 0, number, 0).seen for number in (0, 4)]
        assert found == [3 * processes, 5 * 3 * processes]


def test_keys_depend_only_on_seed_step_and_index() -> None:
    """32-bit integers, independent of the augmentation and of how the batch is split between processes."""
    batch = noise(40, 8, 1)
    keys = augment(batch, EVERYTHING, size=(8, 8), **KEY).keys
    assert keys is not None
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == 40
    assert keys.min() >= 0
    assert keys.max() < 2**32
    assert keys.max() > 2**31  # all bits are used: missed by 40 fair draws once in 2**40
    assert len((keys % 256).unique()) > 25
    assert torch.equal(_keys(batch), keys)
    quarters = [_keys(noise(10, 8, 1), rank=rank) for rank in range(4)]
    assert torch.equal(torch.cat(quarters), keys)
    for change in ({"seed": 4}, {"seed": -3}, {"step": 12}):
        assert not torch.isin(_keys(batch, **change), keys).any()
    moved = augment(batch, AugmentConfig(), size=(8, 8), **KEY).to("meta")
    assert moved.keys is not None
    assert moved.keys.device == moved.images.device == torch.device("meta")
    assert batch.to("meta").keys is None


def _keys(batch: Batch, **changes: int) -> Tensor:
    keys = augment(batch, AugmentConfig(), size=(8, 8), **(KEY | changes)).keys
    assert keys is not None
    return keys


def test_color_changes_match_colorsys() -> None:
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images[0, :, 0] = 0.3  # gray
    images[1, 0] = images[1, 1]  # two channels alike
    images[2], images[3, :, 0], images[3, :, 1] = 0, 1, torch.tensor([[1.0], [0], [0]])
    hue, saturation, value = (
        torch.tensor(v) for v in ([0.1, -0.1, 0.9, 0.5, -1, 0], [1.5, 0.6, 1, 1, 1.2, 2], [0.5, 1.3, 1, 0.7, 1, 1])
    )
    changed = images.clone()
    change_colors(changed, hue, saturation, value)
    for b in range(6):
        pixels = images[b].flatten(1).T.tolist()
        for before, after in zip(pixels, changed[b].flatten(1).T.tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*before)
            expected = colorsys.hsv_to_rgb(
                (h + hue[b].item()) % 1, min(1, s * saturation[b].item()), min(1, v * value[b].item())
            )
            np.testing.assert_allclose(after, expected, atol=2e-6)


def test_color_factors_are_above_1_half_of_the_time() -> None:
    batch = replace(noise(500, 4), images=torch.full((500, 3, 4, 4), 51, dtype=torch.uint8))
    factors = augment(batch, AugmentConfig(value=(0.5, 4.0)), size=(4, 4), **KEY).images[:, 0, 0, 0] * 5
    up = factors > 1
    assert up.float().mean() == pytest.approx(0.5, abs=0.08)
    assert factors[up].mean() == pytest.approx(2.5, abs=0.2)
    assert factors[~up].mean() == pytest.approx(0.75, abs=0.04)
    assert factors.min() >= 0.5
    assert factors.max() <= 4


def test_multiscale_sizes_match_yolov4_of_the_zoo() -> None:
    """Eleven sizes, a new one every ten batches; the recipe has them."""
    config = recipe.load("yolov4_coco_608").train.augment
    drawn = [step_size(config, (608, 608), 1234, step) for step in range(0, 2560, 5)]
    np.testing.assert_array_equal(drawn[::2], np.load(ORACLE.parents[1] / "yolov4" / "multiscale.npz")["size"])
    assert drawn[1::2] == drawn[::2]


def test_multiscale_sizes_match_yolov3_of_the_zoo() -> None:
    sizes = tuple((side, side) for side in range(320, 609, 32))
    drawn = [step_size(AugmentConfig(sizes=sizes), (416, 416), 1234, step) for step in range(256)]
    np.testing.assert_array_equal(drawn, np.load(ORACLE)["size"])
    slow = AugmentConfig(sizes=sizes, resize_every=10)
    assert [step_size(slow, (416, 416), 1234, step) for step in (0, 9, 10, 25)] == [
        drawn[0],
        drawn[0],
        drawn[1],
        drawn[2],
    ]
    assert step_size(AugmentConfig(), (416, 400), 1234, 7) == (416, 400)


def test_random_numbers_are_copied_to_the_device_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One packed copy to the GPU each for copy-paste, warp, second warp, mixing, colors, and keys with `seen`."""
    sent: list[int] = []

    def counted(arrays: Sequence[np.ndarray], *rest: Any) -> list[Tensor]:
        sent.append(len(arrays))
        with torch._C.DisableTorchFunction():
            return to_device(arrays, *rest)

    for module in (warp, transforms, copy_paste):
        monkeypatch.setattr(module, "to_device", counted)
    batch = noise(4)
    with NoNumbersFromTheHost():
        augment(batch, EVERYTHING.model_copy(update={"mixup": 1.0}), size=(64, 64), **KEY)
    assert sorted(sent) == [2, 2, 3, 6, 6, 7]


def test_to_device_keeps_shapes_and_values() -> None:
    arrays = (np.arange(6).reshape(2, 3), np.array([0.1, np.inf]), np.zeros((0, 2)))
    for array, tensor in zip(arrays, to_device(arrays, torch.device("cpu")), strict=True):
        assert tensor.shape == array.shape
        assert tensor.tolist() == array.astype(np.float32).tolist()
    large = np.array([2**32 - 1, 2**24 + 1])
    assert to_device([large], torch.device("cpu"), np.int64)[0].tolist() == large.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_matches_cpu() -> None:
    batch = noise(6)
    here = augment(batch, EVERYTHING, size=(64, 64), **KEY)
    there = augment(batch.to("cuda"), EVERYTHING, size=(64, 64), **KEY)
    assert there.images.device.type == "cuda"
    torch.testing.assert_close(there.boxes.cpu(), here.boxes, atol=1e-3, rtol=1e-4)
    assert ((there.images.cpu() - here.images).abs() > 0.01).float().mean() < 0.01  # edges may fall the other way
