"""Two processes with half the batch each take the same steps as one process with the full batch."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from small_run import ROUNDING, finish, furthest, lines, run, start

pytestmark = pytest.mark.slow

# Batch norm is held fixed, because its statistics are each process's own. Everything else is on; clipping and the
# division by the number of boxes both need what the other process has.
CHANGES = {"train.freeze_norm": True, "train.optimizer.clip": 1.0, "model.anchors": "auto"}

# Each process says in files what it looked through and how it was stopped.
FAULTY = """
import os, sys
from pathlib import Path
from boxwright.tasks import detect
from boxwright.engine.train import train
from boxwright.errors import InputError

data, out, rank = sys.argv[1], Path(sys.argv[2]), os.environ["RANK"]
real = detect.check

def check(dataset, rgb):
    (out / f"looked-{rank}-{dataset.split}").write_text("")
    return real(dataset, rgb=rgb)

detect.check = check
try:
    train("demo", data, out / "run")
except InputError as error:
    (out / f"stopped-{rank}").write_text(str(error))
"""


@pytest.mark.slow
def test_two_processes_match_one_with_the_full_batch(tiny_coco, tmp_path):
    run(tiny_coco, tmp_path / "whole", CHANGES | {"train.batch": 4})
    finish(start(tiny_coco, tmp_path / "halves", CHANGES | {"train.batch": 2}, processes=2))

    difference, where = furthest(tmp_path / "whole", tmp_path / "halves")
    assert difference < ROUNDING, where
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "halves"), strict=True):
        name, tolerance = ("AP", {"abs": 1e-3}) if "AP" in one else ("total", {"rel": 1e-5})
        assert two[name] == pytest.approx(one[name], **tolerance)


@pytest.mark.slow
def test_data_check_of_the_main_process_stops_all_processes(tiny_coco, tmp_path):
    data = shutil.copytree(tiny_coco, tmp_path / "data")
    file = data / "annotations" / "train.json"
    labels = json.loads(file.read_text())
    labels["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(labels))
    script, out = tmp_path / "faulty.py", tmp_path / "out"
    script.write_text(FAULTY)
    out.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*launch, script, data, out], env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120, check=True)
    contents = {path.name: path.read_text() for path in out.iterdir()}
    assert sorted(contents) == ["looked-0-train", "looked-0-val", "stopped-0", "stopped-1"]
    assert "1 error, the first: " in contents["stopped-0"]
    assert contents["stopped-1"] == contents["stopped-0"]
