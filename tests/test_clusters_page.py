"""Scripts on docs/clusters.md can be parsed, and the commands in them exist (without a scheduler)."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from test_readme import fault

PAGE = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


SCRIPTS, DOCUMENTS = blocks("bash"), [each for block in blocks("yaml") for each in yaml.safe_load_all(block)]


def test_page_contains_scripts_and_documents() -> None:
    assert sum("#SBATCH" in script for script in SCRIPTS) == 1
    assert [document["kind"] for document in DOCUMENTS] == ["Service", "Job", "RayJob"]


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def commands(tree: Any) -> Iterator[list[str]]:
    """The commands of containers and entry points of a YAML document."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "command":
                yield value
            elif key == "entrypoint":
                yield shlex.split(value)
            else:
                yield from commands(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from commands(value)


def test_commands_in_yaml_exist() -> None:
    found = [words for document in DOCUMENTS for words in commands(document)]
    assert len(found) == 2
    for program, *words in found:
        assert (program, fault(words)) == ("boxwright", "")


def test_command_in_slurm_script_exists() -> None:
    (script,) = [script for script in SCRIPTS if "#SBATCH" in script]
    (inner,) = re.findall(r"bash -c '(.*?)'", script, re.S)
    subprocess.run(["bash", "-n"], input=inner, text=True, check=True)
    words = shlex.split(inner.replace("\\\n", " "))
    assert fault(words[words.index("boxwright") + 1 :]) == ""
