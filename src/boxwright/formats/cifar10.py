"""CIFAR-10 (Krizhevsky 2009) in its binary and Python versions. Pickles are read without unpickling.

    R records of a file

Loading a pickle can execute any code, so the opcodes are interpreted here: they build plain values and records of calls
of NumPy. Anything else is rejected, and nothing is ever called.
"""

import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.data.class_dataset import ClassSet
from boxwright.data.dataset import paths_column
from boxwright.data.layout import Layout
from boxwright.data.source import Source
from boxwright.errors import InputError
from boxwright.files import length, open_regular

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # batches.meta
SIDE = 32  # px
PIXELS = 3 * SIDE * SIDE  # values per record: red, green and blue plane, row by row
FOLDERS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}  # folder in the archive -> suffix of its files
FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "val": ("test_batch",)}
MAX_BYTES = 1 << 25  # of a file; published files have 31 million
MAX_OPCODES = 200_000  # of a pickle, to limit memory and nesting; published files have about 40,000
EXPECTED = "cifar-10-batches-bin or cifar-10-batches-py with data_batch_1 to 5 and test_batch"

# The globals that files of the Python version use: NumPy's array constructor, class and dtype; bytes from text.
ARRAY = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
GLOBALS = ARRAY | {"numpy ndarray", "numpy dtype", "_codecs encode"}


def find(root: Path) -> dict[str, Path]:
    """Split -> the first of its files. `root` is or contains an extracted folder; the binary version has precedence."""
    for folder in (root, *(root / name for name in FOLDERS)):
        for suffix in FOLDERS.values():
            paths = {split: folder / f"{names[0]}{suffix}" for split, names in FILES.items()}
            paths = {split: first for split, first in paths.items() if any(file.is_file() for file in _files(first))}
            if paths:
                return paths
    return {}


def _files(first: Path) -> list[Path]:
    """All files of the split whose first file is `first`."""
    names = next((names for names in FILES.values() if first.stem == names[0]), (first.stem,))
    return [first.with_name(f"{name}{first.suffix}") for name in names]


def read(source: Source) -> ClassSet:
    """Read all files of a split. Raises InputError as `read_files`."""
    return read_files(_files(source.path), source.split, source.root)


def read_files(files: Sequence[Path], split: str, root: Path) -> ClassSet:
    """Read the records of all `files`. Raises InputError if a file is missing, truncated or of another kind, or if a
    label is out of range."""
    records = [_read_binary(file) if file.suffix == ".bin" else _read_python(file) for file in files]
    for file, (labels, _) in zip(files, records, strict=True):
        if (bad := np.flatnonzero((labels < 0) | (labels >= len(NAMES)))).size:
            raise InputError(
                f"{file}: record {bad[0]}: label is {labels[bad[0]]}, needed 0 to {len(NAMES) - 1} (in {len(bad)} "
                "records); fetch CIFAR-10 again"
            )
    paths = [f"{file}[{row}]" for file, (labels, _) in zip(files, records, strict=True) for row in range(len(labels))]
    labels = np.concatenate([labels for labels, _ in records])
    pixels = np.concatenate([pixels for _, pixels in records]).reshape(-1, 3, SIDE, SIDE)
    return ClassSet(NAMES, split, root, "cifar10", paths_column(paths), labels, pixels)


def _bytes(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            if (size := length(opened)) > MAX_BYTES:
                raise InputError(f"{file}: {size} bytes, needed at most {MAX_BYTES}; this is not a file of CIFAR-10")
            return opened.read()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}), needed {EXPECTED}; unpack it again") from error


def _read_binary(file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels (R,) and pixels (R, PIXELS). A record is one byte with the label, then the pixels."""
    data = np.frombuffer(_bytes(file), np.uint8)
    if not len(data) or len(data) % (1 + PIXELS):
        raise InputError(
            f"{file}: {len(data)} bytes, needed a multiple of {1 + PIXELS}, the size of a record; it is cut off or "
            "not a file of CIFAR-10, fetch it again"
        )
    records = data.reshape(-1, 1 + PIXELS)
    return records[:, 0].astype(np.int64), records[:, 1:]


def _read_python(file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels and pixels as in `_read_binary`, from a pickled {"labels": [...], "data": array (R, PIXELS), ...}."""
    tree = _plain_values(_bytes(file), file)
    if not isinstance(tree, dict):
        raise InputError(f"{file}: holds {type(tree).__name__}, needed a dictionary of labels and data as in CIFAR-10")
    tree = {_text(key): value for key, value in tree.items()}
    labels, data = tree.get("labels"), _pixels(tree.get("data"), file)
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise InputError(f"{file}: labels: needed a list of whole numbers; this is not a file of CIFAR-10")
    if len(labels) != len(data):
        raise InputError(f"{file}: {len(labels)} labels for {len(data)} images, needed one per image; fetch it again")
    return np.array(labels, dtype=np.int64), data


@dataclass
class _Call:
    """A recorded call in the pickle, which is never executed: `name(*arguments)`, then `__setstate__(state)`."""

    name: str
    arguments: tuple[object, ...] | None = None
    state: object = None


def _pixels(call: object, file: Path) -> NDArray[np.uint8]:
    """(R, PIXELS) of an array of bytes in C order: state (version, shape, dtype, Fortran order, bytes)."""
    match call:
        case _Call(
            name, (_Call("numpy ndarray", None, None), *_),
            (1, (int(rows), columns), _Call("numpy dtype", (kind, *_)), bool(fortran), data),
        ) if (
            name in ARRAY and rows > 0 and columns == PIXELS and _text(kind) == "u1" and not fortran
            and isinstance(data := _decoded(data), (str, bytes)) and len(data) == rows * PIXELS
        ):  # fmt: skip
            return np.frombuffer(_raw(data, file), np.uint8).reshape(rows, PIXELS)
    raise InputError(
        f"{file}: data: needed an array of bytes of shape (records, {PIXELS}); this is not a file of CIFAR-10"
    )


def _raw(data: str | bytes, file: Path) -> bytes:
    """The bytes of a string. Python 2's strings are bytes, which pickletools decodes as Latin-1."""
    try:
        return data.encode("latin-1") if isinstance(data, str) else data
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}: data: character {error.start} is beyond Latin 1, needed bytes; fetch CIFAR-10 again"
        ) from error


