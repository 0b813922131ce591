"""Pickles of training frameworks, read without executing anything in them: mmengine's and mmcv's checkpoints, torch's
old format, which is not a zip, and Detectron2's bare pickles of numpy arrays.

PyTorch's own restricted reader (`weights_only`) rejects the first and last, and allocates the memory that the old
format declares. Here names in a pickle are mapped to functions of this file, which describe tensors and arrays, or to
an inert class for objects that are not needed. Descriptions become tensors later, one by one, checked against the
file's content.
"""

import io
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.files import open_regular

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of torch's old format (torch/serialization.py)
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "Untyped": torch.uint8,
}  # fmt: skip
NUMPY = re.compile(r"[<>|=]?(?:f[248]|[iu][1248]|b1)")
# Objects that training frameworks store beside weights; replaced by inert ones.
SKIPPED = re.compile(
    r"(?:mmengine|mmcv|mmdet|detectron2|fvcore|omegaconf|yacs|argparse|pathlib|datetime)(?:\.\w+)* \w+"
    r"|(?:builtins|__builtin__) getattr|torch (?:Size|device|\w*(?:float|int|complex)\d+\w*|bool)"
    r"|numpy(?:\.\w+)* (?:float|int|uint|bool)\w*|torch\.nn\.parameter Parameter"
)
BUILT = re.compile(
    r"collections (?:OrderedDict|Counter|defaultdict)|(?:builtins|__builtin__) set|_codecs encode"
    r"|torch(?:\.storage)? \w+Storage|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter)"
    r"|numpy (?:ndarray|dtype)|numpy\._?core\.multiarray (?:_reconstruct|scalar)|numpy\._?core\.numeric _frombuffer"
)


@dataclass(slots=True)
class Storage:
    """Storage of one or more tensors. content: filled when it is read, and shared by the tensors."""

    dtype: torch.dtype
    key: str
    numel: int
    content: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class TensorEntry:
    """Description of a tensor that is not built yet."""

    storage: object
    offset: object
    size: object
    stride: object


@dataclass(slots=True)
class ArrayEntry:
    """Description of a numpy array that is not built yet. state: (version, shape, type, Fortran order, bytes)."""

    state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


@dataclass(slots=True)
class ArrayType:
    """Type of an array. code: such as `f4`."""

    code: object
    order: object = "="

    def __setstate__(self, state: Sequence[object]) -> None:
        self.order = state[1]


class RejectedError(Exception):
    """A pickle names something that is neither built nor skipped."""


