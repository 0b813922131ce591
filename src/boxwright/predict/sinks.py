"""Many pictures, from files and folders, to a folder of pictures with boxes and one detections.json."""

import glob
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import torch
from torch import nn

from boxwright import json_text
from boxwright.data.budget import budget, within_budget
from boxwright.data.canvas import read_image
from boxwright.data.header import SUFFIXES
from boxwright.errors import InputError, printable
from boxwright.files import atomic_write, make_folder
from boxwright.predict.ahead import in_order
from boxwright.predict.class_predictor import ClassPrediction
from boxwright.predict.inputs import Array, Placed, pixels_in
from boxwright.predict.loading import evaluating
from boxwright.predict.predictor import Prediction, Predictor, check_fraction
from boxwright.predict.processes import refuse_fork
from boxwright.progress import track
from boxwright.recipe import Recipe
from boxwright.runtimes.base.runtime import Runtime

L = TypeVar("L")  # what a network says of a batch
W = TypeVar("W", contravariant=True)  # which of it is wanted
P = TypeVar("P", Prediction, ClassPrediction)

BATCHES = 3  # under way at a time beside an accelerator
ROWS = 64  # of a picture, whose colours are exchanged at a time
THREADS = 4  # at least, for decoding, drawing and encoding; OpenCV lets go of Python's lock


class Looks(Protocol[L, W, P]):
    """The three steps of a predictor's call."""

    model: nn.Module
    recipe: Recipe
    device: torch.device
    backend: Runtime | None
    process: int

    def place(self, picture: Array) -> Placed: ...

    def look(self, pictures: Sequence[Placed]) -> L: ...

    def answer(self, looked: L, pictures: Sequence[Placed], wanted: W) -> list[P]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """pictures: how many were read. counts: detections, or pictures of a classifier, by class name. failed: file -> why
    it could not be read, or drawn. file: what lies in `out` beside the drawn pictures, if there are these (`drawn`)."""

    out: Path
    pictures: int
    counts: dict[str, int]
    failed: dict[str, str]
    file: str = "detections.json"
    drawn: bool = True

    def lines(self) -> list[str]:
        """For the person at the keyboard."""
        found = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items(), key=lambda c: (-c[1], c[0])))
        what = f"drawn pictures, {self.file}" if self.drawn else self.file
        head = [f"{self.pictures} pictures: {found or 'nothing found'}", f"{what}: {self.out}"]
        return list(map(printable, head + [f"failed: {reason}" for reason in self.failed.values()]))


def predict_to_folder(
    predictor: Predictor,
    sources: Sequence[str | Path],
    out: str | Path,
    threshold: float | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    *,
    draw: bool = True,
) -> Summary:
    """Detect on pictures, folders of pictures and glob patterns; write drawn pictures and `detections.json`.

    A picture that cannot be read, or drawn under its name, is named in `Summary.failed`, and the others go on. draw:
    also write the drawn ones.
    Raises InputError before any work for a source that is not there, a wrong setting, or an unwritable folder.
    """
    folder = Path(out)
    settings = settings_of(predictor, threshold, iou, classes)
    files = find_pictures(sources, folder)
    targets = targets_of(files, folder) if draw else {}
    make_writable(folder)
    found, failed = look_at(predictor, files, targets, predictor.wanted(threshold, iou, classes))
    rows = [row_of(predictor, one, None if one.path in failed else targets.get(Path(one.path))) for one in found]
    return write_results(folder, settings, rows, failed, draw=draw)


