"""What quantisation gained and cost, as text, JSON, Markdown and a picture."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from boxwright import __version__, json_text
from boxwright.export.sensitivity import Moved
from boxwright.files import atomic_write

SHOWN = 30  # layers in the picture, the most sensitive ones; text and JSON have all


@dataclass(frozen=True, slots=True)
class Side:
    """quality: AP or top-1. size: bytes. ms: median milliseconds of the network for one picture."""

    quality: float
    size: int
    ms: float


@dataclass(frozen=True, slots=True)
class Trial:
    """floats: layers that stayed float. quality: AP or top-1 of the rest in 8 bits."""

    floats: tuple[str, ...]
    quality: float


@dataclass(frozen=True, slots=True)
class Report:
    """calibrated_on, measured_on: pictures, in words. measure: AP or top-1. trials: in order, the last one was kept.
    layers: most sensitive first."""

    file: Path
    recipe: str
    backend: str
    calibrated_on: str
    measured_on: str
    measure: str
    limit: float
    before: Side
    after: Side
    trials: tuple[Trial, ...]
    layers: tuple[Moved, ...]

    @property
    def drop(self) -> float:
        return self.before.quality - self.after.quality

    @property
    def floats(self) -> tuple[str, ...]:
        """Layers that stayed float."""
        return self.trials[-1].floats

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(what, float32, INT8, comparison)"""
        one, other = self.before, self.after
        return [
            (self.measure, f"{one.quality:.4f}", f"{other.quality:.4f}", f"drop {self.drop:.4f} of {self.limit:g}"),
            ("ms a picture", f"{one.ms:.1f}", f"{other.ms:.1f}", f"{one.ms / other.ms:.2f}x as fast"),
            ("MB", f"{one.size / 1e6:.1f}", f"{other.size / 1e6:.1f}", f"{other.size / one.size:.2f}x the size"),
        ]

    def __str__(self) -> str:
        lines = [f"{'':<12}  {'float32':>8}  {'INT8':>8}"]
        lines += [f"{what:<12}  {one:>8}  {other:>8}  {said}" for what, one, other, said in self.rows()]
        lines += [f"layers in float: {', '.join(self.floats) or 'none'}", self._told(), str(self.file)]
        return "\n".join(lines)

    def _told(self) -> str:
        return f"{self.backend}, calibrated on {self.calibrated_on}, measured on {self.measured_on}"

    def save(self) -> None:
        """Write FILE.int8.json, .md and .png."""
        for suffix, text in ((".json", self._json()), (".md", self._markdown())):
            with atomic_write(f"{self.file}.int8{suffix}") as tmp:
                tmp.write_text(text, encoding="utf-8")
        with atomic_write(f"{self.file}.int8.png") as tmp:
            self._figure().savefig(tmp, format="png", dpi=130)

    def _json(self) -> str:
        versions = {"boxwright": __version__, "torch": torch.__version__, "python": platform.python_version()}
        content = asdict(self) | {"file": self.file.name, "drop": self.drop, "floats": self.floats}
        return json_text.dumps(content | {"versions": versions}, indent=1)

    def _markdown(self) -> str:
        lines = [f"# {self.file.name}", "", f"{self.recipe}, {self._told()}.", ""]
        lines += ["| | float32 | INT8 | |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        lines += ["", "| layers in float | " + self.measure + " |", "| --- | --- |"]
        lines += [f"| {', '.join(trial.floats) or 'none'} | {trial.quality:.4f} |" for trial in self.trials]
        lines += ["", "How much the raw tensors move when one layer alone computes in 8 bits:", ""]
        lines += ["| layer | moved by | |", "| --- | --- | --- |"]
        lines += [f"| {one.layer} | {one.by:.4f} | {'float' * (one.layer in self.floats)} |" for one in self.layers]
        return "\n".join(lines) + "\n"

    def _figure(self) -> Figure:
        shown = self.layers[:SHOWN]
        figure = Figure(figsize=(9, 1.4 + 0.26 * len(shown)), layout="constrained")
        axes = figure.subplots()
        tints = ["tab:orange" if one.layer in self.floats else "tab:blue" for one in shown]
        axes.barh([one.layer for one in shown], [one.by for one in shown], color=tints)
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=8)
        axes.set(xlabel="share by which the raw tensors move (root mean square)")
        said = " ,  ".join(f"{what} {one} → {other}" for what, one, other, _ in self.rows())
        left = ", orange: left in float" if self.floats else ""
        axes.set_title(f"one layer alone in 8 bits{left}\n{said}", fontsize=9, parse_math=False)
        axes.grid(True, axis="x", lw=0.5, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        return figure
