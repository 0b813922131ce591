"""Where the numbers of a training go: TensorBoard, and stand-in modules for MLflow and wandb."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import boxwright
from boxwright import recipe
from boxwright.engine.trackers import Trackers
from boxwright.errors import InputError
from small_run import SMALL, lines

MAIN = SimpleNamespace(is_main_process=True)


class Library:
    """What accelerate's trackers call of MLflow and wandb; `calls` are in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails = False
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
        self.utils = SimpleNamespace(validation=limits)
        self.config = SimpleNamespace(update=lambda values, **_: self.calls.append(("config", values)))
        self.Image = Path

    def search_experiments(self, filter_string: str) -> list[Any]:
        return []

    def create_experiment(self, name: str, **_: Any) -> str:
        self.calls.append(("experiment", name))
        return "7"

    def start_run(self, run_id: str | None = None, run_name: str | None = None, **_: Any) -> Any:
        self.calls.append(("start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "run-of-mlflow"))

    def log_params(self, values: dict[str, Any]) -> None:
        self.calls.append(("config", values))

    def log_metrics(self, values: dict[str, float], step: int, **_: Any) -> None:
        if self.fails:
            raise OSError("no route to https://me:secret@host/api")
        self.calls.append(("metrics", step, values))

    def log_artifact(self, file: str) -> None:
        self.calls.append(("image", Path(file).name))

    def end_run(self) -> None:
        self.calls.append(("end",))

    def init(self, project: str, **options: Any) -> Any:
        self.calls.append(("start", options["id"], options["name"]))
        assert options["resume"] == "allow"
        return SimpleNamespace(log=self._log, finish=self.end_run)

    def _log(self, values: dict[str, Any], step: int) -> None:
        images = [name for name, value in values.items() if isinstance(value, Path)]
        self.calls += [("image", values[name].name) for name in images]
        if not images:
            self.calls.append(("metrics", step, values))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == kind]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, found)  # type: ignore[arg-type]
    return found


def train(data: Path, out: Path, resume: bool = False, **changes: Any) -> None:
    settings = SMALL | {"train.log_every": 100, "train.evaluate_every": 1} | changes
    boxwright.train("demo", data, out, resume=resume, overrides=settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_resumed_training_continues_the_tracked_run(
    tiny_coco: Path, tmp_path: Path, library: Library, name: str
) -> None:
    out = tmp_path / "mine"
    train(tiny_coco, out, **{"train.track": [name]})
    assert not list(out.glob("events.out*"))  # TensorBoard is not named
    (first,) = library.of("start")
    assert first[1] == "mine"
    (settings,) = library.of("config")[0]
    assert settings["train.batch"] == 2
    logged = {
        (line["step"], name): value for line in lines(out) for name, value in line.items() if name.startswith("AP")
    }
    sent = {(step, key): value for step, values in library.of("metrics") for key, value in values.items()}
    assert logged.items() <= sent.items()
    assert {call[0] for call in library.of("image")} == {
        "precision_recall.png", "confusion.png", "sheet.jpg", "errors.png", "error_images.jpg", "curves.png"
    }  # fmt: skip
    assert library.calls[-1] == ("end",)
    number = json.loads((out / "trackers.json").read_text())[name]
    library.calls.clear()
    train(tiny_coco, out, resume=True, **{"train.track": [name]})
    assert library.of("start") == [(number, "mine")]
    assert not library.of("config")
    assert number == ("run-of-mlflow" if name == "mlflow" else first[0])


def test_tracker_failure_during_training_is_a_warning(tmp_path: Path, library: Library, log: list[str]) -> None:
    trackers = Trackers(tmp_path, recipe.load("demo", {"train.track": ["mlflow", "tensorboard"]}), 0, MAIN)
    trackers.write(1, {"loss": 1.0})
    library.fails = True
    trackers.write(2, {"loss": 2.0})
    trackers.write(3, {"loss": 3.0})
    trackers.close()
    assert [call[0] for call in library.of("metrics")] == [1]
    (line,) = [line for line in log if "mlflow" in line]
    assert "no route to https://host/api" in line
    (events,) = tmp_path.glob("events.out*")
    assert [event.step for event in EventFileLoader(str(events)).Load()] == [0, 1, 1, 2, 3]


def test_tracker_failure_at_start_is_an_error(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(**_: Any) -> None:
        raise PermissionError("the key abc123 is not known")

    monkeypatch.setenv("WANDB_API_KEY", "abc123")
    library.init = reject  # type: ignore[assignment]
    chosen = recipe.load("demo", {"train.track": ["wandb"]})
    with pytest.raises(InputError, match=r"wandb cannot be started \(the key \.\.\. is not known\)"):
        Trackers(tmp_path, chosen, 0, MAIN)


def test_missing_tracker_package_names_the_extra(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"pip install 'boxwright\[wandb\]'"):
        train(tiny_coco, tmp_path / "run", **{"train.track": ["wandb"]})
    assert not (tmp_path / "run").exists()


def test_images_are_readable_by_tensorboard(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    file = tmp_path / "sheet.jpg"
    cv2.imwrite(str(file), np.zeros((4, 6, 3), np.uint8))
    trackers = Trackers(tmp_path, recipe.load("demo"), 0, MAIN)
    trackers.images(5, [file, tmp_path / "metrics.json", tmp_path / "absent.png"])
    trackers.close()
    (events,) = tmp_path.glob("events.out*")
    *_, last = EventFileLoader(str(events)).Load()
    (value,) = last.summary.value
    assert (last.step, value.tag) == (5, "sheet")
    width, height, content = value.tensor.string_val
    assert (width, height, content) == (b"6", b"4", file.read_bytes())


def test_only_the_main_process_tracks(tmp_path: Path) -> None:
    trackers = Trackers(tmp_path, recipe.load("demo"), 0, SimpleNamespace(is_main_process=False))
    trackers.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
