"""docs/parameters.md: a row for each published key, and every place it points to exists."""

import json
import re
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
    """What `boxwright VERB [PLACEHOLDER] [--option ...]` names that does not exist; "" when all does."""
    command: Any = typer.main.get_command(app)
    rest = words.split()[1:]
    while hasattr(command, "commands"):
        verb = rest.pop(0)
        if verb not in command.commands:
            return f"verb {verb}"
        command = command.commands[verb]
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
def test_every_place_named_exists(system: str) -> None:
    config = models.module(MODELS[system]).Config
    for key, ours, remark in rows(system):
        places = re.findall(r"`([^`]+)`", ours)
        if not places:
            assert ours == "none", key
            assert len(remark) > 10 or remark == "cloud service", f"{key}: no reason given"
        for place in places:
            if place.startswith("boxwright "):
                assert command_fault(place) == "", f"{key}: {place}"
            else:
                assert exists(place, config), f"{key}: {place}"


def test_every_published_script_has_a_counterpart_that_exists() -> None:
    section = PAGE.split("\n## What the published scripts do\n")[1].split("\n## ")[0]
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
            verb = re.match(r"boxwright (data )?\w+", command)
            assert verb
            assert command_fault(f"{verb[0]} {' '.join(re.findall('--[a-z-]+', command))}") == "", command


def test_the_check_itself_sees_what_is_missing() -> None:
    config = models.module("yolov3").Config
    assert exists("train.schedule.lr", config)
    assert exists("model.loss.ignore_iou", config)
    assert not exists("train.schedule.rate", config)
    assert not exists("model.loss.anchor_ratio", config)
    assert not exists("train.epochs.count", config)
    assert command_fault("boxwright train --weights --transfer") == ""
    assert command_fault("boxwright train --epochs") == "--epochs"
    assert command_fault("boxwright exports WEIGHTS") == "verb exports"
    assert command_fault("boxwright data tensors --count") == ""
    assert command_fault("boxwright data tensor --count") == "verb tensor"
