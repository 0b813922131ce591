"""A run that is killed and resumed ends with the same bits as one that was left alone."""

import random
import signal
import time

import pytest

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
def test_killed_three_times_in_one_run(tiny_coco, tmp_path):
    left_alone, killed = tmp_path / "left_alone", tmp_path / "killed"
    run(tiny_coco, left_alone, CHANGES)
    moments = sorted(random.sample(range(1, STEPS), 3))
    process = start(tiny_coco, killed, CHANGES)
    try:
        for moment in moments:
            while process.poll() is None and max((line["step"] for line in lines(killed)), default=0) < moment:
                time.sleep(0.002)
            time.sleep(random.uniform(0, 0.1))  # in the step, while a checkpoint is written, in an evaluation
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
            process = start(tiny_coco, killed, CHANGES, "--resume")
        finish(process)
    finally:
        process.kill()
        process.communicate()

    for name in ("last", "best"):
        expected, found = tensors(left_alone / name), tensors(killed / name)
        assert expected.keys() == found.keys()
        different = [key for key in expected if not expected[key].equal(found[key])]
        assert not different, f"killed at {moments}: {name} differs in {different[:5]}"
    assert lines(killed) == lines(left_alone), f"killed at {moments}"
    assert not list(killed.glob("*.boxwright-*"))
