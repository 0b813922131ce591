"""How often an epoch visits each image: the weight of its set, times its repeat factor.

P images, L labels (boxes, or one per image)
"""

import numpy as np
from numpy.typing import NDArray

from boxwright.data.members import Members


def visit_weights(
    images: NDArray[np.int64], labels: NDArray[np.int64], count: int, threshold: float, members: Members | None
) -> NDArray[np.float64] | None:
    """(P,) the weights of `batches.loader.Visits`; None where each image is visited once.

    Args:
        images: (L,) the image of each label.
        labels: (L,) the class of each label.
        count: Number of images, P.
        threshold: As in `repeat_factors`; 0 for no repetition.
        members: The sets of the data, whose weights multiply the factors.
    """
    weights = None if members is None else members.weights()
    if not threshold:
        return weights
    factors = repeat_factors(images, labels, count, threshold)
    return factors if weights is None else factors * weights


def repeat_factors(
    images: NDArray[np.int64], labels: NDArray[np.int64], count: int, threshold: float
) -> NDArray[np.float64]:
    """(P,) the repeat factors of LVIS (Gupta et al. 2019, section 4.2).

    With f, the fraction of all images that have a class, the factor of the class is max(1, sqrt(threshold / f)), and
    that of an image the largest of its classes, or 1 without any. Arguments as in `visit_weights`.
    """
    pairs = np.unique(np.stack([images, labels], axis=1), axis=0)  # each pair of image and class once
    images_of_class = np.bincount(pairs[:, 1])
    factors = np.ones(count)
    np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold * count / images_of_class[pairs[:, 1]]))
    return factors
