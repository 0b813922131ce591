"""Whether what an exported file answers is what its card says.

B pictures, h x w px of a canvas
"""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright.errors import InputError
from boxwright.predict.backend import Inputs
from boxwright.predict.card import Card

Check = Callable[[Inputs, Sequence[Tensor]], None]
Shapes = tuple[tuple[int, ...], ...]


def counter(path: str | Path, card: Card) -> Check:
    """A check of how many outputs there are."""

    def check(_: Inputs, found: Sequence[Tensor]) -> None:
        if len(found) != len(card.outputs):
            raise _misfit(path, f"{len(found)} outputs", f"{len(card.outputs)}: {', '.join(card.outputs)[:80]}")

    return check


def shapes(path: str | Path, card: Card, model: nn.Module) -> Check:
    """A check of how many outputs there are and, of the raw tensors of one-stage detectors and classifiers, their
    shapes: anchors, classes and strides of the card's recipe. model: of this recipe, its parameters without memory."""
    count = counter(path, card)
    if card.kind != "raw" or "proposals" in model.raw_names:  # type: ignore[operator]
        return count
    empty = copy.deepcopy(model).to("meta")

    @lru_cache(8)
    def wanted(height: int, width: int) -> Shapes:
        with torch.inference_mode():
            return tuple(tuple(one.shape[1:]) for one in empty(torch.empty(1, 3, height, width, device="meta")))

    def check(inputs: Inputs, found: Sequence[Tensor]) -> None:
        count(inputs, found)
        batch, _, height, width = inputs[0].shape
        for name, one, shape in zip(card.outputs, found, wanted(height, width), strict=True):
            if one.shape != (batch, *shape):
                raise _misfit(path, f"{name} of {_sides(one.shape)}", _sides((batch, *shape)))

    return check


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _misfit(path: str | Path, found: str, needed: str) -> InputError:
    return InputError(f"{path}: gives {found}, by its metadata needed {needed}; export it again")
