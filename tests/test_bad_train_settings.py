"""Invalid settings of a training: one line, exit status 2, and no run folder."""

from pathlib import Path
from typing import Any

import pytest

from boxwright import cli
from boxwright.engine import auto_batch


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.optimizer.kind=adamx"], "train.optimizer.kind: input should be 'sgd' or 'adamw' (found 'adamx')"),
        (["train.patience=2", "train.evaluate_every=0"], "patience counts evaluations, and evaluate_every is 0; set"),
        (["train.minutes=0"], "train.minutes: input should be greater than 0 (found 0)"),
        (["train.class_weights={gren: 2}"], "train.class_weights: there is no class 'gren'; there are blue, red"),
        (["train.batch=auto"], "a step with one image of 96 x 96 px takes 0.0"),
    ],
)
def test_one_line(tiny_coco: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, settings: Any, message: str) -> None:
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 1000)
    out = tmp_path / "run"
    small = ["model.width=0.125", "data.canvas.size=[96,96]", "data.workers=0", "train.epochs=1"]
    words = [word for setting in small + settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "demo", "--data", str(tiny_coco), "--out", str(out), *words])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert line.startswith("boxwright: ")
    assert message in line
    assert len(line) <= 200 + len("boxwright: ")
    assert not out.exists()
