"""A Kalman filter with constant velocity for the boxes of N tracks at once, in px and seconds.

Center x, center y, width and height are filtered independently of each other, as all of their noise is independent. A
center moves with a velocity that changes by white noise; a size drifts without a velocity, which would make boxes of
hidden objects collapse.

The box of an object that moves behind another shrinks, and its center moves more slowly than the object's. So noise is
relative to the largest recent size, and a box that is smaller than that corrects the center little.
"""

import numpy as np

from boxwright.arrays import Array

# Standard deviations relative to the size of the object, the geometric mean of its sides. The first two are ByteTrack's
# at 30 frames per second, whose velocity changes by 1/160 of the height per frame: 30 / 160 * sqrt(30) = 1.03 per s.
MEASUREMENT_STD = 1 / 20  # of a detected coordinate
ACCELERATION = 1.0  # of a velocity after one second, in sizes per second
DRIFT = 0.3  # of a width or height after one second
FIRST_VELOCITY = 2.0  # of the velocity of a new track, in sizes per second; 10 * 30 / 160 in ByteTrack
MIN_SIZE = 1.0  # px
FADING = 3.0  # s in which the largest recent size decays to 1 / e
SIGMAS = 2.0  # standard deviations within which a center is searched for; with 1 a third of hidden objects are lost


class KalmanFilter:
    """The state of N tracks.

    Attributes:
        values: (N, 4) float64: center x, center y, width, height in px.
        rates: (N, 4) float64: their change in px per second.
        covariances: (N, 4, 3) float64: variance of the value, covariance of value and rate, variance of the rate.
        sides: (N, 2) float64: the largest recent width and height, px.
    """

    def __init__(self) -> None:
        self.values, self.rates, self.covariances = np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4, 3))
        self.sides = np.zeros((0, 2))

    def add(self, boxes: Array) -> None:
        """Begin a track at each of the boxes (M, 4), xyxy px."""
        values = _centers(boxes)
        size = _sizes(values[:, 2:])
        covariances = np.zeros((len(boxes), 4, 3))
        covariances[:, :, 0] = (MEASUREMENT_STD * size) ** 2
        covariances[:, :2, 2] = (FIRST_VELOCITY * size) ** 2
        self.values = np.concatenate([self.values, values])
        self.rates = np.concatenate([self.rates, np.zeros_like(values)])
        self.covariances = np.concatenate([self.covariances, covariances])
        self.sides = np.concatenate([self.sides, values[:, 2:]])

    def keep(self, kept: Array) -> None:
        """Keep only the tracks of the mask (N,)."""
        self.values, self.rates, self.covariances = self.values[kept], self.rates[kept], self.covariances[kept]
        self.sides = self.sides[kept]

    def predict(self, seconds: float) -> None:
        """Advance all tracks by a time of at least 0 s."""
        self.sides *= np.exp(-seconds / FADING)
        size = _sizes(self.sides)
        value, both, rate = np.moveaxis(self.covariances, 2, 0)
        self.values = self.values + self.rates * seconds
        # the integral of white noise of density q over the time t: q t^3 / 3, q t^2 / 2, q t
        density = (ACCELERATION * size) ** 2 * [1, 1, 0, 0]
        drift = (DRIFT * size) ** 2 * [0, 0, 1, 1]
        value = value + 2 * seconds * both + seconds**2 * rate + density * seconds**3 / 3 + drift * seconds
        both = both + seconds * rate + density * seconds**2 / 2
        self.covariances = np.stack([value, both, rate + density * seconds], axis=2)

    def update(self, rows: Array, boxes: Array) -> None:
        """Correct the tracks `rows` (M,) by their detected boxes (M, 4), xyxy px."""
        measured = _centers(boxes)
        value, both, rate = np.moveaxis(self.covariances[rows], 2, 0)
        self.sides[rows] = np.maximum(self.sides[rows], measured[:, 2:])
        # the center of a box that is truncated at one side is off by half of the missing length
        missing = (self.sides[rows] - measured[:, 2:]) / 2
        total = value + (MEASUREMENT_STD * _sizes(self.sides[rows])) ** 2
        total[:, :2] += missing**2
        error = measured - self.values[rows]
        self.values[rows] += value / total * error
        self.rates[rows] += both / total * error
        self.covariances[rows] = np.stack(
            [value - value**2 / total, both - value * both / total, rate - both**2 / total], axis=2
        )

    def move(self, affine: Array) -> None:
        """Move all tracks with the image: affine (2, 3) maps px of the last frame to px of this one.

        `affine` is close to a rotation with scaling; the small effect of the rotation on covariances is neglected.
        """
        turn = affine[:, :2]
        scale = abs(float(np.linalg.det(turn))) ** 0.5
        self.values[:, :2] = self.values[:, :2] @ turn.T + affine[:, 2]
        self.rates[:, :2] = self.rates[:, :2] @ turn.T
        self.values[:, 2:] *= scale
        self.covariances *= scale**2
        self.sides *= scale

    @property
    def boxes(self) -> Array:
        """(N, 4) xyxy px."""
        centers, sizes = self.values[:, :2], np.maximum(self.values[:, 2:], MIN_SIZE)
        return np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)

    @property
    def reach(self) -> Array:
        """(N, 2) px along x and y: the largest distance of the center of a part from the predicted center."""
        reach: Array = self.sides / 2 + SIGMAS * np.sqrt(self.covariances[:, :2, 0])
        return reach


def _centers(boxes: Array) -> Array:
    """xyxy -> center x, center y, width, height."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def _sizes(sides: Array) -> Array:
    """(N, 2) -> (N, 1): the geometric mean of width and height."""
    sides = np.maximum(sides, MIN_SIZE)
    size: Array = np.sqrt(sides[:, :1] * sides[:, 1:])
    return size
