"""A detector on labelled pictures: COCO's numbers, and the files that a look at them needs.

I pictures, K classes of the data set
"""

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import torch
from torch import distributed

from boxwright import __version__, json_text
from boxwright.data.canvas import read_image
from boxwright.data.dataset import Dataset, Sample
from boxwright.data.loader import Loader
from boxwright.errors import InputError
from boxwright.evaluation import pictures
from boxwright.evaluation.coco import Metrics, score
from boxwright.files import folder, keep_clear
from boxwright.interop import to_coco
from boxwright.predict.predictor import Predictor, check_fraction
from boxwright.progress import track
from boxwright.types import Detections

# what is written into the folder
WRITTEN = ("metrics.json", "detections.json", "precision_recall.png", "confusion.png", "sheet.jpg", "curves.png")
ON_SHEET = 8  # pictures, spread evenly over the data set


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    out: str | Path | None = None,
    threshold: float | None = None,
    *,
    rank: int = 0,
    world: int = 1,
) -> Metrics:
    """COCO's numbers of `predictor` on every picture of `dataset`, also those without boxes.

    threshold: lowest score that counts, None for the recipe's. out: a folder for metrics.json, detections.json (COCO
    results), precision_recall.png, confusion.png, sheet.jpg, and for a run folder curves.png from its log.
    rank, world: in a group of processes that all call this (torch.distributed is up), each takes every world-th
    picture; all get the same metrics, and process 0 writes.

    The data set's classes are found in the model by name; what the model sees of other classes is left out.
    Raises InputError for classes the model does not know, faulty labels, unreadable pictures, an unwritable folder.
    """
    threshold = lowest_score(predictor, threshold)
    samples = labelled(dataset)
    _same_classes(predictor, dataset)
    place = results_folder(out, WRITTEN, dataset) if out is not None and rank == 0 else None
    found = detect(predictor, dataset, threshold, rank=rank, world=world)
    return judge(predictor, dataset, samples, found, threshold, place)


def results_folder(out: str | Path, written: Sequence[str], dataset: Dataset) -> Path:
    """The folder `out`, made where it is not there. Raises InputError where one of the files to be written into it is a
    picture or a label file of `dataset`."""
    keep_clear(Path(out), written, (dataset.path(index) for index in range(len(dataset))))
    keep_clear(Path(out), written, (dataset.label_file(index) for index in range(len(dataset.images.label_files))))
    return folder(out)


def lowest_score(predictor: Predictor, given: float | None) -> float:
    """The threshold of an evaluation: `given`, or the recipe's. Raises InputError outside [0, 1]."""
    return predictor.recipe.evaluate.threshold if given is None else check_fraction("threshold", given)


def labelled(dataset: Dataset) -> list[Sample]:
    """All samples; InputError where a label cannot be scored."""
    if not len(dataset):
        raise InputError(f"{dataset.root}: split {dataset.split} holds no picture, needed at least one")
    samples = [dataset[index] for index in range(len(dataset))]
    for sample in samples:
        if (sample.labels < 0).any() or not np.isfinite(sample.boxes).all():
            raise InputError(
                f"{sample.path}: a label of unknown category or a box that is no number; "
                f"see `boxwright data check {dataset.root}`"
            )
    return samples


def judge(
    predictor: Predictor,
    dataset: Dataset,
    samples: Sequence[Sample],
    found: Sequence[Detections],
    threshold: float,
    place: Path | None,
) -> Metrics:
    """COCO's numbers of what `detect` found on `samples`, which are all of `dataset`; place: where the files go."""
    metrics = score(samples, found, dataset.names, _info(predictor, dataset, threshold))
    if place is not None:
        _write(place, metrics, samples, found, dataset, predictor.recipe.predict.threshold)
    return metrics


def _info(predictor: Predictor, dataset: Dataset, threshold: float) -> dict[str, Any]:
    """What stands in metrics.json beside the numbers."""
    config = predictor.recipe.evaluate
    return {
        "recipe": predictor.recipe.name,
        "data": str(dataset.root),
        "split": dataset.split,
        "pictures": len(dataset),
        "threshold": threshold,
        "plus_one": config.plus_one,
        "nms": config.nms.model_dump(),
        "canvas": predictor.recipe.data.canvas.model_dump(),
        "versions": {
            "boxwright": __version__,
            "torch": torch.__version__,
            "hotcoco": hotcoco.__version__,
            "python": platform.python_version(),
        },
    }


