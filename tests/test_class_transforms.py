"""Augmentation for classifiers, compared with torchvision, worked examples and expected statistics."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.batches import policies
from boxwright.batches.class_transforms import augment, change_color, resized_crops
from boxwright.errors import InputError
from boxwright.images.canvas import frame_for, resize_to_canvas
from boxwright.recipe import CanvasConfig, ClassAugmentConfig
from boxwright.types import ClassBatch

CANVAS = CanvasConfig(size=(24, 24))
ROUNDING = 5e-6  # of a position below 24 px in float32, where neighbors may differ by 1


def batch_of(images: Tensor, size: tuple[int, int] | None = None) -> ClassBatch:
    """Canvases as loaded; size: (height, width) px of the images before they were stretched."""
    own = size or (images.shape[2], images.shape[3])
    stretched = CanvasConfig(size=(images.shape[2], images.shape[3]))
    frames = tuple(frame_for(own, stretched, index) for index in range(len(images)))
    return ClassBatch(images, torch.arange(len(images)), frames)


def noise(count: int, side: int = 24, seed: int = 0) -> ClassBatch:
    draw = torch.Generator().manual_seed(seed)
    return batch_of(torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8))


def changed(batch: ClassBatch, canvas: CanvasConfig = CANVAS, seed: int = 0, step: int = 0, rank: int = 0, **keys: Any):
    return augment(batch, ClassAugmentConfig(**keys), canvas=canvas, seed=seed, step=step, rank=rank)


@pytest.fixture(scope="module")
def v2(torchvision_ops: ModuleType) -> ModuleType:
    from torchvision.transforms import v2

    return v2


def test_default_augmentation_changes_nothing() -> None:
    batch = noise(3)
    result = changed(batch)
    torch.testing.assert_close(result.images, batch.images.float() / 255, atol=ROUNDING, rtol=0)
    assert torch.equal(result.labels, batch.labels)
    assert result.others is result.share is None
    assert result.keys is not None
    assert result.keys.dtype == torch.int64


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("size", [(60, 96), (96, 60)])
def test_placement_without_random_crops_matches_evaluation(fit: Any, size: tuple[int, int]) -> None:
    """A smooth image by way of the stretched canvas, compared with the canvas of evaluation."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([40 + x, 240 - 2 * y, 100 + x // 2 + y // 2], -1).clip(0, 255).astype(np.uint8)
    canvas = CanvasConfig(size=(48, 48), fit=fit, short_side=54 if fit == "crop" else 0, fill=9)
    expected = resize_to_canvas(image, frame_for(size, canvas, 0), canvas)
    loaded = CanvasConfig(size=(60, 60))
    stretched = torch.from_numpy(resize_to_canvas(image, frame_for(size, loaded, 0), loaded)).permute(2, 0, 1)[None]
    found = changed(batch_of(stretched, size), canvas).images[0].permute(1, 2, 0) * 255
    rows = slice(None) if fit != "letterbox" else slice(10, 38)  # the last line beside the fill is blended otherwise
    columns = rows if size[0] > size[1] else slice(None)
    rows = rows if size[0] < size[1] else slice(None)
    np.testing.assert_allclose(found[rows, columns], expected[rows, columns], atol=3.5)
    if fit == "letterbox":
        np.testing.assert_allclose(found[:8] if size[0] < size[1] else found[:, :8], 9, atol=1e-4)


def test_resized_crop_matches_interpolate() -> None:
    """As F.interpolate of the crop: nothing outside is blended in at its edges."""
    images = noise(2, 20).images
    crops = torch.tensor([[3.0, 2, 11, 18], [20, 5, 0, 10]])  # the second mirrored, over the full width
    found = resized_crops(images, crops, (13, 31), fill=0)
    for index, (left, top, right, bottom) in enumerate([(3, 2, 11, 18), (0, 5, 20, 10)]):
        cut = images[index : index + 1, :, top:bottom, left:right].float() / 255
        expected = F.interpolate(cut, (13, 31), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found[index], expected.flip(-1) if index else expected, atol=2e-5, rtol=0)