def _text(value: object) -> object:
    value = _decoded(value)
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _decoded(value: object) -> object:
    """The text of Python 3's bytes, which old pickle protocols store as text in Latin-1; else `value`."""
    match value:
        case _Call("_codecs encode", (str(text), "latin1"), None):
            return text
    return value


def _plain_values(data: bytes, file: Path) -> object:
    """The values in the pickle. Raises InputError for opcodes and globals that CIFAR-10 does not use."""
    machine = _Machine()
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data), 1):
            if count > MAX_OPCODES:
                raise InputError(
                    f"{file}: byte {position}: more than {MAX_OPCODES} opcodes, needed fewer; this is not a "
                    "file of CIFAR-10, fetch it again"
                )
            if opcode.name == "STOP":
                return machine.stack.pop()
            if rejected := machine.step(opcode.name, argument):
                raise InputError(
                    f"{file}: byte {position}: asks for {rejected}, which CIFAR-10 does not need; rejected, and "
                    "nothing in the file was executed; fetch CIFAR-10 again"
                )
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: cut off, or not a pickle of CIFAR-10 ({text[:80]}); fetch it again") from error
    raise InputError(f"{file}: cut off, or not a pickle of CIFAR-10 (no end); fetch it again")


EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    "BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINUNICODE",
    "SHORT_BINUNICODE",
}  # fmt: skip


class _Machine:
    """The stack and the memo of a pickle, as documented by `pickletools`, for plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def step(self, name: str, argument: Any) -> str:
        """Execute one opcode; returns "", or a description of what is rejected."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append(EMPTY[name]())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(VALUES[name])
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._marked() if name == "TUPLE" else self._last(int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if name == "APPEND" else self._marked()
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if name == "SETITEM" else self._marked()
                keys = [_decoded(key) for key in items[::2]]
                if invalid := [key for key in keys if not isinstance(key, (str, bytes))]:
                    return f"a key of type {type(invalid[0]).__name__}"  # hashing a deep tuple overflows the C stack
                stack[-1].update(zip(keys, items[1::2], strict=True))
            case _ if name in LITERALS:
                stack.append(argument)
            case _:
                return self._call(name, argument)
        return ""

    def _call(self, name: str, argument: Any) -> str:
        """Record calls, which are only allowed for NumPy's arrays."""
        match name:
            case "GLOBAL" | "STACK_GLOBAL":
                name = argument if name == "GLOBAL" else " ".join(self._last(2))
                if name not in GLOBALS:
                    return f"{name[:60]!r}"
                self.stack.append(_Call(name))
            case "REDUCE":
                call, arguments = self._last(2)
                if type(call) is not _Call or call.arguments is not None or type(arguments) is not tuple:
                    return "a call of an unknown object"
                self.stack.append(_Call(call.name, arguments))
            case "BUILD":
                call, state = self._last(2)
                if type(call) is not _Call or call.state is not None:
                    return "a change of an unknown object"
                call.state = state
                self.stack.append(call)
            case _:
                return f"the opcode {name}"
        return ""

    def _marked(self) -> list[Any]:
        """Pop the values since the last mark."""
        return self._last(len(self.stack) - self.marks.pop())

    def _last(self, count: int) -> list[Any]:
        if not 0 <= count <= len(self.stack):
            raise IndexError("it pops more values than it pushed")
        start = len(self.stack) - count
        values = self.stack[start:]
        del self.stack[start:]
        return values


# CIFAR-10 has two splits: `val` is an alias of `test`
LAYOUT = Layout(dataset_type=ClassSet, expected=EXPECTED, find=find, read=read, aliases={"test": "val"})
