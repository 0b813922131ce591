"""Results of many images as files: drawn images and one JSON."""

import glob
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright import json_text
from boxwright.errors import InputError, printable
from boxwright.files import atomic_write, make_folder
from boxwright.images.draw import encode_image
from boxwright.images.header import SUFFIXES
from boxwright.predict.predictor import Predictor
from boxwright.predict.stream import predict_all
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Array, Result


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written.

    Attributes:
        out: The folder.
        images: How many images were read.
        counts: Detections, or images of a classifier, by class name.
        failed: File -> why it could not be read, or drawn.
        file: The JSON in `out`.
        drawn: Whether drawn images lie beside it.
        results: A line for each image, of a classifier.
    """

    out: Path
    images: int
    counts: dict[str, int]
    failed: dict[str, str]
    file: str = "detections.json"
    drawn: bool = True
    results: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the user."""
        found = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items(), key=lambda c: (-c[1], c[0])))
        what = f"drawn images, {self.file}" if self.drawn else self.file
        head = [*self.results, f"{self.images} images: {found or 'nothing found'}", f"{what}: {self.out}"]
        return list(map(printable, head + [f"failed: {reason}" for reason in self.failed.values()]))


def predict_to_folder(
    predictor: Predictor[Any],
    sources: Sequence[str | Path],
    out: str | Path,
    args: PostprocessArgs | None = None,
    *,
    draw: bool = True,
) -> Summary:
    """Predict images, folders of images and glob patterns; write drawn images and the task's JSON.

    An image that cannot be read, or drawn under its name, is named in `Summary.failed`, and the others go on. args:
    None for the recipe's. draw: also write the drawn ones.
    Raises InputError before any work for a source that is not there, or an unwritable folder.
    """
    place = Path(out)
    args = predictor.args() if args is None else args
    files = find_images(sources, place)
    targets = targets_of(files, place) if draw else {}
    make_writable(place)
    undrawn: dict[int, str] = {}

    def write_drawing(index: int, result: Result) -> None:
        try:
            if draw:
                write_image(result.draw(), targets[files[index]])
        except InputError as error:
            undrawn[index] = str(error)

    batch = predictor.recipe.predict.batch
    results = predict_all(
        predictor, files, args, batch=batch, wanted=lambda index: draw, use=write_drawing, title="predict"
    )
    rows, failed = [], {}
    for index, (file, result) in enumerate(zip(files, results, strict=True)):
        if isinstance(result, InputError):
            failed[str(file)] = str(result)
            continue
        if index in undrawn:
            failed[str(file)] = undrawn[index]
        rows.append(row_of(predictor, result, targets[file] if draw and index not in undrawn else None))
    readable = [result for result in results if not isinstance(result, InputError)]
    return write_results(predictor, place, args, rows, failed, readable, draw=draw)


def write_results(
    predictor: Predictor[Any],
    out: Path,
    args: PostprocessArgs,
    rows: Sequence[dict[str, Any]],
    failed: dict[str, str],
    results: Iterable[Result],
    settings: dict[str, Any] | None = None,
    *,
    draw: bool = True,
) -> Summary:
    """Write the task's JSON with a row for each image, and count what it holds. settings: more for its head."""
    task = predictor.task
    head = task.settings(predictor.recipe, args) | (settings or {})
    json_text.write(out / task.results_file, {**head, "images": rows, "failed": failed}, indent=1)
    counts: Counter[str] = Counter()
    lines = []
    for result in results:
        counts.update(task.counted(result))
        if (line := task.line(result)) is not None:
            lines.append(line)
    return Summary(out, len(rows), dict(counts), failed, task.results_file, draw, tuple(lines))


def row_of(predictor: Predictor[Any], result: Result, target: Path | None) -> dict[str, Any]:
    """One image in the JSON: boxes are xyxy px. target: where it is drawn."""
    return {
        "file": result.path,
        "drawn": target.name if target else None,
        "height": result.size[0],
        "width": result.size[1],
        predictor.task.results_key: predictor.task.rows(result),
    }


def write_image(image: Array, target: Path) -> None:
    """Write uint8 RGB (h, w, 3) in the format that the suffix names; the array's channels are swapped in place.

    Raises InputError where the format cannot hold it, or the file not be written.
    """
    try:
        encoded = encode_image(image, target.suffix.lower(), in_place=True)
    except InputError as error:
        raise InputError(f"{target}: {error}") from error
    with atomic_write(target) as tmp:
        tmp.write_bytes(encoded)


def find_images(sources: Sequence[str | Path], out: Path) -> list[Path]:
    """The image files that `sources` (files, folders, glob patterns) name, each once.

    Folders are searched to the bottom, without `out`, where earlier drawings may lie.
    """
    files: dict[Path, None] = {}
    for source in sources:
        if Path(source).is_file():
            found = [Path(source)]
        elif Path(source).is_dir():
            found = [path for path in _images_below(Path(source)) if out.resolve() not in path.resolve().parents]
        else:
            matches = map(Path, glob.glob(str(source), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            found = sorted(path for path in matches if path.is_file())
        if not found:
            what = "this folder holds no image" if Path(source).is_dir() else "there is no such image or folder"
            raise InputError(f"{source}: {what}; needed a file, a folder or a pattern such as 'photos/*.jpg'")
        files |= dict.fromkeys(found)
    return list(files)


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def targets_of(files: Sequence[Path], out: Path, suffix: str = "") -> dict[Path, Path]:
    """Where each image is drawn to: its own name, with a number where two have the same.

    suffix: of all drawn images, "" for each image's own. Raises InputError where an image would be drawn over.
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