def _same_classes(predictor: Predictor, dataset: Dataset) -> torch.Tensor:
    """(classes of the model,) int64: the label in the data set, -1 where it has no such class."""
    ours = predictor.names
    unknown = [name for name in dataset.names if name not in ours]
    if unknown:
        raise InputError(
            f"{dataset.root}: the model does not know {len(unknown)} of the data set's {len(dataset.names)} classes "
            f"({', '.join(unknown[:5])}); needed some of {', '.join(ours[:5])} ... ({len(ours)}); if only the "
            "spelling differs, name the model's classes as the data set does by data.names"
        )
    labels = {name: label for label, name in enumerate(dataset.names)}
    return torch.tensor([labels.get(name, -1) for name in ours])


def detect(
    predictor: Predictor, dataset: Dataset, threshold: float, *, rank: int = 0, world: int = 1
) -> list[Detections]:
    """Detections of all pictures in the data set's order, with its labels and names, on the CPU.

    rank, world: as in `evaluate`. Raises InputError for classes the model does not know and unreadable pictures.
    """
    config, data = predictor.recipe.evaluate, predictor.recipe.data
    classes = _same_classes(predictor, dataset)
    mine = dataset.subset(np.arange(rank, len(dataset), world))
    loader = Loader(mine, data.canvas, config.batch, workers=data.workers, shuffle=False)
    kept = (classes >= 0).nonzero().flatten().tolist()
    wanted = None if len(kept) == len(classes) else kept
    found: list[Detections] = []
    batches = loader.epoch(0)
    for batch in track(batches, loader.steps_per_epoch, "evaluate", "batches") if rank == 0 else batches:
        for one in predictor.detect(batch.images, batch.frames, threshold, config.nms, wanted):
            boxes = one.boxes + one.boxes.new_tensor([0, 0, config.plus_one, config.plus_one])
            found.append(replace(one, boxes=boxes, labels=classes[one.labels], names=dataset.names))
    return _gather(found, len(dataset), dataset.names) if world > 1 else found


def _gather(mine: Sequence[Detections], total: int, names: tuple[str, ...]) -> list[Detections]:
    """The detections of all processes, every world-th picture from each, in order, in every process."""
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, [(d.boxes.numpy(), d.scores.numpy(), d.labels.numpy()) for d in mine])
    merged = []
    for index in range(total):
        boxes, scores, labels = map(torch.from_numpy, parts[index % len(parts)][index // len(parts)])
        merged.append(Detections(boxes, scores, labels, names))
    return merged


def _write(
    place: Path,
    metrics: Metrics,
    samples: Sequence[Sample],
    found: Sequence[Detections],
    dataset: Dataset,
    threshold: float,
) -> None:
    """Files in `place`. Pictures and the confusion matrix show what scores at least `threshold`."""
    json_text.write(place / "metrics.json", metrics.to_json(), indent=1)
    rows = [
        row
        for sample, one in zip(samples, found, strict=True)
        for row in to_coco(one, sample.image_id, dataset.category_ids)
    ]
    json_text.write(place / "detections.json", rows)
    pictures.precision_recall(metrics, place / "precision_recall.png")
    counts = pictures.confusion(samples, found, len(dataset.names), threshold)
    ticks, title = [*dataset.names, "background"], f"boxes at IoU 0.50, scores from {threshold:g}"
    pictures.confusion_matrix(counts, ticks, ticks, title, place / "confusion.png")
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(ON_SHEET, len(samples))).round().astype(int)).tolist()
    shown = [found[index][found[index].scores >= threshold] for index in chosen]
    images = (read_image(samples[index].path) for index in chosen)  # one at a time
    pictures.sheet(images, [samples[index] for index in chosen], shown, place / "sheet.jpg")
    log = place / "log.jsonl"
    if log.is_file():
        title = "average precision on the validation pictures"
        pictures.curves(log, place / "curves.png", ("AP50", "AP"), title)
