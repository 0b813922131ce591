"""Export targets are found by their files; all of them satisfy the interface of `Target`."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import boxwright as bw
import small_run
from boxwright import cli, models, runtimes
from boxwright.errors import InputError
from boxwright.recipe import load
from boxwright.runtimes.base.open import is_exported, runtime_names, runtimes_of
from boxwright.weights import checkpoint

ROOT = Path(__file__).parents[1]

# A target of one file: the archives of torch.export under another suffix, run by a runtime of another name.
ADDED = """
from dataclasses import replace
from boxwright.runtimes import pt2

TARGET = replace(pt2.TARGET, suffix=".added", checked_by="json", runtimes={"json": pt2.open_file})
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a target whose module is in a separate folder."""
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "added_target.py").write_text(ADDED)
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(folder)])
    yield "added_target"
    sys.modules.pop("boxwright.runtimes.added_target", None)
    vars(runtimes).pop("added_target", None)


@pytest.mark.slow
def test_target_is_added_by_one_file(added: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is listed, exported to, compared, opened and run, and nothing else names it."""
    assert added in runtimes.names()
    chosen = load("demo", small_run.SMALL | {"data.names": ["car", "truck", "tank"]})
    torch.manual_seed(1)
    checkpoint.save(tmp_path / "w.safetensors", models.module(chosen.model.name).build(chosen.model), chosen)  # type: ignore[attr-defined]
    report = bw.export_model(tmp_path / "w.safetensors", added, tmp_path / "x.added")
    assert report.content["backend"] == "json"
    assert is_exported(tmp_path / "x.added")
    assert runtimes_of(tmp_path / "x.added") == ("json",)
    assert "json" in runtime_names()
    predictor = bw.load(tmp_path / "x.added", device="cpu", backend="json")
    images = torch.rand(2, 3, *chosen.data.canvas.size)
    assert predictor.runtime is not None
    with torch.inference_mode():
        expected = bw.load(tmp_path / "w.safetensors", device="cpu").model(images)
    torch.testing.assert_close(predictor.runtime.forward(images), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"--to: found 'tflite', needed one of added_target, ckpt, "):
        runtimes.target("tflite")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["predict", str(tmp_path / "x.added"), "a.png", "--backend", "tensorrt"])
    assert stopped.value.code == 2
    needed = "needed one of auto, json, mindspore, onnxruntime, opencv, openvino, torch"
    assert capsys.readouterr().err == f"boxwright: --backend: found 'tensorrt', {needed}\n"


def test_target_is_unknown_without_its_file(tmp_path: Path) -> None:
    assert "added_target" not in runtimes.names()
    assert not is_exported("x.added")


@pytest.mark.parametrize("name", runtimes.names())
def test_target_declarations_are_consistent(name: str) -> None:
    target = runtimes.target(name)
    assert bool(target.write) != (target.write_weights is not None)
    assert bool(target.runtimes) == (target.read_metadata is not None)
    assert target.checked_by in target.runtimes or target.metadata_beside
    assert target.checked_by in runtime_names()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert target.extra in ("", *extras)
    page = (ROOT / "docs" / "export.md").read_text().splitlines()
    row = next(line for line in page if line.startswith(f"| `{name}` |"))
    assert f"`{target.suffix}`" in row
    assert not target.companion or f"`{target.companion}`" in row
    assert f"boxwright[{target.extra}]" in row or not target.runtimes or not target.extra


def test_suffixes_are_unique() -> None:
    suffixes = [target.suffix for target in runtimes.targets().values()]
    assert len(set(suffixes)) == len(suffixes)


def test_names_are_listed_without_importing_a_library() -> None:
    code = (
        "import sys; import boxwright.cli.commands; from boxwright import runtimes; print(*runtimes.names());"
        "assert not {'torch', 'onnx', 'openvino', 'mindspore', 'boxwright.runtimes.onnx'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ckpt", "darknet", "mindir", "om", "onnx", "openvino", "pt2", "torchscript"]
