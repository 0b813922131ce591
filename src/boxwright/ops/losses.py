"""What losses share."""

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many train together; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def across_processes(count: Tensor, least: float = 0.0) -> Tensor:
    """The mean of `count` over all processes, their total taken as at least `least`.

    A loss divided by this, whose gradients are then averaged over the processes, gives the gradient of the sum over the
    whole group's batch divided by the total count. Without processes it is `count` itself.
    """
    total = count.detach().clone()
    if processes() > 1:
        dist.all_reduce(total)
    return torch.clamp(total, min=least) / processes()
