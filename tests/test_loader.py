"""The order of images over epochs, steps and processes; padding; unreadable images in a worker."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from boxwright.batches.loader import Loader
from boxwright.batches.transforms import augment
from boxwright.errors import InputError
from boxwright.recipe import AugmentConfig, CanvasConfig
from boxwright.types import Batch

CANVAS = CanvasConfig(size=(32, 48))


@dataclass
class Item:
    """The attributes of a Sample that the loader uses."""

    image_id: int
    path: str
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, np.bool_))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Eleven images of 64 x 96 px, image i of gray 20 i, with i % 4 boxes of label i."""
    folder, result = tmp_path_factory.mktemp("loader"), []
    for i in range(11):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((64, 96, 3), 20 * i, np.uint8))
        boxes = np.tile(np.float32([2, 4, 10 + i, 20]), (i % 4, 1))
        crowd = np.arange(i % 4) == 2
        result.append(Item(i, str(folder / f"{i}.png"), boxes, np.full(i % 4, i), crowd))
    return result


def ids(batches: Iterator[Batch]) -> list[list[int]]:
    return [[int(frame.image_id) for frame in batch.frames] for batch in batches]


def test_batch_contains_its_samples(items: list[Item]) -> None:
    batch = next(Loader(items, CANVAS, 11).epoch(0))
    assert sorted(frame.image_id for frame in batch.frames) == list(range(11))
    assert batch.images.shape == (11, 3, 32, 48)
    assert batch.images.dtype == torch.uint8
    assert batch.boxes.shape == (11, 3, 4)
    for row, frame in enumerate(batch.frames):
        i = int(frame.image_id)
        assert (batch.images[row] == 20 * i).all()
        assert batch.labels[row].tolist() == [i] * (i % 4) + [-1] * (3 - i % 4)
        assert batch.ignore[row].tolist() == [False, False, i % 4 > 2]
        halved = torch.tensor([1.0, 2, (10 + i) / 2, 10])
        assert torch.equal(batch.boxes[row, : i % 4], halved.expand(i % 4, 4))
        assert torch.equal(frame.to_original(batch.boxes[row, : i % 4]), torch.from_numpy(items[i].boxes))


def test_batch_of_images_without_boxes(items: list[Item]) -> None:
    batch = next(Loader([items[0], items[4]], CANVAS, 2).epoch(0))
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.labels.shape == batch.ignore.shape == (2, 0)


