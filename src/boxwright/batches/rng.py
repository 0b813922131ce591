"""Random numbers that depend on nothing but seed, step, and an image's place in the batch of all processes.

K images
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Dice:
    """One generator of random numbers for each of K images; each draw gives (K, ...) values."""

    def __init__(self, generators: list[np.random.Generator]) -> None:
        self.generators = generators

    @classmethod
    def for_batch(cls, seed: int, step: int, rank: int, count: int) -> "Dice":
        return cls([np.random.default_rng([seed % 2**64, step, place]) for place in places(rank, count)])

    def of(self, rows: Rows) -> "Dice":
        return Dice([self.generators[row] for row in rows])

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return np.stack([each.uniform(low, high, shape) for each in self.generators])

    def chance(self, probability: float) -> npt.NDArray[np.bool_]:
        return self.uniform(0, 1) < probability

    def below(self, end: int, count: int) -> Rows:
        """(K, count) whole numbers from 0 to end - 1."""
        return np.stack([each.integers(end, size=count) for each in self.generators])

    def beta(self, a: float, b: float) -> Array:
        return np.array([each.beta(a, b) for each in self.generators])

    def factor(self, low: float, high: float) -> Array:
        """Down or up with equal chance, then uniform between 1 and that end."""
        return np.where(self.chance(0.5), self.uniform(low, 1), self.uniform(1, high))


def places(rank: int, count: int) -> range:
    """The places in the batch of the whole group that this process's images have."""
    return range(rank * count, (rank + 1) * count)


def keys(seed: int, step: int, places: range) -> Rows:
    """(B,) from 0 to 2^32 - 1. The spawn key sets them apart from the numbers that start the dice."""
    sources = (np.random.SeedSequence([seed % 2**64, step, place], spawn_key=(1,)) for place in places)
    return np.array([source.generate_state(1)[0] for source in sources], dtype=np.int64)


def window_generator(seed: int, step: int, place: int) -> np.random.Generator:
    """For the window of one image, which is drawn before its batch is. The spawn key sets it apart from the dice."""
    return np.random.default_rng(np.random.SeedSequence([seed % 2**64, step, place], spawn_key=(3,)))


def step_generator(seed: int, step: int) -> np.random.Generator:
    """For what all images of a step share. The spawn key sets it apart from the dice of place 0."""
    return np.random.default_rng(np.random.SeedSequence([seed % 2**64, step], spawn_key=(2,)))
