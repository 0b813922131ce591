"""Our own checkpoints: safetensors whose metadata holds the resolved recipe. Also torch state dicts with our names."""

import json
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from boxwright.errors import InputError
from boxwright.files import whole
from boxwright.recipe import Recipe, from_tree
from boxwright.weights.files import locate, require

RECIPE_KEY = "recipe"  # in the metadata: the recipe as JSON, class names included


def save(path: str | Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the model's state and its recipe; whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole(path) as part:
        try:
            safetensors.torch.save_file(tensors, part, {RECIPE_KEY: json.dumps(recipe.tree()), "format": "pt"})
        except safetensors.SafetensorError as error:
            raise InputError(f"{path}: cannot be written ({error})") from error


def read(path: str | Path) -> tuple[dict[str, Tensor], Recipe | None]:
    """The tensors by our names, and the recipe where the file (or the best one of a run folder) stores one."""
    file = locate(Path(path))
    return read_tensors(file), None if _is_torch(file) else read_recipe(file)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors on the CPU. Nothing in the file is executed."""
    if _is_torch(require(file)):
        return _read_torch(file)
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise _not_safetensors(file, error) from error


def read_recipe(file: Path) -> Recipe | None:
    """The recipe in a safetensors file; None where it was written by others and has none."""
    try:
        with safetensors.safe_open(require(file), "pt") as stream:
            text = (stream.metadata() or {}).get(RECIPE_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise _not_safetensors(file, error) from error
    if text is None:
        return None
    try:
        tree = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: the recipe in its metadata is not JSON ({error})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file}: the recipe in its metadata is {type(tree).__name__}, needed a mapping")
    return from_tree(tree, f"{file}: stored recipe")


def _is_torch(file: Path) -> bool:
    return file.suffix in {".pt", ".pth"} or zipfile.is_zipfile(file)


def _read_torch(file: Path) -> dict[str, Tensor]:
    """A flat state dict. weights_only: the unpickler builds tensors and plain containers and calls nothing else."""
    try:
        _check_declared(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch and zipfile raise half a dozen kinds here, by what is wrong with the file
        reason = str(error).partition("\n")[0][:120]
        raise InputError(f"{file}: cannot be read as a torch state dict ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # beside it: epoch, optimiser
        state = state["state_dict"]
    if not (isinstance(state, dict) and all(isinstance(key, str) and _is_plain(state[key]) for key in state)):
        raise InputError(f"{file}: holds {type(state).__name__}, needed a flat state dict of names to tensors")
    wrapped = all(key.startswith("module.") for key in state)  # saved from inside DistributedDataParallel
    return {key.removeprefix("module."): tensor for key, tensor in state.items()} if wrapped else state


def _check_declared(file: Path) -> None:
    """torch stores without compression, so that a file cannot unpack to more than its own size."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    if declared > file.stat().st_size:
        raise InputError(f"{file}: declares {declared:,} bytes in {file.stat().st_size:,} bytes of file")


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _not_safetensors(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: cannot be read as safetensors ({str(error).partition(chr(10))[0]}); truncated?")
