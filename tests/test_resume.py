"""A run that is killed and resumed ends with the same bits as one that was left alone."""

import random
import signal
import time

import cv2
import numpy as np
import pytest

from boxwright import recipe
from boxwright.engine import time_budget
from small_run import finish, lines, run, start, tensors

pytestmark = pytest.mark.slow

# All that draws numbers or has a memory: mosaic, mixup, copy-paste, sizes, colors, average, accumulation, moving rate.
CHANGES = {
    "train.epochs": 4,
    "train.accumulate": 2,
    "train.save_every": 2,
    "train.evaluate_every": 1,
    "train.patience": 4,  # counted, and not reached
    "train.ema.ramp": 5,
    "train.augment.mosaic": 0.5,
    "train.augment.mixup": 0.5,
    "train.augment.copy_paste": 0.5,
    "train.augment.close_mosaic": 1,
    "train.augment.sizes": [[96, 96], [64, 96], [96, 128]],
}
STEPS = 4 * 3


@pytest.mark.slow
def test_run_killed_three_times_ends_bit_identical(tiny_coco, tmp_path):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    run(tiny_coco, uninterrupted, CHANGES)
    moments = sorted(random.sample(range(1, STEPS), 3))
    run_and_kill(tiny_coco, killed, CHANGES, moments)
    assert_equal(killed, uninterrupted, moments)


@pytest.mark.slow
def test_killed_run_with_repeats_background_and_early_stopping(tiny_coco, tmp_path, monkeypatch):
    """Repeated images, images without objects, and a run whose number of epochs is measured and not reached."""
    uninterrupted, killed, background = (tmp_path / name for name in ("uninterrupted", "killed", "background"))
    background.mkdir()
    for number in range(5):
        cv2.imwrite(str(background / f"{number}.png"), np.full((96, 96, 3), 40 * number, np.uint8))
    changes = {
        "data.background": [str(background)],
        "data.workers": 1,
        "train.accumulate": 2,
        "train.save_every": 2,
        "train.repeat_threshold": 0.9,
        "train.minutes": 1.5,
        "train.evaluate_every": 1,
        "evaluate.threshold": 1.0,  # no detections: no evaluation finds a better network than the first
        "train.patience": 4,
    }
    # of five epochs of five steps: when evaluations without a better network were counted, and this was saved
    moments = [random.randrange(13, 24)]
    run_and_kill(tiny_coco, killed, changes, moments)

    epochs = recipe.load(killed / "recipe.yaml").train.epochs
    monkeypatch.setattr(time_budget, "fitting_epochs", lambda *measured: epochs)
    run(tiny_coco, uninterrupted, changes)
    assert_equal(killed, uninterrupted, moments)
    evaluated = [line["epoch"] for line in lines(killed) if "AP" in line]
    assert evaluated == [0, 1, 2, 3, 4], "train.patience ends the run after four evaluations without a better network"
    assert epochs > 5
    steps = [line["step"] for line in lines(killed) if "total" in line]
    assert max(steps) == 5 * 5, "17 images would be 4 steps an epoch; some are repeated"


def run_and_kill(data, killed, changes, moments):
    """A run that is killed when it has logged these steps, or somewhat later, and resumed each time."""
    process = start(data, killed, changes)
    try:
        for moment in moments:
            while process.poll() is None and max((line["step"] for line in lines(killed)), default=0) < moment:
                time.sleep(0.002)
            time.sleep(random.uniform(0, 0.1))  # in the step, while a checkpoint is written, in an evaluation
            process.kill()
            _, errors = process.communicate()
            assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {errors.decode()}"
            process = start(data, killed, changes, "--resume")
        finish(process)
    finally:
        process.kill()
        process.wait()


def assert_equal(killed, uninterrupted, moments):
    for name in ("last", "best"):
        expected, found = tensors(uninterrupted / name), tensors(killed / name)
        assert expected.keys() == found.keys()
        different = [key for key in expected if not expected[key].equal(found[key])]
        assert not different, f"killed at {moments}: {name} differs in {different[:5]}"
    assert lines(killed) == lines(uninterrupted), f"killed at {moments}"
    assert not list(killed.glob("*.boxwright-*"))
