"""docs/parameters.md: a row for each published key, and every key that it refers to exists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import typer

from boxwright import models
from boxwright.cli.commands import app
from boxwright.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
# Copied from the configuration files of the published systems; `flags`: those their pages name.
PUBLISHED: dict[str, list[str]] = json.loads((Path(__file__).parent / "oracles" / "published_keys.json").read_text())
SCRIPTS = (  # that the published pages say how to start, or list as steps after an export
    "train.py", "eval.py", "test.py", "inference.py --img_path", "export.py", "run_infer_310.sh", "export_bin.py",
    "post_quant.py", "run_quant_infer.sh", "postprocess.py", "postprogress.py", "convert_weight.py",
    "convert_weight_darknet53.py",
)  # fmt: skip
MODELS = {
    "yolov3_darknet53": "yolov3",
    "mindyolo_yolov3": "yolov3_640",
    "faster_rcnn_dcn": "faster_rcnn",
    "yolov4": "yolov4",
    "tiny_darknet": "tiny_darknet",
}


def rows(system: str) -> list[tuple[str, str, str]]:
    """(their key, our places, remark) of the system's section."""
    section = PAGE.split(f"\n## {system}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")
    ]
    return [(key.strip("`"), ours, remark) for key, _, ours, remark in cells]


def exists(dotted: str, model: type[pydantic.BaseModel]) -> bool:
    """Whether a recipe with that kind of model has the key."""
    kind: Any = Recipe
    for position, key in enumerate(dotted.split(".")):
        if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)) or key not in kind.model_fields:
            return False
        kind = model if (position, key) == (0, "model") else kind.model_fields[key].annotation
        kind = next((part for part in get_args(kind) if isinstance(part, type)), kind) if get_args(kind) else kind
    return True


def command_fault(words: str) -> str:
    """What `boxwright COMMAND [PLACEHOLDER] [--option ...]` names that does not exist; "" when all does."""
    command: Any = typer.main.get_command(app)
    rest = words.split()[1:]
    while hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"command {name}"
        command = command.commands[name]
    parameters = command.params
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    placeholders = {parameter.metavar for parameter in parameters}
    return " ".join(word for word in rest if word not in options and word not in placeholders)


@pytest.mark.parametrize("system", MODELS)
def test_every_published_key_has_one_row(system: str) -> None:
    keys = [key for key, _, _ in rows(system)]
    assert len(keys) == len(set(keys))
    assert set(PUBLISHED[system]) - set(keys) == set()


def test_every_published_flag_has_a_row() -> None:
    keys = {key for system in MODELS for key, _, _ in rows(system)}
    assert set(PUBLISHED["flags"]) - keys == set()


@pytest.mark.parametrize("system", MODELS)
def test_every_counterpart_exists(system: str) -> None:
    config = models.module(MODELS[system]).Config
    for key, ours, remark in rows(system):
        places = re.findall(r"`([^`]+)`", ours)
        if not places:
            assert ours == "none", key
            assert len(remark) > 10, f"{key}: no reason given"
        for place in places:
            if place.startswith("boxwright "):
                assert command_fault(place) == "", f"{key}: {place}"
            else:
                assert exists(place, config), f"{key}: {place}"


def test_every_published_script_has_a_counterpart_that_exists() -> None:
    section = PAGE.split("\n## Published scripts\n")[1].split("\n## ")[0]
    table = {
        line.split("|")[1]: line.split("|")[2] for line in section.splitlines() if "boxwright " in line and "|" in line
    }
    assert len(table) > 10
    for script in SCRIPTS:
        assert any(f"`{script}`" in theirs or f"`{script} " in theirs for theirs in table), script
    for ours in table.values():
        commands = re.findall(r"`(boxwright [^`]+)`", ours)
        assert commands
        for command in commands:
            name = re.match(r"boxwright (data )?\w+", command)
            assert name
            assert command_fault(f"{name[0]} {' '.join(re.findall('--[a-z-]+', command))}") == "", command


def test_missing_keys_and_options_are_detected() -> None:
    config = models.module("yolov3").Config
    assert exists("train.schedule.lr", config)
    assert exists("model.loss.ignore_iou", config)
    assert not exists("train.schedule.rate", config)
    assert not exists("model.loss.anchor_ratio", config)
    assert not exists("train.epochs.count", config)
    assert command_fault("boxwright train --weights --transfer") == ""
    assert command_fault("boxwright train --epochs") == "--epochs"
    assert command_fault("boxwright exports WEIGHTS") == "command exports"
    assert command_fault("boxwright data tensors --count") == ""
    assert command_fault("boxwright data tensor --count") == "command tensor"


def test_modelarts_boot_file_runs_the_documented_commands(tmp_path: Path) -> None:
    """The script on the page, with a program in place of `boxwright` that prints its arguments."""
    page = (ROOT / "docs" / "modelarts.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 12
    (tmp_path / "boot.py").write_text(code)
    (tmp_path / "boxwright").write_text('#!/bin/sh\necho "boxwright $*"\nexit 3\n')
    (tmp_path / "boxwright").chmod(0o755)
    shown = page.rpartition("\n\n`python boot.py ")[2].replace("\n", " ")
    arguments, command = shown.split("` then runs `")
    done = subprocess.run(
        [sys.executable, tmp_path / "boot.py", *arguments.split()],
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (3, command.strip().rstrip(".").rstrip("`"))
    assert command_fault(" ".join(word for word in command.split("`")[0].split() if "obs:" not in word
                                  and not word.startswith("yolov3"))) == ""  # fmt: skip


def test_every_key_of_the_cloud_service_has_a_counterpart() -> None:
    assert "cloud service" not in PAGE
    page = (ROOT / "docs" / "modelarts.md").read_text(encoding="utf-8")
    keys = {key for system in MODELS for key, _, _ in rows(system) if "modelarts" in key or key.endswith("_url")}
    assert len(keys) == 6
    for key in {*keys, "data_path", "output_path", "load_path"}:
        assert f"`{key}`" in page, key
        places = [ours for system in MODELS for name, ours, _ in rows(system) if name == key]
        assert places, key
        assert "none" not in places, key
