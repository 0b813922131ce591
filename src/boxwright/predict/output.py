"""Writing predictions to a folder: drawn images and one JSON file."""

import glob
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright import json_text
from boxwright.arrays import Array
from boxwright.data.text import walk
from boxwright.datatools.report import pluralize
from boxwright.errors import InputError, printable, titled
from boxwright.files import make_folder, write_bytes
from boxwright.images.draw import encode_image
from boxwright.images.header import SUFFIXES, WRITTEN
from boxwright.json_text import JsonObject
from boxwright.predict.predictor import AnyPredictor
from boxwright.predict.stream import predict_all
from boxwright.remote.folders import local_data
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.base import Result
from boxwright.video.sources import VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of the files written.

    Attributes:
        out: The folder.
        images: Number of images read, or of frames.
        counts: Detections, or images of a classifier, by class name; `of class 3` for classes without names.
        failed: File -> why it could not be read or drawn.
        file: Name of the JSON file in `out`.
        drawn: What was drawn, for the summary; "" for nothing.
        notes: Lines at the top of the summary; for a classifier, one per image.
        item: Unit of `images`, for `counted`.
    """

    out: Path
    images: int
    counts: dict[str, int]
    failed: dict[str, str]
    file: str = "detections.json"
    drawn: str = "drawn images"
    notes: tuple[str, ...] = ()
    item: str = "image[s]"

    def lines(self) -> list[str]:
        """The summary as text."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        counts = ", ".join(f"{count} {name}" for name, count in ranked)
        none = "nothing found" + ("; a lower --threshold finds more" if self.images else "")
        written = ", ".join(filter(None, (self.drawn, self.file)))
        head = [
            *self.notes,
            f"{pluralize(self.images, self.item)}: {counts or none}",
            f"{written}: {self.out}",
        ]
        return list(map(printable, head + [f"failed: {reason}" for reason in self.failed.values()]))


def predict_to_folder(
    predictor: AnyPredictor,
    sources: Sequence[str | Path],
    out: str | Path,
    args: PostprocessArgs | None = None,
    *,
    draw: bool = True,
    titles: Mapping[str, str] | None = None,
) -> Summary:
    """Predict many images; write drawn images and the task's JSON file.

    Args:
        predictor: The predictor.
        sources: Image files, folders and glob patterns.
        out: The output folder.
        args: From `Predictor.args`; None for the recipe's.
        draw: Write images with the predictions drawn.
        titles: Path -> its name in results and messages; None: the paths.

    Returns:
        The summary; images that cannot be read or drawn are in `Summary.failed`.

    Raises:
        InputError: A source does not exist, or the folder is not writable. Raised before anything is predicted.
    """
    folder = Path(out)
    args = predictor.args() if args is None else args
    files = find_images(sources, folder)
    targets = drawing_paths(files, folder) if draw else {}
    make_writable(folder)
    undrawn: dict[int, str] = {}

    def write_drawing(index: int, result: Result) -> None:
        try:
            if draw:
                write_image(result.draw(), targets[files[index]])
        except InputError as error:
            undrawn[index] = str(error)

    batch = predictor.recipe.predict.batch
    results = predict_all(
        predictor, files, args, batch=batch, needs_pixels=lambda index: draw, callback=write_drawing, title="predict"
    )
    rows, failed = [], {}
    for index, (file, result) in enumerate(zip(files, results, strict=True)):
        title = (titles or {}).get(str(file), titled(str(file)))
        if isinstance(result, InputError):
            failed[title] = str(result).replace(printable(str(file)), title)
            continue
        if index in undrawn:
            failed[title] = undrawn[index]
        row = image_row(predictor, result, targets[file] if draw and index not in undrawn else None)
        rows.append(row | {"file": title})
    readable = [result for result in results if not isinstance(result, InputError)]
    return write_results(predictor, folder, args, rows, failed, readable, draw=draw)


def counted_names(found: Iterable[str], names: Sequence[str]) -> list[str]:
    """Keys of `Summary.counts`. found: class names, or numbers without `names`, those of the model."""
    return [name if names else f"of class {name}" for name in found]


