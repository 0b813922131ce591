"""Two processes with half the batch each take the steps that one process takes with the whole batch."""

import pytest

from small_run import ROUNDING, finish, furthest, lines, start

# Batch norm is held fixed, because its statistics are each process's own. Everything else is on; clipping and the
# division by the number of boxes both need what the other process has.
CHANGES = {"train.freeze_norm": True, "train.optimizer.clip": 1.0}


@pytest.mark.slow
def test_two_halves_equal_the_whole(tiny_coco, tmp_path):
    # one after the other, as three processes on two cores would make the pair wait for each other
    finish(start(tiny_coco, tmp_path / "whole", CHANGES | {"train.batch": 4}))
    finish(start(tiny_coco, tmp_path / "halves", CHANGES | {"train.batch": 2}, processes=2))

    difference, where = furthest(tmp_path / "whole", tmp_path / "halves")
    assert difference < ROUNDING, where
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "halves"), strict=True):
        name, tolerance = ("AP", {"abs": 1e-3}) if "AP" in one else ("total", {"rel": 1e-5})
        assert two[name] == pytest.approx(one[name], **tolerance)
