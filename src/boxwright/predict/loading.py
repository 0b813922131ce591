"""Weights and their recipe, made ready to look at pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from boxwright import models, recipe, weights
from boxwright.errors import InputError
from boxwright.recipe import Recipe

KINDS = {"detect": "a detector (boxwright.load)", "classify": "a classifier (boxwright.load_classifier)"}


def load_network(
    path: str | Path,
    given: str | Path | Recipe | None,
    device: str,
    overrides: Mapping[str, Any] | Sequence[str],
    task: Literal["detect", "classify"],
) -> tuple[nn.Module, Recipe, torch.device]:
    """The network in evaluation mode on its device, its recipe with the overrides, and the device.

    given: as in `recipe_of`. Raises InputError when the weights cannot be read or do not fit, a recipe is needed or is
    one for another task, or the device is not there.
    """
    chosen = recipe_of(path, given)
    if overrides:
        chosen = chosen.with_overrides(overrides)
    if chosen.model.task != task:
        raise InputError(f"recipe {chosen.name}: found {KINDS[chosen.model.task]}, needed {KINDS[task]}")
    place = _device(device)
    model = models.module(getattr(chosen.model, "name", "")).build(chosen.model)
    weights.load(model, path, chosen)
    # channels_last: the fastest layout for convolutions on CPUs and tensor cores alike
    return model.to(device=place, memory_format=torch.channels_last).eval(), chosen, place


def recipe_of(path: str | Path, given: str | Path | Recipe | None) -> Recipe:
    """`given`: a shipped name, a YAML file or a Recipe; None for the one stored beside our own weights.

    Raises InputError where there is none.
    """
    if isinstance(given, Recipe):
        return given
    if given is not None:
        return recipe.load(given)
    stored = weights.stored_recipe(path)
    if stored is None:
        raise InputError(
            f"{path}: holds no recipe; name the one it was trained with, one of {', '.join(recipe.names())}"
        )
    return stored


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; afterwards every module is in the mode that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device(name: str) -> torch.device:
    if name == "auto":
        name = str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three for a missing one
        raise InputError(f"device '{name}': not on this machine; use cpu, cuda or auto") from error
    return device
