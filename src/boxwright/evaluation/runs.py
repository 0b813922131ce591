"""A table of the run folders below a folder."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boxwright import config, json_text
from boxwright.errors import InputError, printable
from boxwright.json_text import JsonObject
from boxwright.locks import lock
from boxwright.metrics import run_log
from boxwright.recipe import flatten

LOCK = ".lock"  # locked while a process trains in the folder
RECIPE, METRICS, CURVES = "recipe.yaml", "metrics.json", "curves.png"
MEASURES = {"AP": "AP", "top1": "top-1"}  # key in metrics.json -> title
NOT_DIFFERENCES = ("name", "summary", "data.root", "data.names", "model.classes", "expect")  # not listed as differences
MAX_DIFFERENCES, MAX_VALUE = 8, 40  # settings of a row, characters of a value; JSON has all
HEADINGS = (
    "run",
    "recipe",
    "data",
    "metric",
    "minutes",
    "epochs",
    "state",
    "other settings than most runs of the recipe",
)


@dataclass(slots=True)
class Run:
    """A run folder. Unknown values are "" or None.

    Attributes:
        name: Its path below the listed folder.
        recipe: The recipe's name.
        data: `data.root`.
        measure: AP or top-1.
        value: Value of `measure`, in [0, 1].
        interval: The 95 % interval of `value`.
        minutes: Minutes of training, by the times of its files.
        epochs: Number of epochs done.
        planned: Number of epochs of the recipe.
        state: done, running, stopped, or broken with the reason.
        settings: All values of the recipe by dotted key.
        differences: The `settings` that differ from most runs of the same recipe.
    """

    name: str
    recipe: str = ""
    data: str = ""
    measure: str = ""
    value: float | None = None
    interval: tuple[float, float] | None = None
    minutes: float | None = None
    epochs: int | None = None
    planned: int | None = None
    state: str = "stopped"
    settings: Mapping[str, object] = field(default_factory=dict)
    differences: Mapping[str, object] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        metric = "" if self.value is None else f"{self.measure} {self.value:.3f}"
        if self.interval is not None:
            metric += " [{:.3f}, {:.3f}]".format(*self.interval)
        minutes = "" if self.minutes is None else f"{self.minutes:.1f}"
        epochs = "" if self.epochs is None else f"{self.epochs}/{self.planned or '?'}"
        changes = [f"{key}={_short(value)}" for key, value in self.differences.items()]
        if len(changes) > MAX_DIFFERENCES:
            changes[MAX_DIFFERENCES:] = [f"and {len(changes) - MAX_DIFFERENCES} more"]
        return self.name, self.recipe, self.data, metric, minutes, epochs, self.state, " ".join(changes)

    def to_json(self) -> JsonObject:
        names = ("name", "recipe", "data", "measure", "value", "interval", "minutes", "epochs", "planned", "state")
        return {name: getattr(self, name) for name in names} | {"differences": dict(self.differences)}


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs, by name."""

    runs: tuple[Run, ...]

    def __str__(self) -> str:
        rows = [HEADINGS, *(run.cells() for run in self.runs)]
        rows = [tuple(printable(cell) for cell in row) for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def to_json(self) -> list[JsonObject]:
        """The content of a JSON file."""
        return [run.to_json() for run in self.runs]


def list_runs(folder: str | Path) -> Runs:
    """Read all run folders below `folder`, and `folder` itself if it is one.

    A run whose files cannot be read is a row with the reason.

    Raises:
        InputError: There is no such folder, or no run in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, needed one with runs")
    found = [_read(path, root) for path in find_runs(root)]
    if not found:
        raise InputError(f"{root}: found no run, needed folders as `boxwright train` writes them, with {RECIPE}")
    _compare(found)
    return Runs(tuple(found))


def find_runs(root: Path) -> Iterator[Path]:
    """Yield run folders in order, but none below a run, behind a link, or in a hidden folder."""
    for path, folders, files in os.walk(root):
        if {RECIPE, run_log.FILE, LOCK} & set(files):
            folders.clear()
            yield Path(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _read(path: Path, root: Path) -> Run:
    run = Run(str(path.relative_to(root)) if path != root else path.resolve().name)
    try:
        _read_recipe(run, path / RECIPE)
        _read_log(run, path / run_log.FILE)
        if (path / METRICS).exists():
            read_metrics(run, path / METRICS)
            run.state = "done"
        elif run.value is None and (path / CURVES).exists():  # the last file of a training without a split val
            run.state = "done"
            run.epochs = (run.epochs or 0) + 1
        if run.state == "done":
            run.planned = run.planned or run.epochs
    except (InputError, OSError) as error:
        run.state = f"broken: {error}"
    run.minutes = _minutes(path)
    if is_locked(path / LOCK):
        run.state = "running"
    return run


def _read_recipe(run: Run, file: Path) -> None:
    """Read a recipe as plain values, without validation, which could import a module that the recipe names."""
    run.settings = flatten(config.read_yaml(file))
    run.recipe, run.data = (str(run.settings.get(key) or "") for key in ("name", "data.root"))
    planned = run.settings.get("train.epochs")
    run.planned = planned if type(planned) is int else None


def _read_log(run: Run, file: Path) -> None:
    lines = run_log.read(file) if file.exists() else []
    if lines:
        last = lines[-1][1]
        run.epochs = last["epoch"] + int(any(key in last for key in MEASURES))  # an evaluation ends an epoch
        for _, values in lines:  # the best so far, until metrics.json is written; -1 is undefined
            for key, title in MEASURES.items():
                if key in values and values[key] > (-1 if run.value is None else run.value):
                    run.measure, run.value = title, float(values[key])


def read_metrics(run: Run, file: Path) -> None:
    """Fill in the metric of a metrics.json. Raises InputError if there is none."""
    content = json_text.read(file)
    summary = _mapping(content, "summary")
    key = next((key for key in MEASURES if json_text.is_number(summary.get(key))), "")
    if not key:
        raise InputError(f"{file}: found no AP and no top-1, needed the metrics of an evaluation; evaluate again")
    run.measure, run.value = MEASURES[key], float(summary[key])
    ends = _mapping(_mapping(content, "intervals"), "summary").get(key)
    if isinstance(ends, list) and len(ends) == 2 and all(map(json_text.is_number, ends)):
        run.interval = float(ends[0]), float(ends[1])


def _mapping(content: object, key: str) -> JsonObject:
    """The mapping at a key; {} where there is none."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, dict) else {}


def _minutes(path: Path) -> float | None:
    """Minutes of training: for each session, from its start in the name of TensorBoard's file to the file's last
    change; without such files, from the recipe's last change to the log's. None if this is unknown."""
    seconds = []
    try:
        for file in path.glob("events.out.tfevents.*"):
            start = file.name.split(".")[3]
            if start.isdecimal():
                seconds.append(file.stat().st_mtime - int(start))
        if not seconds:
            seconds = [(path / run_log.FILE).stat().st_mtime - (path / RECIPE).stat().st_mtime]
    except OSError:
        return None
    return sum(seconds) / 60 if min(seconds) >= 0 else None


def is_locked(file: Path) -> bool:
    """Whether another process has locked a file."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return lock(handle, shared=True, inherited=False) is False
    finally:
        os.close(handle)


def _compare(runs: Sequence[Run]) -> None:
    """Fill in the differences, among the runs of each recipe."""
    of_recipe: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.settings:
            of_recipe[run.recipe].append(run)
    for group in of_recipe.values():
        keys = dict.fromkeys(key for run in group for key in run.settings if not key.startswith(NOT_DIFFERENCES))
        texts = {key: [_text(run.settings.get(key)) for run in group] for key in keys}
        usual = {key: Counter(values).most_common(1)[0][0] for key, values in texts.items()}
        for place, run in enumerate(group):
            changed = [key for key in keys if texts[key][place] != usual[key]]
            run.differences = {key: run.settings.get(key) for key in changed}


def _text(value: object) -> str:
    return json.dumps(value, default=str)


def _short(value: object) -> str:
    text = _text(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."
