"""Runs on a set: their settings, curves and predictions."""

import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boxwright import json_text
from boxwright.data.dataset import evenly_spaced
from boxwright.data.split_names import canonical_name
from boxwright.errors import InputError, titled
from boxwright.evaluation import runs
from boxwright.evaluation.runs import LOCK, find_runs, is_locked, list_runs
from boxwright.json_text import JsonObject
from boxwright.look.catalog import Catalog
from boxwright.look.predictions import Predictions
from boxwright.metrics import run_log

METRICS, TABLE = "metrics.json", "errors.csv"  # files of `evaluate`
MAX_POINTS = 2000  # of a curve


@dataclass(slots=True)
class Run:
    """Folder of a training or of an evaluation.

    Attributes:
        name: Unique name on the page.
        folder: The folder.
    """

    name: str
    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _predictions: tuple[tuple[int, int], Predictions] | None = None
    _log: tuple[tuple[int, int], list[JsonObject]] = ((0, 0), [])

    def describe(self, catalog: Catalog) -> JsonObject:
        """Description for the page, without reading all predictions."""
        message, matching, split = "", True, None
        has_table = (self.folder / TABLE).is_file()
        try:
            metrics = _metrics(self.folder)
            split = canonical_name(str(metrics["split"])) if "split" in metrics else None
            names = [str(row.get("name")) for row in metrics.get("classes", []) if isinstance(row, dict)]
            if unknown := [name for name in names if name not in catalog.classes]:
                matching = False
                message = f"{len(unknown)} of its {len(names)} classes are not in this set, such as {unknown[0][:40]}"
        except InputError as error:
            message = str(error)
        if not has_table:
            names = [split.name for split in catalog.splits]
            words = ["boxwright", "evaluate", str(self.folder), "--data", catalog.data, "--out", str(self.folder)]
            command = shlex.join(words if "val" in names else [*words, "--split", names[0]])
            message = message or f"no predictions: found no {TABLE}; run `{command}`"
        return {
            "name": self.name, "split": split, "classes_match": matching, "predictions": has_table, "message": message,
        }  # fmt: skip

    def predictions(self, catalog: Catalog) -> Predictions:
        """Predictions that `evaluate` has written, read again if they have changed. Raises InputError if they are
        missing or damaged."""
        with self._lock:
            try:
                found = (self.folder / TABLE).stat()
            except OSError as error:
                raise InputError(f"{self.name}: {self.describe(catalog)['message']}") from error
            stamp = found.st_size, found.st_mtime_ns
            if self._predictions is None or self._predictions[0] != stamp:
                metrics = _metrics(self.folder)
                root, split = str(metrics.get("data", "")), str(metrics.get("split", ""))
                self._predictions = stamp, Predictions.read(self.folder / TABLE, root, split, catalog)
            return self._predictions[1]

    def stamp(self) -> str:
        """Changes when the log changes, and when the run stops."""
        try:
            found = (self.folder / run_log.FILE).stat()
        except OSError:
            return "-"
        return f"{found.st_size}-{found.st_mtime_ns}-{int(is_locked(self.folder / LOCK))}"

    def log(self) -> list[JsonObject]:
        """The lines of its log, [] without one. Raises InputError if it is damaged."""
        file = self.folder / run_log.FILE
        try:
            found = file.stat()
        except OSError:
            return []
        with self._lock:
            if self._log[0] != (found.st_size, found.st_mtime_ns):
                lines = [values for _, values in run_log.read(file)]
                self._log = (found.st_size, found.st_mtime_ns), lines
            return self._log[1]


class Runs:
    """Runs of a page.

    Args:
        paths: Folders of runs or evaluations, or folders that contain them at any depth.

    Raises:
        InputError: A folder does not exist, or contains neither a run nor an evaluation.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = [Path(path) for path in paths]
        folders: dict[Path, str] = {}
        for path in self.paths:
            if not path.is_dir():
                raise InputError(f"{path}: no such folder, needed a run or a folder that evaluate has written")
            found = [path] if (path / TABLE).is_file() else [*find_runs(path)]
            if not found:
                raise InputError(
                    f"{path}: found neither a run nor {TABLE}, needed what `boxwright train` or `evaluate` has written"
                )
            for folder in found:
                folders.setdefault(folder, str(folder.relative_to(path)) if folder != path else path.resolve().name)
        names = list(folders.values())
        self.runs = [
            Run(titled(name if names.count(name) == 1 else str(folder)), folder) for folder, name in folders.items()
        ]

    def by_name(self, name: str) -> Run:
        """The run of that name. Raises InputError if there is none."""
        for run in self.runs:
            if run.name == name:
                return run
        raise InputError(f"run: there is no '{name[:60]}' on this page")

    def table(self) -> list[JsonObject]:
        """The rows of `boxwright runs`, with the names on this page, each run once."""
        rows: dict[Path, JsonObject] = {}
        names = {run.folder: run.name for run in self.runs}
        for path in self.paths:
            for row in _rows(path):
                folder = path if path in names else path / row["name"]
                try:
                    metrics = _metrics(folder) or None
                except InputError:  # reported by its state
                    metrics = None
                rows.setdefault(folder, row | {"name": names.get(folder, row["name"]), "metrics": metrics})
        return list(rows.values())

    def curves(self, after: str) -> JsonObject:
        """Curves of the runs whose logs have changed since `after`, and the new cursor.

        Each has all lines with losses (`points`, at most `MAX_POINTS`) and with metrics (`evaluations`). after: the
        `cursor` of the last response; "" for all runs.
        """
        stamps = {run.name: run.stamp() for run in self.runs}
        known = dict(part.split(":", 1) for part in after.split(",") if ":" in part)
        found = []
        for number, run in enumerate(self.runs):
            if known.get(str(number)) == stamps[run.name]:
                continue
            message, lines = "", list[JsonObject]()
            try:
                lines = run.log()
            except InputError as error:
                message = str(error)
            points = [line for line in lines if "terms" in line]
            evaluations = [line for line in lines if "terms" not in line]
            found.append(
                {"name": run.name, "state": "running" if is_locked(run.folder / LOCK) else "stopped",
                 "points": thinned(points), "evaluations": thinned(evaluations), "message": message}
            )  # fmt: skip
        cursor = ",".join(f"{number}:{stamps[run.name]}" for number, run in enumerate(self.runs))
        return {"cursor": cursor, "runs": found}


def _rows(path: Path) -> list[JsonObject]:
    """Rows of `boxwright runs`; one row, without settings, for the folder of an evaluation."""
    if any(find_runs(path)):
        return list_runs(path).to_json()
    row = runs.Run(path.name, state="evaluated")
    try:
        metrics = _metrics(path)
        row.recipe, row.data = (str(metrics.get(key, "")) for key in ("recipe", "data"))
        runs.read_metrics(row, path / METRICS)
    except InputError as error:
        row.state = f"broken: {error}"
    return [row.to_json()]


def thinned(lines: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """At most `MAX_POINTS` of the lines, evenly spaced, including the first and the last."""
    if len(lines) <= MAX_POINTS:
        return lines
    return [lines[place] for place in evenly_spaced(len(lines), MAX_POINTS)]


def _metrics(folder: Path) -> JsonObject:
    """The content of metrics.json, {} without one. Raises InputError if it is damaged."""
    file = folder / METRICS
    content = json_text.read(file) if file.is_file() else {}
    if not isinstance(content, dict) or not isinstance(content.get("classes", []), list):
        raise InputError(f"{file}: not the metrics of an evaluation; evaluate again")
    return content
