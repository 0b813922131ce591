"""Files of PyTorch itself, TorchScript and the archives of torch.export (.pt2), on the CPU.

Both hold programs, and PyTorch trusts them: its reader of .pt2 falls back to unpickling, evaluates formulas written in
Python, and takes the functions to call by name; TorchScript runs in an interpreter of its own, which can write files.
So a file is looked through before PyTorch sees it, and refused if there is more in it than exports of networks need.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from boxwright.errors import InputError
from boxwright.predict.backend import Backend, Inputs, Running, first_line
from boxwright.predict.card import KEY

SHAPE = f"{KEY}.shape"  # a trace does not know the shape of its input; this extra file does, as JSON
LARGEST = 10  # times the file: PyTorch compresses nothing but lines of code
# What programs may call: PyTorch's tensor operators without the one that maps files, sums of sizes, and loops.
CALLED = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|torch\.ops\.higher_order\.while_loop|math\.(?:trunc|floor|ceil)"
    r"|torch\.sym_(?:min|max|not|sum|int|float)"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_)"
)
# What lengths of axes are computed with; sympy evaluates it as Python.
FORMULA = re.compile(
    r"(?:Symbol\('[su]\d+'|\b(?:positive|nonnegative|integer)=True\b|[su]\d+|\d+|[ ()+*,-]"
    r"|\b(?:Integer|Rational|Add|Mul|Pow|FloorDiv|CleanDiv|Mod|PythonMod|Max|Min)\b)*+"
)
# Of TorchScript: what writes or maps files, runs while it is loaded, or needs libraries besides PyTorch.
FORBIDDEN = re.compile(r"\b(?:from_file|save|set_data|rpc_\w+|__setstate__|torch\.classes|ops\.(?!prim\b)\w+)\b")

# What Python's readers of archives, text and JSON raise: an encrypted entry is a RuntimeError, which the next two are
# as well, an unknown compression; a number of too many digits a ValueError, as is what is no JSON and no UTF-8.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class Program(Backend):
    """A program, and how many pictures it takes."""

    name = "torch"
    channels_last = True

    def __init__(self, program: Callable[..., tuple[Tensor, ...]], shape: tuple[int | None, ...]) -> None:
        self.program = program
        super().__init__(shape)

    def run(self, inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return self.program(*inputs)


def open_file(file: Path, running: Running) -> tuple[Program, str | None]:
    """The program, and the card's text where the file has one.

    Raises InputError for a file that is no such program and one that holds what is refused.
    """
    running.refuse("torch for programs", "bfloat16", "compile")
    looked_through, text = _looked_through(file)
    try:
        return (_open_pt2 if file.suffix == ".pt2" else _open_torchscript)(looked_through), text
    except Exception as error:  # whatever its parts raise for what they do not understand
        raise InputError(
            f"{file}: not a program that PyTorch {torch.__version__} can run ({first_line(error)})"
        ) from error


def read_text(file: Path) -> str | None:
    """The card's text where the file has one. What is raised: as in `open_file`."""
    return _looked_through(file)[1]


def _open_pt2(file: IO[bytes]) -> Program:
    program = torch.export.load(file)
    first = program.graph_signature.user_inputs[0]
    node = next(node for node in program.graph.nodes if node.name == first)
    shape = tuple(side if isinstance(side, int) else None for side in node.meta["val"].shape)
    # without its guards, which are Python to be compiled: the shapes are seen to already
    return Program(program.module(check_guards=False), shape)


def _open_torchscript(file: IO[bytes]) -> Program:
    extra = {SHAPE: ""}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        program = torch.jit.load(file, map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    shape = json.loads(extra[SHAPE] or "[]")
    sides = tuple(side if isinstance(side, int) and side > 0 else None for side in shape)
    return Program(program, sides or (None,) * 4)


def _looked_through(file: Path) -> tuple[IO[bytes], str | None]:
    """The archive as it was looked through, and the card's text. PyTorch is given this copy, because in a file made for
    it its reader finds other entries than Python's. What is raised: as in `open_file`."""
    copy, card = io.BytesIO(), None
    try:
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as checked:
            unpacked, packed = sum(entry.file_size for entry in archive.infolist()), file.stat().st_size
            if unpacked > LARGEST * packed:
                raise InputError(f"{file}: {packed} bytes that unpack to {unpacked}, needed what PyTorch writes")
            for name in dict.fromkeys(archive.namelist()):
                content = archive.read(name)
                if wrong := _wrong(name, content):
                    raise InputError(f"{file}: {name}: found {wrong}, which no export needs; it is not loaded")
                checked.writestr(name, content)
                if name.split("/", 1)[-1] == f"extra/{KEY}":
                    card = content.decode()
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{file}: not a program of PyTorch ({first_line(error)})") from error
    copy.seek(0)
    return copy, card


def _wrong(name: str, content: bytes) -> str:
    """What is refused in an entry of an archive; "" where nothing is."""
    if name.endswith(".json"):
        return next(_wrong_in_pt2(json.loads(content)), "")
    if "/data/sample_inputs/" in name:
        return _wrong_in_tensors(content)
    found = FORBIDDEN.search(content.decode()) if "/code/" in name and name.endswith(".py") else None
    return found.group() if found else ""


def _wrong_in_pt2(tree: Any) -> Iterator[str]:
    """What is refused in the JSON of a .pt2 archive."""
    if isinstance(tree, list):
        for one in tree:
            yield from _wrong_in_pt2(one)
    elif isinstance(tree, dict):
        if tree.get("use_pickle"):
            yield "a pickle"
        if "inputs" in tree and not CALLED.fullmatch(str(tree.get("target", "torch.sym_not"))):
            yield f"a call of {tree['target']!s:.80}"
        if not FORMULA.fullmatch(str(tree.get("expr_str", ""))):
            yield f"the formula {tree['expr_str']!s:.80}"
        for one in tree.values():
            yield from _wrong_in_pt2(one)


def _wrong_in_tensors(content: bytes) -> str:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        return f"a pickle of other things than tensors ({first_line(error)})"
    return ""
