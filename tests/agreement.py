"""Comparison of two results that differ in rounding: from another processor, runtime or engine.

A detection within the tolerance of a threshold may be on one side only, and neighbors whose scores are that close may
be swapped. Every other detection has exactly one match.
"""

from collections.abc import Mapping

import torch

from boxwright.types import Classes, Detections


def assert_same_detections(
    found: Detections, wanted: Detections, *, threshold: float, score: float, box: float, keep: int | None = None
) -> None:
    """Each detection matches one of its class, within `score` and `box` px, except near the lowest score.

    threshold: lowest requested score. keep: maximum number of detections, None without a limit.
    """
    lowest = threshold
    if keep is not None and min(len(found), len(wanted)) >= keep:
        lowest = max(lowest, float(found.scores.min()), float(wanted.scores.min()))
    apart = (found.boxes[:, None] - wanted.boxes[None]).abs().amax(2) / box
    apart = torch.maximum(apart, (found.scores[:, None] - wanted.scores[None]).abs() / score)
    apart += 1e9 * (found.labels[:, None] != wanted.labels[None])
    free_found, free_wanted = (set(range(len(one))) for one in (found, wanted))
    for index in apart.flatten().argsort().tolist():  # the nearest pairs first
        row, column = divmod(index, len(wanted))
        if apart[row, column] > 1:
            break
        if row in free_found and column in free_wanted:
            free_found.remove(row)
            free_wanted.remove(column)
    for what, one, alone in (("found", found, free_found), ("wanted", wanted, free_wanted)):
        certain = [index for index in alone if one.scores[index] > lowest + score]
        rows = [(one.labels[i].item(), one.scores[i].item(), one.boxes[i].tolist()) for i in certain]
        assert not rows, f"only {what}: {rows[:3]} and {max(0, len(rows) - 3)} more"


def by_label(found: Classes) -> dict[int, float]:
    """Label -> score, best first."""
    return dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True))


def assert_same_classes(found: Mapping[int, float], wanted: Mapping[int, float], *, score: float) -> None:
    """Label -> score of the best classes, best first: the same scores, and the same labels where they are not equal
    within `score` to a neighbor's, the first left out included."""
    ours, theirs = list(found.values()), list(wanted.values())
    assert len(ours) == len(theirs)
    assert all(abs(one - other) <= score for one, other in zip(ours, theirs, strict=True)), (ours, theirs)
    for one, other in ((found, wanted), (wanted, found)):
        for label, value in one.items():
            assert abs(other.get(label, min(other.values())) - value) <= score, f"class {label}: {one}, {other}"