def test_crop_beyond_the_image_is_filled() -> None:
    images = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    found = resized_crops(images, torch.tensor([[-4.0, 0, 4, 8]]), (8, 8), fill=51)[0]
    torch.testing.assert_close(found[:, :, :4], torch.full((3, 8, 4), 0.2))
    torch.testing.assert_close(found[:, :, 4:], torch.full((3, 8, 4), 200 / 255))


def test_loader_crops_are_not_cropped_again() -> None:
    batch = noise(3)
    result = changed(batch, area=(0.1, 0.2), flip=1.0)
    torch.testing.assert_close(result.images, batch.images / 255)


def test_pad_shifts_by_whole_pixels() -> None:
    batch = noise(64, 8)
    canvas = CanvasConfig(size=(8, 8), fill=0)
    result = changed(batch, canvas, pad=2).images
    padded = F.pad(batch.images.float() / 255, (2, 2, 2, 2))
    seen = set()
    for index in range(64):
        for dy in range(5):
            for dx in range(5):
                if torch.allclose(result[index], padded[index, :, dy : dy + 8, dx : dx + 8], atol=1e-6):
                    seen.add((dy, dx))
                    break
            else:
                continue
            break
        else:
            pytest.fail(f"image {index} is not shifted by whole pixels")
    assert len(seen) > 15


def test_flip_mirrors_half_of_the_images() -> None:
    batch = noise(400, 8)
    result = changed(batch, CanvasConfig(size=(8, 8)), flip=0.5).images
    images = batch.images / 255
    mirrored, straight = ((result - each).abs().amax((1, 2, 3)) < 1e-5 for each in (images.flip(-1), images))
    assert (mirrored ^ straight).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_color_changes_match_torchvision(v2: ModuleType, name: str) -> None:
    images = noise(4).images.float() / 255
    amounts = torch.tensor([-0.4, 0.0, 0.1, 0.45]) if name == "hue" else torch.tensor([0.6, 1.0, 1.4, 0.0])
    expected = torch.stack(
        [
            getattr(v2.functional, f"adjust_{name}")(image, amount)
            for image, amount in zip(images, amounts.tolist(), strict=True)
        ]
    )
    change_color(images, name, amounts)
    torch.testing.assert_close(images, expected, atol=3e-6, rtol=0)


def test_color_order_depends_on_step_and_amounts_on_image() -> None:
    gray = batch_of(torch.full((2, 3, 24, 24), 100, dtype=torch.uint8))
    levels = [changed(gray, step=step, brightness=0.4).images[:, 0, 0, 0] * 255 for step in range(300)]
    drawn = torch.stack(levels)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert 59.9 < drawn.min() < 64
    assert 136 < drawn.max() < 140.1
    # Brightness saturates at 1 before or after contrast moves values towards the mean: both orders occur.
    bright = batch_of(torch.tensor([250, 10], dtype=torch.uint8).repeat(288).view(1, 1, 24, 24).expand(1, 3, 24, 24))
    tops = [changed(bright, step=step, brightness=0.9, contrast=0.9).images.max() for step in range(60)]
    assert 0 < sum(top < 0.999 for top in tops) < 60


def test_erased_rectangles_have_the_configured_area() -> None:
    batch = batch_of(torch.zeros(600, 3, 40, 40, dtype=torch.uint8))
    canvas = CanvasConfig(size=(40, 40))
    result = changed(batch, canvas, erase=0.5, erase_area=(0.1, 0.2), erase_color=(255, 0, 51)).images
    painted = result[:, 0] == 1
    torch.testing.assert_close(result[:, 2], painted * 0.2)
    share = painted.float().mean((1, 2))
    assert 250 < (share > 0).sum() < 350
    erased = share[share > 0]
    assert ((erased > 0.08) & (erased < 0.23)).all()
    assert abs(erased.mean() - 0.15) < 0.01
    boxes = painted.any(1).sum(1) * painted.any(2).sum(1)
    assert torch.equal(boxes, painted.sum((1, 2)))  # rectangles


