"""benchmarks/on_gpu.py, tiny and on a CPU: what it writes, when, and what it leaves out."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from boxwright.engine import job
from boxwright.ops import kernels

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="measures for minutes where there is a GPU")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def on_gpu(torchvision_ops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module; what it changes in others is changed back afterwards."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(job, "compiled_loss", job.compiled_loss)  # type: ignore[attr-defined]
    monkeypatch.setattr(job, "compiler_works", job.compiler_works)  # type: ignore[attr-defined]
    monkeypatch.setattr(kernels, "_preferred", "torchvision")
    import on_gpu

    return on_gpu


def start(module: Any, out: Path, only: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--small", "--out", str(out), "--only", only])
    module.main()
    found: dict[str, Any] = json.loads((out / "gpu-none.json").read_text())["cases"]
    return found


@pytest.mark.slow
def test_missing_cases_are_measured_and_tables_written(
    on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results.md"
    results.write_text(f"before\n{on_gpu.BEGIN}\nold\n{on_gpu.END}\nafter\n")
    eager = start(on_gpu, tmp_path, "Tiny-DarkNet 224, batch 128, fp32, eager", monkeypatch)
    (row,) = eager.values()
    assert "error" not in row
    assert row["step"] == pytest.approx(2000 / row["ms"])
    assert all(row[key] > 0 for key in ("training", "loader", "first"))
    assert 0 <= row["waiting"] < 1

    real, seen = on_gpu.measure, []

    def measure(recipe: Any, *given: Any) -> Any:
        seen.append(recipe.train.compile)
        if not recipe.train.compile:
            raise torch.OutOfMemoryError
        return real(recipe, *given)

    monkeypatch.setattr(on_gpu, "measure", measure)
    found = start(on_gpu, tmp_path, "Tiny-DarkNet 224, batch 128, (bf16, eager|fp32)", monkeypatch)
    assert sorted(seen) == [False, True]
    assert found["Tiny-DarkNet 224, batch 128, fp32, eager"] == row
    assert found["Tiny-DarkNet 224, batch 128, bf16, eager"]["error"] == "out of memory"
    assert found["Tiny-DarkNet 224, batch 128, fp32, compiled"]["loader"] == row["loader"]
    text = results.read_text()
    assert text.startswith(f"before\n{on_gpu.BEGIN}\n")
    assert text.endswith(f"{on_gpu.END}\nafter\n")
    assert "old" not in text
    assert "| Tiny-DarkNet 224, batch 128, bf16, eager | 12000 | out of memory |" in text
    assert f"| Tiny-DarkNet 224, batch 128, fp32, eager | 12000 | {row['training']:.0f} |" in text


def test_cases_beyond_the_time_limit_are_not_started(
    on_gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_gpu.run(on_gpu.cases(), tmp_path / "gpu-x.json", tmp_path, 0.0, False)
    assert len(capsys.readouterr().out.splitlines()) == len(on_gpu.cases())
    assert not list(tmp_path.iterdir())


def test_every_case_has_a_recipe(on_gpu: Any, tmp_path: Path) -> None:
    cases = on_gpu.cases()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        recipe = on_gpu.recipe_of(case, tmp_path, False)
        assert recipe.train.batch == case.batch
        assert (getattr(recipe.model, "deform", "none") == "none") == (
            case.system is not on_gpu.FASTER or case.variant == "ordinary convolutions"
        )