@pytest.mark.parametrize("fit", ["corner", "zoo_corner"])
def test_small_images_without_boxes_are_resized_and_augmented(tmp_path: Path, fit: str) -> None:
    """32 x 32 px fills the canvas's height, and the expanded image is inside that region."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((32, 32, 3), 200, np.uint8))
    canvas = CanvasConfig.model_validate({"size": (64, 96), "fit": fit, "fill": 0})
    batch = next(Loader([Item(0, str(tmp_path / "a.png"))] * 2, canvas, 2).epoch(0))
    assert batch.frames[0].content == (0, 0, 64, 64)
    assert (batch.images[..., :64] == 200).all()
    assert (batch.images[..., 64:] == 0).all()
    config = AugmentConfig(expand=1.0, flip=1.0)
    changed = augment(batch, config, size=(64, 96), seed=0, step=0, rank=0, fill=canvas.fill)
    assert changed.boxes.shape == (2, 0, 4)
    assert not changed.valid.any()
    covered = (changed.images[:, 0] > 0.4).float()
    assert (covered.sum((1, 2)) >= 15**2).all()  # a quarter of 64 px, less half of its edges
    assert (covered.sum((1, 2)) < 64**2).all()
    assert not covered[..., :31].any()


def test_training_epochs_are_different_repeatable_permutations(items: list[Item]) -> None:
    loader = Loader(items, CANVAS, 2, seed=5)
    first, second = ids(loader.epoch(0)), ids(loader.epoch(1))
    assert loader.steps_per_epoch == len(first) == 5  # the eleventh image would be half a batch
    assert len({i for batch in first for i in batch}) == 10
    assert first != second
    assert first == ids(loader.epoch(0)) == ids(Loader(items, CANVAS, 2, seed=5).epoch(0))
    assert first != ids(Loader(items, CANVAS, 2, seed=6).epoch(0))
    assert ids(Loader(items, CANVAS, 2, seed=-1).epoch(0)) != first


def test_evenly_divided_epoch_has_every_image_once(items: list[Item]) -> None:
    loader = Loader(items[:8], CANVAS, 4)
    assert loader.steps_per_epoch == 2
    assert sorted(i for batch in ids(loader.epoch(0)) for i in batch) == list(range(8))


def test_two_processes_see_the_images_of_a_single_process(items: list[Item]) -> None:
    single = ids(Loader(items, CANVAS, 4, seed=3).epoch(2))
    halves = [ids(Loader(items, CANVAS, 2, seed=3, rank=rank, world=2).epoch(2)) for rank in range(2)]
    assert [left + right for left, right in zip(*halves, strict=True)] == single


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_starts_mid_epoch_without_loading_earlier_images(items: list[Item], workers: int) -> None:
    batches = ids(Loader(items, CANVAS, 2, seed=9).epoch(4))
    skipped = {i for batch in batches[:3] for i in batch}
    remaining = [Item(item.image_id, "missing.png") if item.image_id in skipped else item for item in items]
    assert ids(Loader(remaining, CANVAS, 2, seed=9, workers=workers).epoch(4, skip=3)) == batches[3:]


def test_workers_give_the_same_batches_after_an_aborted_epoch(items: list[Item]) -> None:
    serial, loader = Loader(items, CANVAS, 3, seed=2), Loader(items, CANVAS, 3, seed=2, workers=2)
    next(loader.epoch(0))  # aborted
    for number in (1, 2):
        for expected, batch in zip(serial.epoch(number), loader.epoch(number), strict=True):
            assert batch.frames == expected.frames
            for name in ("images", "boxes", "labels", "ignore"):
                assert torch.equal(getattr(batch, name), getattr(expected, name))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that assigns cores")
def test_more_workers_than_cores_give_no_warning(items: list[Item]) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(cores)])
    try:
        assert len(ids(Loader(items, CANVAS, 2, workers=2).epoch(0))) == len(items) // 2
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("workers", [0, 2])
def test_consecutive_epochs_match_single_epochs(items: list[Item], workers: int) -> None:
    loader = Loader(items, CANVAS, 2, seed=4, workers=workers)
    wanted = ids(loader.epoch(1))[3:4] + ids(loader.epoch(2))[:4] + ids(loader.epoch(3))[:4]
    assert ids(loader.epochs(1, 4, skip=3, steps=4)) == wanted


class Counting(list[Item]):
    """Counts in shared memory which items the workers ask for."""

    def __init__(self, items: list[Item]) -> None:
        super().__init__(items)
        self.asked = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __getitem__(self, index: Any) -> Any:
        self.asked += 1
        return super().__getitem__(index)


def test_workers_prefetch_the_next_epoch(items: list[Item]) -> None:
    images = Counting(items[:4])
    batches = Loader(images, CANVAS, 2, workers=1).epochs(0, 3)
    next(batches)  # of two batches of this epoch
    deadline = time.monotonic() + 30
    while images.asked.item() <= 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert images.asked.item() > 4


def test_float_canvas_is_rounded(tmp_path: Path) -> None:
    row = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (4, 1))
    cv2.imwrite(str(tmp_path / "a.png"), row)
    canvas = CanvasConfig(size=(4, 197), resize="darknet")
    batch = next(Loader([Item(0, str(tmp_path / "a.png"))], canvas, 1).epoch(0))
    off = batch.images[0, 0, 0].float() - torch.arange(197) * 1.25  # aligned corners: every fourth one is exact
    assert batch.images.dtype == torch.uint8
    assert off[::4].abs().max() == 0
    assert off.abs().max() <= 0.5


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_an_error(items: list[Item], tmp_path: Path, workers: int) -> None:
    last = ids(Loader(items[:4], CANVAS, 2).epoch(0))[1][0]  # in the second batch
    (tmp_path / "text.jpg").write_text("no image")
    images = [Item(99, str(tmp_path / "text.jpg")) if item.image_id == last else item for item in items[:4]]
    batches = Loader(images, CANVAS, 2, workers=workers).epoch(0)
    assert len(next(batches).frames) == 2
    with pytest.raises(InputError, match=r"^\S*text\.jpg: not a readable image[^\n]*$"):
        next(batches)


def test_fewer_images_than_a_batch_is_an_error(items: list[Item]) -> None:
    with pytest.raises(InputError, match=r"11 images .* 8 x 2 processes; lower train\.batch"):
        Loader(items, CANVAS, 8, world=2)
