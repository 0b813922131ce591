"""Pictures with classes -> batches of canvases, in the order and by the workers of `loader`.

B images, H x W canvas px
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from boxwright.data.loader import Canvases, Epochs
from boxwright.types import ClassBatch, Frame


class _ClassCanvases(Canvases):
    """For pictures with classes."""

    def _batch(self, samples: Sequence[Any]) -> tuple[Tensor, Tensor, tuple[Frame, ...]]:
        images, frames = self._images(samples)
        return images, torch.tensor([sample.label for sample in samples]), frames


class ClassLoader(Epochs[ClassBatch]):
    """Pictures with classes; see `Epochs`."""

    kind, work = ClassBatch, _ClassCanvases