class Reader(pickle._Unpickler):
    """Unpickler in pure Python; the C version allocates memory for any memo index in the file.

    Attributes:
        skipped: Names that became inert objects.
        storages: Storages by key, in the order of their first use.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")  # strings of Python 2
        self.skipped: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}

        class Table(dict[object, object]):
            """Class of this reader only, so that a file cannot change a class for the next one."""

        class Inert:
            def __init__(self, *args: object) -> None:
                pass

            def __new__(cls, *args: object) -> Self:
                return super().__new__(cls)

            def __setstate__(self, state: object) -> None:
                pass

        self.inert = Inert
        self.built: dict[str, Callable[..., object]] = {
            "OrderedDict": lambda *args: Table(*args),
            "Counter": lambda *args: Table(*args),
            "defaultdict": lambda *args: Table(*args[1:]),
            "set": lambda *args: list(*args),
            "encode": lambda text, *_: str.encode(text, "latin1"),
            "_rebuild_tensor": lambda *args: TensorEntry(*args[:4]),
            "_rebuild_tensor_v2": lambda *args: TensorEntry(*args[:4]),
            "_rebuild_parameter": lambda data, *_: data,
            "ndarray": lambda *_: ArrayEntry(),
            "dtype": lambda code, *_: ArrayType(code),
            "_reconstruct": lambda *_: ArrayEntry(),
            "scalar": lambda *_: None,
            "_frombuffer": lambda data, kind, shape, order: ArrayEntry((1, shape, kind, order == "F", data)),
        }

    def find_class(self, module: str, name: str, /) -> object:
        full = f"{module} {name}"
        if BUILT.fullmatch(full):
            found = self.built.get(name) or STORAGES.get(name.removesuffix("Storage"))
            if found is not None:
                return found
        if not SKIPPED.fullmatch(full):
            raise RejectedError(f"{module}.{name}")
        self.skipped[f"{module}.{name}"] = None
        return self.inert

    def persistent_load(self, pid: tuple[Any, ...]) -> Storage:
        """Storage of a tensor. pid: ("storage", type, key, device, count), in the old format also a view, None."""
        word, dtype, key, _, numel, *view = pid
        if word != "storage" or not isinstance(dtype, torch.dtype) or type(numel) is not int or numel < 0 or any(view):
            raise ValueError("an unknown kind of storage")
        if type(key) not in (str, int):  # the text of anything else may take memory without end
            raise ValueError("a storage without name")
        return self.storages.setdefault(str(key), Storage(dtype, str(key), numel))


def read(file: Path) -> tuple[object, tuple[str, ...]]:
    """Content of a file, with `TensorEntry` and `ArrayEntry` instead of tensors, and the names of skipped objects.

    Raises InputError for a pickle with names that neither `BUILT` nor `SKIPPED` matches; for damaged files, any
    exception of Python's unpickler.
    """
    with open_regular(file) as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
        stream.seek(0)
        content = b"" if is_zip else stream.read()
    try:
        if is_zip:
            return _read_zip(file)
        return _read_pickles(content)
    except RejectedError as error:
        raise InputError(
            f"{file}: cannot be read as a torch state dict (pickles {str(error)[:60]!r}, needed tensors only); save "
            "its state_dict() with torch.save"
        ) from error


def _read_zip(file: Path) -> tuple[object, tuple[str, ...]]:
    archive = torch._C.PyTorchFileReader(str(file))
    reader = Reader(io.BytesIO(archive.get_record("data.pkl")))
    tree = reader.load()
    for storage in reader.storages.values():
        storage.content = bytearray(archive.get_record(f"data/{storage.key}"))
    return tree, tuple(reader.skipped)


def _read_pickles(content: bytes) -> tuple[object, tuple[str, ...]]:
    """Read a bare pickle, or torch's old format: magic number, version, system, content, keys, and the storages."""
    stream = io.BytesIO(content)
    reader = Reader(stream)
    tree = reader.load()
    if tree != MAGIC or type(tree) is not int:
        return tree, tuple(reader.skipped)
    for _ in range(2):
        Reader(stream).load()
    reader = Reader(stream)
    tree = reader.load()
    for key in Reader(stream).load():
        storage = reader.storages[str(key)]
        count = int.from_bytes(stream.read(8), "little")
        if count != storage.numel:
            raise ValueError(f"a storage of {count:,} numbers, {storage.numel:,} declared")
        storage.content = bytearray(stream.read(count * storage.dtype.itemsize))
    return tree, tuple(reader.skipped)


def tensor_of(entry: object) -> object:
    """Build the tensor that an entry describes; anything else is returned unchanged. Raises ValueError if it needs more
    numbers than its storage has, or is not of a plain type."""
    if isinstance(entry, ArrayEntry):
        return _array(entry)
    if not isinstance(entry, TensorEntry):
        return entry
    storage, offset, size, stride = entry.storage, entry.offset, entry.size, entry.stride
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without numbers")
    counts = (offset, *size, *stride)
    if len(size) != len(stride) or not isinstance(offset, int) or any(type(n) is not int or n < 0 for n in counts):
        raise ValueError("a tensor of a negative size")
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (last + 1) * storage.dtype.itemsize > len(storage.content):
        raise ValueError("a tensor of more numbers than its storage")
    flat = torch.frombuffer(storage.content, dtype=storage.dtype)
    return flat.as_strided(size, stride, offset)


def _array(entry: ArrayEntry) -> Tensor:
    _, shape, kind, fortran, data = entry.state
    code = ""
    if isinstance(kind, ArrayType) and type(kind.order) is type(kind.code) is str:
        code = f"{kind.order}{kind.code}"
    if not NUMPY.fullmatch(code) or not isinstance(data, bytes | str):
        raise ValueError("an array of other values than plain numbers")
    content = data.encode("latin1") if isinstance(data, str) else data
    values = np.frombuffer(content, code).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), order="C"))
