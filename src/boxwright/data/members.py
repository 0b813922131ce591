"""The sets that a data set was merged from.

P images of the merged data set
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Member:
    """One of several sets.

    Attributes:
        title: The set as the user named it, for messages.
        dataset: The `Dataset` or `ClassSet` with its original ids, after its `class_map`.
        weight: How often an epoch visits its images.
    """

    title: str
    dataset: Any
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Members:
    """The sets of a merged data set, and the positions of its images in them."""

    sets: tuple[Member, ...]
    places: NDArray[np.int64]  # (P,) index of each image among the images of all sets, one set after the other

    def take(self, indices: NDArray[np.int64]) -> "Members":
        """The members for the images at `indices`."""
        return replace(self, places=self.places[indices])

    def numbers(self) -> NDArray[np.int64]:
        """(P,) the number of the set of each image."""
        return np.searchsorted(self._starts()[1:], self.places, side="right").astype(np.int64)

    def place(self, index: int) -> tuple[Member, int]:
        """The set of an image, and the image's index there."""
        starts, place = self._starts(), int(self.places[index])
        number = int(np.searchsorted(starts[1:], place, side="right"))
        return self.sets[number], place - int(starts[number])

    def each(self) -> Iterator[tuple[Member, NDArray[np.int64], NDArray[np.int64]]]:
        """Each set with the indices of its images in the merged data set, and their indices in the set."""
        numbers = self.numbers()
        for number, (member, start) in enumerate(zip(self.sets, self._starts()[:-1].tolist(), strict=True)):
            indices = np.flatnonzero(numbers == number)
            yield member, indices, self.places[indices] - start

    def weights(self) -> NDArray[np.float64]:
        """(P,) the weight of each image's set."""
        return np.array([member.weight for member in self.sets])[self.numbers()]

    def _starts(self) -> NDArray[np.int64]:
        """(number of sets + 1,) places of the first image of each set."""
        return np.concatenate([[0], np.cumsum([len(member.dataset) for member in self.sets])]).astype(np.int64)