def write_results(
    predictor: AnyPredictor,
    out: Path,
    args: PostprocessArgs,
    rows: Sequence[JsonObject],
    failed: dict[str, str],
    results: Iterable[Result],
    settings: JsonObject | None = None,
    *,
    draw: bool = True,
) -> Summary:
    """Write the task's JSON file and summarize it. settings: added at the top of the file."""
    task = predictor.task
    head = task.settings(predictor.recipe, args) | (settings or {})
    json_text.write(out / task.results_file, {**head, "images": rows, "failed": failed}, indent=1)
    counts: Counter[str] = Counter()
    lines = []
    for result in results:
        counts.update(counted_names(task.class_names(result), result.names))
        if (line := task.line(result)) is not None:
            lines.append(line)
    drawn = "drawn images" if draw else ""
    return Summary(out, len(rows), dict(counts), failed, task.results_file, drawn, tuple(lines))


def image_row(predictor: AnyPredictor, result: Result, target: Path | None) -> JsonObject:
    """The entry of an image in the JSON file; boxes are xyxy px. target: the drawn image."""
    return {
        "file": titled(result.path),
        "drawn": target.name if target else None,
        "height": result.size[0],
        "width": result.size[1],
        predictor.task.results_key: predictor.task.rows(result),
    }


def write_image(image: Array, target: Path) -> None:
    """Write uint8 RGB (h, w, 3) in the format of the suffix. Swaps the channels of the array in place.

    Raises InputError if the format does not support the image or the file cannot be written.
    """
    try:
        encoded = encode_image(image, target.suffix.lower(), in_place=True)
    except InputError as error:
        raise InputError(f"{target}: {error}") from error
    write_bytes(target, encoded)


def find_images(sources: Sequence[str | Path], out: Path) -> list[Path]:
    """The image files in `sources` (files, folders, archives, glob patterns), without duplicates.

    Folders are searched as by `data.text.walk`, except for `out`, which may contain earlier results.
    """
    files: dict[Path, None] = {}
    out = out.resolve()
    for source in sources:
        source = local_data(source)
        if Path(source).is_file():
            paths = [Path(source)]
        elif Path(source).is_dir():
            images = map(Path, walk(Path(source), SUFFIXES))
            paths = sorted(path for path in images if out not in path.resolve().parents)
        else:
            matches = map(Path, glob.glob(str(source), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            paths = sorted(path for path in matches if not path.is_dir())
        if not paths:
            if Path(source).is_dir() and out in (Path(source).resolve(), *Path(source).resolve().parents):
                raise InputError(f"{source}: is the folder for the results, or lies in it; name another with --out")
            what = _without_images(Path(source)) if Path(source).is_dir() else "there is no such image or folder"
            raise InputError(f"{source}: {what}; needed a file, a folder or a pattern such as 'photos/*.jpg'")
        files |= dict.fromkeys(paths)
    return list(files)


def _without_images(folder: Path) -> str:
    videos = sorted(Path(path).name for path in walk(folder, tuple(VIDEO_SUFFIXES)))
    found = f", but {len(videos)} videos; give one video as the source, such as {videos[0]}" if videos else ""
    return f"this folder holds no image{found}"


def drawing_paths(files: Sequence[Path], out: Path, suffix: str = "") -> dict[Path, Path]:
    """The path of the drawn image for each file: its name, with a number if it is taken.

    suffix: of all drawn images; "" for that of each file. Raises InputError if an input image would be overwritten.
    """
    inputs = {path.resolve() for path in files}
    taken: set[str] = set()
    targets = {}
    for path in files:
        ending = suffix or (path.suffix if path.suffix.lower() in WRITTEN else ".png")
        name, number = path.stem + ending, 2
        while name.lower() in taken:
            name, number = f"{path.stem}_{number}{ending}", number + 1
        taken.add(name.lower())  # some file systems are case-insensitive
        targets[path] = out / name
        if targets[path].resolve() in inputs:
            raise InputError(f"{targets[path]}: would be overwritten; give another folder for the results than {out}")
    return targets


def make_writable(out: Path) -> None:
    """Create the folder. Raises InputError if files cannot be written there."""
    make_folder(out)
    try:
        with tempfile.TemporaryFile(dir=out):  # a unique name, since other processes may check the same folder
            pass
    except OSError as error:
        raise InputError(f"{out}: results cannot be written there ({error.strerror})") from error
