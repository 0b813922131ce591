"""Experiment trackers beside log.jsonl: TensorBoard event files, MLflow, Weights & Biases (`train.track`).

MLflow and Weights & Biases are called through accelerate's trackers. They send data where the user has configured
(MLFLOW_TRACKING_URI, WANDB_MODE, ...); trackers that the recipe does not name are not imported and receive nothing.
"""

import logging
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from boxwright import json_text
from boxwright.errors import InputError, one_line
from boxwright.extras import first_line, import_extra
from boxwright.recipe import Recipe, TrainConfig, flatten

logger = logging.getLogger(__name__)

PROJECT = "boxwright"  # MLflow's experiment, the project of Weights & Biases
IDS = "trackers.json"  # in the run folder: the ids by which a resumed run is continued
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class ExperimentTracker(Protocol):
    """A receiver of numbers and images; main process only."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, files: Sequence[Path]) -> None:
        """Add image files of the finished run."""

    def close(self) -> None: ...


class Trackers:
    """All trackers of `train.track` in the main process; none in other processes."""

    def __init__(self, run: Path, recipe: Recipe, start: int, accelerator: Accelerator) -> None:
        """Open the trackers for steps after `start`; later steps of an interrupted run are superseded.

        Raises InputError if a tracker is not installed, or cannot be started.
        """
        self.run = run
        self.all: list[ExperimentTracker] = []
        for name in recipe.train.track if accelerator.is_main_process else ():
            if name == "tensorboard":
                from boxwright.engine.events import Events  # slow to import, and only needed here

                self.all.append(Events(run, start + 1))
            else:
                self.all.append(_Remote(name, run, recipe, resume=start > 0))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self.all:
            tracker.write(step, values)

    def images(self, step: int, files: Sequence[Path]) -> None:
        shown = [file for file in files if file.suffix in {".png", ".jpg"} and file.is_file()]
        try:
            for tracker in self.all:
                tracker.images(step, shown)
        except OSError as error:
            raise InputError(f"{self.run}: images cannot be written ({error.strerror}); make space") from error

    def close(self) -> None:
        for tracker in self.all:
            with suppress(OSError):  # each line was flushed, or raised this before
                tracker.close()


def check_installed(config: TrainConfig) -> None:
    """Raise InputError for a library of `train.track` that is not installed."""
    for name in config.track:
        if name != "tensorboard":  # part of the extra `train`
            import_extra(name, name)


class _Remote:
    """MLflow or Weights & Biases. After the start, an error disables it with a warning, and the training continues."""

    def __init__(self, name: str, run: Path, recipe: Recipe, resume: bool) -> None:
        self.name, self.library = name, import_extra(name, name)
        self.tracker: Any = None
        ids = _read_ids(run / IDS)
        try:
            tracker, ids[name] = (_mlflow if name == "mlflow" else _wandb)(run, ids.get(name))
            if not resume:
                tracker.store_init_configuration(flatten(recipe.tree()))
        except Exception as error:
            raise InputError(f"train.track: {name} cannot be started ({_message(error)}); leave it out") from error
        json_text.write(run / IDS, ids)
        self.tracker = tracker

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._try("log", dict(values), step=step)

    def images(self, step: int, files: Sequence[Path]) -> None:
        if self.name == "wandb":
            self._try("log", {file.stem: self.library.Image(str(file)) for file in files}, step=step)
        elif self.tracker is not None:
            for file in files:
                self._call(self.library.log_artifact, str(file))

    def close(self) -> None:
        self._try("finish")

    def _try(self, method: str, *values: object, **options: object) -> None:
        if self.tracker is not None:
            self._call(getattr(self.tracker, method), *values, **options)

    def _call(self, function: Any, *values: object, **options: object) -> None:
        try:
            function(*values, **options)
        except Exception as error:
            self.tracker = None
            logger.warning("train.track: %s failed (%s); it gets nothing more of this run", self.name, _message(error))


def _mlflow(run: Path, stored_id: str | None) -> tuple[Any, str]:
    from accelerate.tracking import MLflowTracker

    tracker = _started(MLflowTracker(PROJECT, run_id=stored_id, run_name=run.resolve().name))
    return tracker, str(tracker.tracker.info.run_id)


def _wandb(run: Path, stored_id: str | None) -> tuple[Any, str]:
    from accelerate.tracking import WandBTracker

    number = stored_id or uuid.uuid4().hex[:8]
    name = run.resolve().name
    return _started(WandBTracker(PROJECT, id=number, resume="allow", name=name, dir=str(run))), number


def _started(tracker: Any) -> Any:
    """Start a tracker: later versions of accelerate have a method for it, earlier ones start it when it is created."""
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def _read_ids(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    ids = json_text.read(file)
    if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
        raise InputError(f"{file}: needed a mapping of tracker names to run ids; remove it to start new ones")
    return ids


def _message(error: Exception) -> str:
    """The message of an error, on one line and without credentials."""
    text = re.sub(r"//[^/@\s]+@", "//", first_line(error))
    for name in SECRETS:
        if os.environ.get(name):
            text = text.replace(os.environ[name], "...")
    return one_line(text)