def test_cutout_may_extend_beyond_the_image() -> None:
    batch = batch_of(torch.zeros(500, 3, 30, 30, dtype=torch.uint8))
    painted = changed(batch, CanvasConfig(size=(30, 30)), cutout=10, erase_color=(255, 255, 255)).images[:, 0] == 1
    sides = torch.stack([painted.any(1).sum(1), painted.any(2).sum(1)])
    assert sides.max() == 10
    assert (painted.sum((1, 2)) == sides.prod(0)).all()
    assert (sides < 10).any()
    assert painted[:, 0].any()
    assert painted[:, -1].any()


def test_mixup_blends_images_and_returns_both_labels() -> None:
    batch = noise(200)
    plain = batch.images.float() / 255
    result = changed(batch, mixup=0.6)
    assert result.others is not None
    assert result.share is not None
    share = result.share[:, None, None, None]
    torch.testing.assert_close(result.images, plain * share + plain[result.others] * (1 - share), atol=ROUNDING, rtol=0)
    assert torch.equal(result.labels, batch.labels)
    assert 60 < (result.share < 1).sum() < 160


def test_cutmix_share_equals_pasted_area() -> None:
    black_and_white = batch_of(torch.arange(300).remainder(2).mul(255).byte().view(-1, 1, 1, 1).expand(300, 3, 24, 24))
    result = changed(black_and_white, cutmix=1.0)
    assert result.others is not None
    assert result.share is not None
    own = changed(black_and_white).images
    differs = (black_and_white.labels % 2) != (result.others % 2)
    shown = ((result.images - own).abs() < ROUNDING)[:, 0].float()
    torch.testing.assert_close(shown[differs].mean((1, 2)), result.share[differs], atol=1e-6, rtol=0)
    other = shown[differs] == 0
    assert torch.equal(other.any(1).sum(1) * other.any(2).sum(1), other.sum((1, 2)))
    # Sides are r = sqrt(1 - share drawn), density 2r; around a uniform point, r - r^2 / 4 of each is inside on average.
    # The integral of 2r (r - r^2 / 4)^2 is 0.321. Flooring half a side loses up to a px of 24; 5 standard errors: .055.
    assert abs(result.share.mean() - (1 - 0.321)) < 0.055 + 0.03
    assert 0 <= result.share.min() <= result.share.max() <= 1


EVERYTHING: dict[str, Any] = {
    "pad": 3, "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "erase": 0.5,
    "cutout": 5,
}  # fmt: skip


def test_augmentation_depends_only_on_seed_step_and_index() -> None:
    batch = noise(4)
    full = changed(batch, step=3, seed=2**64 - 1, **EVERYTHING)
    assert torch.equal(changed(batch, step=3, seed=2**64 - 1, **EVERYTHING).images, full.images)
    for other in ({"step": 4}, {"seed": 1}):
        assert not torch.equal(
            changed(batch, **{"step": 3, "seed": 2**64 - 1, **other}, **EVERYTHING).images, full.images
        )
    for rank in (0, 1):
        part = slice(2 * rank, 2 * rank + 2)
        half = replace(batch, images=batch.images[part], labels=batch.labels[part], frames=batch.frames[part])
        found = changed(half, step=3, seed=2**64 - 1, rank=rank, **EVERYTHING)
        assert torch.equal(found.images, full.images[part])
        assert found.keys is not None
        assert full.keys is not None
        assert torch.equal(found.keys, full.keys[part])
    assert full.images.min() >= 0
    assert full.images.max() <= 1


@pytest.mark.parametrize("policy", policies.NAMES)
def test_policies_match_torchvision_and_restore_its_rng(v2: ModuleType, policy: Any) -> None:
    batch = noise(2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    result = changed(batch, policy=policy)
    assert torch.equal(torch.get_rng_state(), before)
    assert result.keys is not None
    for index in range(2):
        torch.manual_seed(int(result.keys[index]))
        expected = getattr(v2, policies.NAMES[policy])()(batch.images[index])
        torch.testing.assert_close(result.images[index], expected / 255, atol=1e-6, rtol=0)
    assert torch.equal(changed(batch, policy=policy).images, result.images)


def test_policy_without_torchvision_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr(policies.importlib, "import_module", absent)
    with pytest.raises(InputError, match="rand_augment needs torchvision, which cannot be imported here"):
        changed(noise(1), policy="rand_augment")
