"""The audit of a data set: label errors, near-duplicates across splits, and drift."""

import os
from collections.abc import Sequence
from pathlib import Path

from boxwright import json_text
from boxwright.audit import drift, findings, folds
from boxwright.audit.report import DRIFT, FILES, JSON, SHEET, TABLE, AuditReport
from boxwright.audit.subject import Subject, open_subject
from boxwright.data.dataset import Dataset
from boxwright.data.sets import Root, shown
from boxwright.datatools.groups import group
from boxwright.datatools.val_fraction import name_to_train_on
from boxwright.errors import InputError
from boxwright.evaluation.compare import read
from boxwright.evaluation.evaluate import report_folder
from boxwright.metrics.error_split import split_errors
from boxwright.metrics.matching import match
from boxwright.predict.predictor import load
from boxwright.types import Detections
from boxwright.weights import stored_recipe

MIN_FINDING = 0.1  # minimum score of a finding that is reported


def audit(
    data: Root,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    training: folds.Training | None = None,
    splits: Sequence[str] = (),
    against: Root | None = None,
    group_by: str = "image",
    kind: str = "auto",
    count: int = 24,
    skip_bad: bool = False,
    device: str = "auto",
) -> AuditReport:
    """Look for label errors in a data set, for near-duplicates across its splits, and for differences between them.

    Args:
        data: The root of a data set.
        out: The folder for audit.json, audit.csv, audit.jpg and drift.png.
        weights: A run folder, weights or an exported file whose detections are compared with the labels, or a
            detections.json of `evaluate` of a single split; None to train networks, each without the images that it
            predicts.
        training: The settings of these trainings; None for the defaults.
        splits: Names of splits; () for all.
        against: Another data set: differences and near-duplicates are then between the two sets.
        group_by: Images that stay together, as in `datatools.groups.keys_of`.
        kind: The layout of `data`.
        count: Number of findings that are drawn.
        skip_bad: Drop labels and images that cannot be used.
        device: As in `load`, for `weights`.

    Returns:
        The findings.

    Raises:
        InputError: The data set cannot be read or trained on, the weights lack its classes, or the folder is not
            writable.

    Example:
        >>> print(audit("data/mine", "audit"))
    """
    subject = open_subject(data, splits, kind, group_by, skip_bad=skip_bad)
    subjects = {shown(data): subject}
    if against is not None:
        if os.path.realpath(shown(against)) == os.path.realpath(shown(data)):
            raise InputError(f"--against {shown(against)}: is the same data set, needed another one")
        subjects[shown(against)] = open_subject(against, skip_bad=skip_bad)
    with report_folder(out, FILES, [subject.dataset]) as folder:
        results, network, trained_here = _detections(subject, folder, weights, training or folds.Training(), device)
        measured = drift.measure(subjects)
        drifts = drift.compare(measured)
        found = findings.find(subject.dataset, results, MIN_FINDING)
        ap50 = _ap50(subject.dataset, results)
        report = AuditReport(subject, network, trained_here, ap50, found, across(subjects), drifts)
        report.write_sheet(folder / SHEET, count)
        report.write_table(folder / TABLE)
        drift.plot(measured, drifts, folder / DRIFT)
        json_text.write(folder / JSON, report.to_json(), indent=1)
    return report


def across(subjects: dict[str, Subject]) -> list[list[tuple[str, str]]]:
    """Groups of images in several splits of a single subject, or in several subjects: (split or set, image) of each."""
    single = len(subjects) == 1
    keys = [key for subject in subjects.values() for key in subject.keys]
    groups = group(keys, [path for subject in subjects.values() for path in subject.paths()])
    places = [
        (subject.splits[split] if single else title, subject.dataset.short_path(index))
        for title, subject in subjects.items()
        for index, split in enumerate(subject.split_of.tolist())
    ]
    members: dict[int, list[tuple[str, str]]] = {}
    for first, place in zip(groups.tolist(), places, strict=True):
        members.setdefault(first, []).append(place)
    return [group for group in members.values() if len({part for part, _ in group}) > 1]


def _detections(
    subject: Subject, folder: Path, weights: str | Path | None, training: folds.Training, device: str
) -> tuple[Sequence[Detections], str, bool | None]:
    """The detections of each image, their origin, and whether its network was trained on some of the images."""
    if weights is None:
        results: Sequence[Detections] = folds.predict_folds(subject, training, folder)
        return results, f"compared with {training.folds} networks, each trained without the images it predicts", False
    if Path(weights).suffix == ".json":
        if len(subject.splits) > 1:
            raise InputError(
                f"{weights}: holds detections of one split, found {', '.join(subject.splits)}; name its --split"
            )
        return read(Path(weights), subject.dataset).results, f"compared with {weights}", None
    results = folds.predict_subject(load(weights, device=device), subject)
    return results, f"compared with {weights}", _was_trained_on(Path(weights), subject)


def _ap50(dataset: Dataset, results: Sequence[Detections]) -> float:
    """AP50 of the detections, in [0, 1]; -1 without objects."""
    samples = [dataset[index] for index in range(len(dataset))]
    return split_errors(match(samples, results), folds.MIN_SCORE).ap50


def _was_trained_on(weights: Path, subject: Subject) -> bool | None:
    """True if the recipe stored with the weights names this data set; None if unknown."""
    if not (weights.is_dir() or weights.suffix == ".safetensors"):
        return None
    stored = stored_recipe(weights)
    roots = stored.data.root if stored else ()
    trained_on = {os.path.realpath(root) for root in ([roots] if isinstance(roots, str) else roots) if root}
    is_same = os.path.realpath(subject.dataset.root) in trained_on
    return True if is_same and name_to_train_on(list(subject.splits)) in subject.splits else None
