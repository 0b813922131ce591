"""Evaluating is predicting the images of a data set, and counting what is right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import distributed

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError
from boxwright.files import check_outputs, make_folder
from boxwright.metrics.coco import Metrics
from boxwright.metrics.topk import TopK
from boxwright.predict.predictor import Predictor, load
from boxwright.predict.stream import predict_all
from boxwright.tasks import PostprocessArgs, of_dataset
from boxwright.tasks.base import Examples, ImageSet
from boxwright.version import versions


def evaluate(
    predictor: Predictor[Any] | str | Path,
    data: Dataset | ClassSet | str | Path,
    split: str = "val",
    out: str | Path | None = None,
    threshold: float | None = None,
) -> Metrics | TopK:
    """Score a detector or a classifier on labeled images.

    Args:
        predictor: What `load` gives, or what it takes.
        data: What `open_dataset` gives, or the root of a data set.
        split: Which part of it, where `data` is its root.
        out: A folder for metrics, results and drawn images; None to write nothing.
        threshold: Lowest score that counts, of detectors; None for the recipe's.

    Returns:
        COCO's metrics, or for a classifier top-1 and top-5.

    Raises:
        InputError: For classes that the model does not know, faulty labels, unreadable images, an unwritable folder.

    Example:
        >>> bw.evaluate("runs/mine", "data/mine", split="test").ap50
    """
    if not isinstance(predictor, Predictor):
        predictor = load(predictor)
    task, recipe = predictor.task, predictor.recipe
    task.check_options(recipe, {"threshold": threshold})
    dataset: ImageSet = task.open(data, split, recipe.data) if isinstance(data, str | Path) else data
    if not isinstance(dataset, task.dataset_type):
        raise InputError(f"{dataset.root}: holds labels for {of_dataset(dataset).title}, the model is {task.title}")
    metrics: Metrics | TopK = evaluate_dataset(predictor, dataset, out, threshold)
    return metrics


def evaluate_dataset(
    predictor: Predictor[Any],
    dataset: ImageSet,
    out: str | Path | None = None,
    threshold: float | None = None,
    *,
    args: PostprocessArgs | None = None,
    rank: int = 0,
    world: int = 1,
) -> Any:
    """The metrics of `predictor` on every image of a data set of its task, also those without labels.

    threshold, args: None for the recipe's. rank, world: in a group of processes that all call this (torch.distributed
    is initialized), each takes every world-th image; all get the same metrics, and process 0 writes.
    """
    task, recipe = predictor.task, predictor.recipe
    dataset = scored(predictor, dataset)
    args = args or task.evaluation_args(dataset, recipe, threshold)
    examples = None if out is None else task.examples(dataset, recipe)
    place = report_folder(out, task.report_files, [dataset]) if out is not None and rank == 0 else None
    results = predict_dataset(predictor, dataset, args, examples, rank=rank, world=world)
    return finish(predictor, dataset, args, results, place, examples)


def scored(predictor: Predictor[Any], dataset: ImageSet) -> Any:
    """The data set as it is scored. Raises InputError for one without images, and as `Task.scored`."""
    if not len(dataset):
        raise InputError(f"{dataset.root}: split {dataset.split} holds no image, needed at least one")
    return predictor.task.scored(dataset, predictor.recipe)


def finish(
    predictor: Predictor[Any],
    dataset: Any,
    args: PostprocessArgs,
    results: Sequence[Any],
    place: Path | None,
    examples: Examples | None,
) -> Any:
    """The metrics of the results of all images; written with the examples into the folder `place`."""
    task, recipe = predictor.task, predictor.recipe
    info = {
        "recipe": recipe.name,
        "data": str(dataset.root),
        "split": dataset.split,
        "images": len(dataset),
        "canvas": recipe.data.canvas.model_dump(),
        "versions": versions("torch", "hotcoco"),
    }
    metrics = task.score(dataset, results, info, recipe, args)
    if place is not None and examples is not None:
        task.write_report(place, metrics, dataset, results, examples, recipe)
    return metrics


def predict_dataset(
    predictor: Predictor[Any],
    dataset: Any,
    args: PostprocessArgs,
    examples: Examples | None = None,
    *,
    rank: int = 0,
    world: int = 1,
) -> list[Any]:
    """The results of all images in the data set's order, with its labels and names.

    examples: is given the results while their pixels are in memory. rank, world: as in `evaluate_dataset`.
    Raises InputError for unreadable images.
    """
    task, recipe = predictor.task, predictor.recipe
    indices = range(rank, len(dataset), world)

    def wanted(index: int) -> bool:
        return examples is not None and examples.wants(indices[index])

    def use(index: int, result: Any) -> None:
        if examples is not None and wanted(index):
            examples.add(indices[index], task.aligned(result, dataset, recipe))

    found = predict_all(
        predictor,
        [dataset.source(index) for index in indices],
        args,
        batch=recipe.evaluate.batch,
        wanted=wanted,
        use=use,
        title="evaluate" if rank == 0 else "",
    )
    for result in found:
        if isinstance(result, InputError):
            raise result
    results = [task.aligned(result, dataset, recipe) for result in found]
    return _gather(results, len(dataset), examples) if world > 1 else results


def report_folder(out: str | Path, written: Sequence[str], datasets: Sequence[Any]) -> Path:
    """The folder `out`, made where it is not there.

    Raises InputError where one of the files to be written into it is an image or a label file of one of the data sets.
    """
    for dataset in datasets:
        check_outputs(Path(out), written, (dataset.path(index) for index in range(len(dataset))))
        check_outputs(Path(out), written, dataset.label_paths())
    return make_folder(out)


def _gather(results: list[Any], total: int, examples: Examples | None) -> list[Any]:
    """The results of all processes, every world-th image from each, in order, in every process; their panels, too."""
    parts: list[Any] = [None] * distributed.get_world_size()
    panels = examples.panels if examples else {}
    distributed.all_gather_object(parts, (results, panels))
    if examples:
        for _, other in parts:
            examples.merge(other)
    return [parts[index % len(parts)][0][index // len(parts)] for index in range(total)]
