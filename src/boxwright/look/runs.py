"""The runs beside a set: what they are, their curves, and whether there are predictions of them."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright import json_text
from boxwright.errors import InputError, titled
from boxwright.evaluation.runs import find_runs, list_runs
from boxwright.json_text import JsonObject
from boxwright.look.catalog import Catalog
from boxwright.metrics import run_log

if TYPE_CHECKING:
    from boxwright.look.predictions import Predictions

METRICS, TABLE = "metrics.json", "errors.csv"  # of `evaluate`


@dataclass(slots=True)
class Run:
    """A folder of a training or of an evaluation.

    Attributes:
        name: Its name on the page, different from those of the other runs.
        folder: The folder.
    """

    name: str
    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _predictions: "Predictions | None" = None
    _log: tuple[tuple[int, int], list[JsonObject]] = ((0, 0), [])

    def describe(self, catalog: Catalog) -> JsonObject:
        """What the page needs to know without reading all predictions."""
        message, matching = "", True
        has_table = (self.folder / TABLE).is_file()
        try:
            metrics = _metrics(self.folder)
            names = [str(row.get("name")) for row in metrics.get("classes", []) if isinstance(row, dict)]
            if unknown := [name for name in names if name not in catalog.classes]:
                matching = False
                message = f"{len(unknown)} of its {len(names)} classes are not in this set, such as {unknown[0][:40]}"
        except InputError as error:
            message = str(error)
        if not has_table:
            command = f"boxwright evaluate {self.folder} --data {catalog.data} --out {self.folder}"
            message = message or f"no predictions: found no {TABLE}; run `{command}`"
        return {"name": self.name, "classes_match": matching, "predictions": has_table, "message": message}

    def predictions(self, catalog: Catalog) -> "Predictions":
        """What `evaluate` has written, read once. Raises InputError if there is nothing, or it is damaged."""
        from boxwright.look.predictions import Predictions

        with self._lock:
            if self._predictions is None:
                description = self.describe(catalog)
                if not description["predictions"]:
                    raise InputError(f"{self.name}: {description['message']}")
                root = str(_metrics(self.folder).get("data", ""))
                self._predictions = Predictions.read(self.folder / TABLE, root, catalog)
            return self._predictions

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
    """The runs of a page.

    Args:
        paths: Folders of runs, or of evaluations, or with such at any depth.

    Raises:
        InputError: A folder is not there, or has neither a run nor an evaluation in it.
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
        """Raises InputError for a name that no run has."""
        for run in self.runs:
            if run.name == name:
                return run
        raise InputError(f"run: there is no '{name[:60]}' on this page")

    def table(self) -> list[JsonObject]:
        """The rows of `boxwright runs`, with the names on this page."""
        rows = []
        names = {run.folder: run.name for run in self.runs}
        for path in self.paths:
            try:
                listed = list_runs(path)
            except InputError:  # an evaluation
                continue
            for row in listed.to_json():
                folder = path if row["name"] == path.resolve().name and path in names else path / row["name"]
                rows.append(row | {"name": names.get(folder, row["name"])})
        return rows

    def curves(self, after: int) -> list[JsonObject]:
        """Of each run its lines with losses (`points`) and with metrics (`evaluations`) after a step."""
        found = []
        for run in self.runs:
            message, lines = "", list[JsonObject]()
            try:
                lines = [line for line in run.log() if line["step"] > after]
            except InputError as error:
                message = str(error)
            points = [_flat(line) for line in lines if "terms" in line]
            evaluations = [line for line in lines if "terms" not in line]
            found.append({"name": run.name, "points": points, "evaluations": evaluations, "message": message})
        return found


def _flat(line: JsonObject) -> JsonObject:
    """A line of a log with the losses among its other numbers; `loss` is their sum."""
    others: Mapping[str, object] = {name: value for name, value in line.items() if name not in ("terms", "total")}
    return {**others, "loss": line["total"], **line["terms"]}


def _metrics(folder: Path) -> JsonObject:
    """The content of metrics.json, {} without one. Raises InputError if it is damaged."""
    file = folder / METRICS
    content = json_text.read(file) if file.is_file() else {}
    if not isinstance(content, dict) or not isinstance(content.get("classes", []), list):
        raise InputError(f"{file}: no metrics of an evaluation; evaluate again")
    return content
