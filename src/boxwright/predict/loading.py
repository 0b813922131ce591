"""Loading networks: weights with their recipe, or exported files with their runtime."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from boxwright import files, recipe, weights
from boxwright.config import Overrides
from boxwright.errors import InputError
from boxwright.recipe import Recipe
from boxwright.runtimes.base.checks import output_check, wrong_input
from boxwright.runtimes.base.metadata import Metadata
from boxwright.runtimes.base.open import is_exported, open_runtime, read_metadata
from boxwright.runtimes.base.runtime import Runtime, RuntimeOptions
from boxwright.runtimes.base.torch_runtime import TorchRuntime
from boxwright.weights.shapes import without_memory


class Loaded(NamedTuple):
    """A loaded network.

    Attributes:
        model: The network; for an exported file a network without weights, which only decodes.
        recipe: The recipe with the overrides.
        device: Device of the network.
        runtime: Runs the network.
        metadata: Metadata of an exported file.
    """

    model: nn.Module
    recipe: Recipe
    device: torch.device
    runtime: Runtime
    metadata: Metadata | None = None


def load_any(
    path: str | Path,
    given: str | Path | Recipe | None,
    device: str | torch.device,
    overrides: Overrides,
    backend: str = "auto",
    runtime_options: RuntimeOptions | None = None,
) -> Loaded:
    """Load weights, or an exported file in the runtime called `backend`. Raises InputError as `load_network`."""
    if is_exported(path):
        return _load_exported(path, given, device, overrides, backend, runtime_options)
    if backend not in ("auto", "torch"):
        raise InputError(
            f"{path}: found weights with backend {backend}, which runs exported files; export it first: "
            f"boxwright export {path} --to {'openvino' if backend == 'openvino' else 'onnx'}"
        )
    model, resolved, target = load_network(path, given, device, overrides)
    return Loaded(model, resolved, target, TorchRuntime(model, runtime_options or RuntimeOptions()))


def _load_exported(
    path: str | Path,
    given: str | Path | Recipe | None,
    device: str | torch.device,
    overrides: Overrides,
    name: str,
    runtime_options: RuntimeOptions | None,
) -> Loaded:
    if str(device) not in ("auto", "cpu"):
        raise InputError(f"{path}: found device {device}; exported files run on the cpu here, use the weights for it")
    runtime, metadata = open_runtime(path, name, runtime_options)
    if len(runtime.shape) != 4:  # images, channels, height, width
        raise wrong_input(Path(path))
    chosen = metadata.recipe if given is None else recipe_of(path, given)
    if chosen.model != metadata.recipe.model:
        raise InputError(f"{path}: recipe {chosen.name} does not fit, it is for another network; leave --recipe out")
    if overrides:
        chosen = chosen.with_overrides(overrides)
    if chosen.model.input_channels != metadata.recipe.model.input_channels:
        found, needed = chosen.model.input_channels, metadata.recipe.model.input_channels
        raise InputError(f"{path}: data.bands: found {found}, the file takes {needed} channels; leave it as stored")
    sides = runtime.shape[2:4] if metadata.kind == "raw" else ()
    if any(side not in (None, needed) for side, needed in zip(sides, chosen.data.canvas.size, strict=False)):
        raise InputError(
            f"{path}: data.canvas.size: found {list(chosen.data.canvas.size)}, the file is made for {list(sides)} px; "
            "export it again with --size"
        )
    if chosen.data.canvas.trim and None not in sides:
        chosen = chosen.with_overrides({"data.canvas.trim": False})  # a fixed size cannot be trimmed
    model = without_memory(chosen.model).eval()  # the weights are in the file
    runtime.check = output_check(path, metadata, model)
    return Loaded(model, chosen, torch.device("cpu"), runtime, metadata)


def load_network(
    path: str | Path, given: str | Path | Recipe | None, device: str | torch.device, overrides: Overrides
) -> tuple[nn.Module, Recipe, torch.device]:
    """Load weights into their network.

    Args:
        path: A run folder or a file of weights.
        given: As in `recipe_of`.
        device: A device of PyTorch, or `auto`.
        overrides: Changes to the recipe by dotted key.

    Returns:
        The network in evaluation mode on its device, the recipe with the overrides, and the device.

    Raises:
        InputError: The weights cannot be read or do not fit, a recipe is needed, or the device is not available.
    """
    if is_exported(path):
        raise InputError(f"{path}: is an exported file, needed weights; use those that it was exported from")
    chosen = recipe_of(path, given)
    if overrides:
        chosen = chosen.with_overrides(overrides)
    if given is not None:
        chosen = weights.with_names_of(path, chosen)
    target = open_device(device)
    model = weights.build(path, chosen)
    # channels_last is the fastest layout for convolutions on CPUs and on tensor cores
    return model.to(device=target, memory_format=torch.channels_last).eval(), chosen, target  # type: ignore[call-overload]


def recipe_of(path: str | Path, given: str | Path | Recipe | None) -> Recipe:
    """The recipe of a file.

    Args:
        path: Weights or an exported file.
        given: A shipped name, a YAML file or a Recipe; None for the one stored in the file, or in FILE.json if the
            format cannot store one.

    Raises:
        InputError: There is no recipe.
    """
    if isinstance(given, Recipe):
        return given
    if given is not None:
        return recipe.load(given)
    if is_exported(path):
        return read_metadata(path).recipe
    stored = weights.stored_recipe(path)
    if stored is None and (metadata := metadata_beside(path)) is not None:
        return metadata.recipe
    if stored is None:
        raise InputError(
            f"{path}: holds no recipe; name it by --recipe (`boxwright list`), its .cfg by --cfg, or let "
            "`boxwright import` find it"
        )
    return stored


def given_recipe(
    given: str | Path | Recipe | None, cfg: str | Path | None, names: str | Path | Sequence[str] | None
) -> str | Path | Recipe | None:
    """The argument `recipe`, or the recipe of a Darknet .cfg and its class names. Raises InputError for both."""
    if cfg is not None and given is not None:
        raise InputError(f"cfg {cfg}: found with a recipe, needed one of the two; leave the recipe out")
    if cfg is None and names is not None:
        raise InputError("names: found without cfg, to whose classes they belong; name the .cfg as well")
    return given if cfg is None else recipe.of_cfg(cfg, names)


def metadata_beside(path: str | Path) -> Metadata | None:
    """The metadata in FILE.json, beside exported files whose format cannot store it; None if there is no such file.

    Raises InputError if it cannot be read.
    """
    beside = Path(f"{path}.json")
    if not beside.is_file():
        return None
    try:
        return Metadata.from_text(files.read_bytes(beside).decode(), str(beside))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{beside}: cannot be read ({error})") from error


@dataclass(slots=True)
class _SavedModes:
    """State of `evaluating`. modes: `training` of the modules before it. threads: number of threads in it."""

    modes: list[tuple[nn.Module, bool]]
    threads: int = 0


_saved_modes: dict[nn.Module, _SavedModes] = {}
_saved_modes_lock = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; restores the mode of every module afterwards.

    If several threads evaluate the same model, the first sets the mode and the last restores it.
    """
    with _saved_modes_lock:
        if model not in _saved_modes:
            _saved_modes[model] = _SavedModes([(module, module.training) for module in model.modules()])
            model.eval()
        saved = _saved_modes[model]
        saved.threads += 1
    try:
        with torch.inference_mode():
            yield
    finally:
        with _saved_modes_lock:
            saved.threads -= 1
            if not saved.threads:
                del _saved_modes[model]
                for module, mode in saved.modes:
                    module.training = mode


def open_device(name: str | torch.device) -> torch.device:
    """The device of `--device`. Raises InputError if this machine has no such device."""
    if name == "auto":
        name = str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("stores no values")
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three for a missing device
        raise InputError(f"device '{str(name)[:40]}': not available on this machine; use cpu or auto") from error
    return device
