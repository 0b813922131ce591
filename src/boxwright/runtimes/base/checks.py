"""Checks of an exported file: of its input when it is opened, and of its outputs against its metadata.

B images, h x w px of a canvas
"""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright.errors import InputError
from boxwright.nn.network import is_two_stage
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.runtime import MAX_NUMEL, Inputs

OutputCheck = Callable[[Inputs, Sequence[Tensor]], None]
Shapes = tuple[tuple[int, ...], ...]


def wrong_input(file: Path) -> InputError:
    """Error for a model whose first input does not have four axes, or whose inputs have another type than images."""
    return InputError(f"{file}: does not take images as our networks do; needed a file written by `boxwright export`")


def check_input(file: Path, shape: Sequence[int | None]) -> None:
    """Check the shape of an input (None: an axis of any length) before a runtime allocates memory for it.

    Raises:
        InputError: An axis is empty or not an integer, or the input has more than MAX_NUMEL numbers.
    """
    if any(side is not None and type(side) is not int for side in shape):
        raise wrong_input(file)
    fixed = [side for side in shape if side is not None]
    if any(side < 1 for side in fixed) or prod(fixed) > MAX_NUMEL:
        found = " x ".join("any" if side is None else str(side) for side in shape)
        raise InputError(f"{file}: takes inputs of {found}, needed at least 1 and at most {MAX_NUMEL:,} numbers")


def output_check(path: str | Path, metadata: Metadata, model: nn.Module | None = None) -> OutputCheck:
    """Check of the number of outputs and the shapes of raw tensors, by the stored recipe's anchors, classes and
    strides.

    model: network of this recipe, with parameters without memory. Without it, for complete files and for two-stage
    detectors, only the number is checked.
    """
    names, channels = metadata.outputs, metadata.recipe.model.input_channels
    has_shapes = metadata.kind == "raw" and not is_two_stage(model)
    empty = copy.deepcopy(model).to("meta") if model is not None and has_shapes else None

    @lru_cache(8)
    def expected(model: nn.Module, height: int, width: int) -> Shapes:
        with torch.inference_mode():
            return tuple(tuple(raw.shape[1:]) for raw in model(torch.empty(1, channels, height, width, device="meta")))

    def check(inputs: Inputs, outputs: Sequence[Tensor]) -> None:
        if len(outputs) != len(names):
            raise _misfit(path, f"{len(outputs)} outputs", f"{len(names)}: {', '.join(names)[:80]}")
        if empty is None:
            return
        batch, _, height, width = inputs[0].shape
        for name, output, shape in zip(names, outputs, expected(empty, height, width), strict=True):
            if output.shape != (batch, *shape):
                raise _misfit(path, f"{name} of {_sides(output.shape)}", _sides((batch, *shape)))

    return check


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _misfit(path: str | Path, found: str, needed: str) -> InputError:
    return InputError(f"{path}: gives {found}, by its metadata needed {needed}; export it again")
