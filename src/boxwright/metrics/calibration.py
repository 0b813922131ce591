"""Calibration: whether the fraction s of the detections with score s is correct, and temperatures that achieve it.

N scores, C classes of a classifier
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.arrays import Array
from boxwright.json_text import JsonObject
from boxwright.ops.temperature import scale

BINS = 10
RANGE = (0.25, 4.0)  # of fitted temperatures; beyond it, scores crowd at 0 or 1
MIN_EXAMPLES = 10  # minimum numbers of correct and of wrong scores of a class for its own temperature
STEPS = 40  # of the bisection


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of scores in `BINS` bins of equal width.

    Attributes:
        ece: Expected calibration error in [0, 1]: the mean of |accuracy - mean score| over the bins, weighted by their
            counts; -1 without scores.
        counts: Number of scores in each bin.
        scores: Mean score of each bin; 0 if it is empty.
        accuracies: Fraction of correct ones in each bin; 0 if it is empty.
    """

    ece: float
    counts: NDArray[np.int64]
    scores: NDArray[np.float64]
    accuracies: NDArray[np.float64]

    def to_json(self) -> JsonObject:
        columns = (self.counts.tolist(), self.scores.tolist(), self.accuracies.tolist())
        bins = [
            {"from": index / BINS, "to": (index + 1) / BINS, "count": count, "score": score, "accuracy": accuracy}
            for index, (count, score, accuracy) in enumerate(zip(*columns, strict=True))
        ]
        return {"ece": self.ece, "bins": bins}


def calibration(scores: Array, correct: Array) -> Calibration:
    """The calibration of scores (N,) in [0, 1]. correct: (N,) bool."""
    bins = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    number = np.maximum(counts, 1)
    means = np.bincount(bins, weights=scores, minlength=BINS) / number
    accuracies = np.bincount(bins, weights=correct.astype(float), minlength=BINS) / number
    ece = float((np.abs(accuracies - means) * counts).sum() / len(scores)) if len(scores) else -1.0
    return Calibration(ece, counts, means, accuracies)


def class_temperatures(scores: Array, correct: Array, labels: Array, classes: int) -> list[float]:
    """The temperature of each class; that of all classes together if a class has too few correct or wrong ones.

    Args:
        scores: (N,) in [0, 1].
        correct: (N,) bool.
        labels: (N,) classes of the detections.
        classes: Number of classes.
    """
    pooled = temperature(scores, correct)
    temperatures = []
    for label in range(classes):
        chosen = labels == label
        right = int(correct[chosen].sum())
        enough = min(right, int(chosen.sum()) - right) >= MIN_EXAMPLES
        temperatures.append(temperature(scores[chosen], correct[chosen]) if enough else pooled)
    return temperatures


def temperature(scores: Array, correct: Array) -> float:
    """The maximum-likelihood temperature within `RANGE`; 1 if all scores, or none, are correct."""
    if correct.all() or not correct.any():
        return 1.0
    clipped = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    logits = np.log(clipped) - np.log1p(-clipped)
    # the derivative of the negative log-likelihood by 1 / temperature, in which it is convex
    return _root(lambda factor: float(((scale(clipped, np.array(1 / factor)) - correct) * logits).sum()))


def softmax_temperature(log_probabilities: Array, truth: Array) -> float:
    """`temperature` for a classifier. log_probabilities: (N, C), normalized or not. truth: (N,) labels."""
    if not len(truth):
        return 1.0
    logits = log_probabilities - log_probabilities.max(axis=1, keepdims=True)
    right = logits[np.arange(len(truth)), truth]

    def derivative(factor: float) -> float:
        weights = np.exp(logits * factor)
        return float(((weights * logits).sum(axis=1) / weights.sum(axis=1) - right).sum())

    return _root(derivative)


def _root(derivative: Callable[[float], float]) -> float:
    """The temperature at which an increasing function of its reciprocal is 0, by bisection; the nearest in `RANGE`."""
    low, high = 1 / RANGE[1], 1 / RANGE[0]
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if derivative(middle) > 0 else (middle, high)
    return round(2 / (low + high), 4)
