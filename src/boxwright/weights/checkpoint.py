"""Our own checkpoints: safetensors whose metadata holds the resolved recipe. Also torch state dicts with our names.

A safetensors file consists of the length of its header in eight bytes, the header as JSON, and the tensors' data, one
after the other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.files import atomic_write, open_regular
from boxwright.recipe import Recipe
from boxwright.weights import torch_files
from boxwright.weights.files import locate, require
from boxwright.weights.stored import untrusted

RECIPE_KEY = "recipe"  # in the metadata: the recipe as JSON, class names included


DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
MAX_HEADER = 16 << 20  # bytes; a thousand tensors take about 100 kB, a recipe the size of its class names


def save(path: str | Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the model's state and its recipe, atomically.

    Equal networks with equal recipes give equal bytes, unlike safetensors' own writer, whose metadata order differs
    between processes.
    """
    write(path, model.state_dict(), recipe.tree())


def write(path: str | Path, state: Mapping[str, Tensor], tree: Mapping[str, object]) -> None:
    """As `save`, with tensors by name and the recipe as plain values."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors = dict(sorted(state.items(), key=lambda item: (-item[1].itemsize, item[0])))  # wide ones first: aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt", RECIPE_KEY: json.dumps(tree)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as tmp, tmp.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(tensor.flatten().view(torch.uint8).numpy().data)


def read(path: str | Path) -> tuple[dict[str, Tensor], Recipe | None]:
    """Tensors by our names, and the recipe if the file (or the best one of a run folder) stores one."""
    file = locate(Path(path))
    return read_tensors(file), None if torch_files.is_torch(file) else read_recipe(file)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors on the CPU. Nothing in the file is executed."""
    if torch_files.is_torch(require(file)):
        return torch_files.read(file)
    try:
        _check_header(file)
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise _not_safetensors(file, error) from error


def read_recipe(file: Path) -> Recipe | None:
    """Recipe in a safetensors file; None if it has none, as in files of other programs."""
    tree = read_tree(file)
    return None if tree is None else untrusted(tree, f"{file}: stored recipe")


def read_tree(file: Path) -> Any:
    """As `read_recipe`, with all values as stored, unchecked."""
    try:
        _check_header(require(file))
        with safetensors.safe_open(file, "pt") as stream:
            text = (stream.metadata() or {}).get(RECIPE_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise _not_safetensors(file, error) from error
    if text is None:
        return None
    return json_text.parse(text, f"{file}: the recipe in its metadata")


def _check_header(file: Path) -> None:
    """Raise InputError for a header that is too large."""
    with open_regular(file) as stream:
        size = int.from_bytes(stream.read(8), "little")
    if size > MAX_HEADER:
        raise InputError(
            f"{file}: cannot be read as safetensors (its header takes {size:,} bytes, at most {MAX_HEADER:,} are "
            "read); damaged?"
        )


def _not_safetensors(file: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{file}: was removed while it was read; try again")
    return InputError(f"{file}: cannot be read as safetensors ({str(error).partition(chr(10))[0]}); truncated?")
