"""Detectors and classifiers scored on labelled pictures."""

from pathlib import Path

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import Dataset
from boxwright.errors import InputError
from boxwright.evaluation import class_run, run
from boxwright.evaluation.coco import Metrics
from boxwright.evaluation.topk import TopK
from boxwright.formats import open_labeled
from boxwright.predict.class_predictor import ClassPredictor
from boxwright.predict.load import AnyPredictor, load


def evaluate(
    predictor: AnyPredictor | str | Path,
    data: Dataset | ClassSet | str | Path,
    split: str = "val",
    out: str | Path | None = None,
    threshold: float | None = None,
) -> Metrics | TopK:
    """Score a detector or a classifier on labelled pictures.

    Args:
        predictor: What `load` gives, or what it takes.
        data: What `open_dataset` gives, or the root of a data set.
        split: Which part of it, where `data` is its root.
        out: A folder for metrics, results and pictures; None to write nothing.
        threshold: Lowest score that counts, of detectors; None for the recipe's.

    Returns:
        COCO's numbers, or for a classifier top-1 and top-5.

    Raises:
        InputError: For classes that the model does not know, faulty labels, unreadable pictures, an unwritable folder.

    Example:
        >>> bw.evaluate("runs/mine", "data/mine", split="test").ap50
    """
    scored = load(predictor) if isinstance(predictor, str | Path) else predictor
    labelled = open_labeled(data, split, scored.recipe) if isinstance(data, str | Path) else data
    if isinstance(scored, ClassPredictor):
        if threshold is not None:
            raise InputError("threshold: found with a classifier, which has none; leave it out")
        if not isinstance(labelled, ClassSet):
            raise InputError(f"{labelled.root}: holds boxes, the classifier needs one folder a class")
        return class_run.evaluate_classifier(scored, labelled, out)
    if not isinstance(labelled, Dataset):
        raise InputError(f"{labelled.root}: holds classes, the detector needs boxes")
    return run.evaluate(scored, labelled, out, threshold)
