"""The report of a quantization, as text, JSON, Markdown and an image."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from boxwright import json_text
from boxwright.export.sensitivity import LayerSensitivity
from boxwright.files import atomic_write
from boxwright.metrics.comparison import Difference
from boxwright.version import versions

MAX_LAYERS = 30  # layers in the image, the most sensitive ones; text and JSON have all


@dataclass(frozen=True, slots=True)
class FileStats:
    """Measurements of a file. quality: AP or top-1. size: bytes. ms: median latency of the network for one image."""

    quality: float
    size: int
    ms: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial. floats: layers left in float. quality: AP or top-1 with the other layers in INT8."""

    floats: tuple[str, ...]
    quality: float


@dataclass(frozen=True, slots=True)
class Int8Report:
    """The result of a quantization.

    Attributes:
        file: The INT8 file.
        recipe: Name of the recipe.
        backend: The runtime.
        calibrated_on: Description of the calibration images.
        measured_on: Description of the evaluated images.
        measure: `AP` or `top-1`.
        limit: Maximum drop of the measure.
        before: The float32 file.
        after: The INT8 file.
        trials: In order; the last one was kept.
        layers: Most sensitive first.
        difference: Difference of the measure, from the float32 file to the INT8 file.
    """

    file: Path
    recipe: str
    backend: str
    calibrated_on: str
    measured_on: str
    measure: str
    limit: float
    before: FileStats
    after: FileStats
    trials: tuple[Trial, ...]
    layers: tuple[LayerSensitivity, ...]
    difference: Difference

    @property
    def drop(self) -> float:
        return self.before.quality - self.after.quality

    @property
    def floats(self) -> tuple[str, ...]:
        """Layers left in float."""
        return self.trials[-1].floats

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(quantity, float32, INT8, comparison) as text."""
        old, new = self.before, self.after
        low, high = self.difference.interval
        ends = "" if math.isnan(low) else f" [{-high:.4f}, {-low:.4f}]"
        return [
            (self.measure, f"{old.quality:.4f}", f"{new.quality:.4f}", f"drop {self.drop:.4f}{ends} of {self.limit:g}"),
            ("ms per image", f"{old.ms:.1f}", f"{new.ms:.1f}", f"{old.ms / new.ms:.2f}x as fast"),
            ("MB", f"{old.size / 1e6:.1f}", f"{new.size / 1e6:.1f}", f"{new.size / old.size:.2f}x the size"),
        ]

    def __str__(self) -> str:
        lines = [f"{'':<12}  {'float32':>8}  {'INT8':>8}"]
        lines += [f"{quantity:<12}  {old:>8}  {new:>8}  {comparison}" for quantity, old, new, comparison in self.rows()]
        lines += [f"layers in float: {', '.join(self.floats) or 'none'}", self._description(), str(self.file)]
        return "\n".join(lines)

    def _description(self) -> str:
        return f"{self.backend}, calibrated on {self.calibrated_on}, measured on {self.measured_on}"

    def save(self) -> None:
        """Write FILE.int8.json, .md and .png."""
        for suffix, text in ((".json", self._json()), (".md", self._markdown())):
            with atomic_write(f"{self.file}.int8{suffix}") as tmp:
                tmp.write_text(text, encoding="utf-8")
        with atomic_write(f"{self.file}.int8.png") as tmp:
            self._figure().savefig(tmp, format="png", dpi=130)

    def _json(self) -> str:
        content = asdict(self) | {"file": self.file.name, "drop": self.drop, "floats": self.floats}
        content["difference"] = self.difference.to_json()
        return json_text.dumps(content | {"versions": versions("torch")}, indent=1)

    def _markdown(self) -> str:
        lines = [f"# {self.file.name}", "", f"{self.recipe}, {self._description()}.", ""]
        lines += ["| | float32 | INT8 | |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        lines += ["", "| layers in float | " + self.measure + " |", "| --- | --- |"]
        lines += [f"| {', '.join(trial.floats) or 'none'} | {trial.quality:.4f} |" for trial in self.trials]
        lines += ["", "Relative RMS change of the raw outputs when one layer alone is quantized:", ""]
        lines += ["| layer | change | |", "| --- | --- | --- |"]
        lines += [f"| {row.layer} | {row.change:.4f} | {'float' * (row.layer in self.floats)} |" for row in self.layers]
        return "\n".join(lines) + "\n"

    def _figure(self) -> Figure:
        layers = self.layers[:MAX_LAYERS]
        figure = Figure(figsize=(9, 1.4 + 0.26 * len(layers)), layout="constrained")
        axes = figure.subplots()
        colors = ["tab:orange" if row.layer in self.floats else "tab:blue" for row in layers]
        axes.barh([row.layer for row in layers], [row.change for row in layers], color=colors)
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=8)
        axes.set(xlabel="relative RMS change of the raw outputs")
        summary = " ,  ".join(f"{quantity} {old} → {new}" for quantity, old, new, _ in self.rows())
        legend = ", orange: left in float" if self.floats else ""
        axes.set_title(f"one layer alone in INT8{legend}\n{summary}", fontsize=9, parse_math=False)
        axes.grid(True, axis="x", lw=0.5, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        return figure
