"""MindSpore's .ckpt files, read and written without MindSpore.

The file is a protobuf message (mindspore/ccsrc/utils/checkpoint.proto):

    Checkpoint   1: Value, repeated
    Value        1: tag (the name)   2: TensorProto (3: MapTensorProto, hash tables; rejected)
    TensorProto  1: dims, repeated   2: tensor_type, for example Float32   3: tensor_content, little-endian

A tensor above 512 MiB is split into several Values with the same tag, each with the full tensor's dims; contents are
concatenated. A scalar has no dims, in old files [0]. With crc_check the file ends in `crc_num` and ten bytes, the
big-endian CRC-32 of everything before. Reading and writing were checked against MindSpore 2.7.
"""

import math
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.config import ModelConfig
from boxwright.errors import InputError
from boxwright.files import atomic_write
from boxwright.recipe import Recipe
from boxwright.weights import names
from boxwright.weights.files import require
from boxwright.weights.fit import is_optional

# NumPy types; BFloat16, which NumPy lacks, is read as 16-bit integers.
NUMPY = {
    "Float64": "<f8", "Float32": "<f4", "Float16": "<f2", "BFloat16": "<i2", "Bool": "?",
    "Int64": "<i8", "Int32": "<i4", "Int16": "<i2", "Int8": "i1", "UInt8": "u1", "Uint8": "u1",
}  # fmt: skip
PREFIXES = ("", "yolo_network.", "network.", "ema.")  # of training cells; the last is MindYOLO's EMA
OPTIMIZER = (
    "moments.", "moment1.", "moment2.", "accum.", "stat.", "momentum", "global_step", "learning_rate",
    "epoch_num", "step_num", "current_iterator_step", "last_overflow_iterator_step", "scale_sense",
)  # fmt: skip
CONSTANTS = {"stride", "anchors", "anchor_grid"}  # derived values that MindYOLO stores
# Limits for reading: MindSpore's own files have about 5,000 entries of 2 fields, and tensors of 4 dimensions
MAX_ENTRIES, MAX_FIELDS, MAX_DIMS = 50_000, 16, 8
SLICE = 512 * 1024 * 1024  # bytes of one Value when writing, as MindSpore does
CRC_MARK = b"crc_num"

Piece = tuple[list[int], str, memoryview]  # dims, type and content of one Value


def table(model: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Map of MindSpore's names (without a training cell's prefix) to ours, in the order of the network.

    Raises InputError for a network that is not in MindSpore's model zoo.
    """
    foreign, result = names.of(recipe.model), {}
    for own in model.state_dict():
        theirs = foreign.mindspore(own)
        if theirs is not None:
            result[theirs] = own
        elif not is_optional(own):
            raise InputError(f"recipe {recipe.name}: {own} has no name in MindSpore, whose zoo has no such network")
    return result


def read(
    path: Path, model: nn.Module, recipe: Recipe, *, transfer: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a .ckpt by the model's names, and the entries that the model does not have.

    Optimizer state and unused layers of the zoo's network are skipped; the prefix of a training cell or of an EMA is
    removed; weights that MindSpore stores as (in, out) are transposed. Entries of the zoo's classifier are loaded into
    the backbone if the model defines their names.
    Raises InputError for a file that is not a checkpoint, is damaged, holds one tensor under two prefixes, or stores
    other anchors than the recipe's (except for transfer).
    """
    ours, foreign = table(model, recipe), names.of(recipe.model)
    tensors: dict[str, Tensor] = {}
    unexpected = []
    for tag, tensor in entries(path):
        own = _own_name(tag, ours, foreign)
        if tag.rpartition(".")[2] in CONSTANTS:
            if tag.endswith(".anchor_grid") and not transfer:
                _check_anchors(tensor, foreign, path)
        elif own is None:
            if not foreign.mindspore_unused(tag):
                unexpected.append(tag)
        elif own in tensors:
            raise InputError(f"{path}: {tag}: the file holds this tensor twice, under two prefixes; keep one of them")
        else:
            tensors[own] = tensor.t() if tensor.ndim == 2 and foreign.mindspore_transposed(own) else tensor
    return tensors, unexpected


def _own_name(tag: str, ours: dict[str, str], foreign: names.ForeignNames[ModelConfig]) -> str | None:
    """Our name for an entry: by its name without a training cell's prefix, else as part of the zoo's classifier."""
    for prefix in PREFIXES:
        if tag.startswith(prefix) and tag[len(prefix) :] in ours:
            return ours[tag[len(prefix) :]]
    own = foreign.mindspore_backbone(tag)
    return own if own in ours.values() else None


def _check_anchors(stored: Tensor, foreign: names.ForeignNames[ModelConfig], path: Path) -> None:
    """Compare anchors. stored: MindYOLO's (S, 1, A, 1, 1, 2) pairs of width and height px, small to large."""
    anchors = torch.tensor(foreign.anchors, dtype=torch.float32).flatten()
    if not torch.equal(stored.flatten().float(), anchors):
        raise InputError(
            f"{path}: made with anchors {stored.flatten().tolist()}, the recipe's are {anchors.tolist()}; set "
            "model.anchors to the file's, or use --transfer"
        )


def write(path: str | Path, model: nn.Module, recipe: Recipe, *, prefix: str = "") -> None:
    """Write `model` as .ckpt under MindSpore's names, each preceded by `prefix`, atomically."""
    state, foreign = model.state_dict(), names.of(recipe.model)
    with atomic_write(path) as tmp, tmp.open("wb") as stream:
        for theirs, own in table(model, recipe).items():
            tensor = state[own].t() if foreign.mindspore_transposed(own) else state[own]
            array = tensor.detach().cpu().to(torch.float32).contiguous().numpy()
            for piece in np.array_split(array, max(1, math.ceil(array.nbytes / SLICE))):
                stream.writelines(_value(prefix + theirs, array.shape, piece.astype("<f4").tobytes()))


