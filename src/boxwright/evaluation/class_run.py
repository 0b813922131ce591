"""A classifier on labelled pictures: top-1, top-5, and the files that a look at them needs.

N pictures, K best classes of each, C classes of the model
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from boxwright import __version__, json_text
from boxwright.data.class_dataset import ClassSet
from boxwright.data.class_loader import ClassLoader
from boxwright.errors import InputError
from boxwright.evaluation import class_pictures, pictures
from boxwright.evaluation.topk import BEST, TopK, score
from boxwright.files import folder, keep_clear
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.progress import track
from boxwright.types import Classes

# what is written into the folder
WRITTEN = ("metrics.json", "predictions.json", "confusion.png", "mistakes.jpg", "curves.png")


def evaluate_classifier(
    predictor: ClassPredictor, dataset: ClassSet, out: str | Path | None = None, *, rank: int = 0, world: int = 1
) -> TopK:
    """Top-1 and top-5 of `predictor` on every picture of `dataset`; all classes of the model compete.

    out: a folder for metrics.json, predictions.json (the best classes of each picture), confusion.png, mistakes.jpg,
    and for a run folder curves.png from its log. rank, world: in a group of processes that all call this, each takes
    every world-th picture; all get the same metrics, and process 0 writes.

    The data set's classes are found in the model by name. Raises InputError for classes the model does not know, an
    empty split, unreadable pictures, an unwritable folder.
    """
    if not len(dataset):
        raise InputError(f"{dataset.root}: split {dataset.split} holds no picture, needed at least one")
    dataset = dataset.ordered(_names(predictor, dataset))
    place = None
    if out is not None and rank == 0:
        keep_clear(Path(out), WRITTEN, (dataset.path(index) for index in range(len(dataset))))
        place = folder(out)
    found = _classify(predictor, dataset, rank, world)
    metrics = score(dataset.labels, found, dataset.names, _info(predictor, dataset))
    if place is not None:
        _write(place, metrics, found, dataset)
    return metrics


def _names(predictor: ClassPredictor, dataset: ClassSet) -> tuple[str, ...]:
    """The model's classes. Where its recipe names none, the data set's are its first, and the rest have numbers."""
    if predictor.names:
        return predictor.names
    classes, held = predictor.recipe.model.classes, dataset.names
    if len(held) > classes:
        raise InputError(f"{dataset.root}: holds {len(held)} classes, the model has {classes}; take another recipe")
    return (*held, *map(str, range(len(held), classes)))


def _info(predictor: ClassPredictor, dataset: ClassSet) -> dict[str, Any]:
    """What stands in metrics.json beside the numbers."""
    return {
        "recipe": predictor.recipe.name,
        "data": str(dataset.root),
        "split": dataset.split,
        "pictures": len(dataset),
        "canvas": predictor.recipe.data.canvas.model_dump(),
        "versions": {"boxwright": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _classify(predictor: ClassPredictor, dataset: ClassSet, rank: int, world: int) -> list[Classes]:
    """The best classes of all pictures in the data set's order."""
    config, data = predictor.recipe.evaluate, predictor.recipe.data
    mine = dataset.subset(np.arange(rank, len(dataset), world))
    loader = ClassLoader(mine, data.canvas, config.batch, workers=data.workers, shuffle=False)
    batches = loader.epoch(0)
    found: list[Classes] = []
    for batch in track(batches, loader.steps_per_epoch, "evaluate", "batches") if rank == 0 else batches:
        found += predictor.classify(batch.images, batch.frames, BEST)
    return _gather(found, len(dataset), predictor.names) if world > 1 else found


def _gather(mine: Sequence[Classes], total: int, names: tuple[str, ...]) -> list[Classes]:
    """The classes of all processes, every world-th picture from each, in order, in every process."""
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, [(one.scores.numpy(), one.labels.numpy()) for one in mine])
    turns = [parts[index % len(parts)][index // len(parts)] for index in range(total)]
    return [Classes(torch.from_numpy(scores), torch.from_numpy(labels), names) for scores, labels in turns]


def _write(place: Path, metrics: TopK, found: Sequence[Classes], dataset: ClassSet) -> None:
    """Files in `place`."""
    json_text.write(place / "metrics.json", metrics.to_json(), indent=1)
    rows = [
        {"file": dataset.path(index), "label": label, "best": one.labels.tolist(), "scores": one.scores.tolist()}
        for index, (label, one) in enumerate(zip(dataset.labels.tolist(), found, strict=True))
    ]
    json_text.write(place / "predictions.json", {"names": list(dataset.names), "pictures": rows})
    class_pictures.confusion(metrics, dataset.names, place / "confusion.png")
    class_pictures.mistakes(dataset, found, place / "mistakes.jpg")
    log = place / "log.jsonl"
    if log.is_file():
        pictures.curves(log, place / "curves.png", ("top1", "top5"), "right on the validation pictures")
