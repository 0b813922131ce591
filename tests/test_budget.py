"""Small files that decode to much: sizes are asked before memory is taken, and images share what there is."""

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
from boxwright.images.canvas import read_canvas, read_image, read_window
from boxwright.images.header import read_header
from boxwright.predict import output
from boxwright.recipe import CanvasConfig
from stand_in import rectangles_predictor

CANVAS = CanvasConfig(size=(32, 32))
READERS: list[Callable[[str], object]] = [
    read_image,
    lambda path: read_canvas(path, CANVAS, 0, reduce=True),
    lambda path: read_window(path, lambda size: (0, 0, *size), CANVAS, 0),
    lambda path: rectangles_predictor()(path),
]


def write(path: Path, height: int = 40, width: int = 50) -> str:
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return str(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_more_pixels_than_allowed_are_not_decoded(
    reader: Callable[[str], object], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(budget, "MOST_PIXELS", 2000)
    reader(path)
    monkeypatch.setattr(budget, "MOST_PIXELS", 1999)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=r"^\S+a\.\w+: 50 x 40 px, more than the 1999 .*--tile.*BOXWRIGHT_MAX_PIXELS"):
        reader(path)


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(budget.VARIABLE, raising=False)
    assert 6 * budget._most() < 1.5e9  # bytes, while OpenCV decodes
    monkeypatch.setenv(budget.VARIABLE, "1073741824")
    assert budget._most() == 2**30
    for word in ("0", "many", "-1", "1073741825", "9" * 5000, "²"):
        monkeypatch.setenv(budget.VARIABLE, word)
        with pytest.raises(InputError, match="BOXWRIGHT_MAX_PIXELS: found"):
            budget._most()


def test_images_wait_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_PIXELS", 100)
    shared, under_way, most = budget.Budget(), [0], [0]
    lock = threading.Lock()

    def work(pixels: int) -> None:
        with shared.taken(pixels):
            with lock:
                under_way[0] += pixels
                most[0] = max(most[0], under_way[0])
                assert pixels <= 100 or under_way[0] == pixels
            threading.Event().wait(0.002)
            with lock:
                under_way[0] -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [60, 30, 300, 10, 60, 50] * 8))
    assert most[0] == 300
    assert shared._used == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not() -> None:
    with budget.budget.taken(budget.MOST_PIXELS):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with budget.budget.taken(1):
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("draw", [True, False])
def test_a_batch_has_no_more_pixels_in_memory_than_allowed(
    draw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        write(tmp_path / "in" / f"{number}.png")
    write(tmp_path / "in" / "large.png", 100, 120)
    predictor = rectangles_predictor(predict__batch=8)
    monkeypatch.setattr(budget, "MOST_PIXELS", 12_000)
    at_once: list[int] = []

    def forward(images):
        at_once.append(sum(image.frame.size[0] * image.frame.size[1] for image in images))
        return type(predictor).forward(predictor, images)

    predictor.forward = forward  # type: ignore[method-assign]
    done = output.predict_to_folder(predictor, [tmp_path / "in"], tmp_path / "out", draw=draw)
    assert done.images == 7
    assert at_once == [12_000, 12_000]


@pytest.mark.parametrize("path", ["fifo", "/dev/zero", "folder"])
def test_what_never_ends_is_no_image(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    place = str(tmp_path / path)
    assert read_header(place).fault
    with pytest.raises(InputError, match="cannot be read"):
        read_image(place)


def test_pillow_keeps_its_own_limit(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert not read_header(write(tmp_path / "a.png")).fault
    assert Image.MAX_IMAGE_PIXELS == before == 89478485  # as Pillow's documentation has it


def hold(lock: Any, both: Any, pixels: int, now: Any, most: Any) -> None:
    """A loader process that has an image of so many pixels in memory for a while."""
    budget.budget.share(2, lock)
    both.wait(60)
    with budget.budget.taken(pixels):
        with now.get_lock():
            now.value += 1
            most.value = max(most.value, now.value)
        time.sleep(0.3)
        with now.get_lock():
            now.value -= 1


@pytest.mark.parametrize(("pixels", "together"), [(budget.MOST_PIXELS, 1), (budget.MOST_PIXELS // 2, 2)])
def test_loader_processes_have_large_images_one_at_a_time(pixels: int, together: int) -> None:
    context = torch.multiprocessing.get_context("spawn")
    lock, now, most = context.Lock(), context.Value("i", 0), context.Value("i", 0)
    both = context.Barrier(2)
    workers = [context.Process(target=hold, args=(lock, both, pixels, now, most)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert now.value == 0
    assert most.value <= together


def test_a_loader_shares_the_budget_with_its_workers(tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And works where every image is a large one."""
    monkeypatch.setattr(budget, "MOST_PIXELS", 96 * 96)
    loader = Loader(open_dataset(tiny_coco, "train"), CANVAS, 2, workers=2, shuffle=False)
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