def entries(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all entries except the optimizer's. Sizes are checked before memory is allocated."""
    mapped = np.memmap(require(path), np.uint8, "r")
    view = _without_crc(memoryview(mapped.data), path)
    found: dict[str, list[Piece]] = {}
    for field, value in _fields(view, path, MAX_ENTRIES):
        if field == 1 and isinstance(value, memoryview):
            tag, piece = _read_value(value, path)
            found.setdefault(tag, []).append(piece)
    if not found:
        raise InputError(f"{path}: holds no parameters; is it a MindSpore checkpoint?")
    for tag, pieces in found.items():
        if not tag.startswith(OPTIMIZER):
            yield tag, _tensor(tag, pieces, path)


def _tensor(tag: str, pieces: list[Piece], path: Path) -> Tensor:
    dims, kind, _ = pieces[0]
    if any((other_dims, other_kind) != (dims, kind) for other_dims, other_kind, _ in pieces):
        raise InputError(f"{path}: {tag}: its pieces disagree on shape or type")
    if kind not in NUMPY:
        raise InputError(f"{path}: {tag}: holds {kind or 'no type'}; needed one of {', '.join(NUMPY)}")
    shape = [] if dims == [0] else dims
    needed = math.prod(shape) * np.dtype(NUMPY[kind]).itemsize
    found = sum(len(content) for _, _, content in pieces)
    if min(dims, default=0) < 0 or needed != found or not found:
        raise InputError(f"{path}: {tag}: holds {found:,} bytes, {kind} of shape {dims[:8]} takes {needed:,}")
    array = np.frombuffer(bytearray().join(content for _, _, content in pieces), NUMPY[kind])
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(shape)
    return tensor.view(torch.bfloat16) if kind == "BFloat16" else tensor


def _read_value(message: memoryview, path: Path) -> tuple[str, Piece]:
    tag, tensor = None, None
    for field, value in _fields(message, path, MAX_FIELDS):
        if field == 1 and isinstance(value, memoryview):
            tag = _text(value, path)
        elif field == 2 and isinstance(value, memoryview):
            tensor = value
    if tag is None or tensor is None:
        raise InputError(f"{path}: {tag or 'an entry without name'}: holds no tensor; is it a MindSpore checkpoint?")
    dims: list[int] = []
    kind, content = "", memoryview(b"")
    for field, value in _fields(tensor, path, MAX_FIELDS):
        if field == 1:
            numbers = [value] if isinstance(value, int) else islice(_packed(value, path), MAX_DIMS + 1)
            dims += [number - (1 << 64) if number >> 63 else number for number in numbers]
            if len(dims) > MAX_DIMS:
                raise InputError(f"{path}: {tag}: has more than {MAX_DIMS} dimensions; the file is damaged")
        elif field == 2 and isinstance(value, memoryview):
            kind = _text(value, path)
        elif field == 3 and isinstance(value, memoryview):
            content = value
    return tag, (dims, kind, content)


def _text(value: memoryview, path: Path) -> str:
    text = bytes(value[:1000]).decode(errors="replace")
    if len(value) > 1000 or not text.isprintable() or "\ufffd" in text:
        raise InputError(f"{path}: a name in it is not text; is it a MindSpore checkpoint?")
    return text


def _without_crc(view: memoryview, path: Path) -> memoryview:
    end = len(view) - len(CRC_MARK) - 10
    if end < 0 or view[end : end + len(CRC_MARK)] != CRC_MARK:
        return view
    if zlib.crc32(view[:end]) != int.from_bytes(view[-10:], "big"):
        raise InputError(f"{path}: its checksum does not agree with its content; the file is damaged")
    return view[:end]


# The wire format of protobuf: a sequence of keys (field number and wire type) and values.


def _fields(message: memoryview, path: Path, limit: int) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value): integers of wire type 0, byte ranges of the others, never beyond `message`."""
    at = count = 0
    while at < len(message):
        count += 1
        if count > limit:
            raise InputError(f"{path}: an entry of more than {limit:,} fields; not a MindSpore checkpoint, or damaged")
        key, at = _varint(message, at, path)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at, path)
            yield field, value
            continue
        if wire == 2:
            size, at = _varint(message, at, path)
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
        else:
            raise InputError(f"{path}: unknown wire type {wire}; not a MindSpore checkpoint, or an encrypted one")
        if size > len(message) - at:
            raise InputError(f"{path}: an entry declares {size:,} bytes, {len(message) - at:,} are left; truncated?")
        yield field, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int, path: Path) -> tuple[int, int]:
    """Seven bits per byte, low bits first; a set top bit means that another byte follows. At most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise InputError(f"{path}: a number in it has no end; not a MindSpore checkpoint, or truncated")


def _packed(numbers: memoryview, path: Path) -> Iterator[int]:
    at = 0
    while at < len(numbers):
        value, at = _varint(numbers, at, path)
        yield value


def _value(tag: str, shape: tuple[int, ...], content: bytes) -> list[bytes]:
    """One Value of a Checkpoint, as byte strings to write one after the other."""
    dims = b"".join(b"\x08" + _number(side) for side in shape)
    tensor = dims + b"\x12" + _number(len(b"Float32")) + b"Float32" + b"\x1a" + _number(len(content))
    name = tag.encode()
    value = b"\x0a" + _number(len(name)) + name + b"\x12" + _number(len(tensor) + len(content)) + tensor
    return [b"\x0a" + _number(len(value) + len(content)) + value, content]


def _number(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])
