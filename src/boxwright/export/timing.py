"""Times that can be compared on a machine that others use as well."""

import statistics
import time
from collections.abc import Callable, Sequence

from torch import Tensor

ROUNDS, WARM_UP = 30, 3


def side_by_side(
    networks: Sequence[Callable[..., tuple[Tensor, ...]]], inputs: Sequence[Tensor], rounds: int = ROUNDS
) -> list[float]:
    """Median ms of each network on the same inputs; one after the other in every round, so that a busy moment touches
    all."""
    times: list[list[float]] = [[] for _ in networks]
    for turn in range(WARM_UP + rounds):
        for network, taken in zip(networks, times, strict=True):
            begin = time.perf_counter()
            network(*inputs)
            if turn >= WARM_UP:
                taken.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(taken) for taken in times]
