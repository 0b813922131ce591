"""Temperature scaling of scores (arXiv 1706.04599): logits are divided by a temperature, which keeps their order."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

A = TypeVar("A", Tensor, NDArray[np.float64])


def scale(scores: A, temperatures: A) -> A:
    """sigmoid(logit(score) / temperature), without logarithms, which are infinite at 0 and 1.

    scores: in [0, 1]. temperatures: above 0, of the same or a broadcastable shape; their reciprocals invert it.
    """
    yes = scores ** (1 / temperatures)
    scaled: A = yes / (yes + (1 - scores) ** (1 / temperatures))
    return scaled


def lowest_before(threshold: float, temperatures: Sequence[float]) -> float:
    """Lowest score before scaling that may be at least `threshold` after scaling by one of `temperatures`.

    Slightly lowered, since scores are rounded; without temperatures the threshold itself.
    """
    if not temperatures:
        return threshold
    inverse = 1 / np.array([min(temperatures), max(temperatures)])
    return float(scale(np.full(2, threshold), inverse).min()) * (1 - 1e-5)
