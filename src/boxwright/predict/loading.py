"""Networks from files: weights with their recipe, or exported files with their runtime."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from boxwright import files, recipe, weights
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.runtimes.base.checks import output_check, wrong_input
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.open import is_exported, open_runtime, read_metadata
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.runtimes.base.torch_runtime import TorchRuntime
from boxwright.weights.shapes import without_memory

Overrides = Mapping[str, Any] | Sequence[str]


class Loaded(NamedTuple):
    """model: as loaded; of an exported file without weights, which only decodes. card: of an exported file."""

    model: nn.Module
    recipe: Recipe
    device: torch.device
    backend: Runtime
    card: Metadata | None = None


def load_any(
    path: str | Path,
    given: str | Path | Recipe | None,
    device: str,
    overrides: Overrides,
    backend: str = "auto",
    running: RuntimeOptions | None = None,
) -> Loaded:
    """Weights, or an exported file in the runtime called `backend`. What is raised: as in `load_network`."""
    if is_exported(path):
        return _load_exported(path, given, device, overrides, backend, running)
    if backend not in ("auto", "torch"):
        raise InputError(
            f"{path}: found weights with backend {backend}, which runs exported files; export it first: "
            f"boxwright export {path} --to {'openvino' if backend == 'openvino' else 'onnx'}"
        )
    model, chosen, place = load_network(path, given, device, overrides)
    return Loaded(model, chosen, place, TorchRuntime(model, running or RuntimeOptions()))


def _load_exported(
    path: str | Path,
    given: str | Path | Recipe | None,
    device: str,
    overrides: Overrides,
    name: str,
    running: RuntimeOptions | None,
) -> Loaded:
    if device not in ("auto", "cpu"):
        raise InputError(f"{path}: found device {device}; exported files run on the cpu here, take the weights for it")
    backend, card = open_runtime(path, name, running)
    if len(backend.shape) != 4:  # images, channels, height, width
        raise wrong_input(Path(path))
    chosen = card.recipe if given is None else recipe_of(path, given)
    if chosen.model != card.recipe.model:
        raise InputError(f"{path}: recipe {chosen.name} does not fit, it is of another network; leave --recipe out")
    if overrides:
        chosen = chosen.with_overrides(overrides)
    sides = backend.shape[2:4] if card.kind == "raw" else ()
    if any(side not in (None, wanted) for side, wanted in zip(sides, chosen.data.canvas.size, strict=False)):
        raise InputError(
            f"{path}: data.canvas.size: found {list(chosen.data.canvas.size)}, the file is made for {list(sides)} px; "
            "export it again with --size"
        )
    if chosen.data.canvas.trim and None not in sides:
        chosen = chosen.with_overrides({"data.canvas.trim": False})  # of a fixed size nothing can be cut
    model = without_memory(chosen.model).eval()  # its weights are in the file
    backend.check = output_check(path, card, model)
    return Loaded(model, chosen, torch.device("cpu"), backend, card)


def load_network(
    path: str | Path,
    given: str | Path | Recipe | None,
    device: str,
    overrides: Overrides,
) -> tuple[nn.Module, Recipe, torch.device]:
    """The network in evaluation mode on its device, its recipe with the overrides, and the device.

    given: as in `recipe_of`. Raises InputError when the weights cannot be read or do not fit, a recipe is needed, or
    the device is not there.
    """
    if is_exported(path):
        raise InputError(f"{path}: is an exported file, needed weights; take those that it was made of")
    chosen = recipe_of(path, given)
    if overrides:
        chosen = chosen.with_overrides(overrides)
    place = _device(device)
    model = weights.build(path, chosen)
    # channels_last: the fastest layout for convolutions on CPUs and tensor cores alike
    return model.to(device=place, memory_format=torch.channels_last).eval(), chosen, place  # type: ignore[call-overload]


def recipe_of(path: str | Path, given: str | Path | Recipe | None) -> Recipe:
    """`given`: a shipped name, a YAML file or a Recipe; None for the one stored in our own weights or an exported file,
    or in FILE.json beside one whose format has no place for it.

    Raises InputError where there is none.
    """
    if isinstance(given, Recipe):
        return given
    if given is not None:
        return recipe.load(given)
    if is_exported(path):
        return read_metadata(path).recipe
    stored = weights.stored_recipe(path)
    if stored is None and (card := card_beside(path)) is not None:
        return card.recipe
    if stored is None:
        raise InputError(
            f"{path}: holds no recipe; name the one it was trained with, one of {', '.join(recipe.names())}"
        )
    return stored


def card_beside(path: str | Path) -> Metadata | None:
    """The card in FILE.json, which lies beside exported files whose format has no place for it; None without one.

    Raises InputError for one that cannot be read.
    """
    beside = Path(f"{path}.json")
    if not beside.is_file():
        return None
    try:
        return Metadata.from_text(files.read_bytes(beside).decode(), str(beside))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{beside}: cannot be read ({error})") from error


@dataclass(slots=True)
class _Use:
    """modes: of the modules before. threads: how many are in `evaluating` with the model."""

    modes: list[tuple[nn.Module, bool]]
    threads: int = 0


_uses: dict[nn.Module, _Use] = {}
_uses_lock = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; afterwards every module is in the mode that it was in before.

    Of several threads in such blocks the first sets the mode, and the last puts it back.
    """
    with _uses_lock:
        if model not in _uses:
            _uses[model] = _Use([(module, module.training) for module in model.modules()])
            model.eval()
        use = _uses[model]
        use.threads += 1
    try:
        with torch.inference_mode():
            yield
    finally:
        with _uses_lock:
            use.threads -= 1
            if not use.threads:
                del _uses[model]
                for module, mode in use.modes:
                    module.training = mode


def _device(name: str) -> torch.device:
    if name == "auto":
        name = str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("holds no numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three for a missing one
        raise InputError(f"device '{name}': not on this machine; use cpu, cuda or auto") from error
    return device
