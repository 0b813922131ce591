"""Predicted boxes as labels for label tools, where people correct them instead of drawing all boxes."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from boxwright.data.dataset import Boxes, Dataset
from boxwright.data.layout import Extras
from boxwright.data.source import Source
from boxwright.datatools.convert import write_predictions
from boxwright.errors import InputError, titled
from boxwright.files import new_folder
from boxwright.images.draw import encode_image
from boxwright.predict.output import Summary, counted_names, find_images
from boxwright.predict.predictor import Predictor
from boxwright.predict.stream import predict_all
from boxwright.predict.video import predict_frames
from boxwright.progress import track
from boxwright.tasks import PostprocessArgs
from boxwright.tasks.detect import Prediction
from boxwright.types import Detections
from boxwright.video.frames import Video

# Name -> module in `formats`
LAYOUTS = {"coco": "coco", "yolo": "yolo_txt", "cvat": "cvat", "label-studio": "label_studio"}
SPLIT = "train"  # which every tool supports
STAGING = "frames"  # folder of the frames of a video until they are moved to their final folder
FRAME = "frame_{:06d}.jpg"  # as CVAT names them
QUALITY = 95  # of their JPEG files


def check_layout(name: str) -> str:
    """The layout in `formats` for a label tool. Raises InputError for an unknown one."""
    if name not in LAYOUTS:
        raise InputError(f"--as: found '{name[:40]}', needed one of {', '.join(LAYOUTS)}, parquet")
    return LAYOUTS[name]


def prelabel_images(
    predictor: Predictor[Prediction],
    sources: Sequence[str | Path],
    out: str | Path,
    name: str,
    args: PostprocessArgs | None = None,
) -> Summary:
    """Predict images and write a new data set of them, with links to the images.

    Args:
        predictor: The detector.
        sources: Image files, folders and glob patterns.
        out: The new folder.
        name: The label tool or format, one of `LAYOUTS`.
        args: From `Predictor.args`; None for the recipe's.

    Returns:
        The summary; images that cannot be read are in `Summary.failed`, and not in the data set.

    Raises:
        InputError: A source or the layout does not exist, `out` is not empty, no image can be read, or the layout does
            not support the name of an image or class. All but the third are raised before anything is predicted.
    """
    layout, files = check_layout(name), find_images(sources, Path(out))
    args = predictor.args() if args is None else args
    with new_folder(out) as folder:
        _check_names(predictor, files, layout, folder)
        results = predict_all(predictor, files, args, batch=predictor.recipe.predict.batch, title="predict")
        pairs = list(zip(files, results, strict=True))
        labeled = [(str(file), result) for file, result in pairs if not isinstance(result, InputError)]
        failed = {str(file): str(result) for file, result in pairs if isinstance(result, InputError)}
        if not labeled:
            raise InputError(next(iter(failed.values())))
        _write(predictor, labeled, layout, folder)
    return _summary(out, name, [result for _, result in labeled], failed, "image[s]")


def prelabel_video(
    predictor: Predictor[Prediction],
    video: Video,
    out: str | Path,
    name: str,
    args: PostprocessArgs | None = None,
) -> Summary:
    """Predict the frames of a video and write a new data set of them, as JPEG files named by frame number.

    Args:
        predictor: The detector.
        video: From `open_video`.
        out: The new folder.
        name: The label tool or format, one of `LAYOUTS`.
        args: From `Predictor.args`; None for the recipe's.

    Returns:
        The summary; why frames are missing is in `Summary.failed`.

    Raises:
        InputError: No frame can be read, a live source has no `stop`, the layout does not exist, or `out` is not empty.
    """
    layout = check_layout(name)
    if video.live and video.selection.stop is None:
        need = "needed a stop, since the labels are written at the end"
        raise InputError(f"{video.name}: found a live source, {need}; add for example --stop 60")
    args = predictor.args() if args is None else args
    batch = 1 if video.live else predictor.recipe.predict.batch
    with new_folder(out) as folder:
        staging = folder / STAGING
        _check_names(predictor, [staging / FRAME.format(0)], layout, folder)
        staging.mkdir()
        labeled = []
        frames = track(video, video.total, "predict", "frames")
        for frame, result in predict_frames(predictor, frames, args, batch):
            path = staging / FRAME.format(frame.index)
            path.write_bytes(encode_image(frame.image, ".jpg", QUALITY))
            labeled.append((str(path), Detections(result.boxes, result.scores, result.labels, result.names)))
        _write(predictor, labeled, layout, folder)
        shutil.rmtree(staging)
    failed = {titled(video.name): titled("; ".join(video.faults))} if video.faults else {}
    return _summary(out, name, [result for _, result in labeled], failed, "frame[s]")


def _check_names(predictor: Predictor[Prediction], files: Sequence[Path], layout: str, folder: Path) -> None:
    """Write labels without boxes to a temporary folder in `folder`, which raises InputError for an unsupported name."""
    with tempfile.TemporaryDirectory(dir=folder) as trial:
        _write(predictor, [(str(file), Detections.empty()) for file in files], layout, Path(trial), links=False)


def _write(
    predictor: Predictor[Prediction],
    labeled: Sequence[tuple[str, Detections]],
    layout: str,
    folder: Path,
    *,
    links: bool = True,
) -> None:
    """Write a data set. labeled: the file of each image, and its boxes. links: also link the images."""
    names = tuple(predictor.names) or tuple(map(str, range(predictor.recipe.model.classes)))
    counts = [len(result) for _, result in labeled]
    xyxy, labels, scores = (
        torch.cat([getattr(result, column) for _, result in labeled]).double().numpy()
        for column in ("boxes", "labels", "scores")
    )
    rows = Boxes.without_ids(xyxy.reshape(-1, 4), labels.astype(np.int64), range(1, len(scores) + 1))
    source = Source(layout, folder, SPLIT, folder)
    paths = [path for path, _ in labeled]
    dataset = Dataset.without_ids(source, names, paths, [""], rows, counts)
    extras = Extras([{"score": score, "source": "auto"} for score in scores.tolist()], [{} for _ in paths])
    write_predictions(dataset, extras, layout, folder, links=links)


def _summary(out: str | Path, name: str, results: Iterable[Detections], failed: dict[str, str], item: str) -> Summary:
    results = list(results)
    counts = Counter(name for result in results for name in counted_names(result.class_names, result.names))
    return Summary(Path(out), len(results), dict(counts), failed, f"labels as {name}", "", item=item)
