"""Release files other than code: one version, licenses, workflows, templates; linters if installed."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import boxwright

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LICENSES = runpy.run_path(str(ROOT / ".ci" / "licenses.py"))


def tree(file: str | Path) -> Any:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


def test_version_is_consistent() -> None:
    assert tree("CITATION.cff")["version"] == boxwright.__version__
    assert re.search(rf"^## \[{re.escape(boxwright.__version__)}\] - ", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert tomllib.loads(PROJECT)["project"]["dynamic"] == ["version"]  # version.py is the one place


def test_changelog_follows_keep_a_changelog() -> None:
    headings = re.findall(r"^##+ .*$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    version = r"## \[(Unreleased|\d+\.\d+\.\d+)\]( - (unreleased|\d{4}-\d\d-\d\d))?"
    kind = r"### (Added|Changed|Deprecated|Removed|Fixed|Security)"
    assert [line for line in headings if not re.fullmatch(f"{version}|{kind}", line)] == []
    assert headings[0].startswith("## [")


def test_citation_has_required_fields() -> None:
    """Fields that the schema of CFF 1.2 requires, and the license of the package."""
    citation = tree("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f'license = "{citation["license"]}"' in PROJECT


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_targets_and_commands_in_workflows_exist(file: Path) -> None:
    from test_readme import fault

    workflow = tree(file)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    targets = [words[-1] for words in map(str.split, commands) if words[0] == "make"]
    assert targets
    assert [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.M)] == []
    assert [fault(words[1:]) for words in map(str.split, commands) if words[0] == "boxwright"] in ([], [""])
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.search(r"@[a-z/]*v\d+$", step["uses"]) for step in steps if "uses" in step)


def test_ci_matrix_covers_supported_python_versions() -> None:
    matrix = tree(WORKFLOWS[-1])["jobs"]["fast"]["strategy"]["matrix"]
    lowest, end = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PROJECT).groups())  # type: ignore[union-attr]
    assert matrix["python"] == [f"3.{minor}" for minor in range(lowest, end)]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_issue_templates_and_tool_settings_are_valid() -> None:
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        content = tree(file)
        assert file.name == "config.yml" or {"name", "description", "body"} <= set(content), file.name
    systems = [update["package-ecosystem"] for update in tree(".github/dependabot.yml")["updates"]]
    assert systems == ["github-actions", "pip", "docker"]
    for hook in tree(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        assert hook["entry"].removeprefix(".venv/bin/").split()[0] in {"ruff", "mypy"}
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).is_file()
    assert container["postCreateCommand"].startswith("make ")
    assert re.search(rf"^{re.escape(container['postCreateCommand'].split()[1])}:", MAKEFILE, re.M)


def test_license_check_covers_all_extras_except_documented_ones() -> None:
    (extras,) = re.findall(r"^EXTRAS := (.*)$", MAKEFILE, re.M)
    project = set(tomllib.loads(PROJECT)["project"]["optional-dependencies"])
    assert project - set(extras.split()) == {"test", "dev", "docs", "mindspore"}
    assert "MindSpore (Apache-2.0) is not checked" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", ["actionlint", "hadolint"])
def test_linters_report_nothing(program: str) -> None:
    linter = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip(f"needs {program}")
    files = [str(file) for file in WORKFLOWS] if program == "actionlint" else [".devcontainer/Dockerfile"]
    done = subprocess.run([linter, *files], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("text", "strong"),
    [
        ("MIT", False),
        ("GPL-2.0-or-later", True),
        ("AGPL-3.0-only", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 or later (LGPLv3+)", False),
        ("GNU Library or Lesser General Public License (LGPL)", False),
        ("MIT OR GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", True),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("LGPL-2.1-only AND GPL-2.0-only", True),
    ],
)
def test_strong_copyleft_licenses_are_detected(text: str, strong: bool) -> None:
    assert LICENSES["is_strong"](text) == strong


def test_license_list_is_complete_and_reports_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core of two packages, one through the other; an extra with one under the GPL, one without a license, and one
    that is not installed."""
    needed = {
        "boxwright": ["aa>=1", "gpl; extra == 'bad'", "bare; extra == 'bad'", "gone[more]; extra == 'bad'"],
        "aa": ["bb", "unused; sys_platform == 'none'"],
    }
    fields = {
        "aa": {"License-Expression": "MIT"},
        "bb": {"Classifier": ["License :: OSI Approved", "License :: OSI Approved :: BSD License"]},
        "gpl": {"License": "GPL v3\nand its text"},
        "bare": {"License": "UNKNOWN"},
    }

    def distribution(name: str) -> SimpleNamespace:
        if name == "gone":
            raise metadata.PackageNotFoundError(name)
        values = fields.get(name, {})
        meta = SimpleNamespace(get=values.get, get_all=lambda key, default: values.get(key, default))
        files = [PurePath("bb.libs", name) for name in ("libx264-d6533a8d.so.165", "libpng16.so", "x264.py")]
        return SimpleNamespace(name=name, version="1.0", metadata=meta, files=files if name in {"av", "bb"} else None)

    monkeypatch.setattr(metadata, "distribution", distribution)
    monkeypatch.setattr(metadata, "requires", lambda name: needed.get(name))
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    lines, faults = LICENSES["report"](["bad"])
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert rows == [
        "| aa | 1.0 | MIT | core |",
        "| bare | 1.0 |  | bad |",
        "| bb | 1.0 | BSD License | core |",
        "| gone |  |  | bad |",
        "| gpl | 1.0 | GPL v3 | bad |",
    ]
    assert [fault.split(":")[0] for fault in faults] == ["bare 1.0", "bb 1.0", "gone", "gpl 1.0"]
    assert faults[1] == "bb 1.0: contains libx264-d6533a8d.so.165"
