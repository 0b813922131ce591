"""Timing networks on a machine with other load."""

import statistics
import time
from collections.abc import Callable, Sequence

from torch import Tensor

ROUNDS, WARM_UP = 30, 3


def side_by_side(
    networks: Sequence[Callable[..., tuple[Tensor, ...]]], inputs: Sequence[Tensor], rounds: int = ROUNDS
) -> list[float]:
    """Median ms of each network on the same inputs; the networks alternate, so that other load affects all of them."""
    times: list[list[float]] = [[] for _ in networks]
    for turn in range(WARM_UP + rounds):
        for network, own in zip(networks, times, strict=True):
            begin = time.perf_counter()
            network(*inputs)
            if turn >= WARM_UP:
                own.append(1e3 * (time.perf_counter() - begin))
    return list(map(statistics.median, times))
