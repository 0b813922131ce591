"""What losses share."""

import torch
import torch.distributed as dist
from torch import Tensor


def across_processes(count: Tensor, least: float = 0.0) -> Tensor:
    """The mean of `count` over all processes, their total taken as at least `least`.

    A loss divided by this, whose gradients are then averaged over the processes, gives the gradient of the sum over the
    whole group's batch divided by the total count. Without processes it is `count` itself.
    """
    total = count.detach().clone()
    processes = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        processes = dist.get_world_size()
    return torch.clamp(total, min=least) / processes
