"""`--to om` without CANN, and with a stand-in for its compiler; other formats that need Ascend hardware."""

from pathlib import Path

import pytest

import boxwright as bw
from boxwright import runtimes
from boxwright.errors import InputError
from boxwright.export.run import export_model
from boxwright.runtimes.base.metadata import Metadata
from test_export import files_beside_weights, saved

pytestmark = pytest.mark.runtimes

# It keeps its arguments and copies the network that it was given, as the compiler would replace it.
COMPILER = """#!/bin/sh
echo "$@" > "{folder}/words"
for word in "$@"; do
  case $word in
    --model=*) model=${{word#--model=}} ;;
    --output=*) output=${{word#--output=}} ;;
  esac
done
{end}
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A program `atc` that is the only one on PATH beside the system's own."""
    folder.mkdir()
    program = folder / "atc"
    program.write_text(COMPILER.format(folder=folder, end=end))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_missing_cann_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    weights = saved(tmp_path)
    with pytest.raises(InputError, match=r"use --to onnx here and then.* atc --framework=5 .*--soc_version=Ascend9"):
        export_model(weights, "om", tmp_path / "x.om", chip="Ascend9")
    with pytest.raises(InputError, match="--chip, for example Ascend310P3"):
        export_model(weights, "om", tmp_path / "x.om")
    assert files_beside_weights(tmp_path) == set()


def test_atc_receives_the_checked_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", monkeypatch, 'cp "$model" "$output.om"')
    weights = saved(tmp_path)
    folder = tmp_path / "a b"
    folder.mkdir()
    report = export_model(weights, "om", folder / "x.om", chip="Ascend310P3")
    words = (tmp_path / "bin" / "words").read_text()
    assert words.startswith("--framework=5 --model=")
    assert words.endswith("--soc_version=Ascend310P3\n")
    assert sorted(one.name for one in folder.iterdir()) == ["x.om", "x.om.json", "x.om.parity.json"]
    assert report.content["backend"] == "onnxruntime"
    assert report.content["raw"]
    metadata = Metadata.from_text((folder / "x.om.json").read_text(), "x")
    assert metadata.recipe.name == "demo"
    (folder / "x.om").rename(folder / "x.onnx")  # the stand-in's copy of the network
    assert bw.load(folder / "x.onnx").recipe == metadata.recipe


@pytest.mark.parametrize("end", ["echo 'E10001: unknown chip' >&2; exit 1", "echo 'E10001: unknown chip'"])
def test_rejection_by_atc_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    install(tmp_path / "bin", monkeypatch, end)
    weights = saved(tmp_path)
    with pytest.raises(InputError, match=r"x\.om: atc --soc_version=Ascend9 rejects .* \(E10001: unknown chip\)"):
        export_model(weights, "om", tmp_path / "x.om", chip="Ascend9")
    assert list(tmp_path.glob("x.o*")) == [tmp_path / "x.om.parity.json"]


@pytest.mark.parametrize("to", [name for name, target in runtimes.targets().items() if target.fixed_shapes])
@pytest.mark.parametrize("word", ["dynamic_batch", "complete"])
def test_dynamic_batch_and_nms_are_rejected_for_fixed_shapes(tmp_path: Path, to: str, word: str) -> None:
    weights = saved(tmp_path)
    with pytest.raises(InputError, match=f"--to {to}: found --dynamic-batch or --with-nms, needs fixed shapes"):
        export_model(weights, to, tmp_path / f"x.{to}", **{word: True})  # type: ignore[arg-type]


def test_air_export_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="AIR on Ascend hardware only; use --to mindir or --to om"):
        export_model(saved(tmp_path), "air")