def look_at(
    predictor: Looks[L, W, P], files: Sequence[Path], targets: Mapping[Path, Path], wanted: W
) -> tuple[list[P], dict[str, str]]:
    """What `predictor` answers on the pictures, and file -> reason for those that cannot be read or drawn; each that
    has a target is drawn there.

    Pictures that are in memory at a time have no more pixels together than `budget` allows.

    The lanes of a backend share a batch, and each does everything for its pictures, so that no core waits for another.
    On an accelerator three batches are under way: one is read, and one answered and drawn, while the network looks at
    another. Where all cores look at one batch nothing is done beside it, for they wait for the slowest at every layer.
    """

    def read(path: Path) -> Placed | InputError:
        try:
            image = read_image(path)
        except InputError as error:
            return error
        one = predictor.place(image)
        return one._replace(frame=replace(one.frame, path=str(path)), image=image if targets else None)

    def draw(one: P) -> str:
        """Why that could not be; "" where it could."""
        try:
            if targets:
                write_picture(one.draw(), targets[Path(one.path)])
        except InputError as error:
            return str(error)
        return ""

    refuse_fork(predictor.process)
    with evaluating(predictor.model), _workers(predictor) as (pool, ahead, each):

        def answers_of(group: Sequence[Path], failed: dict[str, str]) -> list[P]:
            placed = list(each(read, group))
            failed |= {
                str(path): str(one) for path, one in zip(group, placed, strict=True) if isinstance(one, InputError)
            }
            pictures = [one for one in placed if not isinstance(one, InputError)]
            answers = predictor.answer(predictor.look(pictures), pictures, wanted) if pictures else []
            drawn = list(each(draw, answers))
            failed |= {one.path: reason for one, reason in zip(answers, drawn, strict=True) if reason}
            return [replace(one, image=None) for one in answers]

        def work(group: Sequence[Path]) -> tuple[list[P], dict[str, str]]:
            found: list[P] = []
            failed: dict[str, str] = {}
            for part, pixels in within_budget(group, pixels_in):
                with budget.taken(pixels):
                    found += answers_of(part, failed)
            return found, failed

        backend = predictor.backend
        lanes, step = (1, 1) if backend is None else (backend.streams, backend.shape[0] or 1)
        groups = _shares(files, predictor.recipe.predict.batch, lanes, step)
        found: list[P] = []
        failed: dict[str, str] = {}
        for answers, reasons in track(in_order(pool, groups, work, ahead), len(groups), "predict", "batches"):
            found += answers
            failed |= reasons
    return found, failed


