"""Small files that decode to large images: sizes are checked before memory is allocated, and the budget is shared."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.batches.loader import Loader
from boxwright.errors import InputError
from boxwright.formats import open_dataset
from boxwright.images import budget
from boxwright.images.canvas import read_canvas, read_crop
from boxwright.images.decode import read_image
from boxwright.images.header import read_header
from boxwright.predict import output
from boxwright.recipe import CanvasConfig
from stand_in import rectangles_predictor

CANVAS = CanvasConfig(size=(32, 32))
READERS: list[Callable[[str], object]] = [
    read_image,
    lambda path: read_canvas(path, CANVAS, 0),
    lambda path: read_crop(path, lambda size: (0, 0, *size), CANVAS, 0),
    lambda path: rectangles_predictor()(path),
]


def write(path: Path, height: int = 40, width: int = 50) -> str:
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return str(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_images_above_max_pixels_are_not_decoded(
    reader: Callable[[str], object], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(budget, "MAX_PIXELS", 2000)
    reader(path)
    monkeypatch.setattr(budget, "MAX_PIXELS", 1999)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=r"^\S+a\.\w+: 50 x 40 px, more than the 1999 .*--tile.*BOXWRIGHT_MAX_PIXELS"):
        reader(path)


def test_max_pixels_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(budget.ENV_VARIABLE, raising=False)
    assert 6 * budget._max_pixels() < 1.5e9  # bytes, while OpenCV decodes
    monkeypatch.setenv(budget.ENV_VARIABLE, "1073741824")
    assert budget._max_pixels() == 2**30
    for value in ("0", "many", "-1", "1073741825", "9" * 5000, "²"):
        monkeypatch.setenv(budget.ENV_VARIABLE, value)
        with pytest.raises(InputError, match="BOXWRIGHT_MAX_PIXELS: found"):
            budget._max_pixels()


def test_images_wait_for_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_PIXELS", 100)
    shared, in_use, peak = budget.Budget(), [0], [0]
    lock = threading.Lock()

    def work(pixels: int) -> None:
        with shared.reserve(pixels):
            with lock:
                in_use[0] += pixels
                peak[0] = max(peak[0], in_use[0])
                assert pixels <= 100 or in_use[0] == pixels
            threading.Event().wait(0.002)
            with lock:
                in_use[0] -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [60, 30, 300, 10, 60, 50] * 8))
    assert peak[0] == 300
    assert shared._used == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_does_not_wait_for_parent_threads() -> None:
    with budget.budget.reserve(budget.MAX_PIXELS):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with budget.budget.reserve(1):
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("draw", [True, False])
def test_pixels_of_a_batch_are_limited(draw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        write(tmp_path / "in" / f"{number}.png")
    write(tmp_path / "in" / "large.png", 100, 120)
    predictor = rectangles_predictor(predict__batch=8)
    monkeypatch.setattr(budget, "MAX_PIXELS", 12_000)
    at_once: list[int] = []

    def forward(images):
        at_once.append(sum(image.frame.size[0] * image.frame.size[1] for image in images))
        return type(predictor).forward(predictor, images)

    predictor.forward = forward  # type: ignore[method-assign]
    done = output.predict_to_folder(predictor, [tmp_path / "in"], tmp_path / "out", draw=draw)
    assert done.images == 7
    assert at_once == [12_000, 12_000]


@pytest.mark.parametrize("path", ["fifo", "/dev/zero", "folder"])
def test_special_files_are_rejected(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    source = str(tmp_path / path)
    assert read_header(source).fault
    with pytest.raises(InputError, match="cannot be read"):
        read_image(source)


def test_pillow_pixel_limit_is_restored(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert not read_header(write(tmp_path / "a.png")).fault
    assert Image.MAX_IMAGE_PIXELS == before == 89478485  # as in Pillow's documentation


def decode_beside_another(lock: Any, barrier: Any, pixels: int, active: Any, peak: Any) -> None:
    """A loader process that decodes an image of that many pixels, and one of half a share while the other does so."""
    budget.budget.share(2, lock)
    barrier.wait(60)
    with budget.budget.reserve(pixels):
        with active.get_lock():
            active.value += 1
            peak.value = max(peak.value, active.value)
        time.sleep(0.3)
        with active.get_lock():
            active.value -= 1
    with budget.budget.reserve(budget.MAX_PIXELS // 2):
        barrier.wait(60)  # fails unless both are here at once


@pytest.mark.slow
def test_loader_processes_decode_only_large_images_one_at_a_time() -> None:
    context = torch.multiprocessing.get_context("spawn")
    lock, active, peak = context.Lock(), context.Value("i", 0), context.Value("i", 0)
    args = (lock, context.Barrier(2), budget.MAX_PIXELS, active, peak)
    workers = [context.Process(target=decode_beside_another, args=args) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    assert active.value == 0
    assert peak.value == 1


def test_loader_shares_the_budget_with_its_workers(tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if every image is larger than a worker's share."""
    monkeypatch.setattr(budget, "MAX_PIXELS", 96 * 96)
    loader = Loader(open_dataset(tiny_coco, "train"), CANVAS, 2, workers=2)
    start = loader._loader.worker_init_fn
    assert start is not None
    shared: list[tuple[int, object]] = []
    with monkeypatch.context() as patch:
        patch.setattr(budget.budget, "share", lambda *given: shared.append(given))
        for name in ("signal", "setNumThreads"):
            patch.setattr({"signal": signal, "setNumThreads": cv2}[name], name, lambda *_: None)
        patch.setattr("sys.excepthook", sys.excepthook)
        start(0)
    assert shared[0][0] == 2
    assert sum(len(batch.images) for batch in loader.epoch(0)) == 12
