"""`boxwright doctor`: its values equal those of other programs, and faults give status 1."""

import json
import os
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from boxwright import cli, doctor
from boxwright.cache import VARIABLE

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRES = ["numpy>=1", "av>=16; extra == 'video'", "scipy>=1; extra == 'video'", "zz-none>=2; extra == 'serve'"]


@pytest.fixture
def requires(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the installed boxwright needs, to be changed."""
    lines = [*REQUIRES]
    versions = {"numpy": np.__version__, "av": "16.0", "scipy": "1.13"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(metadata, "version", version)
    return lines


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["doctor", *arguments])
    return leaving.value.code


def test_every_user_extra_lists_its_commands() -> None:
    assert set(doctor.NEEDED_FOR) == set(PROJECT["optional-dependencies"]) - {"test", "docs", "dev"}


def test_text_and_json_reports_are_equal(requires: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text, messages = capsys.readouterr()
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert messages == ""
    assert f"numpy {np.__version__}\n" in text
    assert found["packages"] == [{"name": "numpy", "needed": ">=1", "version": np.__version__, "fault": ""}]
    assert found["extras"]["video"]["works"]
    assert [each["name"] for each in found["extras"]["video"]["packages"]] == ["av", "scipy"]
    assert re.search(r"^  video +av 16.0, scipy 1.13$", text, re.M)
    assert not found["extras"]["serve"]["works"]
    assert re.search(r"^  serve +zz-none is not installed; pip install 'boxwright\[serve\]' for: serve$", text, re.M)
    assert found["threads"] == torch.get_num_threads()
    assert f"{found['cores']} cores to use, {found['threads']} threads" in text
    assert next(iter(found["devices"])) == "cpu"
    assert found["problems"] == []
    assert text.endswith("no problems found\n")


def test_cache_disk_memory_and_core_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    (folder / "objects").mkdir(parents=True)
    (folder / "objects" / "a").write_bytes(bytes(3_000_000))
    (folder / "b").write_bytes(bytes(500_000))
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.setenv("BOXWRIGHT_CACHE_SIZE", "2GB")
    found = doctor.examine()
    assert found.cache is not None
    assert (found.cache["folder"], found.cache["bytes"], found.cache["limit"]) == (str(folder), 3_500_000, 2 * 10**9)
    assert f"{folder} takes 3.5 MB" in str(found)
    assert "at most 2 GB" in str(found)
    assert abs(found.disk - shutil.disk_usage(".").free) < 2 * 10**9  # others write, too
    assert 0 < found.memory <= psutil.virtual_memory().total
    assert 1 <= found.cores <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--extra", "serve"], "extra serve: zz-none is not installed"),
        (["--device", "cuda:77"], "device 'cuda:77': not available on this machine"),
        (["--extra", "mlflow"], "extra mlflow: unknown"),
    ],
)
def test_requested_feature_that_does_not_work_is_status_1(
    arguments: list[str], problem: str, requires: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    assert f"\ndoes not work: {problem}" in capsys.readouterr().out


def test_outdated_or_broken_library_is_status_1(
    requires: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requires[0] = "numpy>=999"
    assert run() == 1
    assert f"does not work: numpy {np.__version__} is installed, needed >=999\n" in capsys.readouterr().out
    requires[:2] = ["zz-broken>=1; extra == 'geo'"]
    (tmp_path / "zz_broken.py").write_text("raise OSError('libz.so: cannot open\\nshared object')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metadata, "version", lambda name: "1.5")
    assert run("--extra", "geo") == 1
    assert "extra geo: zz-broken 1.5 cannot be imported (libz.so: cannot open)\n" in capsys.readouterr().out
    assert run("--json") == 1  # nothing of the core is left


def test_unknown_extra_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--extra", "vidoe") == 2
    assert capsys.readouterr().err.startswith("boxwright: --extra: found 'vidoe', needed one of train, ")