def _shares(files: Sequence[Path], batch: int, lanes: int, step: int) -> list[Sequence[Path]]:
    """The files in parts of a lane's share of a batch, rounded up to whole `step`s; the last ones are smaller, so that
    all lanes end at the same time."""
    parts, start = [], 0
    while start < len(files):
        share = min(-(-batch // lanes), max(1, (len(files) - start) // lanes))
        end = start + -(-share // step) * step
        parts.append(files[start:end])
        start = end
    return parts


@contextmanager
def _workers(predictor: Looks[Any, Any, Any]) -> Iterator[tuple[Executor, int, Callable[..., Iterator[Any]]]]:
    """What works on the parts, how many are handed in beforehand, and what does something for each picture of one."""
    backend = predictor.backend
    if backend is None or backend.pool is None:
        batches = 1 if predictor.device.type == "cpu" else BATCHES
        many = max(THREADS, torch.get_num_threads())
        with ThreadPoolExecutor(many) as hands, ThreadPoolExecutor(batches) as pool:
            yield pool, batches, hands.map
        return
    before = cv2.getNumThreads()
    cv2.setNumThreads(max(1, before // backend.streams))
    try:
        yield backend.pool, 4 * backend.streams, map  # some parts take longer than others
    finally:
        cv2.setNumThreads(before)


def settings_of(
    predictor: Predictor, threshold: float | None, iou: float | None, classes: Sequence[str | int] | None
) -> dict[str, Any]:
    """How the pictures are looked at, for `detections.json`. Raises InputError for a wrong setting."""
    config, labels = predictor.recipe.predict, predictor.labels_of(classes)
    return {
        "recipe": predictor.recipe.name,
        "threshold": config.threshold if threshold is None else check_fraction("threshold", threshold),
        "iou": config.suppression.iou if iou is None else check_fraction("iou", iou),
        "classes": None if labels is None else [predictor.name_of(label) for label in labels],
        "names": list(predictor.names),
    }


def write_results(
    out: Path, settings: dict[str, Any], rows: Sequence[dict[str, Any]], failed: dict[str, str], *, draw: bool = True
) -> Summary:
    """Write `detections.json` with a row for each picture, and count what it holds."""
    json_text.write(out / "detections.json", {**settings, "pictures": rows, "failed": failed}, indent=1)
    counts = Counter(str(found["name"]) for row in rows for found in row["detections"])
    return Summary(out, len(rows), dict(counts), failed, drawn=draw)


def find_pictures(sources: Sequence[str | Path], out: Path) -> list[Path]:
    """The picture files that `sources` (files, folders, glob patterns) name, each once.

    Folders are searched to the bottom, without `out`, where earlier drawings may lie.
    """
    files: dict[Path, None] = {}
    for source in sources:
        if Path(source).is_file():
            found = [Path(source)]
        elif Path(source).is_dir():
            found = [path for path in _pictures_below(Path(source)) if out.resolve() not in path.resolve().parents]
        else:
            matches = map(Path, glob.glob(str(source), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            found = sorted(path for path in matches if path.is_file())
        if not found:
            what = "this folder holds no picture" if Path(source).is_dir() else "there is no such picture or folder"
            raise InputError(f"{source}: {what}; needed a file, a folder or a pattern such as 'photos/*.jpg'")
        files |= dict.fromkeys(found)
    return list(files)


def _pictures_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def targets_of(files: Sequence[Path], out: Path, suffix: str = "") -> dict[Path, Path]:
    """Where each picture is drawn to: its own name, with a number where two have the same.

    suffix: of all drawn pictures, "" for each picture's own. Raises InputError where a picture would be drawn over.
    """
    own = {path.resolve() for path in files}
    taken: set[str] = set()
    targets = {}
    for path in files:
        ending = suffix or (path.suffix if path.suffix.lower() in SUFFIXES else ".png")
        name, number = path.stem + ending, 2
        while name.lower() in taken:
            name, number = f"{path.stem}_{number}{ending}", number + 1
        taken.add(name.lower())  # some file systems do not tell upper from lower case
        targets[path] = out / name
        if targets[path].resolve() in own:
            raise InputError(f"{targets[path]}: would be drawn over; give another folder for the results than {out}")
    return targets


def make_writable(out: Path) -> None:
    """Make the folder, and see that files can be written there; else InputError."""
    make_folder(out)
    try:
        with tempfile.TemporaryFile(dir=out):  # a name of its own, or none: others may be asking the same
            pass
    except OSError as error:
        raise InputError(f"{out}: results cannot be written there ({error.strerror})") from error


def write_picture(image: Array, target: Path) -> None:
    """Write uint8 RGB (h, w, 3), which becomes BGR, in the format that the suffix names.

    Raises InputError where that cannot hold it, or the file not be written.
    """
    for top in range(0, len(image), ROWS):  # in place: as a whole it would be a second picture
        image[top : top + ROWS] = image[top : top + ROWS, :, ::-1]
    done, encoded = cv2.imencode(target.suffix.lower(), image)
    if not done:
        raise InputError(f"{target}: OpenCV cannot write {image.shape[1]} x {image.shape[0]} px in this format")
    with atomic_write(target) as tmp:
        tmp.write_bytes(encoded.tobytes())


def row_of(predictor: Predictor, prediction: Prediction, target: Path | None) -> dict[str, Any]:
    """One picture in `detections.json`: boxes are xyxy px. target: where it is drawn."""
    columns = prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist()
    return {
        "file": prediction.path,
        "drawn": target.name if target else None,
        "height": prediction.size[0],
        "width": prediction.size[1],
        "detections": [
            {"label": label, "name": predictor.name_of(label), "score": score, "box": box}
            for label, score, box in zip(*columns, strict=True)
        ],
    }
