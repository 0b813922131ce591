"""The loss as one compiled graph (`torch.compile`) for each size of the input, and augmentation as others.

B images, M boxes an image after padding
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.batches.compilable import replaced
from boxwright.errors import one_line
from boxwright.nn.network import Network
from boxwright.types import AnyBatch, Batch

logger = logging.getLogger(__name__)

T = TypeVar("T")
Loss = Callable[[AnyBatch], dict[str, Tensor]]
PAD_ROWS_TO = 32  # boxes per image are padded to 32, 64, 128, ...: each number needs a graph of its own
RECOMPILE_LIMIT = 128  # per function; PyTorch's default of 8 would end compilation early


def compiler_works(device: torch.device) -> bool:
    """Whether something small can be compiled for `device`; a warning says why not."""
    try:
        torch.compile(_probe)(torch.ones(16, device=device))
    except Exception as error:  # each compiler raises its own kind
        reason = str(error).strip().partition("\n")[0]
        logger.warning(
            "%s", one_line(f"train.compile: no compiler works for {device}, so nothing is compiled: {reason}")
        )
        return False
    return True


def _probe(x: Tensor) -> Tensor:
    return x.sin() + 1


def compiled_loss(network: Network, backend: str = "inductor") -> Loss:
    """`network.loss`, compiled: equal to it within rounding."""
    loss = _compiled(network.loss, backend, dynamic=False)
    return lambda batch: loss(static(batch))


@contextmanager
def compiled_augmentation(enabled: bool, backend: str = "inductor") -> Iterator[None]:
    """Augmentation within this is compiled, if `enabled`: its functions for pixels, equal to them within rounding.

    A graph is for all sizes and numbers of images (mixup has others in each step), with others for a single image and
    for square ones. None has the first size inside, which may be another in a resumed run.
    """
    with replaced(partial(_compiled, backend=backend, dynamic=True)) if enabled else nullcontext():
        yield


def _compiled(function: Callable[..., T], backend: str, dynamic: bool) -> Callable[..., T]:
    graphs = torch.compile(function, dynamic=dynamic, backend=backend)

    def call(*args: Any, **words: Any) -> T:
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            return graphs(*args, **words)

    return call


def static(batch: AnyBatch) -> AnyBatch:
    """The batch with few different shapes, and without frames, which no loss needs and which differ in each step."""
    if not isinstance(batch, Batch):
        return replace(batch, frames=())
    rows = PAD_ROWS_TO
    while rows < batch.labels.shape[1]:
        rows *= 2
    more = rows - batch.labels.shape[1]
    return replace(
        batch,
        boxes=F.pad(batch.boxes, (0, 0, 0, more)),
        labels=F.pad(batch.labels, (0, more), value=-1),
        ignore=F.pad(batch.ignore, (0, more)),
        frames=(),
    )
