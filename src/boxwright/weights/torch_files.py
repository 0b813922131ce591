"""Flat state dicts in files of torch (.pt, .pth). Nothing in them is executed, and none takes more memory than it has
bytes."""

import io
import pickletools
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.files import open_regular

# What state dicts name. PyTorch's reader with weights_only calls some thirty more, all harmless but for their memory:
# a bytearray of so many bytes, a quantized tensor of a shape.
NAMED = re.compile(
    r"collections (?:OrderedDict|Counter)|(?:builtins|__builtin__) set"
    r"|torch (?:\w+Storage|Size|device|(?:b?float|u?int|q?u?int|complex)\d+\w*|bool)|torch\.storage \w+Storage"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
)
LARGEST_PICKLE = 8 << 20  # bytes; a thousand tensors take some 100 kB
MAX_NESTED = 16  # tuples in tuples; of a tensor there are 2, and each thing around it adds one or two
LEGACY = 5  # pickles at the start of a file from before PyTorch 1.6: magic number, version, system, content, keys


def is_torch(file: Path) -> bool:
    return file.suffix in {".pt", ".pth"} or zipfile.is_zipfile(file)


def read(file: Path) -> dict[str, Tensor]:
    """Names to tensors on the CPU. Raises InputError for what is no flat state dict."""
    try:
        state = unpickled(file)
    except InputError:
        raise
    except Exception as error:  # torch and zipfile raise half a dozen kinds here, by what is wrong with the file
        reason = str(error).partition("\n")[0][:120]
        raise InputError(f"{file}: cannot be read as a torch state dict ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # beside it: epoch, optimizer
        state = state["state_dict"]
    if not (isinstance(state, dict) and all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state)):
        raise InputError(f"{file}: holds {type(state).__name__}, needed a flat state dict of names to tensors")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise InputError(f"{file}: {name[:100]} is no plain tensor ({tensor.layout}, {tensor.dtype})")
    wrapped = all(key.startswith("module.") for key in state)  # saved from inside DistributedDataParallel
    return {key.removeprefix("module."): tensor for key, tensor in state.items()} if wrapped else state


def unpickled(file: Path) -> Any:
    """Tensors on the CPU and plain containers of them. Raises InputError for pickles of anything else, and what torch
    and zipfile raise for damaged files, half a dozen kinds."""
    _check_declared(file)
    _check_named(file)
    # weights_only: the unpickler builds tensors and plain containers and calls nothing else
    return torch.load(file, map_location="cpu", weights_only=True)


def _check_declared(file: Path) -> None:
    """torch stores without compression, so that a file cannot unpack to more than its own size."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    if declared > file.stat().st_size:
        raise InputError(f"{file}: declares {declared:,} bytes in {file.stat().st_size:,} bytes of file")


def _check_named(file: Path) -> None:
    """Raises InputError for pickles that name anything else than `NAMED`, ValueError for what is no pickle."""
    with open_regular(file) as stream:
        if stream.read(4) == b"PK\x03\x04":  # so does PyTorch tell the two layouts apart
            # by PyTorch's own reader, since two readers may differ on what an archive holds
            pickles, count = torch._C.PyTorchFileReader(str(file)).get_record("data.pkl"), 1
        else:
            stream.seek(0)
            pickles, count = stream.read(LARGEST_PICKLE + 1), LEGACY
    if count == 1 and len(pickles) > LARGEST_PICKLE:
        raise InputError(f"{file}: names its tensors in {len(pickles):,} bytes, at most {LARGEST_PICKLE:,} are read")
    content = io.BytesIO(pickles)
    for _ in range(count):
        operations = list(pickletools.genops(content))
        for operation, argument, _ in operations:
            if operation.name == "GLOBAL" and not NAMED.fullmatch(str(argument)):
                raise InputError(
                    f"{file}: cannot be read as a torch state dict (pickles {str(argument).replace(' ', '.')[:60]}, "
                    "needed tensors only), like files of YOLOv5 and YOLOv8; save its state_dict() with torch.save"
                )
        if _depth_of_tuples(operations) > MAX_NESTED:
            raise InputError(f"{file}: cannot be read as a torch state dict (tuples in tuples, deeply nested)")


def _depth_of_tuples(operations: Sequence[Any]) -> int:
    """Upper bound of how deep tuples lie in tuples, whose hashes take exponential time. ValueError for no pickle."""
    stack: list[int | None] = []  # None: a mark
    memo: dict[int, int | None] = {}
    deepest = 0
    for operation, argument, _ in operations:
        name = operation.name
        if name == "MARK":
            stack.append(None)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        else:
            taken = []
            if pickletools.markobject in operation.stack_before:
                while (top := stack.pop()) is not None:
                    taken.append(top)
            markers = (pickletools.markobject, pickletools.stackslice)
            taken += [stack.pop() or 0 for item in operation.stack_before if item not in markers]
            depth = max(taken, default=0) + name.startswith("TUPLE")
            deepest = max(deepest, depth)
            stack += [depth] * len(operation.stack_after)
    return deepest


def _is_plain(tensor: Tensor) -> bool:
    """Rows of numbers on the CPU that are there: with a stride of 0 few can look like many."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()
