"""Evaluation of a detector or a classifier on a data set."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from boxwright import interrupt
from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.data.layout import Labels
from boxwright.data.members import Members
from boxwright.data.sets import Root
from boxwright.datatools.clean import UNUSABLE, Cleaning
from boxwright.datatools.groups import of_evaluation
from boxwright.errors import InputError, titled
from boxwright.files import check_outputs, check_outside, output_folder
from boxwright.json_text import JsonObject
from boxwright.metrics.coco import Metrics
from boxwright.metrics.topk import TopK
from boxwright.predict.predictor import AnyPredictor, Predictor, load
from boxwright.predict.stream import predict_all
from boxwright.tasks import AnyTask, PostprocessArgs, of_dataset
from boxwright.tasks.base import D, Examples, ImageSet, R
from boxwright.version import versions

logger = logging.getLogger(__name__)


def evaluate(
    predictor: AnyPredictor | str | Path,
    data: Dataset | ClassSet | Root,
    split: str = "val",
    out: str | Path | None = None,
    *,
    threshold: float | None = None,
    skip_bad: bool = False,
    clip_boxes: bool = False,
    intervals: bool = True,
) -> Metrics | TopK:
    """Evaluate a detector or a classifier on labeled images.

    Args:
        predictor: A predictor from `load`, or the path of a run folder, weights or an exported file.
        data: A data set from `open_dataset`, the root of a data set, or a list of roots.
        split: The split, if `data` is a root.
        out: A folder for metrics, results and drawn images; None to write nothing.
        threshold: Minimum score, for detectors; None for the recipe's.
        skip_bad: As in `train`; without it, errors that cannot be evaluated are raised.
        clip_boxes: As in `train`.
        intervals: Whether to compute a 95 % interval of each AP, or of top-1 and top-5.

    Returns:
        COCO metrics, or top-1 and top-5 for a classifier.

    Raises:
        InputError: The data set has classes that the model does not have, or labels with errors; an image cannot be
            read; or the folder is not writable.

    Example:
        >>> bw.evaluate("runs/mine", "data/mine", split="test").ap50
    """
    if not isinstance(predictor, Predictor):
        predictor = load(predictor)
    task, recipe = predictor.task, predictor.recipe
    task.check_options(recipe, {"threshold": threshold})
    found = data if isinstance(data, Dataset | ClassSet) else task.open(data, split, recipe.data)
    dataset: Any = found
    if not isinstance(found, task.dataset_type):
        raise InputError(f"{dataset.root}: holds labels for {of_dataset(dataset).title}, the model is {task.title}")
    for note in dataset.notes:
        logger.warning("%s", note)
    dataset = cleaned(task, dataset, Cleaning(skip_bad, clip_boxes), rgb=recipe.data.bands is None)
    metrics: Metrics | TopK = evaluate_dataset(predictor, dataset, out, threshold, intervals=intervals)
    return metrics


def cleaned(task: AnyTask, dataset: Labels, cleaning: Cleaning, *, rgb: bool = False) -> Labels:
    """The data set without errors that cannot be evaluated. Logs each item left out. rgb: as in `Task.check`.

    Raises InputError for errors that `cleaning` does not handle, before anything is computed.
    """
    dataset, left_out = replace(cleaning, kinds=UNUSABLE).apply(dataset, task.check(dataset, rgb=rgb))
    for line in left_out:
        logger.warning("%s", line)
    return dataset


def evaluate_dataset(
    predictor: AnyPredictor,
    dataset: Dataset | ClassSet,
    out: str | Path | None = None,
    threshold: float | None = None,
    *,
    args: PostprocessArgs | None = None,
    intervals: bool = False,
    check: Callable[[], None] = lambda: None,
    rank: int = 0,
    world: int = 1,
) -> Metrics | TopK:
    """Evaluate `predictor` on all images of a data set of its task, including those without labels.

    Args:
        predictor: The predictor.
        dataset: A data set of the predictor's task.
        out: As in `evaluate`.
        threshold: As in `evaluate`.
        args: Arguments of postprocessing; None for the recipe's.
        intervals: As in `evaluate`.
        check: Called after each image; it may raise `interrupt.Stopped`, which is then raised in all processes.
        rank: Index of this process, if torch.distributed is initialized and all processes call this function. Each
            process predicts every world-th image, all return the same metrics, and process 0 writes the files.
        world: Number of processes.
    """
    task, recipe = predictor.task, predictor.recipe
    dataset = to_score(predictor, dataset)
    args = args or task.evaluation_args(dataset, recipe, threshold)
    examples = None if out is None else task.examples(dataset, recipe)
    with nullcontext() if out is None or rank else report_folder(out, task.report_files, [dataset]) as folder:
        results = predict_dataset(predictor, dataset, args, examples, check=check, rank=rank, world=world)
        groups = of_evaluation(dataset) if intervals else None
        metrics: Metrics | TopK = score_and_write(predictor, dataset, args, results, folder, examples, groups)
    return metrics


def to_score(predictor: AnyPredictor, dataset: D) -> D:
    """The data set to score. Raises InputError if it has no images, and as `Task.to_score`."""
    if not len(dataset):
        raise InputError(f"{dataset.root}: split {dataset.split} holds no image, needed at least one")
    result: D = predictor.task.to_score(dataset, predictor.recipe)
    return result


def score_and_write(
    predictor: AnyPredictor,
    dataset: Dataset | ClassSet,
    args: PostprocessArgs,
    results: Sequence[object],
    folder: Path | None,
    examples: Examples | None,
    groups: NDArray[np.int64] | None = None,
) -> Any:
    """Compute the metrics from the results of all images; write them and the examples into `folder`.

    groups: (N,) group of each image, for intervals; None for no intervals.
    """
    task, recipe = predictor.task, predictor.recipe
    info = {
        "recipe": recipe.name,
        "data": titled(str(dataset.root)),
        "split": dataset.split,
        "images": len(dataset),
        "canvas": recipe.data.canvas.model_dump(),
        "versions": versions("torch", "hotcoco"),
    }
    metrics = task.score(dataset, results, info, recipe, args, groups)
    if dataset.members is not None:
        metrics = replace(metrics, sets=_each_set(predictor, dataset, dataset.members, args, results, info, groups))
    if folder is not None and examples is not None:
        task.write_report(folder, metrics, dataset, results, examples, recipe)
    return metrics


def _each_set(
    predictor: AnyPredictor,
    dataset: Dataset | ClassSet,
    members: Members,
    args: PostprocessArgs,
    results: Sequence[object],
    info: JsonObject,
    groups: NDArray[np.int64] | None,
) -> tuple[tuple[str, Metrics | TopK], ...]:
    """The title and the metrics of each of several sets, without sets that have no image."""
    metrics = []
    for member, indices, _ in members.each():
        if len(indices):
            of_set = info | {"data": member.title, "images": len(indices)}
            chosen = [results[index] for index in indices.tolist()]
            own = None if groups is None else np.unique(groups[indices], return_inverse=True)[1].astype(np.int64)
            score = predictor.task.score(dataset.subset(indices), chosen, of_set, predictor.recipe, args, own)
            metrics.append((member.title, score))
    return tuple(metrics)


def predict_dataset(
    predictor: Predictor[R],
    dataset: Dataset | ClassSet,
    args: PostprocessArgs,
    examples: Examples | None = None,
    *,
    check: Callable[[], None] = lambda: None,
    rank: int = 0,
    world: int = 1,
) -> list[R]:
    """Predict all images of a data set, in its order and with its labels and names.

    examples: collects drawings while the pixels are in memory. check, rank, world: as in `evaluate_dataset`. Raises
    InputError if an image cannot be read.
    """
    task, recipe = predictor.task, predictor.recipe
    indices = range(rank, len(dataset), world)

    def needs_pixels(index: int) -> bool:
        return examples is not None and examples.wants(indices[index])

    def add_example(index: int, result: R) -> None:
        check()
        if examples is not None and needs_pixels(index):
            examples.add(indices[index], task.with_dataset_labels(result, dataset, recipe))

    try:
        predicted = predict_all(
            predictor,
            [dataset.source(index) for index in indices],
            args,
            batch=recipe.evaluate.batch,
            needs_pixels=needs_pixels,
            callback=add_example,
            title="evaluate" if rank == 0 else "",
        )
    except interrupt.Stopped:
        if world > 1:  # other processes wait for the results of this one
            _gather(None, len(dataset), examples)
        raise
    for result in predicted:
        if isinstance(result, InputError):
            raise result
    results = [task.with_dataset_labels(result, dataset, recipe) for result in predicted]
    return _gather(results, len(dataset), examples) if world > 1 else results


def report_folder(
    out: str | Path, file_names: Sequence[str], datasets: Sequence[ImageSet]
) -> AbstractContextManager[Path]:
    """The folder `out`, as `output_folder`. Raises InputError if a file to write there is an image or a label file of a
    data set, and if the folder lies among the images of one, which would then contain the drawings."""
    for dataset in datasets:
        check_outputs(Path(out), file_names, (dataset.path(index) for index in range(len(dataset))))
        check_outputs(Path(out), file_names, dataset.label_paths())
        check_outside(out, dataset.folders())
    return output_folder(out)


def _gather(results: list[R] | None, total: int, examples: Examples | None) -> list[R]:
    """All-gather the results, in order, and the panels; each process has the results of every world-th image.

    Raises `interrupt.Stopped` if a process has no results.
    """
    gathered: list[Any] = [None] * distributed.get_world_size()
    panels, looks = (examples.panels, examples.looks) if examples else ({}, {})
    distributed.all_gather_object(gathered, (results, panels, looks))
    if any(own is None for own, _, _ in gathered):
        raise interrupt.Stopped
    if examples:
        for _, panels, looks in gathered:
            examples.merge(panels, looks)
    return [gathered[index % len(gathered)][0][index // len(gathered)] for index in range(total)]
