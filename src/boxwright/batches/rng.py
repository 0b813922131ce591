"""Per-sample random numbers: functions of seed, step, and the index of an image in the global batch.

K images. The global batch has all images of an optimizer step: of all processes, and of all batches that
`train.accumulate` averages. `rank` is the index of a batch among the batches of a step.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class SampleRNG:
    """One random number generator per image; each method returns (K, ...) values."""

    def __init__(self, generators: list[np.random.Generator]) -> None:
        self.generators = generators

    @classmethod
    def for_batch(cls, seed: int, step: int, rank: int, count: int) -> "SampleRNG":
        return cls([np.random.default_rng([seed % 2**64, step, index]) for index in batch_indices(rank, count)])

    def select(self, rows: Rows) -> "SampleRNG":
        return SampleRNG([self.generators[row] for row in rows])

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return np.stack([each.uniform(low, high, shape) for each in self.generators])

    def bernoulli(self, probability: float) -> npt.NDArray[np.bool_]:
        return self.uniform(0, 1) < probability

    def integers(self, end: int, count: int) -> Rows:
        """(K, count) integers in [0, end)."""
        return np.stack([each.integers(end, size=count) for each in self.generators])

    def beta(self, a: float, b: float) -> Array:
        return np.array([each.beta(a, b) for each in self.generators])

    def factor(self, low: float, high: float) -> Array:
        """Uniform in [low, 1] or in [1, high], with equal probability."""
        return np.where(self.bernoulli(0.5), self.uniform(low, 1), self.uniform(1, high))


def batch_indices(rank: int, count: int) -> range:
    """The indices in the global batch of the images of batch `rank`."""
    return range(rank * count, (rank + 1) * count)


def sample_keys(seed: int, step: int, indices: range) -> Rows:
    """(B,) seeds in [0, 2^32), independent of `SampleRNG` by the spawn key."""
    sources = (np.random.SeedSequence([seed % 2**64, step, index], spawn_key=(1,)) for index in indices)
    return np.array([source.generate_state(1)[0] for source in sources], dtype=np.int64)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed in [0, 2^64) of PyTorch's generator for one batch (dropout); independent of the other seeds."""
    source = np.random.SeedSequence([seed % 2**64, step, rank], spawn_key=(4,))
    return int(source.generate_state(1, np.uint64)[0])


def crop_rng(seed: int, step: int, index: int) -> np.random.Generator:
    """The RNG of the loader's random crop of one image; independent of `SampleRNG` by the spawn key."""
    return np.random.default_rng(np.random.SeedSequence([seed % 2**64, step, index], spawn_key=(3,)))


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The RNG of what all images of a step share; independent of `SampleRNG` by the spawn key."""
    return np.random.default_rng(np.random.SeedSequence([seed % 2**64, step], spawn_key=(2,)))
