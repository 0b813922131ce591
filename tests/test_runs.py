"""The table of runs: done, running, stopped and broken ones."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from boxwright import recipe
from boxwright.cli import main
from boxwright.errors import InputError
from boxwright.evaluation.runs import list_runs

LOG = (
    '{"step": 3, "epoch": 1, "lr": 0.1, "total": 2.0, "terms": {}}\n{"step": 3, "epoch": 1, "AP": 0.25, "AP50": 0.5}\n'
)


def write(folder: Path, metrics: Any = None, log: str = LOG, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    chosen = recipe.load("demo", {"train.epochs": 4, "data.root": "data/mine"} | settings)
    (folder / "recipe.yaml").write_text(chosen.to_yaml())
    (folder / "log.jsonl").write_text(log)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_done_and_stopped_runs(tmp_path: Path) -> None:
    measured = {"summary": {"AP": 0.31, "AP50": 0.6}, "intervals": {"summary": {"AP": [0.28, 0.34]}}}
    done = write(tmp_path / "a", measured)
    write(tmp_path / "below" / "b", train__seed=5)
    write(tmp_path / "c")
    start = int(time.time()) - 1000
    events = done / f"events.out.tfevents.{start}.host.1.2"
    events.touch()
    os.utime(events, (start + 90, start + 90))
    first, second, third = list_runs(tmp_path).runs
    assert (first.name, first.recipe, first.data, first.state) == ("a", "demo", "data/mine", "done")
    assert (first.measure, first.value, first.interval, first.minutes) == ("AP", 0.31, (0.28, 0.34), 1.5)
    assert (second.name, second.state) == ("below/b", "stopped")
    assert (second.epochs, second.planned, second.value) == (2, 4, 0.25)
    assert [run.differences for run in (first, second, third)] == [{}, {"train.seed": 5}, {}]
    lines = str(list_runs(tmp_path)).splitlines()
    assert "AP 0.310 [0.280, 0.340]" in lines[1]
    assert lines[2].endswith("train.seed=5")


def test_epoch_counts_after_its_evaluation(tmp_path: Path) -> None:
    write(tmp_path / "a", log='{"step": 10, "epoch": 0, "lr": 0.1, "total": 2.0, "terms": {}}\n', train__epochs=1)
    (run,) = list_runs(tmp_path).runs
    assert (run.epochs, run.planned, run.state) == (0, 1, "stopped")


def test_run_without_validation_is_done_when_curves_exist(tmp_path: Path) -> None:
    log = '{"step": 3, "epoch": 1, "lr": 0.1, "total": 2.0, "terms": {}}\n'
    folder = write(tmp_path / "a", log=log, train__epochs="auto")
    (run,) = list_runs(tmp_path).runs
    assert (run.epochs, run.planned, run.state) == (1, None, "stopped")
    (folder / "curves.png").touch()
    (run,) = list_runs(tmp_path).runs
    assert (run.epochs, run.planned, run.state) == (2, 2, "done")


def test_undefined_metric_is_empty(tmp_path: Path) -> None:
    write(tmp_path / "a", log='{"step": 3, "epoch": 1, "AP": -1.0, "AP50": -1.0}\n')
    assert list_runs(tmp_path).runs[0].cells()[3] == ""


def test_classifier_run(tmp_path: Path) -> None:
    write(tmp_path / "a", {"summary": {"top1": 0.9, "top5": 1.0}})
    assert list_runs(tmp_path / "a").runs[0].cells()[3] == "top-1 0.900"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("recipe.yaml", b"a: [", "not valid YAML"),
        ("recipe.yaml", b"- 1", "holds list"),
        ("recipe.yaml", b"\xff\xfe", "not UTF-8"),
        ("log.jsonl", b"{}\n", "not a line of a run's log"),
        ("log.jsonl", b'{"step": 1, "epoch": 0, "AP": 1%s}\n' % (b"0" * 400), "not a line of a run's log"),
        ("metrics.json", b'{"summary": {"AP": 1%s}}' % (b"0" * 400), "found no AP"),
        ("metrics.json", b"{", "not JSON"),
        ("metrics.json", b'{"summary": [1], "intervals": 3}', "found no AP"),
        ("metrics.json", b'{"summary": {"AP": "much"}}', "found no AP"),
    ],
)
def test_broken_run_is_listed_with_its_reason(tmp_path: Path, file: str, content: bytes, reason: str) -> None:
    write(tmp_path / "good", {"summary": {"AP": 0.5}, "intervals": {"summary": 4}})
    (write(tmp_path / "bad") / file).write_bytes(content)
    bad, good = list_runs(tmp_path).runs
    assert bad.state.startswith("broken: ")
    assert reason in bad.state
    assert (good.state, good.interval) == ("done", None)


def test_invalid_recipe_is_listed_without_validation(tmp_path: Path) -> None:
    """It is not checked, so that a run of another version is listed, and imports nothing."""
    folder = write(tmp_path / "a")
    (folder / "recipe.yaml").write_text(
        "name: [1, 2]\nmodel: {name: os.path, 3: x}\ntrain: {epochs: many}\n1: {2: 3}\n"
    )
    (run,) = list_runs(tmp_path).runs
    assert run.planned is None
    assert "2/?" in str(list_runs(tmp_path))


def test_run_with_a_locked_folder_is_running(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"summary": {"AP": 0.5}})
    code = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\nsys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert list_runs(tmp_path).runs[0].state == "running"
        process.communicate()
    assert list_runs(tmp_path).runs[0].state == "done"


def test_control_characters_and_links(tmp_path: Path) -> None:
    write(tmp_path / "a\x1b[31m", {"summary": {"AP": 0.5}}, summary="x")
    (tmp_path / "link").symlink_to(tmp_path / "a\x1b[31m")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(list_runs(tmp_path).runs) == 1
    assert "\x1b" not in str(list_runs(tmp_path))


def test_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no run"):
        list_runs(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_runs(tmp_path / "absent")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs" / "a", {"summary": {"AP": 0.5}})
    with pytest.raises(SystemExit) as status:
        main(["runs", str(tmp_path / "runs"), "--out", str(tmp_path / "runs.json")])
    assert status.value.code == 0
    assert "AP 0.500" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "runs.json").read_text())
    assert (row["name"], row["value"], row["state"]) == ("a", 0.5, "done")
    metrics = tmp_path / "runs" / "a" / "metrics.json"
    for file, code in ((tmp_path / "runs.json", 0), (metrics, 2)):  # only an earlier table is replaced
        with pytest.raises(SystemExit) as status:
            main(["runs", str(tmp_path / "runs"), "--out", str(file)])
        assert status.value.code == code
    assert "metrics.json: exists and is not an earlier table of runs" in capsys.readouterr().err
    assert json.loads(metrics.read_text()) == {"summary": {"AP": 0.5}}
