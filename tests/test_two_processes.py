"""Two processes with half the batch each take the steps that one process takes with the whole batch."""

import pytest

from small_run import finish, lines, start, tensors

# Batch norm is held fixed, because its statistics are each process's own. Everything else is on; clipping and the
# division by the number of boxes both need what the other process has.
CHANGES = {"train.freeze_norm": True, "train.optimizer.clip": 1.0}


@pytest.mark.slow
def test_two_halves_equal_the_whole(tiny_coco, tmp_path):
    # one after the other, as three processes on two cores would make the pair wait for each other
    finish(start(tiny_coco, tmp_path / "whole", CHANGES | {"train.batch": 4}))
    finish(start(tiny_coco, tmp_path / "halves", CHANGES | {"train.batch": 2}, processes=2))

    whole, halves = tensors(tmp_path / "whole" / "last"), tensors(tmp_path / "halves" / "last")
    assert whole.keys() == halves.keys()
    for name, expected in whole.items():
        # float32 sums of 4 pictures and of 2 + 2 round differently, by some 1e-7 of the largest number in each of the
        # 6 steps. Half a batch that is normalised by its own boxes is off by more than 1e-3.
        error = (halves[name] - expected).abs().max()
        assert error <= 3e-6 * expected.abs().max(), f"{name}: {error / expected.abs().max():.2g}"
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "halves"), strict=True):
        name, tolerance = ("AP", {"abs": 1e-3}) if "AP" in one else ("total", {"rel": 1e-5})
        assert two[name] == pytest.approx(one[name], **tolerance)
