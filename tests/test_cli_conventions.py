"""Conventions of command lines: --json, NO_COLOR, hints on a terminal only, completion, exit status in the help."""

import io
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

import boxwright as bw
from boxwright import cli, recipe
from boxwright.cli.output import hint
from boxwright.datatools import scenes
from boxwright.engine import demo
from boxwright.progress import track
from boxwright.weights import checkpoint

COLOR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])[;0-9]*m")
SMALL = {"model.width": 0.125, "data.canvas.size": [64, 64], "data.names": ["blue", "red"], "model.classes": 2}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(list(arguments))
    return leaving.value.code


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    out, error = capsys.readouterr()
    assert {each["name"]: each["summary"] for each in json.loads(out)} == recipe.summaries()
    assert error == ""


def test_data_check_as_json(tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "data_check.json"
    assert run("data", "check", str(tiny_coco), "--report", str(file)) == 0
    text = capsys.readouterr().out
    assert run("data", "check", str(tiny_coco), "--report", str(file), "--json") == 0
    out, error = capsys.readouterr()
    found = json.loads(out)
    assert error == ""
    assert found == json.loads(file.read_text())
    assert f"train: {found['checked']['train']['images']} images" in text
    assert found["checked"]["val"]["images"] == 4
    assert text.endswith(f"{found['errors']} errors, {found['notes']} notes\n")


def test_json_of_a_faulty_set_has_exit_status_and_is_printable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, name = tmp_path / "set", "a\x9b31m\u202e"
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "images" / "train" / "b.png"), scenes.rendered_images(1, 3)[0])
    (root / "images" / "train" / "b.png").rename(root / "images" / "train" / f"{name}.png")
    (root / "labels" / "train" / f"{name}.txt").write_text("0 0.5 0.5 7 0.1\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [car]\n")
    assert run("data", "check", str(root), "--report", str(tmp_path / "r.json"), "--json") == 1
    out, error = capsys.readouterr()
    found = json.loads(out)
    assert (found["errors"], error) == (1, "")
    assert name in found["findings"][0]["file"]
    assert set(map(ord, out)) <= {10, *range(32, 127)}


@pytest.mark.slow
def test_evaluation_as_json(tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    chosen = bw.Recipe.load("demo", SMALL)
    weights = str(tmp_path / "w.safetensors")
    checkpoint.save(weights, bw.create_model(chosen), chosen)
    words = ["evaluate", weights, "--data", str(tiny_coco), "--out", str(tmp_path / "out"), "--no-interval"]
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out" / "metrics.json").read_text())
    shown = [float(value) for value in re.findall(r"\] = (-?[0-9.]+)", text)]
    assert shown == [round(value, 3) for value in found["summary"].values()]
    assert run(*words, "--json", "--no-truth") == 0
    results = Path(json.loads(capsys.readouterr().out)["results"])
    assert isinstance(json.loads(results.read_text()), list)


@pytest.mark.parametrize(("out", "error", "shown"), [(1, 1, True), (0, 1, False), (1, 0, False), (0, 0, False)])
def test_hints_are_printed_on_terminals_only(
    out: int, error: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe or a file on either side is read by a program."""
    streams = [Terminal() if terminal else io.StringIO() for terminal in (out, error)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    hint("evaluate", "runs/a\x1b b", "--data", "d")
    assert streams[0].getvalue() == ""
    assert streams[1].getvalue() == ("next: boxwright evaluate 'runs/a\\x1b b' --data d\n" if shown else "")
    monkeypatch.setenv("RANK", "1")
    hint("list")
    assert streams[1].getvalue().count("\n") == shown


def test_no_hint_with_json(tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["list"], ["data", "check", str(tiny_coco), "--report", str(tmp_path / "r.json")]):
        for words, lines in ((arguments, 1), ([*arguments, "--json"], 0)):
            out, error = Terminal(), Terminal()
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", error)
            assert run(*words) == 0
            assert "next: " not in out.getvalue()
            assert error.getvalue().count("next: boxwright train RECIPE --data ") == lines


@pytest.mark.slow
def test_help_lists_exit_status_and_respects_no_color() -> None:
    def help_text(**environment: str) -> str:
        command = [sys.executable, "-m", "boxwright", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | environment)
        return done.stdout

    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}
    assert COLOR.search(help_text(FORCE_COLOR="1"))
    plain = help_text(FORCE_COLOR="1", NO_COLOR="1")
    assert not COLOR.search(plain)
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", plain).split())
    for status in ("0 success", "1 problems", "2 invalid input", "130 Ctrl-C", "143 a training"):
        assert status in words
    assert "--install-completion" in words


def test_version_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"boxwright {version('boxwright')}\n"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_progress_respects_no_color(no_color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Terminal()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert list(track(range(3), 3, "work")) == [0, 1, 2]
    assert "work" in error.getvalue()
    assert bool(COLOR.search(error.getvalue())) == (not no_color)


def test_shell_completion_of_commands_and_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(line: str) -> set[str]:
        words = line.split(" ")
        environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("_BOXWRIGHT_COMPLETE", "complete_bash")
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        assert run("ignored") == 0
        return set(out.getvalue().split())

    assert offered("boxwright eval") == {"evaluate", "evaluate-tracks"}
    assert offered("boxwright train yolov4_") == {name for name in recipe.names() if name.startswith("yolov4_")}


def test_quick_demo_states_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both numbers of its text are those of the demo and of what it runs."""
    rendered, settings = {}, []
    monkeypatch.setattr(demo.scenes, "write_dataset", lambda folder, **counts: rendered.update(counts) or folder)
    monkeypatch.setattr(demo, "train", lambda *args, overrides: settings.extend(overrides))
    monkeypatch.setattr(demo, "load", lambda *args, **words: None)
    monkeypatch.setattr(demo, "open_dataset", lambda *args: ())
    monkeypatch.setattr(demo, "evaluate", lambda *args: "AP")
    monkeypatch.setattr(demo, "predict_to_folder", lambda *args: SimpleNamespace())
    text = demo.run(tmp_path, ["train.batch=2"], quick=True)
    quick, complete = recipe.load("demo", settings).train, recipe.load("demo").train
    assert quick.batch == 2, "what is given comes last"
    assert f"{rendered['train']} scenes instead of 240, and {quick.epochs} epochs instead of {complete.epochs}" in text
    settings.clear()
    assert "instead" not in demo.run(tmp_path)
    assert settings == []
